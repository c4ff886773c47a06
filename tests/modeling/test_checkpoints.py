import json

import pytest
import torch
from safetensors.torch import save_file

from lib.artifacts import write_json
from lib.modeling.checkpoints import last_checkpoint, same_job

JOB = {"seed": 0, "learning_rate": 1e-4}


def checkpoint(folder, step):
    """The files that the Trainer writes, in its order."""
    path = folder / f"checkpoint-{step}"
    path.mkdir(parents=True)
    save_file({"weight": torch.ones(20)}, path / "model.safetensors")
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
        torch.save({"step": torch.ones(20)}, path / name)
    (path / "trainer_state.json").write_text(json.dumps({"global_step": step, "epoch": 1.0}))
    return path


def test_a_new_job_starts_from_nothing_and_is_noted(tmp_path):
    assert last_checkpoint(tmp_path / "work", JOB) is None
    assert same_job(tmp_path / "work/job.json", JOB)


def test_the_last_whole_checkpoint_is_taken_up(tmp_path):
    last_checkpoint(tmp_path, JOB)
    checkpoint(tmp_path, 10)
    newest = checkpoint(tmp_path, 20)
    assert last_checkpoint(tmp_path, JOB) == str(newest)


def test_the_best_checkpoint_is_found_where_the_folder_was_moved_to(tmp_path):
    last_checkpoint(tmp_path / "old", JOB)
    best, last = checkpoint(tmp_path / "old", 10), checkpoint(tmp_path / "old", 20)
    state = last / "trainer_state.json"
    noted = json.loads(state.read_text()) | {"best_model_checkpoint": str(best)}
    state.write_text(json.dumps(noted))
    (tmp_path / "old").rename(tmp_path / "new")
    taken = last_checkpoint(tmp_path / "new", JOB)
    assert taken == str(tmp_path / "new/checkpoint-20")
    found = json.loads((tmp_path / "new/checkpoint-20/trainer_state.json").read_text())
    assert found == noted | {"best_model_checkpoint": str(tmp_path / "new/checkpoint-10")}


@pytest.mark.parametrize("left", [None, 0, 30])
@pytest.mark.parametrize(
    "name",
    ["model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json"],
)
def test_a_half_written_checkpoint_is_thrown_away(tmp_path, name, left):
    last_checkpoint(tmp_path, JOB)
    whole, torn = checkpoint(tmp_path, 20), checkpoint(tmp_path, 30)
    content = (torn / name).read_bytes()
    if left is None:
        (torn / name).unlink()
    else:
        (torn / name).write_bytes(content[:left])
    assert last_checkpoint(tmp_path, JOB) == str(whole)
    assert not torn.exists()


@pytest.mark.parametrize(
    ("names", "processes", "whole"),
    [
        (["rng_state_0.pth", "rng_state_1.pth"], "2", True),
        (["rng_state_0.pth"], "2", False),
        (["rng_state_1.pth"], "2", False),
        (["rng_state_0.pth", "rng_state_1.pth"], "3", False),
        (["rng_state_0.pth", "rng_state_2.pth"], "1", False),
    ],
)
def test_the_random_state_of_every_process_is_needed(
    tmp_path, monkeypatch, names, processes, whole
):
    monkeypatch.setenv("WORLD_SIZE", processes)
    last_checkpoint(tmp_path, JOB)
    path = checkpoint(tmp_path, 10)
    content = (path / "rng_state.pth").read_bytes()
    (path / "rng_state.pth").unlink()
    for name in names:
        (path / name).write_bytes(content)
    assert last_checkpoint(tmp_path, JOB) == (str(path) if whole else None)


def test_checkpoints_of_another_job_are_thrown_away(tmp_path):
    last_checkpoint(tmp_path, JOB)
    checkpoint(tmp_path, 10)
    assert last_checkpoint(tmp_path, JOB | {"seed": 1}) is None
    assert not list(tmp_path.glob("checkpoint-*"))


def test_a_file_that_is_not_there_is_no_job(tmp_path):
    assert not same_job(tmp_path / "job.json", JOB)
    write_json(tmp_path / "job.json", JOB)
    assert same_job(tmp_path / "job.json", JOB)


def test_a_learning_rate_of_many_digits_is_the_same_job_again(tmp_path):
    job = JOB | {"learning_rate": 1.23456789123e-7}
    last_checkpoint(tmp_path, job)
    newest = checkpoint(tmp_path, 10)
    assert last_checkpoint(tmp_path, job) == str(newest)
    assert last_checkpoint(tmp_path, job | {"learning_rate": 1.3e-7}) is None
