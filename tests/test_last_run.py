import json

import pytest

from lib import run as runner
from lib.config import MODELS, Settings
from lib.last_run import keep_state, read_by, unchanged
from lib.run import main


@pytest.fixture
def ran(tmp_path):
    """Settings of a root in which a run has left a few files, and data it was given."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data/manifest.jsonl").write_text("{}")
    settings = Settings(root=tmp_path / "root", data=tmp_path / "data")
    for name in MODELS:
        settings.model_folder(name).mkdir(parents=True)
        (settings.model_folder(name) / "weights").write_bytes(b"0" * 1_000_001)
    settings.shards.mkdir(parents=True)
    (settings.shards / "train-000000.tar").write_bytes(b"tar")
    for step in (7, 8):
        settings.artifact(step, "x").parent.mkdir()
    settings.artifact(7, "thresholds.json").write_text("{}")
    settings.artifact(8, "predictions.csv").write_text("id\n")
    settings.save()
    keep_state(settings)
    return settings


def test_a_finished_run_is_unchanged_until_something_changes(ran):
    assert unchanged(ran)
    assert not unchanged(ran.model_copy(update={"seed": 1}))
    assert not unchanged(ran.model_copy(update={"overwrite": True}))
    assert not unchanged(ran.model_copy(update={"mode": "full"}))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("root/Step_7/thresholds_pilot.json", '{"edited": 1}'),
        ("root/Step_7/new_pilot.csv", "a\n"),
        ("root/Step_8/predictions_pilot.csv", "id\nx\n"),
        ("root/models/mm_fusion/weights", "1" * 1_000_001),
        ("root/Step_3/shards/train-000000.tar", "rat"),
        ("root/Step_2/corrections.csv", "id,label\n"),
        ("root/runs/pilot/settings.json", "{}"),
        ("data/manifest.jsonl", "[]"),
        ("data/Images/new.png", "png"),
    ],
)
def test_a_file_that_changes_or_appears_counts(ran, tmp_path, name, content):
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_text(content)
    assert not unchanged(ran)


def test_what_changes_while_a_run_goes_on_is_none_of_it(ran, tmp_path):
    before = read_by(ran)
    (tmp_path / "data/manifest.jsonl").write_text("[1, 2]")
    keep_state(ran, before)
    assert not unchanged(ran)
    keep_state(ran, read_by(ran))
    assert unchanged(ran)


def test_files_behind_links_count_and_a_link_upwards_does_no_harm(ran, tmp_path):
    elsewhere = tmp_path / "elsewhere" / "deeper"
    elsewhere.mkdir(parents=True)
    (elsewhere / "manifest.jsonl").write_text("{}")
    (tmp_path / "data/Step_2").symlink_to(elsewhere.parent, target_is_directory=True)
    for name, above in (("up", tmp_path / "data"), ("root", tmp_path)):
        (tmp_path / "data" / name).symlink_to(above, target_is_directory=True)
    keep_state(ran)
    assert unchanged(ran)
    (elsewhere / "manifest.jsonl").write_text("{}{}")
    assert not unchanged(ran)


def test_a_file_that_is_gone_counts(ran):
    ran.artifact(7, "thresholds.json").unlink()
    assert not unchanged(ran)


@pytest.mark.parametrize(
    "name",
    [
        "Step_8/engines/pilot/a.onnx",
        "Step_8/histograms_pilot.json",
        "Step_7/x_full.json",
        "Step_8/demo/0.png",
    ],
)
def test_what_other_runs_and_doors_leave_does_not_count(ran, name):
    (ran.root / name).parent.mkdir(parents=True, exist_ok=True)
    (ran.root / name).write_text("{}")
    assert unchanged(ran)


def test_another_version_of_the_code_counts(ran, monkeypatch, tmp_path):
    monkeypatch.setattr("lib.last_run.CODE", ("*.css",))
    assert not unchanged(ran)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"state": 1}'])
def test_a_broken_note_means_another_run(ran, content):
    (ran.run_folder / "finished.json").write_text(content)
    assert not unchanged(ran)


def test_a_run_that_would_change_nothing_is_not_repeated(tmp_path, monkeypatch, capsys):
    steps = []
    monkeypatch.setattr(runner, "_execute", lambda step, *_: steps.append(step))
    root = ["--root", str(tmp_path)]
    assert main(root) == 0
    assert json.loads((tmp_path / "runs/pilot/finished.json").read_text())
    assert main(root) == 0
    assert steps == [3, 4, 5, 6, 7, 8]
    said = capsys.readouterr().out
    assert "Nothing has changed" in said and f"--root {tmp_path} --from 3" in said
    assert main([*root, "--from", "3"]) == 0
    assert main([*root, "-p", "seed", "1"]) == 0
    assert main([*root, "-p", "seed", "1", "--to", "4"]) == 0
    assert steps[6:] == [3, 4, 5, 6, 7, 8] * 2 + [3, 4]
