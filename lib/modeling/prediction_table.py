"""The predictions of Step 6 as a file: `predictions_<mode>.parquet`, a row a meme."""

from pathlib import Path

import pandas as pd

from lib.artifacts import atomic_path, require
from lib.config import Settings

EVALUATE = "python -m lib.run --from 6"


def save_predictions(frame: pd.DataFrame, path: str | Path) -> None:
    """Write the predictions as Parquet, atomically."""
    with atomic_path(path) as new:
        frame.to_parquet(new, index=False)


def read_predictions(settings: Settings, split: str) -> pd.DataFrame:
    """The saved predictions of one split; other splits are filtered out while reading.

    Raises FileNotFoundError naming the step, and ValueError if the split has no rows.
    """
    path = require(settings.artifact(6, "predictions.parquet"), EVALUATE)
    frame = pd.read_parquet(path, filters=[("split", "==", split)])
    if frame.empty:
        raise ValueError(f"{path} has no rows of split '{split}'; evaluate again: {EVALUATE}")
    return frame


def logits_of(frame: pd.DataFrame, model: str) -> pd.DataFrame:
    """The two logit columns of a model, shape (N, 2), hate second."""
    return frame[[f"{model}_logit_0", f"{model}_logit_1"]]
