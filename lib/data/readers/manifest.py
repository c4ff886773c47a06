"""Your own memes: `Datasets/`, `Step_2/data_manifest.jsonl`, and texts beside it.

`Step_2/ocr.jsonl` holds overlaid texts, `Step_2/asr.jsonl` transcripts of sound; both are optional.
"""

import codecs
import json
import warnings
from collections.abc import Generator, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lib.data.example import Example, Rejected, Unmatched
from lib.data.readers.registry import UNIFIED

MANIFEST = Path("Step_2/data_manifest.jsonl")
OCR = Path("Step_2/ocr.jsonl")
ASR = Path("Step_2/asr.jsonl")


class _ManifestRow(BaseModel):
    model_config = ConfigDict(extra="allow", coerce_numbers_to_str=True)

    id: str = Field(min_length=1)
    dataset: str = Field(min_length=1)
    image: str | None = None
    labels: dict[str, Any]
    caption: str | None = None
    lang: str | None = None
    split: Literal["train", "val", "test"] | None = None
    group: str | None = None
    text: str | None = None


class _TextRow(BaseModel):
    model_config = ConfigDict(extra="allow", coerce_numbers_to_str=True)

    id: str = Field(min_length=1)
    text: str | None


_Row = TypeVar("_Row", _ManifestRow, _TextRow)


def read_manifest(
    data_dir: str | Path,
) -> Generator[Example | Rejected, None, list[Unmatched]]:
    """Read a user's own `Datasets/`, `Step_2/data_manifest.jsonl` and `Step_2/ocr.jsonl`.

    The overlaid text is the OCR line's; without one (or without `ocr.jsonl`) the manifest's own
    `text`. A transcript in `Step_2/asr.jsonl` joins it. A row without `image` is a meme of which
    there is no picture. Rows that share `group` never straddle two splits. Labels hold `abuse_hate`
    or the own fields of a data set that `UNIFIED` maps. Fields of other names are packed as they
    are. A row that breaks this is yielded as `Rejected` with file, line, field and reason; texts of
    ids that no row has are warned of, and returned to whoever yields from this.
    `null`, and the NaN that pandas writes for an empty cell, count as if the field were not there.
    Raises FileNotFoundError without a manifest, and ValueError if an id occurs twice or a file is
    in UTF-16 or UTF-32: then no row can be trusted.
    """
    data_dir = Path(data_dir)
    if not (data_dir / MANIFEST).is_file():
        raise FileNotFoundError(
            f"{data_dir / MANIFEST} does not exist; a data folder holds Datasets/ and {MANIFEST}"
        )
    texts: dict[Path, dict[str, str]] = {OCR: {}, ASR: {}}
    for file, found in texts.items():
        for _, row in _read_rows(data_dir / file, _TextRow):
            if isinstance(row, Rejected):
                yield row
            elif row.text is not None:
                found[row.id] = row.text
    seen = set()
    for where, meme in _read_rows(data_dir / MANIFEST, _ManifestRow):
        if isinstance(meme, Rejected):
            yield meme
        else:
            seen.add(meme.id)
            yield _example(meme, where, data_dir / "Datasets", texts[OCR], texts[ASR])
    unmatched = []
    for file, found in texts.items():
        if lost := sorted(found.keys() - seen):
            unmatched.append(Unmatched(file.name, tuple(lost), len(found)))
            warnings.warn(
                f"{file}: {len(lost)} of {len(found)} ids stand in no usable row of "
                f"{MANIFEST.name}, {lost[0]!r} first; their texts are not packed",
                stacklevel=2,
            )
    return unmatched


def ids_in(path: str | Path) -> set[str]:
    """The ids in an `ocr.jsonl`, whose lines have `id` and `text`, or in a manifest.

    Lines that break the form are left out, and without the file there are none.
    Raises ValueError if an id occurs twice.
    """
    path = Path(path)
    if path.name == OCR.name:
        return {row.id for _, row in _read_rows(path, _TextRow) if isinstance(row, _TextRow)}
    rows = _read_rows(path, _ManifestRow)
    return {row.id for _, row in rows if isinstance(row, _ManifestRow)}


def _example(
    row: _ManifestRow,
    where: str,
    datasets: Path,
    ocr: Mapping[str, str],
    asr: Mapping[str, str],
) -> Example | Rejected:
    image = PurePosixPath(row.image or "")
    if image.is_absolute():
        reason = f"field image: {row.image!r} is an absolute path; give it relative to Datasets/"
        return Rejected(where, reason, row.id)
    if ".." in image.parts:
        return Rejected(where, f"field image: {row.image!r} leads out of Datasets/", row.id)
    try:
        labels = UNIFIED.map_labels(row.dataset, row.labels)
    except ValueError as error:
        return Rejected(where, str(error), row.id)
    return Example(
        id=row.id,
        dataset=row.dataset,
        image=datasets / image if row.image else None,
        ocr=ocr.get(row.id, row.text or ""),
        caption=row.caption or "",
        labels=labels,
        lang=row.lang or "en",
        # A cell that a table left empty is no name.
        group=row.group or None,
        split=row.split,
        extra=row.model_extra or None,
        asr=asr.get(row.id, ""),
        # Whoever wrote the manifest named the groups of all its data sets.
        group_spans=True,
    )


def _read_rows(path: Path, schema: type[_Row]) -> Iterator[tuple[str, _Row | Rejected]]:
    """Yield where each JSON line stands and its row, or why it is none.

    Without the file there are none.
    """
    if not path.is_file():
        return
    lines_of: dict[str, int] = {}
    with path.open("rb") as stream:
        _refuse_wide(path, stream.read(4))
        stream.seek(0)
        for number, line in enumerate(stream, start=1):
            if not line.strip():
                continue
            where = f"{path.name}:{number}"
            try:
                content = json.loads(line, parse_constant=_cell)
                row = schema.model_validate(content)
            except ValidationError as error:
                problem = error.errors(include_url=False)[0]
                field = ".".join(map(str, problem["loc"])) or "row"
                reason = problem["msg"] if isinstance(content, dict) else _no_object(content)
                yield where, Rejected(where, f"field {field}: {reason}", _id_of(content))
                continue
            except (ValueError, RecursionError) as error:
                yield where, Rejected(where, f"not a line of JSON: {error}")
                continue
            if row.id in lines_of:
                raise ValueError(
                    f"{path}: field id: {row.id!r} stands on line {lines_of[row.id]} and again on "
                    f"line {number}; give every row an id of its own"
                )
            lines_of[row.id] = number
            yield where, row


def _no_object(content: Any) -> str:
    found = "a list" if isinstance(content, list) else "none"
    return f"expected one JSON object a line, this is {found}"


def _id_of(content: Any) -> str:
    """The id in a line that breaks the form, "" where it has none."""
    found = content.get("id") if isinstance(content, dict) else None
    return str(found) if isinstance(found, str | int | float) else ""


def _refuse_wide(path: Path, start: bytes) -> None:
    if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE, codecs.BOM_UTF32_BE)):
        raise ValueError(
            f"{path} is not in UTF-8 but in UTF-16 or UTF-32, as some editors and PowerShell's > "
            "write; save it as UTF-8"
        )


def _cell(word: str) -> float | None:
    """What NaN and Infinity, which are not JSON, stand for: NaN for an empty cell."""
    return None if word == "NaN" else float(word)
