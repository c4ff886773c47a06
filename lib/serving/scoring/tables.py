"""Memes in a CSV, JSON Lines or Parquet file, a row at a time."""

import csv
import gzip
import io
import lzma
import math
import posixpath
import re
import warnings
import zlib
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any, BinaryIO, TextIO

import pyarrow as pa
import pyarrow.parquet as pq

from lib.serving.scoring.json_lines import json_objects, refuse_wide
from lib.serving.scoring.places import file_of, is_address, opened
from lib.serving.scoring.rows import MOST_WORDS, NOT_READ, USUAL_NAMES, Columns, Row

DELIMITERS = {".csv": ",", ".tsv": "\t"}
SUFFIXES = (*DELIMITERS, ".jsonl", ".ndjson", ".parquet")
# Characters of a cell; a quote that is left open swallows the rows behind it up to here.
MOST_CELL = 1 << 26
# Stands before a row's number where ids are numbers themselves.
_BEFORE = "row "
_NUMBERED = re.compile(rf"((?:{_BEFORE})*)[\d.]+")


def named_rows(address: str, columns: Columns) -> Iterator[Row]:
    """The rows of a table, one without an id called by its number; raises as `table_rows` does."""
    before = None
    for number, row in enumerate(table_rows(address, columns)):
        if not row.id:
            # Not sooner, as it reads the whole table.
            before = before_number(address, columns) if before is None else before
            row = row._replace(id=f"{before}{number}")
        yield row


def before_number(address: str, columns: Columns) -> str:
    """What stands before the number of a row without an id, so that it is no other row's id."""
    found = (_NUMBERED.fullmatch(row.id) for row in table_rows(address, columns))
    return _BEFORE * max((len(one[1]) // len(_BEFORE) + 1 for one in found if one), default=0)


def table_rows(address: str, columns: Columns) -> Iterator[Row]:
    """The rows of a table in their order; a row that is malformed has a `fault`.

    `id` is empty where the row lacks it, and the row's number in a table without such a column.
    Raises ValueError naming a column that is missing and those there are, or the line from which
    the file is no table; FileNotFoundError.
    """
    suffix = suffix_of(address)
    read = {".parquet": _parquet}.get(suffix, _json_lines if "json" in suffix else _delimited)
    compression = "infer" if suffix != ".parquet" else None
    try:
        with opened(address, compression) as stream:
            yield from read(address, stream, columns)
    except (gzip.BadGzipFile, EOFError, zlib.error, lzma.LZMAError) as error:
        raise ValueError(f"{address} is not a sound compressed file: {error}") from None
    except OSError as error:
        # What bz2 raises has no type of its own.
        if str(error) != "Invalid data stream":
            raise
        raise ValueError(f"{address} is not a sound compressed file: {error}") from None


def suffix_of(address: str) -> str:
    """The suffix of a table's address, without that of a compression."""
    name = posixpath.basename(file_of(address)).lower()
    for compressed in (".gz", ".bz2", ".xz", ".zst"):
        name = name.removesuffix(compressed)
    return posixpath.splitext(name)[1]


def _delimited(address: str, stream: BinaryIO, columns: Columns) -> Iterator[Row]:
    # Bytes that are no UTF-8 become lone surrogates, of which the row's own check complains.
    text = io.TextIOWrapper(stream, encoding="utf-8-sig", errors="surrogateescape", newline="")
    csv.field_size_limit(MOST_CELL)
    try:
        reader = _reader(address, text)
        header = [name.strip() for name in next(reader, [])]
        _refuse_delimiter(address, header, columns)
        found = _found(address, header, columns)
        number, last = 0, reader.line_num
        for values in reader:
            begins, last = last + 1, reader.line_num
            if not values:
                continue
            if fault := _swallowed(values, reader.dialect.delimiter, begins, last):
                yield Row(_unnamed(found, number), fault=fault)
            elif len(values) == len(header):
                row = dict(zip(header, values, strict=True))
                # A table of this kind cannot tell an empty text from a missing one.
                yield _row(address, row | _missing(row, found), found, number)
            else:
                fault = f"line {begins}: {len(values)} fields, expected {len(header)}"
                if last > begins:
                    fault += f" (to line {last}: a quote left open?)"
                yield Row(_unnamed(found, number), fault=fault)
            number += 1
    except csv.Error as error:
        raise ValueError(
            f"{address}: line {reader.line_num}: {error}; is a quote left open?"
        ) from None


def _reader(address: str, text: TextIO) -> Any:
    """Reads the rows, header and all; without the blank behind each delimiter if the header has it.

    Raises ValueError for a file in UTF-16 or UTF-32.
    """
    delimiter = DELIMITERS[suffix_of(address)]
    first = text.readline()
    refuse_wide(address, first.encode(errors="surrogateescape"))
    _, *others = next(csv.reader([first], delimiter=delimiter), None) or [""]
    blank = bool(others) and all(name.startswith(" ") for name in others)
    return csv.reader(chain([first], text), delimiter=delimiter, skipinitialspace=blank)


def _refuse_delimiter(address: str, header: Sequence[str], columns: Columns) -> None:
    """Raise ValueError where semicolons divide a table, as some spreadsheets write it."""
    if len(header) == 1 and ";" in header[0] and header[0] not in columns:
        wanted = "tabs" if DELIMITERS[suffix_of(address)] == "\t" else "commas"
        raise ValueError(f"{address} is divided by semicolons; save it with {wanted}")


def _swallowed(values: Sequence[str], delimiter: str, begins: int, last: int) -> str | None:
    """What is wrong if a quote that was left open made several lines of a .tsv one cell."""
    if delimiter == "\t" and last > begins and any("\t" in value for value in values):
        return f"line {begins}: a cell to line {last} holds tabs (a quote left open?)"
    return None


def _missing(row: Mapping[str, str], found: Columns) -> dict[str, None]:
    """The cells that are empty; a text of white space is given, and empty as behind every door."""
    empty = [name for name in (found.image, found.id) if name and not row[name].strip()]
    if found.text is not None and not row[found.text]:
        empty.append(found.text)
    return dict.fromkeys(empty)


def _json_lines(address: str, stream: BinaryIO, columns: Columns) -> Iterator[Row]:
    objects = (row for _, row in json_objects(address, stream))
    # Objects may leave a key out: what columns there are, the first thousand of them tell.
    first = list(islice(objects, 1000))
    names = dict.fromkeys(name for row in first if isinstance(row, dict) for name in row)
    found = _found(address, list(names), columns) if names else Columns()
    for number, row in enumerate(chain(first, objects)):
        if isinstance(row, dict):
            yield _row(address, row, found, number)
        else:
            yield Row(_unnamed(found, number), fault=row)


def _parquet(address: str, stream: BinaryIO, columns: Columns) -> Iterator[Row]:
    try:
        file = pq.ParquetFile(stream, pre_buffer=False, buffer_size=1 << 16)
        found, number = _found(address, file.schema_arrow.names, columns), 0
        wanted = list({name for name in found if name is not None})
        for batch in file.iter_batches(256, columns=wanted, use_threads=False):
            for row in _rows_of(batch):
                if isinstance(row, str):
                    yield Row(_unnamed(found, number), fault=row)
                else:
                    # What pandas leaves where there is no value.
                    plain = {name: None if _is_nan(value) else value for name, value in row.items()}
                    yield _row(address, plain, found, number)
                number += 1
    except (pa.ArrowException, OSError) as error:
        # With a number it is the system's or the network's, and says nothing of the file.
        if getattr(error, "errno", None) is not None:
            raise
        raise ValueError(f"{address} is not a sound Parquet file: {error}") from None


def _rows_of(batch: pa.RecordBatch) -> Iterator[dict[str, Any] | str]:
    """The values of each row, or the reason why they cannot be had."""
    try:
        yield from batch.to_pylist()
    except (ValueError, OverflowError):
        for number in range(len(batch)):
            try:
                yield {name: _value(batch[name][number]) for name in batch.schema.names}
            except (ValueError, OverflowError) as error:
                yield f"a value of this row cannot be read: {error}"


def _value(found: pa.Scalar) -> Any:
    plain = found.value if isinstance(found, pa.DictionaryScalar) else found
    try:
        return found.as_py()
    except UnicodeDecodeError:
        if not isinstance(plain, pa.StringScalar | pa.LargeStringScalar):
            raise
        # Some other program's string: its bytes, so that the row's own check complains of them.
        return plain.as_buffer().to_pybytes().decode(errors="surrogateescape")


def _found(address: str, names: Sequence[str], columns: Columns) -> Columns:
    """The columns of the three parts among those there are; None for a part without one."""
    found: dict[str, str | None] = {}
    for part, asked in columns._asdict().items():
        if asked == NOT_READ and part != "id":
            found[part] = None
        elif asked is not None and asked not in names:
            raise ValueError(
                f"{address} has no column '{asked}'; it has {', '.join(names)}; choose one with "
                f"--{part}-column"
            )
        else:
            found[part] = asked or _usual(part, names)
    if found["image"] is None and columns.image != NOT_READ:
        raise ValueError(
            f"{address} has no column 'image'; it has {', '.join(names) or 'none'}; name that of "
            f"the pictures' files with --image-column, or say --image-column {NOT_READ} to judge "
            "texts alone"
        )
    if found["text"] is None and columns.text is None:
        warnings.warn(
            f"{address} has no column 'text'; it has {', '.join(names)}: texts are read off the "
            f"pictures. Name theirs with --text-column, or say --text-column {NOT_READ}",
            stacklevel=2,
        )
    if found["image"] is None and found["text"] is None:
        raise ValueError(f"{address}: neither a column of texts nor one of pictures is to be read")
    if twice := [name for name in found.values() if name and names.count(name) > 1]:
        raise ValueError(f"{address} has several columns '{twice[0]}'; name each otherwise")
    return Columns(**found)


def _usual(part: str, names: Sequence[str]) -> str | None:
    """The column of a part by its usual names, in any case; the first of them that is there."""
    written = {name.strip().lower(): name for name in reversed(names)}
    return next((written[name] for name in USUAL_NAMES[part] if name in written), None)


def _row(address: str, row: Mapping[str, Any], found: Columns, number: int) -> Row:
    names = found._asdict().items()
    given: dict[str, Any] = {part: row.get(name) for part, name in names if name}
    id_ = given.get("id")
    if id_ is None or _is_nan(id_) or not str(id_).strip():
        id_ = _unnamed(found, number)
    id_ = str(id_)
    image, text = given.get("image"), given.get("text")
    if isinstance(image, Mapping):  # as the library `datasets` writes pictures
        content, name = image.get("bytes"), image.get("path")
        if not isinstance(content, bytes | None) or not isinstance(name, str | None):
            fault = "the picture's 'bytes' and 'path' are no bytes and no file's path"
            return Row(id_, fault=fault)
        # Bytes that are none are an empty file and no missing picture.
        if content is not None:
            return Row(id_, name, content, text)
        image = name
    if isinstance(image, bytes):
        return Row(id_, None, image, text)
    if image is not None and not isinstance(image, str):
        return Row(id_, fault=f"the picture is {type(image).__name__}, expected a file's path")
    if image is not None and (kind := _no_name(image)):
        fault = f"the picture is {kind}, expected a file's path; bytes can stand in a Parquet file"
        return Row(id_, f"{image[:20]}…", fault=fault)
    return Row(id_, image, image and _place(address, image), text)


def _unnamed(found: Columns, number: int) -> str:
    return "" if found.id else str(number)


def _no_name(image: str) -> str | None:
    """What a picture is given by, where that is no name that the output could hold."""
    if image[:5].lower() == "data:":
        return "a data: URL"
    if len(image) > MOST_WORDS and not is_address(image):
        return f"a text of {len(image):,} characters"
    return None


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)


def _place(table: str, image: str) -> str:
    """Where a picture lies that a table names: relative to the table's own folder."""
    if is_address(image) or not is_address(table):
        return image if is_address(image) else str(Path(table).parent / image)
    return image if image.startswith("/") else f"{posixpath.dirname(table)}/{image}"
