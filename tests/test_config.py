import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from lib.commands import GIVEN, again
from lib.config import ROOT, Settings


@pytest.fixture(autouse=True)
def nothing_given(monkeypatch):
    monkeypatch.delenv(GIVEN, raising=False)


def test_pilot_and_full_differ_by_mode_alone():
    assert Settings().text_model == "minilm"
    assert Settings(mode="full").text_model == "microsoft/mdeberta-v3-base"
    assert Settings(mode="full", text_model="minilm").text_model == "minilm"


def test_root_is_found_from_the_code_and_not_from_the_working_directory(monkeypatch, tmp_path):
    monkeypatch.delenv("MEMES_ROOT", raising=False)
    monkeypatch.chdir(tmp_path)
    assert Settings().root == ROOT == Path(__file__).parent.parent


def test_environment_moves_the_root(monkeypatch, tmp_path):
    monkeypatch.setenv("MEMES_ROOT", str(tmp_path))
    assert Settings(root=None).artifact(7, "thresholds.json") == (
        tmp_path / "Step_7/thresholds_pilot.json"
    )


def test_settings_are_frozen():
    with pytest.raises(ValidationError):
        Settings().mode = "full"


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"mdoe": "full"}, "mdoe"),
        ({"mode": "fool"}, "mode"),
        ({"batch_size": "many"}, "batch_size"),
        ({"text_epochs": 0}, "text_epochs"),
    ],
)
def test_a_bad_setting_is_named(values, named):
    with pytest.raises(ValueError, match=f"here: {named}=.*Known settings: .*text_model"):
        Settings.checked(values, "here")


@pytest.mark.parametrize("mode", ["Full", ["full"]])
def test_a_wrong_mode_is_one_fault(mode):
    with pytest.raises(ValueError) as error:
        Settings.checked({"mode": mode}, "here")
    faults, _ = str(error.value).split(". Known settings: ")
    assert faults == f"here: mode={mode!r}: Input should be 'pilot' or 'full'"


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"policy": "costs"}, "policy costs needs policy_costs"),
        ({"threshold_objective": "cost"}, "threshold_objective cost needs threshold_costs"),
    ],
)
def test_settings_that_need_each_other_are_named_without_all_the_others(values, sentence):
    with pytest.raises(ValueError) as error:
        Settings.checked({"mode": "full", "seed": 3} | values, "settings")
    assert str(error.value) == f"settings: {sentence}"


def test_papermill_strings_are_read_as_their_types():
    settings = Settings.checked({"overwrite": "false", "text_lr": "1e-3", "seed": "4"}, "cell")
    assert settings.overwrite is False
    assert settings.text_lr == 0.001
    assert settings.seed == 4


def test_notebook_namespace_is_read_and_a_misspelt_parameter_refused(tmp_path):
    namespace = {"mode": "full", "root": str(tmp_path), "_i": "x", "In": [], "Out": {}}
    assert Settings.from_notebook(namespace).mode == "full"
    # A later cell's variables are no settings when the cell is run again.
    assert Settings.from_notebook(namespace | {"count": 3, "mode": "pilot"}).mode == "pilot"
    with pytest.raises(ValueError, match="parameters cell: epochz=3"):
        Settings.from_notebook({"mode": "full", "epochz": 3})


def test_configuration_file_errors_name_the_file(tmp_path):
    (tmp_path / "c.yaml").write_text("nmemes: 3\n")
    with pytest.raises(ValueError, match=r"c\.yaml: nmemes=3"):
        Settings.from_file(tmp_path / "c.yaml")
    (tmp_path / "c.yaml").write_text("- 1\n")
    with pytest.raises(ValueError, match="expected `name: value` lines"):
        Settings.from_file(tmp_path / "c.yaml")


def notebook(root, **assigned) -> Settings:
    """The settings of a notebook whose parameters cell assigns these."""
    return Settings.from_notebook({"mode": "pilot", "root": str(root)} | assigned)


def test_a_notebook_takes_the_last_settings_of_its_mode(tmp_path, capsys):
    run = Settings(mode="full", root=tmp_path, data=tmp_path / "mine", text_lr=1e-9, bf16=False)
    run.save()
    assert notebook(tmp_path, mode="full", data=None) == run
    said = capsys.readouterr().err
    assert "settings.json: " in said and "text_lr=1e-09" in said and "seed" not in said
    assert notebook(tmp_path) == Settings(root=tmp_path), "the pilot has its own"
    assert capsys.readouterr().err == ""


def test_what_a_parameters_cell_changes_wins_and_is_saved(tmp_path):
    Settings(root=tmp_path, seed=1, dataset="mami", overwrite=True).save()
    changed = notebook(tmp_path, seed=2)
    assert (changed.seed, changed.dataset, changed.overwrite) == (2, "mami", False)
    assert notebook(tmp_path).seed == 2
    before = changed.settings_file.read_bytes()
    assert notebook(tmp_path, overwrite=True).overwrite
    assert changed.settings_file.read_bytes() == before, "a permission is given once"


def test_opening_a_notebook_writes_nothing(tmp_path):
    notebook(tmp_path, mode="full", data=None)
    assert list(tmp_path.iterdir()) == []


def test_a_notebook_of_a_run_has_all_its_settings_from_there(tmp_path, monkeypatch):
    Settings(root=tmp_path, dataset="mami").save()
    monkeypatch.setenv(GIVEN, "python -m lib.run")
    assert notebook(tmp_path, seed=2).dataset == "auto"
    assert Settings(root=tmp_path).saved()["seed"] == 0


def test_all_settings_come_back_as_they_were(tmp_path):
    values = {
        **{"mode": "full", "root": tmp_path, "data": tmp_path, "dual_encoder": "clip"},
        **{"text_feature": "dual", "text_lr": 1.2345678901e-7, "fusion_tuning": "lora"},
    }
    for settings in (Settings(**values), Settings(root=tmp_path)):
        settings.save()
        again = Settings(mode=settings.mode, root=tmp_path).saved()
        assert Settings(mode=settings.mode, root=tmp_path, **again) == settings


def test_a_saved_setting_of_another_version_is_named_and_left_out(tmp_path):
    file = Settings(root=tmp_path, seed=3).settings_file
    Settings(root=tmp_path, seed=3).save()
    file.write_text(json.dumps(json.loads(file.read_text()) | {"warp": 9}))
    with pytest.warns(UserWarning, match=r"settings\.json: ignoring warp, unknown"):
        assert notebook(tmp_path).seed == 3


def test_folders_of_files_and_notebooks_are_the_project_s(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c.yaml").write_text("data: Datasets/mine\n")
    assert Settings.from_file("c.yaml").data == ROOT / "Datasets/mine"
    assert Settings.from_file("c.yaml", data="here").data == tmp_path / "here"
    assert notebook(tmp_path, data="Datasets/mine").data == ROOT / "Datasets/mine"
    (tmp_path / "c.yaml").write_text(f"data: {tmp_path}/mine\n")
    assert Settings.from_file("c.yaml").data == tmp_path / "mine"


def test_messages_name_the_mode_and_root_of_the_notebook(tmp_path):
    notebook(tmp_path, mode="full")
    assert again(5).endswith(f"-m lib.run --mode full --root {tmp_path} --from 5")
    Settings(mode="pilot").guide()
    assert again(5).endswith("-m lib.run --mode pilot --from 5")


def test_a_tracker_must_be_installed(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", {"mlflow": "found"}.get)
    assert Settings(report_to="mlflow").report_to == "mlflow"
    assert Settings().report_to == "none"
    with pytest.raises(ValueError, match=r"report_to='wandb'.*pip install wandb"):
        Settings.checked({"report_to": "wandb"}, "here")
