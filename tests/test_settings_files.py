from pathlib import Path

import pytest

from lib.config import ROOT, Settings
from lib.settings_files import MEND, in_project, read_parameters, read_saved, write_saved


@pytest.mark.parametrize(
    ("content", "named"),
    [("{", "no settings as JSON"), ("[1]", "no settings as JSON"), ('{"seed": -1}', "seed=-1")],
)
def test_a_broken_file_of_saved_settings_is_named_with_the_way_out(tmp_path, content, named):
    file = Settings(root=tmp_path).settings_file
    file.parent.mkdir(parents=True)
    file.write_text(content)
    with pytest.raises(ValueError, match=rf"settings\.json.*{named}") as error:
        Settings(root=tmp_path).saved()
    assert MEND in str(error.value)


def test_settings_come_back_to_the_last_digit_and_none_as_none(tmp_path):
    content = {"text_lr": 1.2345678901234e-7, "data": None, "threshold_costs": [1.0, 0.1]}
    write_saved(tmp_path / "runs/settings.json", content)
    assert read_saved(tmp_path / "runs/settings.json", content) == content
    assert read_saved(tmp_path / "none.json", content) == {}


def test_what_another_version_saved_is_named_and_left_out(tmp_path):
    write_saved(tmp_path / "s.json", {"seed": 3, "warp": 9, "spin": 1})
    with pytest.warns(UserWarning, match=r"s\.json: ignoring spin, warp, unknown"):
        assert read_saved(tmp_path / "s.json", {"seed"}) == {"seed": 3}


@pytest.mark.parametrize("again", ["seed", "'seed'"])
def test_a_setting_given_twice_is_refused_with_its_lines(tmp_path, again):
    (tmp_path / "c.yaml").write_text(f"# mine\nseed: 1\nmode: full\n{again}: 2\n")
    with pytest.raises(ValueError, match=r"c\.yaml, line 4: seed is given already in line 2; keep"):
        read_parameters(tmp_path / "c.yaml")
    (tmp_path / "c.yaml").write_text(f"{{seed: 1, {again}: 2}}\n")
    with pytest.raises(ValueError, match=r"c\.yaml, line 1: seed is given already in line 1; keep"):
        read_parameters(tmp_path / "c.yaml")


@pytest.mark.parametrize("content", ["# nothing yet\n", "false\n"])
def test_a_file_without_settings_is_none(tmp_path, content):
    (tmp_path / "c.yaml").write_text(content)
    assert read_parameters(tmp_path / "c.yaml") == {}


def test_folders_in_a_file_are_the_project_s_or_absolute_or_the_user_s(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "c.yaml").write_text("data: Datasets/mine\nroot: ~/run\ntext_model: mine\n")
    found = read_parameters("c.yaml")
    assert found["data"] == str(ROOT / "Datasets/mine")
    assert found["root"] == str(tmp_path / "run")
    assert found["text_model"] == "mine"
    assert in_project({"data": Path("mine")}) == {"data": str(ROOT / "mine")}
    assert in_project({"data": str(tmp_path), "root": None}) == {
        "data": str(tmp_path),
        "root": None,
    }


def test_a_backbone_in_a_folder_is_found_from_any_other(tmp_path, monkeypatch):
    (tmp_path / "backbones/mine").mkdir(parents=True)
    monkeypatch.setattr("lib.settings_files.ROOT", tmp_path)
    given = {"text_model": "backbones/mine", "vision_model": "google/siglip", "dual_encoder": None}
    found = {"text_model": str(tmp_path / "backbones/mine")}
    assert in_project(given) == given | found
