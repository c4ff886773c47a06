"""Whether the experts learned from the shards that are packed now."""

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

from lib.artifacts import read_json
from lib.commands import again
from lib.data.shard_index import shards_fingerprint
from lib.modeling.encoders import EXPERTS


def splits_of(mode: str) -> tuple[str, ...]:
    """The splits that an expert learns from and is chosen by."""
    return ("train", "val") if mode == "full" else ("train",)


def warn_of_other_shards(models: Path, shards: Mapping[str, Sequence[str | Path]]) -> None:
    """Warn of experts in `models` that were trained on other shards than these, by split.

    What is test now may have been shown to them then. Nothing is said of experts that keep no
    record of their training, nor where the splits they would have learned from are not given.
    """
    for name in EXPERTS:
        file = models / name / "training.json"
        job = read_json(file, again(4)) if file.exists() else {}
        splits = splits_of(job.get("mode", ""))
        if "data" not in job or not set(splits) <= shards.keys():
            continue
        if job["data"] != shards_fingerprint([path for split in splits for path in shards[split]]):
            warnings.warn(
                f"{models / name} was trained on other shards than those that are packed now: it "
                "may have learned from memes of val and test, which then look too good; train it "
                f"and what stands on it again: {again(4)}",
                stacklevel=3,
            )
