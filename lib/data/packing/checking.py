"""Which examples are good enough to pack, and why the others are not."""

import itertools
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from lib.data.example import Example, Rejected
from lib.data.pictures import load_picture, picture_hash
from lib.data.readers.registry import UNIFIED
from lib.data.splits import SPLITS
from lib.data.ties import Item

BAD_SHARE = 0.05
_BLOCK = 512
_CONTRADICTORY = "contradictory labels for one id"


@dataclass(frozen=True)
class Found:
    """What one pass over the examples has found: the good ones, and why others are not."""

    good: list[Example]
    hashes: dict[str, int | None]
    skipped: list[dict[str, str]]
    repeated: list[str]
    unlabelled: list[str]
    untaken: list[Example]

    def skip(self, where: str, id_: str, reason: str) -> None:
        self.skipped.append({"where": where, "id": id_, "reason": reason})

    def items(self) -> list[Item]:
        return [
            Item(
                id=example.id,
                dataset=example.dataset,
                label=example.labels["abuse_hate"],
                text="" if _all_ties_known(example) else _words(example),
                picture=self.hashes[example.id],
                group=example.group,
                split=example.split,
                group_spans=example.group_spans,
            )
            for example in self.good
        ]


def _words(example: Example) -> str:
    """What makes two texts equal: what is on the picture, else said, else the text there is."""
    return example.ocr or example.asr or (example.caption if example.image is None else "")


def collect(
    examples: Iterable[Example | Rejected],
    limit: int | None,
    run: Callable,
    sample_seed: int | None = None,
) -> Found:
    """Read until `limit` good examples, opening every picture once.

    With `sample_seed` all rows are read first, and a sample of them stratified by data set and
    label is taken, in the order of the source; the pictures of the others are not opened.
    """
    found = Found([], {}, [], [], [], [])
    first: dict[str, Example] = {}
    labelled = (e for row in examples if (e := _candidate(row, first, found)) is not None)
    stream: Iterator[Example] = labelled
    if sample_seed is not None:
        candidates = _without_contradicted(list(labelled), found)
        stream = iter([candidates[k] for k in _stratified(candidates, sample_seed)])
    with tqdm(desc="checking", unit=" memes", total=limit) as progress:
        while limit is None or len(found.good) < limit:
            missing = _BLOCK if limit is None else min(_BLOCK, limit - len(found.good))
            block = list(itertools.islice(stream, missing))
            if not block:
                break
            for example, (hashed, problem) in zip(block, run(_look, block), strict=True):
                if problem:
                    found.skip(example.dataset, example.id, problem)
                else:
                    found.good.append(example)
                    found.hashes[example.id] = hashed
                    progress.update()
    if sample_seed is None:
        found.good[:] = _without_contradicted(found.good, found)
    else:
        place = {example.id: k for k, example in enumerate(candidates)}
        found.good.sort(key=lambda example: place[example.id])
        found.untaken.extend(stream)
    return found


def _without_contradicted(examples: Iterable[Example], found: Found) -> list[Example]:
    contradicted = {row["id"] for row in found.skipped if row["reason"] == _CONTRADICTORY}
    fine = []
    for example in examples:
        if example.id in contradicted:
            found.skip(example.dataset, example.id, _CONTRADICTORY)
        else:
            fine.append(example)
    return fine


def _stratified(examples: Sequence[Example], seed: int) -> list[int]:
    """An order of which any beginning holds data sets and labels in proportion, each once first."""
    members: dict[tuple[str, int], list[int]] = defaultdict(list)
    for k in np.random.default_rng(seed).permutation(len(examples)).tolist():
        members[stratum_of(examples[k])].append(k)
    ranked = [
        (rank / len(ranks), stratum, k)
        for stratum, ranks in sorted(members.items())
        for rank, k in enumerate(ranks)
    ]
    return [k for _, _, k in sorted(ranked)]


def stratum_of(example: Example) -> tuple[str, int]:
    """What a pilot is stratified by: data set and label."""
    return example.dataset, example.labels["abuse_hate"]


def _candidate(row: Example | Rejected, first: dict[str, Example], found: Found) -> Example | None:
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
    if example.image is None or _all_ties_known(example):
        return None, None
    try:
        return picture_hash(picture_of(example)), None
    except (OSError, ValueError) as error:
        path = str(example.image)
        return None, "picture: " + str(error).replace(path, "/".join(Path(path).parts[-2:]))


def _all_ties_known(example: Example) -> bool:
    """Whether a meme's group says all about what it is tied to, as that of a generated meme does.

    Its picture, drawn and never broken, need not be opened, and it shares texts on purpose.
    """
    return callable(example.image) and example.group is not None


def picture_of(example: Example) -> Image.Image:
    """The picture of an example that has one, upright RGB."""
    assert example.image is not None, example.id
    return load_picture(example.image() if callable(example.image) else example.image)


def refuse_if_too_bad(found: Found) -> None:
    """Raise ValueError with the first reasons if too many examples are bad, or none is good."""
    bad = len(found.skipped)
    fine = len(found.good) + len(found.untaken)
    rows = bad + fine + len(found.unlabelled) + len(found.repeated)
    reasons = "; ".join(f"{row['where']} {row['id']}: {row['reason']}" for row in found.skipped[:5])
    # 5% of a small set is less than a row: one bad row always passes, two from ten rows on.
    if bad > max(BAD_SHARE * rows, 1 + (rows >= 10)):
        raise ValueError(
            f"{bad} of {rows} examples are bad, more than {BAD_SHARE:.0%}; nothing was packed. "
            f"Repair or remove them: {reasons}"
        )
    if not found.good:
        fix = "Set abuse_hate to 0 or 1 on each line. " if found.unlabelled else ""
        raise ValueError(
            f"no example to pack: {rows} rows, {len(found.unlabelled)} of them without a label. "
            f"{fix}{reasons}"
        )
