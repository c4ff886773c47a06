"""The predictions of Step 6 as a file: `predictions_<mode>.parquet`, a row a meme.

The file's metadata (pandas keeps a frame's `attrs` there) says which models and shards the logits
are of: `{"models": {model: fingerprint}, "shards": {split: fingerprint}}`. Models that learned from
other shards, in which memes of test may have been, it names under "trained_on_other_shards".
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from lib.artifacts import atomic_path, fingerprint, require
from lib.commands import again
from lib.config import MODELS, Settings
from lib.data.shard_index import shards_fingerprint
from lib.data.val_parts import CALIBRATE

# A row group is what a reader of the whole file holds at least.
ROW_GROUP = 65_536
# Of fewer, resamples differ too little: intervals come out too narrow (Cameron, Gelbach and Miller
# 2008), and of one alone they have no width at all.
FEWEST_GROUPS = 10
COLUMNS = (
    *("id", "split", "part", "group", "label"),
    *(f"{model}_logit_{k}" for model in MODELS for k in (0, 1)),
)


def save_predictions(frame: pd.DataFrame, path: str | Path) -> None:
    """Write the predictions as Parquet with their origin, atomically.

    Raises ValueError for predictions that say no models of theirs.
    """
    models_of(frame)
    with atomic_path(path) as new:
        frame.to_parquet(new, index=False, row_group_size=ROW_GROUP)


def read_predictions(settings: Settings, split: str, part: str | None = None) -> pd.DataFrame:
    """The saved predictions of one split, or of one part of val; others are not read.

    `part` is "select" or "calibrate", as in `lib.data.val_parts`.
    Raises FileNotFoundError naming the step, and ValueError if there are no such rows, if the file
    lacks a column, if a logit is not finite, and if the shards of the split are others now.
    """
    path = checked_file(settings.artifact(6, "predictions.parquet"))
    filters = [("split", "==", split)]
    filters += [("part", "==", part)] if part is not None else []
    frame = pd.read_parquet(path, filters=filters)
    if frame.empty:
        of_part = f", part '{part}'" if part is not None else ""
        raise ValueError(
            f"{path} has no rows of split '{split}'{of_part}; evaluate again: {again(6)}"
        )
    refuse_other_shards(frame, settings, split)
    refuse_not_finite(frame, f"{path}, split '{split}'")
    return frame


def predictions_to_fit(settings: Settings) -> pd.DataFrame:
    """The rows that temperature and threshold are fitted on.

    In a full run the half of val that selected nothing; in a pilot all of train.
    """
    return read_predictions(settings, settings.fit_split, fit_part(settings))


def fit_part(settings: Settings) -> str | None:
    """The part of the fit split that may be fitted on, None for all of it."""
    return CALIBRATE if settings.fit_split == "val" else None


def prediction_chunks(settings: Settings, split: str, rows: int) -> Iterator[pd.DataFrame]:
    """The predictions of one split in their order, at most `rows` of them at a time.

    Raises what `read_predictions` raises, except for a split that has no rows.
    """
    path = checked_file(settings.artifact(6, "predictions.parquet"))
    none = pd.read_parquet(path, columns=["split"], filters=[("split", "==", "")])
    refuse_other_shards(none, settings, split)
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(rows):
            frame = batch.to_pandas()
            found = frame[frame["split"] == split]
            if len(found):
                refuse_not_finite(found, f"{path}, split '{split}'")
                yield found.reset_index(drop=True)


def shared_groups(settings: Settings, split: str) -> dict[str, int]:
    """The groups that several memes of a split are in, numbered."""
    path = checked_file(settings.artifact(6, "predictions.parquet"))
    groups = pd.read_parquet(path, columns=["group"], filters=[("split", "==", split)])["group"]
    return {group: k for k, group in enumerate(groups[groups.duplicated()].unique())}


def logits_of(frame: pd.DataFrame, model: str) -> pd.DataFrame:
    """The two logit columns of a model, shape (N, 2), hate second."""
    return frame[[f"{model}_logit_0", f"{model}_logit_1"]]


def groups_of(frame: pd.DataFrame) -> np.ndarray | None:
    """Each row's group (N,), to be resampled and folded as a whole; None for memes apart.

    Groups are numbers, in the order of their names. Memes are apart where each is a group alone,
    and where the groups are too few to be resampled: less than ten in all, or one alone with a
    class.
    """
    numbers, names = pd.factorize(frame["group"], sort=True)
    of_class = pd.Series(numbers).groupby(frame["label"].to_numpy()).nunique()
    few = len(names) < FEWEST_GROUPS or of_class.min() < 2
    return None if few or len(names) == len(frame) else numbers


def resampled(frame: pd.DataFrame) -> str:
    """What intervals on these rows resample: "groups", or "memes" where `groups_of` has none."""
    return "memes" if groups_of(frame) is None else "groups"


def models_of(frame: pd.DataFrame) -> dict[str, str]:
    """The fingerprint of each model, taken when the logits in `frame` were made.

    Raises ValueError if the predictions do not say.
    """
    found = frame.attrs.get("models")
    if not isinstance(found, Mapping) or set(found) != set(MODELS):
        raise ValueError(
            "these predictions do not say which models made them (Parquet metadata, "
            f"attrs['models']); evaluate again: {again(6)}"
        )
    return dict(found)


def trained_elsewhere(frame: pd.DataFrame) -> list[str]:
    """The models that were trained on other shards than those of the predictions in `frame`."""
    found = frame.attrs.get("trained_on_other_shards", [])
    return [model for model in MODELS if model in found]


def contamination(frame: pd.DataFrame, mode: str = "full") -> str:
    """What is to be said of `trained_elsewhere`, with the way out; empty where there are none.

    What a full run has made is replaced only where that is asked for.
    """
    found = trained_elsewhere(frame)
    if not found:
        return ""
    return (
        f"{', '.join(found)} learned from other shards than those that are judged here, and may "
        "have seen memes of val and test, which then look too good; train anew and go on from "
        "there: "
        f"{again(4, overwrite=mode == 'full')}"
    )


def model_fingerprints(models: str | Path) -> dict[str, str]:
    """The fingerprint of each model's folder as it is now.

    Raises FileNotFoundError naming a missing folder and the step that fills it.
    """
    steps = dict(zip(MODELS, (4, 4, 5), strict=True))
    return {
        model: fingerprint(require(Path(models) / model, again(step)))
        for model, step in steps.items()
    }


def refuse_other_models(made_by: Mapping[str, Any], models: str | Path, whose: str) -> None:
    """Raise ValueError unless the folder holds the models of these fingerprints.

    `whose` says in its message what they were taken for.
    """
    for model, found in model_fingerprints(models).items():
        if made_by.get(model) != found:
            raise ValueError(
                f"{Path(models) / model} is not the model {whose}; evaluate it and decide again: "
                f"{again(6)}"
            )


def refuse_other_shards(frame: pd.DataFrame, settings: Settings, split: str) -> None:
    """Raise ValueError if the predictions in `frame` are of other shards of the split.

    Where no shards of it lie, and where the predictions do not name theirs, nothing is refused.
    """
    of_splits = frame.attrs.get("shards") or {}
    if not isinstance(of_splits, dict):
        raise ValueError(
            f"{settings.artifact(6, 'predictions.parquet')}: 'shards' in its metadata is no object "
            f"of splits; evaluate again: {again(6)}"
        )
    made_of = of_splits.get(split)
    # Not by `shard_paths`, whose module loads PyTorch, which decisions do without.
    shards = sorted((settings.shards / split).glob("shard-*.tar"))
    if shards and made_of is not None and made_of != shards_fingerprint(shards):
        raise ValueError(
            f"{settings.artifact(6, 'predictions.parquet')}: the rows of split '{split}' are of "
            f"other shards than {settings.shards / split} holds; evaluate again: {again(6)}"
        )


def refuse_not_finite(frame: pd.DataFrame, where: str) -> None:
    """Raise ValueError naming `where` and the column of a logit that is NaN or infinite, of a
    label that is none, or of an id or group that is missing."""
    for name in ("id", "group"):
        if bad := int(frame[name].isna().sum()):
            raise ValueError(
                f"{where}: column '{name}' has {bad} values that are missing; a meme that shares "
                f"nothing has its own id as group; evaluate again: {again(6)}"
            )
    for name in COLUMNS[-2 * len(MODELS) :]:
        if bad := int((~np.isfinite(frame[name].to_numpy(np.float64))).sum()):
            raise ValueError(
                f"{where}: column '{name}' has {bad} values that are not finite; evaluate again: "
                f"{again(6)}"
            )
    if bad := int((~frame["label"].isin([0, 1])).sum()):
        raise ValueError(
            f"{where}: column 'label' has {bad} values that are neither 0 nor 1; evaluate again: "
            f"{again(6)}"
        )


def checked_file(path: Path) -> Path:
    """The path of a Parquet file that has all columns of predictions.

    Raises FileNotFoundError naming the step, and ValueError if it is no Parquet file or lacks one.
    """
    try:
        names = pq.read_schema(require(path, again(6))).names
    except pa.ArrowInvalid:
        raise ValueError(f"{path} is not a Parquet file of predictions") from None
    if missing := [name for name in COLUMNS if name not in names]:
        raise ValueError(f"{path} has no column '{missing[0]}'; evaluate again: {again(6)}")
    return path
