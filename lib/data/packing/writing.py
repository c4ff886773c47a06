"""Shards: which example goes into which, written so that a killed run goes on where it stopped."""

import contextlib
import hashlib
import io
import itertools
import json
import os
import re
import shutil
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from lib.artifacts import atomic_path, write_json
from lib.data.example import Example
from lib.data.packing.checking import picture_of
from lib.data.pictures import SIZE, letterbox
from lib.data.shard_index import open_index
from lib.data.splits import SPLITS
from lib.data.text import combined_text

# Photographs: a third of level 6's time for 5% more bytes, and no slower to read
PNG_LEVEL = 3


@dataclass(frozen=True)
class Shard:
    split: str
    number: int
    examples: tuple[Example, ...]

    @property
    def name(self) -> str:
        return f"{self.split}/shard-{self.number:06d}.tar"


def plan_shards(
    examples: Sequence[Example], splits: Mapping[str, str], seed: int | None, shard_size: int
) -> list[Shard]:
    """Say which example goes where, before any is written; with a seed train is shuffled."""
    of_split: dict[str, list[Example]] = defaultdict(list)
    for example in examples:
        of_split[splits[example.id]].append(replace(example, split=splits[example.id]))
    if seed is not None and "train" in of_split:
        # Files sorted by label would make one-sided batches of whole shards
        order = np.random.default_rng(seed).permutation(len(of_split["train"]))
        of_split["train"] = [of_split["train"][i] for i in order]
    return [
        Shard(split, number, tuple(members[start : start + shard_size]))
        for split in SPLITS
        for members in [of_split[split]]
        for number, start in enumerate(range(0, len(members), shard_size))
    ]


def digest_of(examples: Iterable[Example], files: bool = False) -> str:
    """Tell one packing job from another by all that is packed; with `files` also by file dates."""
    digest = hashlib.sha256()
    for e in examples:
        line: list[Any] = [e.id, e.dataset, dict(e.labels), e.ocr, e.caption, e.lang]
        line += [e.group, e.split, e.asr]
        if files and isinstance(e.image, Path):
            line += [str(e.image)]
            # A name that no file can have is refused where it is opened.
            with contextlib.suppress(OSError, ValueError):
                status = os.stat(e.image)
                line += [status.st_size, status.st_mtime_ns]
        digest.update(json.dumps([*line, e.extra], sort_keys=True).encode())
    return digest.hexdigest()[:16]


def write_shards(
    plan: Sequence[Shard], shards: Path, made_from: Mapping[str, Any], run: Callable, job: str
) -> None:
    """Write what is missing of `plan` beside the old shards, then put it in their place.

    What a killed run of the same `job`, rows and code, has written is taken over. A swap that a
    kill broke off has to be undone before.
    """
    partial = shards / ".partial"
    planned = {
        "job": job,
        "shards": [[shard.name, digest_of(shard.examples, files=True)] for shard in plan],
        "picture": [SIZE, PNG_LEVEL],
    }
    if (
        not (partial / "plan.json").exists()
        or json.loads((partial / "plan.json").read_text()) != planned
    ):
        shutil.rmtree(partial, ignore_errors=True)
        write_json(partial / "plan.json", planned)
    missing = [shard for shard in plan if not (partial / shard.name).exists()]
    waiting = [example for shard in missing for example in shard.examples]
    with tqdm(desc="packing", total=len(waiting), unit=" memes") as progress:
        samples = iter(run(_sample, waiting))
        for shard in missing:
            members = itertools.islice(samples, len(shard.examples))
            _write_shard(partial / shard.name, members, progress)
    for left_by_a_kill in partial.glob("*/.*"):
        shutil.rmtree(left_by_a_kill)
    open_index(partial / shard.name for shard in plan)
    write_json(partial / "made_from.json", made_from)
    replaced = _parked(shards)
    shards.rename(replaced)
    (replaced / ".partial").rename(shards)
    (shards / "plan.json").unlink()
    shutil.rmtree(replaced)


def undo_broken_swap(shards: Path) -> None:
    """Put old shards back that a kill left parked where no new ones had taken their place yet."""
    replaced = _parked(shards)
    if replaced.exists() and not shards.exists():
        replaced.rename(shards)
    shutil.rmtree(replaced, ignore_errors=True)


def _parked(shards: Path) -> Path:
    return shards.with_name(".shards.replaced")


def _write_shard(path: Path, samples: Iterable[Mapping[str, Any]], progress: tqdm) -> None:
    from webdataset import TarWriter  # here, so that worker processes need not load torch

    with (
        atomic_path(path) as new,
        new.open("wb") as stream,
        TarWriter(stream, mtime=0, user="", group="", encoder=False) as tar,
    ):
        for sample in samples:
            tar.write(sample)
            progress.update()


def _sample(example: Example) -> dict[str, Any]:
    text = combined_text(example.ocr, example.caption, example.lang, example.asr)
    meta = {
        **(example.extra or {}),
        "id": example.id,
        "dataset": example.dataset,
        "labels": dict(example.labels),
        "split": example.split,
        "group": example.group,
        "lang": example.lang,
    }
    members: dict[str, Any] = {"__key__": _key(example.id)}
    if example.image is not None:
        picture = picture_of(example)
        meta |= {"width": picture.width, "height": picture.height}
        png = io.BytesIO()
        letterbox(picture).save(png, "PNG", compress_level=PNG_LEVEL)
        members["png"] = png.getvalue()
    members["txt"] = text.encode(errors="replace")
    members["json"] = json.dumps(meta, sort_keys=True).encode()
    return members


def _key(id_: str) -> str:
    """A member name for the id: WebDataset ends the key at the first dot, tar at 100 bytes."""
    if re.fullmatch(r"[A-Za-z0-9_-]{1,80}", id_):
        return id_
    plain = re.sub(r"[^A-Za-z0-9_-]", "_", id_)[:60]
    return f"{plain}-{hashlib.sha256(id_.encode()).hexdigest()[:12]}"
