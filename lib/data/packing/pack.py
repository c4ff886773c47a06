"""Examples to WebDataset shards: checked, split, letterboxed, resumable."""

import contextlib
import errno
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from lib.artifacts import guard_overwrite, read_json, write_json
from lib.commands import again
from lib.config import PILOT_SIZE, SHARD_SIZE
from lib.data.corrections import Correction, corrected
from lib.data.example import Example, Rejected, Unmatched
from lib.data.packing.checking import Found, collect, refuse_if_too_bad
from lib.data.packing.finished import is_finished, job_of, note_finished
from lib.data.packing.statistics import statistics_of
from lib.data.packing.workers import ordered_map
from lib.data.packing.writing import digest_of, plan_shards, undo_broken_swap, write_shards
from lib.data.readers.registry import UNIFIED
from lib.data.splits import assign_splits
from lib.data.ties import Ties, find_duplicates, groups_of


def pack(
    examples: Iterable[Example | Rejected | Unmatched | Correction],
    out_dir: str | Path,
    *,
    mode: str = "pilot",
    seed: int = 0,
    workers: int = 1,
    ray: str | None = None,
    limit: int | None = None,
    overwrite: bool = False,
    shard_size: int = SHARD_SIZE,
    taxonomy: str | Path | None = None,
) -> dict[str, Any]:
    """Write `shards/`, `splits.json`, `label_taxonomy.json` and `stats_<mode>.json` to `out_dir`.

    In mode "pilot" at most 50 examples, a sample stratified by data set and label, all in split
    train; in mode "full" the splits of `lib.data.splits`. `limit` counts good examples. A bad one
    (rejected row, missing or broken picture, label outside the taxonomy, contradictory labels for
    one id) is skipped and listed in the returned stats; unlabelled ones are left out and counted.
    Corrections among the rows change labels of train and val once the splits are made, and texts
    that no meme has are counted.
    `out_dir` changes only once all shards are written; after a kill the same call goes on with the
    shards that are missing, and after the end it only looks whether all is there.
    `ray` is the address of a cluster whose workers read the pictures, "local" to start one here.
    `taxonomy` is another place for `label_taxonomy.json`, which both modes share.
    Raises ValueError if more than 5% are bad (two rows always pass, of fewer than ten one), if
    none is good, or if a full run's train or val lacks a label, FileExistsError if a full run made
    `out_dir` from other data, OSError if the disk is full.
    """
    out_dir, limit = Path(out_dir), _checked_limit(mode, limit)
    # A pilot is done before workers have started
    mapped = ordered_map(1) if mode == "pilot" else ordered_map(workers, ray)
    given = list(examples)
    corrections = [row for row in given if isinstance(row, Correction)]
    unmatched = [row for row in given if isinstance(row, Unmatched)]
    rows = [row for row in given if isinstance(row, Example | Rejected)]
    job = job_of(
        rows,
        mode=mode,
        seed=seed,
        limit=limit,
        shard_size=shard_size,
        corrections=[[c.id, c.label, c.reason] for c in corrections],
        unmatched=[[texts.file, texts.ids, texts.of] for texts in unmatched],
    )
    shards, stats_file = out_dir / "shards", out_dir / f"stats_{mode}.json"
    taxonomy = Path(taxonomy or out_dir / "label_taxonomy.json")
    if not overwrite and is_finished(shards, job, stats_file, out_dir / "splits.json", taxonomy):
        return read_json(stats_file, again(3))
    with _explained_if_full(out_dir):
        found = collect(rows, limit, mapped, seed if mode == "pilot" else None)
        refuse_if_too_bad(found)
        splits, groups, report = _split(found, mode, seed)
        packed = [replace(e, group=groups[e.id]) for e in found.good if e.id in groups]
        if corrections:
            known = (row.id for row in rows)
            packed, report["corrections"] = corrected(
                packed, corrections, splits, known, found.unlabelled
            )
        if mode == "full":
            _refuse_one_label(packed, splits)
        report["unmatched_texts"] = {
            texts.file: {"count": len(texts.ids), "of": texts.of, "ids": list(texts.ids)}
            for texts in unmatched
        }
        plan = plan_shards(packed, splits, None if mode == "pilot" else seed, shard_size)
        made_from = _origin(packed, mode, seed)
        # Before the guard: it shall see a full run's shards where a kill has left them parked.
        undo_broken_swap(shards)
        guard_overwrite(shards / "made_from.json", made_from, overwrite)
        write_shards(plan, shards, made_from, mapped, job)
        stats = statistics_of(found, plan, report, made_from)
        UNIFIED.save(taxonomy)
        write_json(out_dir / "splits.json", splits)
        write_json(stats_file, stats)
        note_finished(shards, job)
    return stats


def _checked_limit(mode: str, limit: int | None) -> int | None:
    """How many good examples are packed at most; None for all."""
    if mode not in ("pilot", "full"):
        raise ValueError(f"mode is {mode!r}; allowed: pilot, full")
    if limit is not None and limit < 1:
        raise ValueError(f"limit is {limit}; it must be at least 1")
    return min(limit or PILOT_SIZE, PILOT_SIZE) if mode == "pilot" else limit


def _origin(packed: list[Example], mode: str, seed: int) -> dict[str, Any]:
    """What tells these shards from those of another run."""
    return {
        "mode": mode,
        "seed": seed,
        "datasets": sorted({example.dataset for example in packed}),
        "examples": len(packed),
        "data": digest_of(packed),
    }


def _split(
    found: Found, mode: str, seed: int
) -> tuple[dict[str, str], dict[str, str], dict[str, Any]]:
    """The split and the group of each id, and what there is to report of both."""
    items = found.items()
    ties = Ties(items)
    duplicates = {"duplicates": find_duplicates(items, ties)}
    if mode == "pilot":
        return {item.id: "train" for item in items}, groups_of(items, ties), duplicates
    splits, report = assign_splits(items, seed, ties)
    _refuse_without_train(splits)
    kept = [item for item in items if item.id in splits]
    groups = groups_of(kept, ties if len(kept) == len(items) else Ties(kept))
    return splits, groups, report | duplicates


def _refuse_without_train(splits: Mapping[str, str]) -> None:
    if "train" not in splits.values():
        there = ", ".join(sorted(set(splits.values())))
        raise ValueError(
            f"no meme is left to train on: the field split puts all {len(splits)} of them into "
            f"{there}; leave it out of some rows, or write train there"
        )


def _refuse_one_label(packed: Iterable[Example], splits: Mapping[str, str]) -> None:
    """Raise ValueError where train or val, which all models need both labels of, has one alone."""
    counts = Counter((splits[example.id], example.labels["abuse_hate"]) for example in packed)
    for split, use in (("train", "learn from"), ("val", "choose a threshold on")):
        for label in (0, 1):
            if not counts[split, label]:
                raise ValueError(
                    f"{split} has no meme of abuse_hate {label} to {use}, only "
                    f"{counts[split, 1 - label]} of {1 - label}; write {split} into the field "
                    "split of memes of both labels, or give more memes"
                )


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
