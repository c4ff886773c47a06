"""Where fusion errs more than elsewhere: error rates by slice, with a guard against chance.

A slice divides the reported memes by one property. Only counts are kept of it, so that memes may
be read in parts. Formulas, for a value with n memes of which e are errors, and the m other memes of
the slice of which f are errors:

    low, high     Wilson's score interval of e / n at 95% (Wilson 1927)
    macro_f1      the mean of the F1 of hate and of non-hate; empty where a label is missing
    difference    e / n - f / m
    p_value       two-sided Fisher exact test of (e, n - e) against (f, m - f)
    p_adjusted    Benjamini and Hochberg (1995), over all values of all slices that are judged

So of what is called worse than the rest at most one in twenty is expected to be chance. Memes count
as independent; where they share texts or pictures the p-values are somewhat too small.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import binomtest, false_discovery_control, fisher_exact

# Below this a slice's error rate says too little to be ranked.
SLICE_MINIMUM = 30

# What chance may have of calling a slice worse, and what is left outside an interval.
LEVEL = 0.05

SLICES = (
    *("text length", "ocr_missing", "language", "target_type", "agreement", "dataset"),
    *("in_review_band", "concept"),
)

# Words of a text, its markers left out, up to and including each number.
LENGTHS = {0: "no words", 5: "1 to 5 words", 10: "6 to 10 words", 20: "11 to 20 words"}
LONGEST = "over 20 words"

# Of a field with more values the most frequent ones are told apart.
MOST_VALUES = 50
OTHERS = "(other values)"

CELLS = ("tp", "fp", "tn", "fn")
COLUMNS = (
    *("slice", "value", "n", "errors", *CELLS, "error_rate", "low", "high", "macro_f1"),
    *("rest_error_rate", "difference", "p_value", "p_adjusted", "verdict"),
)


def slice_columns(
    table: pd.DataFrame, metas: Sequence[Mapping[str, Any]], slice_by: Sequence[str] = ()
) -> pd.DataFrame:
    """What each meme is in each slice, strings; None where a slice is not of it.

    `table` is an error table and `metas` (N,) the packed fields of its rows. The columns are
    `SLICES`, then those of `slice_by`: each a column of the table, a packed field or a label.
    """
    columns: dict[str, Any] = {}
    for name in dict.fromkeys((*SLICES, *slice_by)):
        if name == "text length":
            columns[name] = _length(table["text_words"].to_numpy())
        elif name in table:
            columns[name] = [_written(value) for value in table[name]]
        else:
            found = (meta.get(name, (meta.get("labels") or {}).get(name)) for meta in metas)
            columns[name] = [_written(value) for value in found]
    return pd.DataFrame(columns, index=table.index, dtype=object)


def slice_counts(
    table: pd.DataFrame, metas: Sequence[Mapping[str, Any]], slice_by: Sequence[str] = ()
) -> pd.DataFrame:
    """The memes of each value of each slice: slice, value, n, errors and the cells tp, fp, tn, fn.

    The arguments are those of `slice_columns`.
    """
    columns = slice_columns(table, metas, slice_by)
    parts = []
    for name in columns:
        cells = pd.DataFrame({"value": columns[name], "cell": table["error_type"].str.lower()})
        found = cells.groupby("value")["cell"].value_counts().unstack(fill_value=0)
        found = found.reindex(columns=list(CELLS), fill_value=0).reset_index()
        parts.append(found.assign(slice=str(name)))
    return _summed(parts)


def slices(counts: Iterable[pd.DataFrame]) -> pd.DataFrame:
    """Fusion's errors by slice, `COLUMNS` as said above, from one or more `slice_counts`.

    Left out is what takes one value only. Under 30 memes a value is "insufficient" and has numbers
    of memes alone; else it is "worse than the rest" where its error rate is higher and `p_adjusted`
    at most 0.05. A rest of under 30 memes is nothing to compare with.
    """
    table = joined_counts(counts)
    several = table.groupby("slice")["value"].transform("size") > 1
    table = table[several].reset_index(drop=True)
    judged = table["n"] >= SLICE_MINIMUM
    numbers = ["n", "errors"]
    rest = table.groupby("slice")[numbers].transform("sum") - table[numbers]
    cells = table[list(CELLS)].to_numpy()
    rows = [_judged(cells[k], *map(int, rest.to_numpy()[k])) for k in np.flatnonzero(judged)]
    found = pd.DataFrame(rows, index=table.index[judged], columns=list(COLUMNS[8:-2]), dtype=float)
    table = pd.concat([table, found], axis=1)
    table["p_adjusted"] = adjusted(table["p_value"])
    worse = (table["difference"] > 0) & (table["p_adjusted"] <= LEVEL)
    table["verdict"] = np.where(judged, np.where(worse, "worse than the rest", ""), "insufficient")
    return table[list(COLUMNS)]


def joined_counts(counts: Iterable[pd.DataFrame]) -> pd.DataFrame:
    """One or more `slice_counts` added up; of many values the rarer are `OTHERS`."""
    return _pooled(_summed(counts))


def wilson(errors: int, n: int, level: float = 1 - LEVEL) -> tuple[float, float]:
    """Wilson's score interval of errors / n, from 0 to 1 where n is 0."""
    if n == 0:
        return 0.0, 1.0
    interval = binomtest(errors, n).proportion_ci(level, method="wilson")
    return float(interval.low), float(interval.high)


def adjusted(p_values: pd.Series) -> pd.Series:
    """p-values (N,) after Benjamini and Hochberg (1995); what is NaN stays so."""
    tested = p_values.dropna()
    found = false_discovery_control(tested) if len(tested) else []
    return pd.Series(found, index=tested.index, dtype=float).reindex(p_values.index)


def _written(value: Any) -> str | None:
    """A field as words, None where it is blank or NaN."""
    if value is None or value != value or not str(value).strip():
        return None
    # A field of one's own may hold half a character, which no CSV can.
    return str(value).encode(errors="replace").decode()


def _length(words: np.ndarray) -> np.ndarray:
    names = np.array([*LENGTHS.values(), LONGEST], dtype=object)
    return names[np.searchsorted(list(LENGTHS), words)]


def _summed(counts: Iterable[pd.DataFrame]) -> pd.DataFrame:
    """One row a value, slices in the order in which they were first counted."""
    whole = pd.concat(counts, ignore_index=True)
    place = {name: rank for rank, name in enumerate(dict.fromkeys(whole["slice"]))}
    length = {name: f"{rank}" for rank, name in enumerate([*LENGTHS.values(), LONGEST])}
    table = whole.groupby(["slice", "value"], as_index=False)[list(CELLS)].sum()
    table = table.sort_values(
        ["slice", "value"], key=lambda c: c.map(place if c.name == "slice" else length).fillna(c)
    )
    table["errors"] = table["fp"] + table["fn"]
    table["n"] = table[list(CELLS)].sum(axis=1)
    return table[["slice", "value", "n", "errors", *CELLS]].reset_index(drop=True)


def _pooled(table: pd.DataFrame) -> pd.DataFrame:
    """The table with the rarer values of a slice of very many counted together."""
    rank = table.groupby("slice")["n"].rank(method="first", ascending=False)
    size = table.groupby("slice")["n"].transform("size")
    rare = (size > MOST_VALUES) & (rank >= MOST_VALUES)
    if not rare.any():
        return table
    numbers = ["n", "errors", *CELLS]
    others = table[rare].groupby("slice", as_index=False)[numbers].sum().assign(value=OTHERS)
    table = pd.concat([table[~rare], others])[list(table)]
    place = {name: rank for rank, name in enumerate(dict.fromkeys(table["slice"]))}
    return table.sort_values("slice", key=lambda c: c.map(place), kind="stable", ignore_index=True)


def _judged(cells: np.ndarray, rest: int, rest_errors: int) -> dict[str, float]:
    """The figures of one value, against the rest of its slice where that can be judged too."""
    tp, fp, tn, fn = map(int, cells)
    n, errors = tp + fp + tn + fn, fp + fn
    low, high = wilson(errors, n)
    own = {"error_rate": errors / n, "low": low, "high": high}
    own["macro_f1"] = _macro_f1(tp, fp, tn, fn)
    if rest < SLICE_MINIMUM:
        return own
    sides = [[errors, n - errors], [rest_errors, rest - rest_errors]]
    return own | {
        "rest_error_rate": rest_errors / rest,
        "difference": errors / n - rest_errors / rest,
        "p_value": float(fisher_exact(sides).pvalue),
    }


def _macro_f1(tp: int, fp: int, tn: int, fn: int) -> float:
    if tp + fn == 0 or tn + fp == 0:
        return np.nan
    return tp / (2 * tp + fp + fn) + tn / (2 * tn + fp + fn)
