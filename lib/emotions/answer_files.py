"""What was told of each text, written as it comes: CSV, JSON Lines or Parquet."""

import contextlib
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from lib.artifacts import append_csv, as_written, atomic_path

SUFFIXES = (".csv", ".jsonl", ".parquet")
# Between the emotions of a text where they stand in one cell.
SEPARATOR = ";"

# Called with ids (N), names of the emotions told (N lists) and probabilities (N, L).
Write: TypeAlias = Callable[[Sequence[str], Sequence[Sequence[str]], np.ndarray], None]


@contextlib.contextmanager
def answer_file(path: str | Path, names: Sequence[str]) -> Iterator[Write]:
    """Yield a function that adds answers to a file, which takes its name at the end.

    Columns are `id`, `emotions` and a probability for each of `names`. In CSV the emotions are
    joined by SEPARATOR, in the others they are a list.
    Raises ValueError for a suffix that is not one of SUFFIXES.
    """
    path = Path(path)
    writers = {".csv": _csv, ".jsonl": _json_lines, ".parquet": _parquet}
    if path.suffix not in writers:
        raise ValueError(f"{path}: the suffix is '{path.suffix}', not {', '.join(SUFFIXES)}")
    with atomic_path(path) as new, writers[path.suffix](new, names) as write:
        yield write


@contextlib.contextmanager
def _csv(new: Path, names: Sequence[str]) -> Iterator[Write]:
    with new.open("w", encoding="utf-8", newline="") as file:
        append_csv(file, _frame([], [], np.zeros((0, len(names))), names), header=True)

        def write(ids: Sequence[str], emotions: Sequence[Sequence[str]], prob: np.ndarray) -> None:
            joined = [SEPARATOR.join(told) for told in emotions]
            append_csv(file, _frame(ids, joined, prob, names), header=False)

        yield write


def _frame(
    ids: Sequence[str], emotions: Sequence[str], prob: np.ndarray, names: Sequence[str]
) -> pd.DataFrame:
    columns = {"id": list(ids), "emotions": list(emotions)}
    return pd.DataFrame(columns | dict(zip(names, prob.T, strict=True)))


@contextlib.contextmanager
def _json_lines(new: Path, names: Sequence[str]) -> Iterator[Write]:
    with new.open("w", encoding="utf-8", newline="\n") as file:

        def write(ids: Sequence[str], emotions: Sequence[Sequence[str]], prob: np.ndarray) -> None:
            for id_, told, row in zip(ids, emotions, prob.tolist(), strict=True):
                probabilities = dict(zip(names, as_written(row), strict=True))
                content = {"id": id_, "emotions": told, "probabilities": probabilities}
                file.write(json.dumps(content, ensure_ascii=False) + "\n")

        yield write


@contextlib.contextmanager
def _parquet(new: Path, names: Sequence[str]) -> Iterator[Write]:
    types = [("id", pa.string()), ("emotions", pa.list_(pa.string()))]
    schema = pa.schema([*types, *((name, pa.float64()) for name in names)])
    with pq.ParquetWriter(new, schema) as file:

        def write(ids: Sequence[str], emotions: Sequence[Sequence[str]], prob: np.ndarray) -> None:
            columns = [pa.array(ids, pa.string()), pa.array(emotions, types[1][1])]
            columns += [pa.array(column) for column in prob.T]
            file.write_table(pa.table(columns, schema))

        yield write
