"""Finding and reading a data set's files: tables and JSON, each row with the place it stands at."""

import csv
import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any


def require_found(found: Any, folder: Path, wanted: str) -> None:
    if not found:
        raise FileNotFoundError(f"{folder} does not hold {wanted}; check the path of the data set")


def files_named(folder: Path, name: str) -> list[Path]:
    """The files of that name that lie least deep in `folder`."""
    patterns = (name, f"*/{name}", f"**/{name}")
    return next((found for p in patterns if (found := sorted(folder.glob(p)))), [])


def file_named(folder: Path, name: str) -> Path:
    found = files_named(folder, name)
    require_found(found, folder, name)
    return found[0]


def json_file(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from None


def json_lines(path: Path, shown: str | None = None) -> Iterator[tuple[str, Any]]:
    """Yield where each line stands and its object, or the reason it is none."""
    with path.open("rb") as stream:
        for number, line in enumerate(stream, start=1):
            if not line.strip():
                continue
            where = f"{shown or path.name}:{number}"
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                yield where, f"not a line of JSON: {error}"
                continue
            yield where, row if isinstance(row, dict) else f"not a JSON object: {row!r}"


def tables_with(folder: Path, columns: Sequence[str], delimiter: str = ",") -> list[Path]:
    """The CSV files below `folder` whose header holds all `columns`."""
    return [
        path
        for path in sorted(folder.rglob("*.csv"))
        if set(columns) <= set(_header(path, delimiter))
    ]


def _header(path: Path, delimiter: str) -> list[str]:
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as stream:
        return [name.strip() for name in next(csv.reader(stream, delimiter=delimiter), [])]


def table_rows(
    path: Path, delimiter: str = ",", header: Sequence[str] | None = None
) -> Iterator[tuple[str, Any]]:
    """Yield where each row ends and its fields by column, or the reason it is malformed.

    Raises ValueError naming the line from which the file is no table.
    """
    content = path.read_bytes()
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ValueError(f"{path}: line {line}: {error}; save the table as UTF-8") from None
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    try:
        columns = header or [name.strip() for name in next(reader, [])]
        for values in reader:
            where = f"{path.name}:{reader.line_num}"
            if len(values) == len(columns):
                yield where, dict(zip(columns, values, strict=True))
            elif values:
                yield where, f"{len(values)} fields, expected {len(columns)}: {list(columns)}"
    except csv.Error as error:
        raise ValueError(
            f"{path}: line {reader.line_num}: {error}; is a quote left open?"
        ) from None
