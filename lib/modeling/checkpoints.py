"""Going on with an interrupted training: the last whole checkpoint of the very same job."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import get_last_checkpoint

from lib.artifacts import as_written, write_json


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
        # The Trainer writes this file last: without it a kill cut the writing short.
        if not (checkpoint / TRAINER_STATE_NAME).exists():
            shutil.rmtree(checkpoint)
    return get_last_checkpoint(str(folder))
