from pathlib import Path

import pytest
from pydantic import ValidationError

from lib.config import ROOT, Settings


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


@pytest.mark.parametrize("name", ["pilot", "full", "confounders"])
def test_committed_configurations_are_valid(name):
    Settings.from_file(ROOT / "configs" / f"{name}.yaml")


def test_configuration_file_errors_name_the_file(tmp_path):
    (tmp_path / "c.yaml").write_text("nmemes: 3\n")
    with pytest.raises(ValueError, match=r"c\.yaml: nmemes=3"):
        Settings.from_file(tmp_path / "c.yaml")
    (tmp_path / "c.yaml").write_text("- 1\n")
    with pytest.raises(ValueError, match="expected `name: value` lines"):
        Settings.from_file(tmp_path / "c.yaml")
