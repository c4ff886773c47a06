"""Texts in files, row by row: plain lines, CSV, TSV, JSON Lines and Parquet.

What is wrong with a row becomes its fault and stops nothing; no file is held in memory.
"""

import codecs
import csv
import io
import json
from collections.abc import Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

# Characters; the network reads 64 tokens, and a longer text is a document or a lost line end.
MOST_TEXT = 20_000
# Bytes of a line and characters of a cell, behind which no row ends any more.
MOST_LINE = 1 << 26
SUFFIXES = (".txt", ".csv", ".tsv", ".jsonl", ".parquet")
_PROBED = 1000


class TextRow(NamedTuple):
    """A row of a file: the line it begins at (of Parquet the row), from 1, its id, text or fault.

    `id` is that of a column "id", else or where that is empty the number of the row, from 1.
    """

    line: int
    id: str
    text: str = ""
    fault: str | None = None


def read_texts(path: str | Path, stream: BinaryIO, column: str = "text") -> Iterator[TextRow]:
    """The rows of an open file, whose kind `path` tells by its suffix; none is a .txt.

    In .csv and .tsv a `column` that is a number is counted from 1 in a file without a header.
    Raises ValueError naming a missing column and those there are, or one that is there twice, or
    if the file is damaged or in UTF-16.
    """
    if stream.seekable():
        begin = stream.tell()
        head = stream.read(2)
        stream.seek(begin)
        if head in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
            raise ValueError(f"{path} is in UTF-16; save it as UTF-8")
    suffix = Path(path).suffix.lower()
    read = {".csv": _delimited, ".tsv": _delimited, ".jsonl": _json_lines, ".parquet": _parquet}
    if suffix in read:
        return read[suffix](str(path), stream, column)
    return _plain_lines(stream)


def fault_of(text: Any) -> str | None:
    """What keeps the network from reading the text, None if nothing does."""
    if text is None:
        return "the text is missing"
    if not isinstance(text, str):
        return f"the text is {type(text).__name__}, expected a string"
    if not text.strip():
        return "the text is empty"
    if len(text) > MOST_TEXT:
        return f"the text has {len(text):,} characters; at most {MOST_TEXT:,} are read"
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return f"the text is not valid Unicode (character {error.start + 1}); save it as UTF-8"
    return None


def _row(line: int, number: int, text: Any, given_id: Any = None) -> TextRow:
    id_ = "" if given_id is None else str(given_id)
    id_ = id_ if id_.strip() else str(number)
    # Undecodable bytes were read as lone surrogates, which no file can hold.
    id_ = id_.encode(errors="backslashreplace").decode()
    fault = fault_of(text)
    return TextRow(line, id_, "" if fault else text, fault)


def _plain_lines(stream: BinaryIO) -> Iterator[TextRow]:
    for line, content in _lines(stream):
        if content is None:
            yield TextRow(line, str(line), fault="the line has no end within 64 MB")
        else:
            yield _row(line, line, content.decode("utf-8", "surrogateescape"))


def _lines(stream: BinaryIO) -> Iterator[tuple[int, bytes | None]]:
    """The lines without their ends, numbered; None for one of more than MOST_LINE bytes."""
    number, start = 1, b"\xef\xbb\xbf"
    while content := stream.readline(MOST_LINE):
        whole = len(content) < MOST_LINE or content.endswith(b"\n")
        while not whole and (rest := stream.readline(MOST_LINE)):
            if rest.endswith(b"\n"):
                break
        content = content.removeprefix(start).rstrip(b"\r\n")
        yield number, content if whole else None
        number, start = number + 1, b""


def _delimited(path: str, stream: BinaryIO, column: str) -> Iterator[TextRow]:
    text = io.TextIOWrapper(stream, encoding="utf-8-sig", errors="surrogateescape", newline="")
    tabs, headless = path.lower().endswith(".tsv"), column.isascii() and column.isdigit()
    csv.field_size_limit(MOST_LINE)
    if tabs and headless:
        # GoEmotions' files have no header, and quotes there are part of the texts.
        reader = csv.reader(text, delimiter="\t", quoting=csv.QUOTE_NONE)
    else:
        reader = csv.reader(text, delimiter="\t" if tabs else ",")
    header = [] if headless else [name.strip() for name in next(reader, [])]
    if headless and int(column) < 1:
        raise ValueError(f"{path}: there is no column number {column}; they count from 1")
    at = int(column) - 1 if headless else _place(path, header, column)
    id_at = _place(path, header, "id") if "id" in header else None
    for number, (line, values) in enumerate(_records(reader), start=1):
        several = reader.line_num > line
        row = TextRow(line, str(number), fault=_misshapen(values, header, at, tabs and several))
        if row.fault is None:
            row = _row(line, number, values[at], None if id_at is None else values[id_at])
        if row.fault and several:
            row = row._replace(fault=f"{row.fault} (to line {reader.line_num}: an open quote?)")
        yield row


def _misshapen(
    values: Sequence[str] | str, header: Sequence[str], at: int, lines_of_tabs: bool
) -> str | None:
    """Why a record is no row; `lines_of_tabs` says that it has several lines of a .tsv."""
    if isinstance(values, str):
        return values
    if header and len(values) != len(header):
        return f"{len(values)} fields, expected {len(header)}"
    if at >= len(values):
        return f"{len(values)} fields, no number {at + 1}"
    # A quote that was left open made the rows behind it part of its cell, tabs and all.
    if lines_of_tabs and any("\t" in value for value in values):
        return "a cell of several lines holds tabs"
    return None


def _records(reader: Any) -> Iterator[tuple[int, list[str] | str]]:
    """The lines at which records begin, and their fields or why there are none."""
    while True:
        line = reader.line_num + 1
        try:
            values = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            values = str(error)
        if values:
            yield line, values


def _json_lines(path: str, stream: BinaryIO, column: str) -> Iterator[TextRow]:
    rows = _objects(stream)
    # An object may leave a field out; what fields there are, the first thousand tell.
    first = list(islice(rows, _PROBED))
    names = dict.fromkeys(name for _, row in first if isinstance(row, dict) for name in row)
    if names:
        _place(path, list(names), column)
    for number, (line, row) in enumerate(chain(first, rows), start=1):
        if isinstance(row, dict):
            yield _row(line, number, row.get(column), row.get("id"))
        else:
            yield TextRow(line, str(number), fault=row)


def _objects(stream: BinaryIO) -> Iterator[tuple[int, dict[str, Any] | str]]:
    for line, content in _lines(stream):
        if content is None:
            yield line, "the line has no end within 64 MB"
            continue
        if not content.strip():
            continue
        try:
            row = json.loads(content)
        except (ValueError, RecursionError) as error:
            yield line, f"not JSON: {error}"
            continue
        yield line, row if isinstance(row, dict) else f"{type(row).__name__}, expected an object"


def _parquet(path: str, stream: BinaryIO, column: str) -> Iterator[TextRow]:
    try:
        file = _parquet_file(stream)
        names = file.schema_arrow.names
        wanted = list(dict.fromkeys([column, *(["id"] if "id" in names else [])]))
        for name in wanted:
            _place(path, names, name)
        number = 0
        for batch in file.iter_batches(1024, columns=wanted):
            columns = [_values(batch.column(name)) for name in wanted]
            for text, id_ in zip(columns[0], columns[-1], strict=True):
                number += 1
                yield _row(number, number, text, id_ if "id" in names else None)
    except (pa.ArrowException, OSError) as error:
        # With a number it is the system's, and says nothing of the file.
        if getattr(error, "errno", None) is not None:
            raise
        raise ValueError(f"{path} is not a sound Parquet file: {error}") from None


def _parquet_file(stream: BinaryIO) -> pq.ParquetFile:
    file = pq.ParquetFile(stream)
    categories = [field.name for field in file.schema_arrow if pa.types.is_dictionary(field.type)]
    # Made categories behind the reading, one string that is not UTF-8 would end the whole of it.
    return pq.ParquetFile(stream, metadata=file.metadata, read_dictionary=categories)


def _values(column: pa.Array) -> list[Any]:
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        # Parquet does not check that its strings are UTF-8: one that is not must fail alone.
        raw = column.cast(pa.large_binary()).to_pylist()
        return [None if b is None else b.decode("utf-8", "surrogateescape") for b in raw]
    if pa.types.is_dictionary(column.type):
        return _values(column.dictionary_decode())
    return column.to_pylist()


def _place(path: str, names: Sequence[str], column: str) -> int:
    if column not in names:
        there = ", ".join(names) or "no columns"
        raise ValueError(f"{path} has no column '{column}' but {there}; choose with --column")
    if names.count(column) > 1:
        raise ValueError(f"{path} has several columns '{column}'; name each otherwise")
    return names.index(column)
