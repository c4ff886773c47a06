"""A reviewer's corrections: `Step_2/corrections.csv` with the columns id, label and reason.

They change the label of memes that are learned from, those of train and val. A meme of test keeps
the label it has and is reported: who corrects only the errors that a model was shown to make would
make that model look better than it is.
"""

import csv
import re
import warnings
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lib.config import Settings
from lib.data.example import Example

CORRECTIONS = Path("Step_2/corrections.csv")
COLUMNS = ("id", "label", "reason")
CORRECTED_SPLITS = ("train", "val")


# The apostrophe that keeps a spreadsheet from running a cell; the report's page writes it.
_RUN = re.compile(r"^'(?=[=+\-@\t\r'])")


@dataclass(frozen=True)
class Correction:
    """The label that a person gives a meme, and why; `where` names file and line."""

    id: str
    label: int
    reason: str
    where: str


def corrections_for(settings: Settings) -> list[Correction]:
    """The corrections of a run, in the root and in the folder of its data.

    Raises what `read_corrections` raises.
    """
    return read_corrections([settings.root, *([settings.data] if settings.data else [])])


def read_corrections(folders: Iterable[Path]) -> list[Correction]:
    """The corrections in `Step_2/corrections.csv` of each folder that has one, in their order.

    Raises ValueError naming file, line and field where a file is not text or has other columns,
    where a label is not 0 or 1, and where an id occurs twice with another label or reason: what the
    report's page exports holds the corrections made before, too.
    """
    found: dict[str, Correction] = {}
    for path in dict.fromkeys(folder / CORRECTIONS for folder in folders):
        for correction in _rows(path) if path.is_file() else ():
            before = found.setdefault(correction.id, correction)
            if replace(before, where=correction.where) != correction:
                raise ValueError(
                    f"{correction.where}: field id: {correction.id!r} has a correction already, "
                    f"{before.where}; keep one of them"
                )
    return list(found.values())


def _rows(path: Path) -> Iterator[Correction]:
    try:
        # Excel puts a byte order mark in front.
        with path.open(encoding="utf-8-sig", newline="") as stream:
            rows = csv.DictReader(stream, strict=True)
            if sorted(rows.fieldnames or ()) != sorted(COLUMNS):
                raise ValueError(
                    f"{path}: the first line is {','.join(rows.fieldnames or ())!r}; it must be "
                    f"{','.join(COLUMNS)!r}, with commas between"
                )
            for row in rows:
                yield _checked(row, f"{path}:{rows.line_num}")
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not UTF-8 text; save it as CSV in UTF-8") from None
    except csv.Error as error:
        raise ValueError(f"{path}:{rows.line_num} is not a line of CSV: {error}") from None


def _checked(row: Mapping[Any, Any], where: str) -> Correction:
    if None in row or None in row.values():
        raise ValueError(f"{where}: a line holds {len(COLUMNS)} values; quote those with a comma")
    id_, label = row["id"], row["label"].strip()
    if not id_:
        raise ValueError(f"{where}: field id is empty; name the meme")
    if label not in ("0", "1"):
        raise ValueError(f"{where}: field label is {row['label']!r}; it must be 0 or 1")
    return Correction(_RUN.sub("", id_), int(label), _RUN.sub("", row["reason"]), where)


def corrected(
    examples: Sequence[Example],
    corrections: Sequence[Correction],
    splits: Mapping[str, str],
    known: Iterable[str],
    unlabelled: Collection[str],
) -> tuple[list[Example], dict[str, Any]]:
    """The examples with their labels corrected, and what became of each correction.

    `splits` is the split of each example's id; `known` are all ids that the source has, and
    `unlabelled` those left out because their label is null. A corrected example says
    `corrected_from` and `correction_reason` in its `extra`. The report lists what was "applied",
    "unchanged" (the label was that already), "flagged" (of test, or of test by its
    publisher: never changed), "unlabelled", "not_packed" (for another reason) and "unknown". Of
    flagged, unlabelled and unknown ids a warning tells, one for each file.
    """
    places = {example.id: place for place, example in enumerate(examples)}
    changed, ids = list(examples), set(known)
    report: dict[str, list[dict[str, Any]]] = {
        name: []
        for name in ("applied", "unchanged", "flagged", "unlabelled", "not_packed", "unknown")
    }
    without_label = set(unlabelled)
    for correction in corrections:
        row = {"id": correction.id, "label": correction.label, "reason": correction.reason}
        if correction.id not in places:
            report[_fate_outside(correction.id, ids, without_label)].append(row)
            continue
        example = examples[places[correction.id]]
        row |= {"label_before": example.labels["abuse_hate"], "split": splits[example.id]}
        fate = _fate(example, correction, splits[example.id])
        report[fate].append(row)
        if fate == "applied":
            changed[places[example.id]] = _with(example, correction)
    _warn(report, corrections)
    return changed, report


def _fate_outside(id_: str, known: Collection[str], unlabelled: Collection[str]) -> str:
    """What becomes of a correction of what is not packed."""
    if id_ in unlabelled:
        return "unlabelled"
    return "not_packed" if id_ in known else "unknown"


def _fate(example: Example, correction: Correction, split: str) -> str:
    # In a pilot all is train, also what its publisher has set apart for testing.
    if split not in CORRECTED_SPLITS or example.split not in (None, *CORRECTED_SPLITS):
        return "flagged"
    return "unchanged" if example.labels["abuse_hate"] == correction.label else "applied"


def _with(example: Example, correction: Correction) -> Example:
    return replace(
        example,
        labels=dict(example.labels) | {"abuse_hate": correction.label},
        extra={
            **(example.extra or {}),
            "corrected_from": example.labels["abuse_hate"],
            "correction_reason": correction.reason,
        },
    )


def _warn(
    report: Mapping[str, Sequence[Mapping[str, Any]]], corrections: Sequence[Correction]
) -> None:
    told = {
        "flagged": "of test, whose labels are never changed; they stand in the statistics",
        "unlabelled": "of memes whose label is null, which are not packed; write the label there",
        "unknown": "of no meme in the data, and changed nothing; look for a misspelt id",
    }
    file_of = {correction.id: correction.where.rpartition(":")[0] for correction in corrections}
    for file, n in Counter(file_of.values()).items():
        for fate, words in told.items():
            if ids := [row["id"] for row in report[fate] if file_of[row["id"]] == file]:
                more = ", …" if len(ids) > 5 else ""
                warnings.warn(
                    f"{file}: {len(ids)} of {n} corrections are {words}: "
                    f"{', '.join(ids[:5])}{more}",
                    stacklevel=4,
                )
