"""Going on with an interrupted training: the last whole checkpoint of the very same job."""

import json
import os
import shutil
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import get_last_checkpoint

from lib.artifacts import as_written, write_json, write_text
from lib.modeling.model_files import has_weights

# What the Trainer writes with torch.save: one of each, of the last one a process.
PICKLED = ("optimizer.pt", "scheduler.pt", "rng_state*.pth")


def same_job(file: Path, job: Mapping[str, Any]) -> bool:
    """Whether `file` holds this very job, all that decides the weights to be trained."""
    return file.exists() and json.loads(file.read_text(encoding="utf-8")) == as_written(job)


def last_checkpoint(folder: Path, job: Mapping[str, Any]) -> str | None:
    """The last checkpoint in `folder` of this very job, None without one.

    Checkpoints of another job are thrown away, and so are those that a kill left half-written.
    """
    file = folder / "job.json"
    if not same_job(file, job):
        shutil.rmtree(folder, ignore_errors=True)
        write_json(file, job)
        return None
    for checkpoint in folder.glob("checkpoint-*"):
        if not _whole(checkpoint):
            shutil.rmtree(checkpoint)
    last = get_last_checkpoint(str(folder))
    if last is not None:
        _find_best_here(Path(last))
    return last


def _find_best_here(checkpoint: Path) -> None:
    """Name the best checkpoint where it lies: beside this one, wherever both were written.

    Of one that is not there the Trainer keeps nothing but a warning, and other weights at the end.
    """
    file = checkpoint / TRAINER_STATE_NAME
    state = json.loads(file.read_text(encoding="utf-8"))
    named = state.get("best_model_checkpoint")
    here = checkpoint.parent / Path(named or "").name
    if named and here.is_dir() and named != str(here):
        state["best_model_checkpoint"] = str(here)
        write_text(file, json.dumps(state, indent=2, sort_keys=True) + "\n")


def _whole(checkpoint: Path) -> bool:
    """Whether a checkpoint holds all that the Trainer writes, each file to its end."""
    try:
        # Written last, and not at once.
        state = json.loads((checkpoint / TRAINER_STATE_NAME).read_text(encoding="utf-8"))
        step = state["global_step"]
    except (OSError, ValueError, TypeError, KeyError):
        return False
    others = [found for name in PICKLED for found in checkpoint.glob(name)]
    return (
        checkpoint.name == f"checkpoint-{step}"
        and len(others) >= len(PICKLED)
        and _all_dice(checkpoint)
        and has_weights(checkpoint)
        # Their table of contents stands at the end.
        and all(map(zipfile.is_zipfile, others))
    )


def _all_dice(checkpoint: Path) -> bool:
    """Whether the random states of all processes are there: of one, or 0, 1, ... of several."""
    names = {found.name for found in checkpoint.glob("rng_state*.pth")}
    processes = max(len(names), int(os.environ.get("WORLD_SIZE", 1)), 2)
    return "rng_state.pth" in names or names >= {f"rng_state_{k}.pth" for k in range(processes)}
