import nbformat
import pytest

from lib import run as runner
from lib.config import PRESETS
from lib.run import NOTEBOOKS, StepFailed, main, run_steps

CELLS = {
    "writes": "import pathlib\npathlib.Path(root, 'seen.txt').write_text(f'{mode} {seed!r}')",
    "fails": "raise KeyError('no such column')",
}


@pytest.fixture
def notebooks(tmp_path, monkeypatch):
    """Two notebooks in the place of Steps 3 and 4: the first writes, the second fails."""
    for step, name in ((3, "writes"), (4, "fails")):
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
    assert "python -m lib.run --mode pilot --from 4" in said
    assert (root / "seen.txt").read_text() == "pilot 7"
    executed = {path.name for path in (root / "runs" / "pilot").iterdir()}
    assert executed == {"writes.ipynb", "fails.ipynb"}


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


@pytest.mark.parametrize("arguments", [["--from", "2"], ["--mode", "fool"], ["--frm", "3"]])
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


def test_an_unknown_head_is_refused_before_anything_runs(tmp_path, capsys):
    options = ["--root", str(tmp_path / "root"), "-p", "fusion_head", "concta"]
    assert main(options) == 2
    assert "fusion head 'concta' is unknown; known: concat, align" in capsys.readouterr().err
    assert not (tmp_path / "root").exists()
