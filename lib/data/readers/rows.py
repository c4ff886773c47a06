"""What the readers of public data sets share: from rows to examples, each id once."""

import functools
import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from lib.data.example import Example, Rejected
from lib.data.taxonomy import LABELS, DatasetMapping, LabelTaxonomy


@dataclass(frozen=True)
class Row:
    """One row of a data set's own files; `own` are its labels as the publisher spells them."""

    where: str
    name: str
    image: Path
    own: Mapping[str, Any]
    text: str = ""
    caption: str = ""
    split: str | None = None


PICTURE_SUFFIXES = {".jpg", ".jpeg", ".png", ".gif", ".webp", ".bmp"}


def examples_of(
    dataset: str, mapping: DatasetMapping, folder: Path, rows: Iterable[Row | Rejected]
) -> Iterator[Example | Rejected]:
    """Turn rows into examples, each id once; rows that contradict each other are all rejected."""
    taxonomy = LabelTaxonomy(labels=LABELS, datasets={dataset: mapping})
    find = _finder(folder)
    kept: dict[str, tuple[Row, dict[str, Any]]] = {}
    clashes: dict[str, Rejected] = {}
    for row in rows:
        if isinstance(row, Rejected):
            yield row
            continue
        id_ = meme_id(dataset, row.name)
        if not row.image.is_relative_to(folder) or ".." in row.image.parts:
            yield Rejected(row.where, f"the picture {row.image.name!r} lies out of the folder", id_)
            continue
        try:
            labels = taxonomy.map_labels(dataset, row.own)
        except ValueError as error:
            yield Rejected(row.where, str(error), id_)
            continue
        before, known = kept.setdefault(id_, (row, labels))
        if before is row or labels["abuse_hate"] is None:
            continue
        if known["abuse_hate"] is None or (labels == known and _later(row.split, before.split)):
            kept[id_] = (row, labels)
        elif labels != known:
            reason = f"{row.where} says {dict(row.own)}, {before.where} says {dict(before.own)}"
            clashes[id_] = Rejected(row.where, f"contradictory labels for one id: {reason}", id_)
    for id_, (row, labels) in kept.items():
        if id_ in clashes:
            yield clashes[id_]
            continue
        yield Example(
            id=id_,
            dataset=dataset,
            image=find(row.image),
            ocr=row.text,
            caption=row.caption,
            labels=labels,
            split=row.split,
            extra={"own_labels": dict(row.own)},
        )


def _later(split: str | None, other: str | None) -> bool:
    """Whether a row that stands in both splits is kept in `split`: no test row is trained on."""
    order = (None, "train", "val", "test")
    return split in order and other in order and order.index(split) > order.index(other)


def meme_id(dataset: str, name: str) -> str:
    """A tar member's name; where a character had to go, a hash keeps two names apart."""
    safe = re.sub(r"[^A-Za-z0-9_-]", "_", name)
    if safe != name:
        safe += "-" + hashlib.sha256(name.encode()).hexdigest()[:8]
    return f"{dataset}-{safe}"


def _finder(folder: Path) -> Callable[[Path], Path]:
    """Find a picture where it should be, else anywhere below `folder` under its own name."""

    @functools.cache
    def places() -> dict[str, list[Path]]:
        found: dict[str, list[Path]] = {}
        for path in sorted(folder.rglob("*")):
            if path.suffix.lower() in PICTURE_SUFFIXES:
                found.setdefault(path.name, []).append(path)
        return found

    def find(path: Path) -> Path:
        if path.is_file():
            return path
        elsewhere = places().get(path.name, [])
        return elsewhere[0] if len(elsewhere) == 1 else path

    return find


def stem(name: str) -> str:
    return str(PurePosixPath(name).with_suffix("")) if name else name


def first_text(row: Mapping[str, Any], *columns: str) -> str:
    """The first of `columns` that holds a text; empty cells and the words for nothing hold none."""
    texts = (str(row.get(column) or "").strip() for column in columns)
    nothing = {"", "nan", "none", "null"}
    return next((text for text in texts if text.lower() not in nothing), "")


def missing_field(row: Any, *fields: str) -> str | None:
    """What a row lacks of `fields`; a text may be empty, a name or an id may not."""
    if not isinstance(row, dict):
        return f"the row must be an object, not {row!r}"
    for field in fields:
        value = row.get(field)
        if value is None or (value == "" and "text" not in field):
            return f"field {field}: missing"
        if field in ("img", "image") and not isinstance(value, str):
            return f"field {field}: {value!r} is no file name"
    return None
