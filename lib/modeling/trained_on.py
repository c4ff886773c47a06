"""Whether the models learned from the shards that are packed now."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lib.artifacts import read_json
from lib.commands import again
from lib.data.shard_index import shards_fingerprint
from lib.modeling.encoders import EXPERTS

FUSION = "mm_fusion"


def splits_of(mode: str) -> tuple[str, ...]:
    """The splits that an expert learns from and is chosen by."""
    return ("train", "val") if mode == "full" else ("train",)


def warn_of_other_shards(models: Path, shards: Mapping[str, Sequence[str | Path]]) -> None:
    """Warn of experts in `models` that were trained on other shards than these, by split.

    What is test now may have been shown to them then. Nothing is said of experts that keep no
    record of their training, nor where the splits they would have learned from are not given.
    """
    for name, job in _trained(models):
        if name != FUSION and _of_others(job, shards):
            warnings.warn(
                f"{models / name} was trained on other shards than those that are packed now: it "
                "may have learned from memes of val and test, which then look too good; train it "
                f"and what stands on it again: {again(4, overwrite=job.get('mode') == 'full')}",
                stacklevel=3,
            )


def of_other_shards(models: Path, shards: Mapping[str, Sequence[str | Path]]) -> list[str]:
    """The models that were trained on other shards than these, as `warn_of_other_shards` tells.

    Fusion is one of them where an expert that it was trained on is.
    """
    return list(dict.fromkeys(name for name, job in _trained(models) if _of_others(job, shards)))


def _trained(models: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Each model with the `mode` and the fingerprint `data` of what it learned from, where known.

    Fusion comes once for each of its experts.
    """
    for name in EXPERTS:
        file = models / name / "training.json"
        if file.exists():
            yield name, read_json(file, again(4))
    file = models / FUSION / "made_from.json"
    experts = read_json(file, again(5)).get("experts", {}) if file.exists() else {}
    for made_from in experts.values():
        # Of an expert that keeps no record there is its fingerprint alone.
        if isinstance(made_from, Mapping):
            yield FUSION, made_from


def _of_others(job: Mapping[str, Any], shards: Mapping[str, Sequence[str | Path]]) -> bool:
    splits = splits_of(job.get("mode", ""))
    if "data" not in job or not set(splits) <= shards.keys():
        return False
    return job["data"] != shards_fingerprint([path for split in splits for path in shards[split]])
