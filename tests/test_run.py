import asyncio
import gc
import shlex
import sys
from pathlib import Path

import nbformat
import pytest
from jupyter_core.utils import ensure_event_loop
from nbclient.exceptions import DeadKernelError

from lib import run as runner
from lib.commands import GIVEN
from lib.config import PRESETS, ROOT, Settings
from lib.run import NOTEBOOKS, StepFailed, main, run_steps

CELLS = {
    "writes": "import pathlib\npathlib.Path(root, 'seen.txt').write_text(f'{mode} {seed!r}')",
    "fails": "raise KeyError('no such column')",
    "advises": "from lib.commands import again\nraise RuntimeError(again(3))",
    "dies": "import os\nos.kill(os.getpid(), 9)",
    "hangs": "import time\ntime.sleep(600)",
}


@pytest.fixture(autouse=True)
def nothing_given(monkeypatch):
    monkeypatch.delenv(GIVEN, raising=False)


@pytest.fixture
def notebooks(tmp_path, monkeypatch):
    """Notebooks in the place of Steps 3 to 7: the first writes, the others fail."""
    for step, name in zip((3, 4, 5, 6, 7), CELLS, strict=True):
        cells = [
            nbformat.v4.new_code_cell("mode = root = None\nseed = 0"),
            nbformat.v4.new_code_cell(CELLS[name]),
        ]
        cells[0].metadata["tags"] = ["parameters"]
        notebook = nbformat.v4.new_notebook(cells=cells)
        notebook.metadata["kernelspec"] = {
            "name": "python3",
            "display_name": "Python 3",
            "language": "python",
        }
        nbformat.write(notebook, tmp_path / f"{name}.ipynb")
        monkeypatch.setitem(NOTEBOOKS, step, str(tmp_path / f"{name}.ipynb"))
    return tmp_path


def python() -> str:
    here = Path(sys.executable)
    return str(here.relative_to(Path.cwd()) if here.is_relative_to(Path.cwd()) else here)


def started(monkeypatch) -> list[tuple[int, dict]]:
    """Steps and parameters of each notebook that would run, none of which does."""
    steps = []
    monkeypatch.setattr(
        runner, "_execute", lambda step, given, folder, mode: steps.append((step, given))
    )
    return steps


def test_a_failing_cell_is_named_with_its_error_and_the_way_on(notebooks, capsys):
    root = notebooks / "root"
    assert main(["--root", str(root), "--to", "4", "-p", "seed", "7"]) == 1
    said = capsys.readouterr().err
    assert "fails.ipynb, cell" in said
    assert "KeyError: 'no such column'" in said
    assert f"go on with: {python()} -m lib.run --root {root} --to 4 -p seed 7 --from 4" in said
    assert (root / "seen.txt").read_text() == "pilot 7"
    executed = {path.name for path in (root / "runs" / "pilot").iterdir()}
    assert executed == {"writes.ipynb", "fails.ipynb", "settings.json"}


def test_a_refusal_to_replace_advises_the_command_that_does(notebooks, capsys):
    notebook = nbformat.read(notebooks / "fails.ipynb", as_version=4)
    notebook.cells[1].source = "raise FileExistsError('there. To replace it set overwrite=true')"
    nbformat.write(notebook, notebooks / "fails.ipynb")
    root = notebooks / "root"
    assert main(["--root", str(root), "--from", "4"]) == 1
    advised = f"To replace what is there go on with: {python()} -m lib.run --root {root}"
    assert f"{advised} -p overwrite true --from 4" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("step", "said"),
    [(6, "dies.ipynb: its kernel died, most often because memory ran out"), (7, "for longer than")],
)
def test_a_kernel_that_dies_or_hangs_names_its_notebook(notebooks, monkeypatch, capsys, step, said):
    # Enough for a kernel to start and to die in; one that hangs is not waited for any longer.
    monkeypatch.setitem(runner.CELL_TIMEOUT_S, "pilot", 60 if step == 6 else 2)
    root = notebooks / "root"
    assert main(["--root", str(root), "--from", str(step)]) == 1
    told = capsys.readouterr().err
    executed = root / "runs/pilot" / Path(NOTEBOOKS[step]).name
    assert f"Step {step} failed: {NOTEBOOKS[step]}" in told and said in told
    assert f"The executed copy is {executed}" in told and executed.exists()
    assert f"go on with: {python()} -m lib.run --root {root} --from {step}" in told


def test_an_interrupted_run_says_how_to_go_on_and_ends_with_130(notebooks, monkeypatch, capsys):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(runner, "_execute", interrupted)
    assert main(["--root", str(notebooks / "root")]) == 130
    assert capsys.readouterr().err.strip().startswith("stopped; the same command")


def test_an_interrupted_run_says_nothing_of_the_cell_whose_kernel_it_ended(
    notebooks, monkeypatch, capsys, caplog
):
    async def cell():
        raise DeadKernelError("Kernel died")

    async def tidied_up():
        await asyncio.sleep(0)

    def interrupted(*_):
        loop = ensure_event_loop()
        awaited = loop.create_task(cell())
        loop.run_until_complete(tidied_up())
        assert awaited.done()
        raise KeyboardInterrupt

    monkeypatch.setattr(runner, "_execute", interrupted)
    loop = ensure_event_loop()
    try:
        assert main(["--root", str(notebooks / "root")]) == 130
        gc.collect()
    finally:
        loop.set_exception_handler(None)
    assert "Kernel died" not in caplog.text
    assert capsys.readouterr().err.strip().startswith("stopped; the same command")


def test_a_failure_stops_the_steps_after_it(notebooks, monkeypatch):
    monkeypatch.setitem(NOTEBOOKS, 3, NOTEBOOKS[4])
    with pytest.raises(StepFailed, match="Step 3 failed"):
        run_steps({"root": str(notebooks / "root")}, 3, 4)
    assert not (notebooks / "root" / "seen.txt").exists()


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["-p", "epochz", "3"], "epochz=3"),
        (["-p", "text_epochs", "many"], "text_epochs='many'"),
        (["-p", "seed", "-1"], "seed=-1"),
        (["-p", "dataset", "[a"], "-p dataset [a"),
        (["--config", "gone.yaml"], "gone.yaml"),
    ],
)
def test_a_wrong_setting_is_one_line_and_exit_2(arguments, named, monkeypatch, tmp_path, capsys):
    steps = started(monkeypatch)
    assert main(["--root", str(tmp_path), *arguments]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert said.count("\n") == 1
    assert named in said
    assert steps == []


@pytest.mark.parametrize("content", ["mode: [", "- 1\n", "nmemes: 3\n"])
def test_a_broken_configuration_is_named_and_exit_2(content, tmp_path, monkeypatch, capsys):
    steps = started(monkeypatch)
    (tmp_path / "c.yaml").write_text(content)
    assert main(["--config", str(tmp_path / "c.yaml")]) == 2
    assert "c.yaml" in capsys.readouterr().err
    assert steps == []


def test_options_may_complete_a_configuration(tmp_path, monkeypatch, capsys):
    steps = started(monkeypatch)
    (tmp_path / "c.yaml").write_text("threshold_objective: cost\n")
    options = ["--config", str(tmp_path / "c.yaml"), "--root", str(tmp_path)]
    assert main(options) == 2
    assert "c.yaml" in capsys.readouterr().err
    assert main([*options, "-p", "threshold_costs", "[1, 5]", "--to", "3"]) == 0
    assert Settings(**steps[0][1]).threshold_costs == (1, 5)
    (tmp_path / "c.yaml").write_text("seed: 1\n")
    assert main([*options, "-p", "seed", "-1"]) == 2
    said = capsys.readouterr().err
    assert "seed=-1" in said and "c.yaml" not in said


@pytest.mark.parametrize(
    "arguments",
    [["--from", "2"], ["--mode", "fool"], ["--frm", "3"], ["--from", "5", "--to", "3"]],
)
def test_an_unknown_option_is_exit_2(arguments, monkeypatch):
    started(monkeypatch)
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2


def test_from_and_to_choose_the_steps(monkeypatch, tmp_path):
    steps = started(monkeypatch)
    assert main(["--root", str(tmp_path), "--from", "5", "--to", "7"]) == 0
    assert [step for step, _ in steps] == [5, 6, 7]


def test_options_win_over_the_configuration(monkeypatch, tmp_path):
    steps = started(monkeypatch)
    (tmp_path / "c.yaml").write_text("mode: full\ntext_lr: 2.0e-5\nseed: 1\n")
    options = ["--config", str(tmp_path / "c.yaml"), "--root", str(tmp_path), "-p", "seed", "5"]
    assert main([*options, "--to", "3"]) == 0
    given = steps[0][1]
    assert (given["mode"], given["seed"], given["text_lr"]) == ("full", 5, 2e-5)
    assert given["root"] == str(tmp_path)


def test_paths_do_not_depend_on_the_notebooks_folder(monkeypatch, tmp_path):
    steps = started(monkeypatch)
    monkeypatch.chdir(tmp_path)
    run_steps({"root": "here", "data": "mine"}, 3, 3)
    assert steps[0][1]["root"] == str(tmp_path / "here")
    assert steps[0][1]["data"] == str(tmp_path / "mine")


def test_every_mode_has_a_time_limit_for_its_cells():
    assert runner.CELL_TIMEOUT_S.keys() == PRESETS.keys()


def test_a_head_whose_tokens_are_not_encoded_is_refused_before_anything_runs(tmp_path, capsys):
    options = ["--root", str(tmp_path / "root"), "-p", "token_heads", "false"]
    assert main([*options, "-p", "fusion_head", "cross_attention"]) == 2
    assert "set token_heads=true, or another head" in capsys.readouterr().err


def test_an_unknown_head_is_refused_before_anything_runs(tmp_path, capsys):
    options = ["--root", str(tmp_path / "root"), "-p", "fusion_head", "concta"]
    assert main(options) == 2
    assert "fusion head 'concta' is unknown; known: concat, align" in capsys.readouterr().err
    assert not (tmp_path / "root").exists()


def test_what_a_notebook_advises_is_the_command_that_was_given(notebooks, capsys, monkeypatch):
    monkeypatch.chdir(notebooks)
    Path("my config.yaml").write_text("mode: full\nseed: 1\n")
    options = ["--config", "my config.yaml", "--data", "it's mine", "--root", "a root"]
    assert main([*options, "--from", "5", "-p", "text_lr", "1e-5"]) == 1
    said = capsys.readouterr().err
    advised = [line.split(": ")[-1] for line in said.splitlines() if "lib.run" in line]
    inside, after = map(shlex.split, advised)
    assert inside[:3] == after[:3] == [python(), "-m", "lib.run"]
    assert inside[3:] == [*options, "-p", "text_lr", "1e-5", "--from", "3"]
    assert after[3:] == [*options, "-p", "text_lr", "1e-5", "--from", "5"]


def test_the_advice_after_run_steps_spells_its_parameters_out(notebooks, monkeypatch):
    given = {"root": str(notebooks / "root"), "dataset": "123", "text_lr": 1e-5, "bf16": None}
    with pytest.raises(StepFailed) as failed:
        run_steps(given, 4, 4)
    steps = started(monkeypatch)
    assert main(shlex.split(str(failed.value).rpartition("lib.run")[2])) == 0
    assert steps[0][0] == 4
    settings = Settings(**steps[0][1])
    assert (settings.dataset, settings.text_lr) == ("123", 1e-5)
    assert settings.root == notebooks / "root"


def test_without_a_configuration_the_last_settings_count(monkeypatch, tmp_path):
    steps = started(monkeypatch)
    root = ["--root", str(tmp_path)]
    assert main([*root, "--mode", "full", "-p", "seed", "5", "-p", "dataset", "mami"]) == 0
    assert main([*root, "--mode", "full", "--from", "8", "-p", "seed", "6"]) == 0
    assert (steps[-1][1]["seed"], steps[-1][1]["dataset"]) == (6, "mami")
    assert main([*root, "--from", "8"]) == 0
    assert "seed" not in steps[-1][1], "the pilot has settings of its own"
    (tmp_path / "c.yaml").write_text("mode: full\nseed: 7\n")
    assert main([*root, "--config", str(tmp_path / "c.yaml"), "--from", "8"]) == 0
    assert Settings(**steps[-1][1]).dataset == "auto", "a configuration starts anew"


def test_memes_of_ones_own_and_generated_ones_take_turns(monkeypatch, tmp_path):
    steps = started(monkeypatch)
    root = ["--root", str(tmp_path), "--mode", "full"]
    assert main([*root, "-p", "dataset", "confounders"]) == 0
    assert main([*root, "--data", "mine"]) == 0
    own = Settings(**steps[-1][1])
    assert (own.dataset, own.data) == ("auto", Path.cwd() / "mine")
    assert main([*root, "-p", "dataset", "confounders"]) == 0
    assert Settings(**steps[-1][1]).data is None


def test_a_dual_encoder_that_is_none_is_refused_before_anything_runs(
    tmp_path, capsys, tiny_backbones
):
    options = ["--root", str(tmp_path / "root"), "-p", "dual_encoder"]
    assert main([*options, str(tiny_backbones["text_model"])]) == 2
    assert "does not encode both texts and pictures" in capsys.readouterr().err
    assert not (tmp_path / "root").exists()


def test_a_run_that_fails_at_once_leaves_the_settings_of_the_last(notebooks):
    root = str(notebooks / "root")
    run_steps({"root": root, "seed": 3}, 3, 3)
    with pytest.raises(StepFailed):
        run_steps({"root": root, "seed": 4}, 4, 4)
    assert Settings(root=root).saved()["seed"] == 3


def test_folders_of_a_configuration_are_the_project_s(monkeypatch, tmp_path):
    steps = started(monkeypatch)
    (tmp_path / "c.yaml").write_text("data: Datasets/mine\n")
    monkeypatch.chdir(tmp_path)
    assert main(["--config", "c.yaml", "--root", "here"]) == 0
    assert steps[0][1]["data"] == str(ROOT / "Datasets/mine")
    assert steps[0][1]["root"] == str(tmp_path / "here"), "an option is the caller's"


def test_a_tracker_that_is_not_installed_is_refused_before_anything_runs(
    tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr("importlib.util.find_spec", {}.get)
    options = ["--root", str(tmp_path / "root"), "-p", "report_to", "wandb"]
    assert main(options) == 2
    said = capsys.readouterr().err
    assert "report_to='wandb'" in said and "pip install wandb" in said
    assert not (tmp_path / "root").exists()


def test_a_clean_run_reports_no_interrupt(notebooks, capfd, monkeypatch):
    # The inline backend tidies up behind the last cell, and was interrupted while it did.
    notebook = nbformat.read(NOTEBOOKS[3], as_version=4)
    notebook.cells[1].source = "%matplotlib inline"
    nbformat.write(notebook, NOTEBOOKS[3])
    run_steps({"root": str(notebooks / "root")}, 3, 3)
    assert "KeyboardInterrupt" not in capfd.readouterr().err


@pytest.mark.parametrize("then", ["", "\nraise ValueError('too late')"])
def test_what_a_notebook_warns_of_is_repeated_on_the_console(notebooks, capsys, then):
    notebook = nbformat.read(NOTEBOOKS[3], as_version=4)
    notebook.cells[1].source = "import warnings\nwarnings.warn('all texts are lost')" + then
    nbformat.write(notebook, NOTEBOOKS[3])
    assert main(["--root", str(notebooks / "root"), "--to", "3"]) == int(bool(then))
    said = capsys.readouterr().err
    assert said.count("all texts are lost") == 1
    assert "\nwarning of writes.ipynb: all texts are lost\n" in said


def test_a_second_run_in_the_same_root_is_refused(monkeypatch, tmp_path, capsys):
    def second(*_):
        assert main(["--mode", "pilot", "--root", str(tmp_path), "--from", "3"]) == 2
        said = capsys.readouterr().err
        assert said == (
            f"error: another pilot run writes to {tmp_path}; wait for its end, or give another "
            "--root\n"
        )

    monkeypatch.setattr(runner, "run_steps", second)
    assert main(["--mode", "pilot", "--root", str(tmp_path)]) == 0
    monkeypatch.setattr(runner, "run_steps", lambda *_: None)
    assert main(["--mode", "pilot", "--root", str(tmp_path), "--from", "3"]) == 0


def test_a_backbone_that_is_a_folder_here_is_found_from_everywhere(monkeypatch, tmp_path):
    (tmp_path / "backbone").mkdir()
    monkeypatch.chdir(tmp_path)
    given = {}
    monkeypatch.setattr(runner, "run_steps", lambda parameters, *_: given.update(parameters))
    options = ["--mode", "pilot", "--root", str(tmp_path / "root"), "-p", "text_model"]
    assert main([*options, "backbone"]) == 0
    assert given["text_model"] == str(tmp_path / "backbone")
    assert main([*options, "minilm"]) == 0
    assert given["text_model"] == "minilm"


def test_a_root_with_braces_is_no_template(notebooks, tmp_path):
    place = tmp_path / "{memes}" / "{x"
    place.mkdir(parents=True)
    run_steps({"mode": "pilot", "root": str(place)}, 3, 3)
    assert (place / "seen.txt").read_text() == "pilot 0"
    assert (place / "runs/pilot/writes.ipynb").exists()
