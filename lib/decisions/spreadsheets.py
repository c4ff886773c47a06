"""Tables that a spreadsheet opens as they are meant: one line a row, and no cell that runs.

A cell of words that begins with = + - @, a tab or a carriage return is a formula to a spreadsheet,
and texts of memes are strangers' words (OWASP, CSV injection). Such a cell gets an apostrophe in
front, and so does one that begins with an apostrophe, so that `as_met` can take it away again.
Numbers are left alone, and packed texts begin with `[OCR]`, so that theirs are as they were.
"""

import re
from pathlib import Path
from typing import Any

import pandas as pd

_RUNS = ("=", "+", "-", "@", "\t", "'")
# Read as words even where all of them look like numbers: an id may be 01235.
_NAMES = (
    *("id", "text", "group", "dataset", "language", "target_type", "slice", "value"),
    *(f"nearest_{place}_id" for place in (1, 2, 3)),
)
# Digits after a zero are a name of somebody's own, such as an annotator's, and so is what ends in a
# zero after a point, such as a version: numbers are written without.
_NAME_OF_DIGITS = re.compile(r"'?(0\d+|\d+\.\d*0)")
# What a spreadsheet takes for one; Python takes +inf and -1_000 too.
_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)(e[+-]?\d+)?", re.IGNORECASE | re.ASCII)
_LINE_ENDS = re.compile(r"[\r\n\v\f\x85\u2028\u2029]+")


def for_spreadsheets(table: pd.DataFrame) -> pd.DataFrame:
    """The table with its columns of words made safe, line ends in them turned into spaces."""
    safe = table.copy()
    for name in table.select_dtypes(["object", "string"]):
        safe[name] = table[name].map(_cell)
    return safe


def as_met(path: str | Path, rows: int | None = None) -> pd.DataFrame:
    """A table that was written so, its words as they were before; only line ends stay spaces.

    With `rows` no more than the first ones are read.
    """
    how: dict[str, Any] = {"keep_default_na": False, "na_values": [""], "nrows": rows}
    words = pd.read_csv(path, dtype=str, **how)
    named = [n for n in words if words[n].str.fullmatch(_NAME_OF_DIGITS).any()]
    table = pd.read_csv(path, dtype=dict.fromkeys([*_NAMES, *named], str), **how)
    for name in table.select_dtypes(["object", "string"]):
        table[name] = table[name].fillna("").map(_as_met)
    return table


def _as_met(value: object) -> object:
    return value.removeprefix("'") if isinstance(value, str) else value


def _cell(value: object) -> object:
    if not isinstance(value, str):
        return value
    line = _LINE_ENDS.sub(" ", value)
    return f"'{line}" if line.startswith(_RUNS) and not _NUMBER.fullmatch(line) else line
