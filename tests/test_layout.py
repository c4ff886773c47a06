from pathlib import Path

from lib.config import MODELS, Settings
from lib.layout import ROOT, Layout


def test_pilot_and_full_keep_apart_what_would_be_in_the_way(tmp_path):
    pilot, full = Settings(root=tmp_path), Settings(root=tmp_path, mode="full")
    places = ["step3", "shards", "features", "models"]
    documented = ["Step_3", "Step_3/shards", "Step_5/features", "models"]
    own = ["Step_3/full", "Step_3/full/shards", "Step_5/full/features", "models/full"]
    assert [getattr(pilot, place) for place in places] == [tmp_path / d for d in documented]
    assert [getattr(full, place) for place in places] == [tmp_path / d for d in own]
    assert pilot.taxonomy == full.taxonomy == tmp_path / "Step_3/label_taxonomy.json"
    assert full.artifact(3, "stats.json") == tmp_path / "Step_3/full/stats_full.json"


def test_no_file_of_one_mode_lies_in_a_folder_of_the_other(tmp_path):
    pilot, full = (Layout(root=tmp_path, mode=mode) for mode in ("pilot", "full"))
    for name in ("shards", "features", "run_folder"):
        assert not getattr(full, name).is_relative_to(getattr(pilot, name))
    assert full.models.parent == pilot.models and full.models.name not in MODELS


def test_a_root_is_absolute_and_known_from_the_code(monkeypatch, tmp_path):
    monkeypatch.delenv("MEMES_ROOT", raising=False)
    monkeypatch.chdir(tmp_path)
    assert Layout().root == ROOT == Path(__file__).parent.parent
    assert Layout(root=Path("here")).root == tmp_path / "here"
    monkeypatch.setenv("MEMES_ROOT", "there")
    assert Layout().root == Settings().root == tmp_path / "there"
    monkeypatch.setenv("MEMES_ROOT", "~/there")
    assert Layout().root == Path("~/there").expanduser()
    monkeypatch.setenv("MEMES_ROOT", "")
    assert Layout().root == ROOT
