"""Examples to WebDataset shards: checked, split, letterboxed, resumable."""

import contextlib
import errno
import hashlib
import io
import itertools
import json
import os
import re
import shutil
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
from PIL import Image
from tqdm import tqdm

from lib.artifacts import atomic_path, guard_overwrite, write_json
from lib.config import PILOT_SIZE, Settings
from lib.confounders import generate
from lib.pictures import SIZE, letterbox, load_picture, picture_hash
from lib.sources import MANIFEST, READERS, Example, Rejected, read_manifest
from lib.splits import SPLITS, Item, assign_splits, find_duplicates
from lib.taxonomy import UNIFIED

SHARD_SIZE = 256
# Photographs: a third of level 6's time for 5% more bytes, and no slower to read
PNG_LEVEL = 3
BAD_SHARE = 0.05
_BLOCK = 512
_CONTRADICTORY = "contradictory labels for one id"


def combined_text(ocr: str, caption: str = "", lang: str = "en") -> str:
    """The text of a meme, `[OCR] … [/OCR] [CAP] … [/CAP] <lang=en>`, white space collapsed."""
    words = ["[OCR]", *ocr.split(), "[/OCR]", "[CAP]", *caption.split(), "[/CAP]", f"<lang={lang}>"]
    return " ".join(words)


def examples_for(settings: Settings) -> Iterable[Example | Rejected]:
    """The examples that `settings` ask for, read as they are consumed.

    `settings.dataset` names readers of `lib.sources`, separated by commas; each finds its files in
    `settings.data` (default `Datasets/` under the root) or the subfolder of its name. "manifest" is
    the user's own `Datasets/` and `Step_2/`, "confounders" the generated memes, "auto" the manifest
    if `settings.data` is given or the root has one, else the generated.
    Raises ValueError for an unknown name, and FileNotFoundError if the data are not there.
    """
    names = [name.strip() for name in settings.dataset.split(",")]
    if names == ["auto"]:
        own = settings.data is not None or (settings.root / MANIFEST).is_file()
        names = ["manifest" if own else "confounders"]
    return itertools.chain.from_iterable([_from_source(name, settings) for name in names])


def _from_source(name: str, settings: Settings) -> Iterable[Example | Rejected]:
    if name == "confounders":
        return generate(
            settings.n_memes, settings.seed, settings.captions, splits=settings.mode == "full"
        )
    if name == "manifest":
        folder = settings.data or settings.root
        if not (folder / MANIFEST).is_file():
            raise FileNotFoundError(
                f"{folder / MANIFEST} does not exist; if {folder} holds a public data set, name it "
                f"in the setting dataset: {', '.join(sorted(READERS))}"
            )
        return read_manifest(folder)
    if name not in READERS:
        known = ["auto", "confounders", "manifest", *sorted(READERS)]
        raise ValueError(f"setting dataset: there is no {name!r}; known: {', '.join(known)}")
    folder = settings.data or settings.root / "Datasets"
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} does not exist; set data to the folder of {name}")
    return READERS[name](folder / name if (folder / name).is_dir() else folder)


def pack(
    examples: Iterable[Example | Rejected],
    out_dir: str | Path,
    *,
    mode: str = "pilot",
    seed: int = 0,
    workers: int = 1,
    limit: int | None = None,
    overwrite: bool = False,
    shard_size: int = SHARD_SIZE,
) -> dict[str, Any]:
    """Write `shards/`, `splits.json`, `label_taxonomy.json` and `stats_<mode>.json` to `out_dir`.

    In mode "pilot" at most 50 examples, all in split train; in mode "full" the splits of
    `lib.splits`. `limit` counts good examples. A bad one (rejected row, missing or broken picture,
    label outside the taxonomy, contradictory labels for one id) is skipped and listed in the
    returned stats; unlabelled ones are left out and counted. `out_dir` changes only once all
    shards are written; after a kill the same call goes on with the shards that are missing.
    Raises ValueError if more than 5% are bad (two rows always pass, of fewer than ten one), or if
    none is good, FileExistsError if a full run made `out_dir` from other data, OSError if the disk
    is full.
    """
    if mode not in ("pilot", "full"):
        raise ValueError(f"mode is {mode!r}; allowed: pilot, full")
    if limit is not None and limit < 1:
        raise ValueError(f"limit is {limit}; it must be at least 1")
    out_dir = Path(out_dir)
    if mode == "pilot":
        limit = min(limit or PILOT_SIZE, PILOT_SIZE)
    # A pilot is done before workers have started
    run = _mapper(1 if mode == "pilot" else workers)
    with _explained_if_full(out_dir):
        found = _collect(examples, limit, run)
        _refuse_if_too_bad(found)
        splits, report = _split(found, mode, seed)
        packed = [example for example in found.good if example.id in splits]
        plan = _plan(packed, splits, None if mode == "pilot" else seed, shard_size)
        made_from = {
            "mode": mode,
            "seed": seed,
            "datasets": sorted({example.dataset for example in packed}),
            "examples": len(packed),
            "data": _digest(packed),
        }
        guard_overwrite(out_dir / "shards" / "made_from.json", made_from, overwrite)
        _write_shards(plan, out_dir / "shards", made_from, run)
        stats = _stats(found, plan, report, made_from)
        UNIFIED.save(out_dir / "label_taxonomy.json")
        write_json(out_dir / "splits.json", splits)
        write_json(out_dir / f"stats_{mode}.json", stats)
    return stats


@dataclass(frozen=True)
class _Found:
    """What one pass over the examples has found: the good ones, and why others are not."""

    good: list[Example]
    hashes: dict[str, int | None]
    skipped: list[dict[str, str]]
    repeated: list[str]
    unlabelled: list[str]

    def skip(self, where: str, id_: str, reason: str) -> None:
        self.skipped.append({"where": where, "id": id_, "reason": reason})

    def items(self) -> list[Item]:
        return [
            Item(
                id=example.id,
                dataset=example.dataset,
                label=example.labels["abuse_hate"],
                text=example.ocr,
                picture=self.hashes[example.id],
                group=example.group,
                split=example.split,
            )
            for example in self.good
        ]


def _mapper(workers: int) -> Callable[[Callable, Iterable], Iterable]:
    """An ordered map over `workers` processes; none are started for one."""
    if workers <= 1:
        return map
    parallel = joblib.Parallel(
        workers,
        return_as="generator",
        batch_size=4,
        pre_dispatch="32 * n_jobs",
        initializer=_end_with_parent,
        initargs=(os.getpid(),),
    )
    return lambda function, items: parallel(joblib.delayed(function)(item) for item in items)


def _end_with_parent(parent: int) -> None:
    """End this worker when its parent is gone: killed, that cannot send the word to stop."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _collect(examples: Iterable[Example | Rejected], limit: int | None, run: Callable) -> _Found:
    """Read until `limit` good examples, opening every picture once."""
    found = _Found([], {}, [], [], [])
    first: dict[str, Example] = {}
    stream = iter(examples)
    with tqdm(desc="checking", unit=" memes", total=limit) as progress:
        while limit is None or len(found.good) < limit:
            missing = _BLOCK if limit is None else min(_BLOCK, limit - len(found.good))
            block = list(itertools.islice(stream, missing))
            if not block:
                break
            candidates = [e for e in (_candidate(row, first, found) for row in block) if e]
            for example, (hashed, problem) in zip(candidates, run(_look, candidates), strict=True):
                if problem:
                    found.skip(example.dataset, example.id, problem)
                else:
                    found.good.append(example)
                    found.hashes[example.id] = hashed
                    progress.update()
    contradicted = {row["id"] for row in found.skipped if row["reason"] == _CONTRADICTORY}
    for example in [e for e in found.good if e.id in contradicted]:
        found.good.remove(example)
        found.skip(example.dataset, example.id, _CONTRADICTORY)
    return found


def _candidate(row: Example | Rejected, first: dict[str, Example], found: _Found) -> Example | None:
    """The example with its labels checked, or None, noted in `found`, if it is not to be packed."""
    if isinstance(row, Rejected):
        found.skip(row.where, row.id, row.reason)
        return None
    if row.split is not None and row.split not in SPLITS:
        found.skip(row.dataset, row.id, f"field split is {row.split!r}; allowed: {list(SPLITS)}")
        return None
    try:
        example = replace(row, labels=UNIFIED.validate_labels(row.labels))
    except ValueError as error:
        found.skip(row.dataset, row.id, str(error))
        return None
    before = first.setdefault(example.id, example)
    if before is not example:
        if before.labels == example.labels:
            found.repeated.append(example.id)
        else:
            found.skip(example.dataset, example.id, _CONTRADICTORY)
    elif example.labels["abuse_hate"] is None:
        found.unlabelled.append(example.id)
    else:
        return example
    return None


def _look(example: Example) -> tuple[int | None, str | None]:
    """Open the picture: its perceptual hash, or what is wrong with it."""
    if callable(example.image) and example.group is not None:
        # A drawn picture is never broken, and its group says all about what it may be tied to
        return None, None
    try:
        return picture_hash(_picture(example)), None
    except (OSError, ValueError) as error:
        path = str(example.image)
        return None, "picture: " + str(error).replace(path, "/".join(Path(path).parts[-2:]))


def _picture(example: Example) -> Image.Image:
    return load_picture(example.image() if callable(example.image) else example.image)


def _refuse_if_too_bad(found: _Found) -> None:
    bad = len(found.skipped)
    rows = bad + len(found.good) + len(found.unlabelled) + len(found.repeated)
    reasons = "; ".join(f"{row['where']} {row['id']}: {row['reason']}" for row in found.skipped[:5])
    # 5% of a small set is less than a row: one bad row always passes, two from ten rows on.
    if bad > max(BAD_SHARE * rows, 1 + (rows >= 10)):
        raise ValueError(
            f"{bad} of {rows} examples are bad, more than {BAD_SHARE:.0%}; nothing was packed. "
            f"Repair or remove them: {reasons}"
        )
    if not found.good:
        raise ValueError(
            f"no example to pack: {rows} rows, {len(found.unlabelled)} of them without a label. "
            + reasons
        )


def _split(found: _Found, mode: str, seed: int) -> tuple[dict[str, str], dict[str, Any]]:
    items = found.items()
    duplicates = find_duplicates(items)
    if mode == "pilot":
        return {item.id: "train" for item in items}, {"duplicates": duplicates}
    splits, report = assign_splits(items, seed)
    return splits, report | {"duplicates": duplicates}


@dataclass(frozen=True)
class _Shard:
    split: str
    number: int
    examples: tuple[Example, ...]

    @property
    def name(self) -> str:
        return f"{self.split}/shard-{self.number:06d}.tar"


def _plan(
    examples: Sequence[Example], splits: Mapping[str, str], seed: int | None, shard_size: int
) -> list[_Shard]:
    """Say which example goes where, before any is written; with a seed train is shuffled."""
    of_split: dict[str, list[Example]] = defaultdict(list)
    for example in examples:
        of_split[splits[example.id]].append(replace(example, split=splits[example.id]))
    if seed is not None and "train" in of_split:
        # Files sorted by label would make one-sided batches of whole shards
        order = np.random.default_rng(seed).permutation(len(of_split["train"]))
        of_split["train"] = [of_split["train"][i] for i in order]
    return [
        _Shard(split, number, tuple(members[start : start + shard_size]))
        for split in SPLITS
        for members in [of_split[split]]
        for number, start in enumerate(range(0, len(members), shard_size))
    ]


def _digest(examples: Iterable[Example], files: bool = False) -> str:
    """Tell one packing job from another by all that is packed; with `files` also by file dates."""
    digest = hashlib.sha256()
    for e in examples:
        line = [e.id, e.dataset, dict(e.labels), e.ocr, e.caption, e.lang, e.group, e.split]
        if files and not callable(e.image):
            status = os.stat(e.image)
            line += [str(e.image), status.st_size, status.st_mtime_ns]
        digest.update(json.dumps([*line, e.extra], sort_keys=True).encode())
    return digest.hexdigest()[:16]


def _write_shards(
    plan: Sequence[_Shard], shards: Path, made_from: Mapping[str, Any], run: Callable
) -> None:
    """Write what is missing of `plan` beside the old shards, then put it in their place."""
    partial, replaced = shards / ".partial", shards.with_name(".shards.replaced")
    _undo_broken_swap(shards, replaced)
    job = {
        "shards": [[shard.name, _digest(shard.examples, files=True)] for shard in plan],
        "picture": [SIZE, PNG_LEVEL],
    }
    if (
        not (partial / "plan.json").exists()
        or json.loads((partial / "plan.json").read_text()) != job
    ):
        shutil.rmtree(partial, ignore_errors=True)
        write_json(partial / "plan.json", job)
    missing = [shard for shard in plan if not (partial / shard.name).exists()]
    waiting = [example for shard in missing for example in shard.examples]
    with tqdm(desc="packing", total=len(waiting), unit=" memes") as progress:
        samples = iter(run(_sample, waiting))
        for shard in missing:
            members = itertools.islice(samples, len(shard.examples))
            _write_shard(partial / shard.name, members, progress)
    for left_by_a_kill in partial.glob("*/.*"):
        shutil.rmtree(left_by_a_kill)
    write_json(partial / "made_from.json", made_from)
    shards.rename(replaced)
    (replaced / ".partial").rename(shards)
    (shards / "plan.json").unlink()
    shutil.rmtree(replaced)


def _undo_broken_swap(shards: Path, replaced: Path) -> None:
    if replaced.exists() and not shards.exists():
        replaced.rename(shards)
    shutil.rmtree(replaced, ignore_errors=True)


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
    picture = _picture(example)
    png = io.BytesIO()
    letterbox(picture).save(png, "PNG", compress_level=PNG_LEVEL)
    meta = {
        **(example.extra or {}),
        "id": example.id,
        "dataset": example.dataset,
        "labels": dict(example.labels),
        "split": example.split,
        "lang": example.lang,
        "width": picture.width,
        "height": picture.height,
    }
    return {
        "__key__": _key(example.id),
        "png": png.getvalue(),
        "txt": combined_text(example.ocr, example.caption, example.lang).encode(errors="replace"),
        "json": json.dumps(meta, sort_keys=True).encode(),
    }


def _key(id_: str) -> str:
    """A member name for the id: WebDataset ends the key at the first dot, tar at 100 bytes."""
    if re.fullmatch(r"[A-Za-z0-9_-]{1,80}", id_):
        return id_
    plain = re.sub(r"[^A-Za-z0-9_-]", "_", id_)[:60]
    return f"{plain}-{hashlib.sha256(id_.encode()).hexdigest()[:12]}"


def _stats(
    found: _Found, plan: Sequence[_Shard], report: Mapping[str, Any], made_from: Mapping[str, Any]
) -> dict[str, Any]:
    members: dict[str, list[Example]] = defaultdict(list)
    for shard in plan:
        members[shard.split].extend(shard.examples)
    return {
        **made_from,
        "splits": {
            split: {
                "examples": len(examples),
                "shards": sum(shard.split == split for shard in plan),
                "datasets": Counter(e.dataset for e in examples),
                "labels": {
                    name: Counter(_as_text(e.labels[name]) for e in examples)
                    for name in UNIFIED.labels
                },
            }
            for split, examples in members.items()
        },
        "skipped": {"count": len(found.skipped), "rows": found.skipped},
        "unlabelled": {"count": len(found.unlabelled), "ids": found.unlabelled},
        "repeated_ids": {"count": len(found.repeated), "ids": found.repeated},
        **report,
    }


def _as_text(value: int | str | None) -> str:
    return "unknown" if value is None else str(value)


@contextlib.contextmanager
def _explained_if_full(out_dir: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise OSError(
            error.errno,
            "the disk is full; what was there before is untouched and finished shards are kept. "
            "Free some space and run the same command again",
            str(out_dir),
        ) from None


def stats_table(stats: Mapping[str, Any]) -> pd.DataFrame:
    """Of what `pack` returned: shards, memes, and how many of each label, a row a split."""
    rows = {
        split: {
            "shards": counts["shards"],
            "memes": counts["examples"],
            "non-hate": counts["labels"]["abuse_hate"].get("0", 0),
            "hate": counts["labels"]["abuse_hate"].get("1", 0),
        }
        for split, counts in stats["splits"].items()
    }
    return pd.DataFrame(rows).T


def skipped_table(stats: Mapping[str, Any]) -> pd.DataFrame:
    """Of what `pack` returned: the skipped examples with place and reason, a row each."""
    return pd.DataFrame(stats["skipped"]["rows"], columns=["where", "id", "reason"])
