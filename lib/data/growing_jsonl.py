"""JSON lines that only ever grow: what stands there stays as it is, and a kill tears nothing."""

import contextlib
import fcntl
import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO


@contextlib.contextmanager
def growing_jsonl(path: str | Path) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """Yield a function that adds a row at the end of `path`, on disk when it returns.

    A last line without an end is ended first if it is whole, and cut off if a kill tore it.
    Raises ValueError if another process has the file open so.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"{path}: another run is filling it; wait for its end") from None
        _end_last_line(file)

        def add(row: Mapping[str, Any]) -> None:
            file.write((json.dumps(row, ensure_ascii=False) + "\n").encode())
            file.flush()
            os.fsync(file.fileno())

        yield add


def _end_last_line(file: BinaryIO) -> None:
    file.seek(0)
    last, end = b"", 0
    for line in file:
        last, end = line, end + len(line)
    if not last or last.endswith(b"\n"):
        return
    try:
        json.loads(last)
    except ValueError:
        file.truncate(end - len(last))
    else:
        file.write(b"\n")
    file.flush()
