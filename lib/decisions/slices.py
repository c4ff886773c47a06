"""Where fusion errs more than elsewhere: error rates by slice, with a guard against chance.

A slice divides the reported memes by one property. Only counts are kept of it, so that memes may
be read in parts. Formulas, for a value with n memes of which e are errors, and the m other memes of
the slice of which f are errors:

    design_effect how much less the n memes say because some share a text or a picture, from
                  `lib.decisions.design_effect`; 1 where none do
    low, high     Wilson's score interval of e / n at 95% (Wilson 1927), for n / design_effect memes
    macro_f1      the mean of the F1 of hate and of non-hate; empty where a label is missing;
                  macro_f1_low and _high are the ends of its 95% bootstrap interval over groups
    difference    e / n - f / m
    p_value       two-sided Fisher exact test of (e, n - e) against (f, m - f), each side divided by
                  its design effect and rounded
    p_adjusted    Benjamini and Hochberg (1995), over all values of all slices that are judged,
                  those of `MADE_BY_MODELS` a family of their own

So of what is called worse than the rest at most one in twenty is expected to be chance, in either
family. Of slices made by the models some are always far from their rest; among the others they
would let more of these pass.
"""

from collections.abc import Iterable, Mapping, Sequence
from math import sqrt
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import false_discovery_control, fisher_exact, norm

from lib.config import MODELS
from lib.decisions.design_effect import Rate, effective, rates_of
from lib.decisions.metric_intervals import decision_figures
from lib.decisions.resampled_counts import ends_of, rates, ratio, resampled_cells

# Below this a slice's error rate says too little to be ranked.
SLICE_MINIMUM = 30

# What chance may have of calling a slice worse, and what is left outside an interval.
LEVEL = 0.05

SLICES = (
    *("text length", "ocr_missing", "language", "target_type", "agreement", "dataset"),
    *("in_review_band", "concept"),
)

# What the models of a run say of a meme, or what follows from it.
MADE_BY_MODELS = (
    *(f"{model}_{kind}" for model in MODELS for kind in ("prob", "pred")),
    *("error_type", "models_agree", "fusion_only_correct", "fusion_only_wrong"),
    *("in_review_band", "decision", "confidence", "agreement"),
)

# Words of a text, its markers left out, up to and including each number.
LENGTHS = {0: "no words", 5: "1 to 5 words", 10: "6 to 10 words", 20: "11 to 20 words"}
LONGEST = "over 20 words"

# Of a field with more values the most frequent ones are told apart.
MOST_VALUES = 50
OTHERS = "(other values)"
# Verdicts on a value that can be judged: above its rest, or without one.
WORSE, ALONE = "worse than the rest", "nothing to compare with"

CELLS = ("tp", "fp", "tn", "fn")
ERRORS = (("fp", "fn"), ("tp", "tn"))
COLUMNS = (
    *("slice", "value", "n", "errors", *CELLS, "error_rate", "low", "high"),
    *("macro_f1", "macro_f1_low", "macro_f1_high", "design_effect"),
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
    table: pd.DataFrame,
    metas: Sequence[Mapping[str, Any]],
    slice_by: Sequence[str] = (),
    columns: pd.DataFrame | None = None,
) -> pd.DataFrame:
    """The memes of each value of each slice: slice, value, n, errors and the cells tp, fp, tn, fn.

    The arguments are those of `slice_columns`, whose outcome may be given as `columns`.
    """
    columns = slice_columns(table, metas, slice_by) if columns is None else columns
    cell, parts = pd.Index(CELLS).get_indexer(pd.Index(table["error_type"].str.lower())), []
    for name in columns:
        value, values = pd.factorize(columns[name])
        places = (value * len(CELLS) + cell)[value >= 0]
        found = np.bincount(places, minlength=len(values) * len(CELLS)).reshape(-1, len(CELLS))
        parts.append(pd.DataFrame(found, columns=list(CELLS)).assign(value=values, slice=str(name)))
    return _summed(parts)


def shared_counts(
    table: pd.DataFrame, columns: pd.DataFrame, company: Mapping[str, int]
) -> pd.DataFrame:
    """The memes of each value and group, of those groups alone that `company` numbers.

    `columns` are the `slice_columns` of the error table `table`. The outcome has slice, value,
    group (its number) and the cells; parts of a table are added up by `joined_shared`.
    """
    number = table["group"].map(company)
    rows = number.notna()
    cells = pd.get_dummies(table["error_type"][rows].str.lower(), dtype="int32")
    cells = cells.reindex(columns=list(CELLS), fill_value=0)
    cells = cells.assign(group=number[rows].astype("int64"))
    told = columns[rows]
    parts = [cells.assign(slice=str(name), value=told[name]).dropna() for name in told]
    return joined_shared(parts)


def joined_shared(parts: Iterable[pd.DataFrame]) -> pd.DataFrame:
    """One or more `shared_counts` added up."""
    whole = pd.concat(parts, ignore_index=True)
    return whole.groupby(["slice", "value", "group"], as_index=False)[list(CELLS)].sum()


def slices(
    counts: Iterable[pd.DataFrame], shared: pd.DataFrame | None = None, seed: int = 0
) -> pd.DataFrame:
    """Fusion's errors by slice, `COLUMNS` as said above, from one or more `slice_counts`.

    `shared` are the `shared_counts` of the groups of several memes, without which all memes count
    as independent. Left out is what takes one value only. Under 30 memes, or where memes share
    groups and these count as under 10 of one size, a value is "insufficient" and has numbers of
    memes alone; else it is "worse than the rest" where its error rate is higher and `p_adjusted`
    at most 0.05. Where the rest has under 30 memes, or groups too few, the verdict is `ALONE`.
    """
    table = joined_counts(counts)
    several = table.groupby("slice")["value"].transform("size") > 1
    table = table[several].reset_index(drop=True)
    shared = named_as_in(table, shared)
    pairs = slice_rates(table, shared, *ERRORS)
    enough = np.array([own.enough for own, _ in pairs], dtype=bool)
    judged = (table["n"] >= SLICE_MINIMUM) & enough
    rows = [
        _judged(*pairs[k]) | _macro_f1(table, shared, k, seed)
        for k in np.flatnonzero(judged).tolist()
    ]
    found = pd.DataFrame(rows, index=table.index[judged], columns=list(COLUMNS[8:-2]), dtype=float)
    table = pd.concat([table, found], axis=1)
    table["p_adjusted"] = adjusted(table["p_value"], table["slice"])
    worse = (table["difference"] > 0) & (table["p_adjusted"] <= LEVEL)
    compared = np.where(table["difference"].notna(), np.where(worse, WORSE, ""), ALONE)
    table["verdict"] = np.where(judged, compared, "insufficient")
    return table[list(COLUMNS)]


def joined_counts(counts: Iterable[pd.DataFrame]) -> pd.DataFrame:
    """One or more `slice_counts` added up; of many values the rarer are `OTHERS`."""
    return _pooled(_summed(counts))


def slice_rates(
    table: pd.DataFrame,
    shared: pd.DataFrame | None,
    wrong: Sequence[str],
    right: Sequence[str],
) -> list[tuple[Rate, Rate]]:
    """The rate of each row of `joined_counts`, and that of the others of its slice.

    `shared` has its values named as there, by `named_as_in`.
    """
    pairs: list[tuple[Rate, Rate]] = []
    for name, rows in table.groupby("slice", sort=False):
        groups = None if shared is None else shared[shared["slice"] == name]
        pairs += rates_of(rows, groups, wrong, right)
    return pairs


def named_as_in(table: pd.DataFrame, shared: pd.DataFrame | None) -> pd.DataFrame | None:
    """The `shared_counts` with `OTHERS` for the values that `table` counts together."""
    if shared is None:
        return None
    known = pd.MultiIndex.from_frame(table[["slice", "value"]])
    own = pd.MultiIndex.from_frame(shared[["slice", "value"]]).isin(known)
    return joined_shared([shared.assign(value=shared["value"].where(own, OTHERS))])


def wilson(errors: float, n: float, level: float = 1 - LEVEL) -> tuple[float, float]:
    """Wilson's score interval of errors / n, from 0 to 1 where n is 0; both may be fractions."""
    if n == 0:
        return 0.0, 1.0
    z, p = float(norm.isf((1 - level) / 2)), errors / n
    middle = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    low, high = max(0.0, middle - half), min(1.0, middle + half)
    # Where nothing or everything is an error that end is exact.
    return (0.0 if errors == 0 else low), (1.0 if errors == n else high)


def fisher(one: tuple[float, float], other: tuple[float, float]) -> float:
    """The p-value of Fisher's two-sided exact test of two rates (errors, n), fractions rounded."""
    sides = [[round(errors), round(n) - round(errors)] for errors, n in (one, other)]
    return float(fisher_exact(sides).pvalue)


def adjusted(p_values: pd.Series, names: pd.Series | None = None) -> pd.Series:
    """p-values (N,) after Benjamini and Hochberg (1995); what is NaN stays so.

    Those whose slice, of `names` (N,), is one of `MADE_BY_MODELS` are adjusted by themselves.
    """
    tested = p_values.astype(float)
    if names is not None:
        return tested.groupby(names.isin(MADE_BY_MODELS)).transform(adjusted)
    tested = tested.dropna()
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


def _judged(own: Rate, rest: Rate) -> dict[str, float]:
    """The error rate of one value, against the rest of its slice where that can be judged too."""
    one, other = effective(own, rest)
    low, high = wilson(*one)
    found = {"error_rate": own.errors / own.n, "low": low, "high": high}
    found |= {"design_effect": own.n / one[1]}
    if rest.n < SLICE_MINIMUM or not rest.enough:
        return found
    return found | {
        "rest_error_rate": rest.errors / rest.n,
        "difference": own.errors / own.n - rest.errors / rest.n,
        "p_value": fisher(one, other),
    }


def _macro_f1(
    table: pd.DataFrame, shared: pd.DataFrame | None, k: int, seed: int
) -> dict[str, float]:
    """Macro-F1 of row `k` of `joined_counts`, and its interval over groups, NaN without a label.

    Where a label is always or never decided rightly, the interval reaches as far as `rates` says.
    """
    cells = table.loc[k, list(CELLS)].to_numpy(int)
    together = np.empty((0, len(CELLS)), int)
    if shared is not None:
        of_slice = shared[shared["slice"] == table["slice"][k]]
        of_value = of_slice["value"] == table["value"][k]
        together = of_slice.loc[of_value, list(CELLS)].to_numpy(int)
    sums = resampled_cells(cells - together.sum(axis=0), together, seed=seed)
    tp, fp, tn, fn = sums.T
    both = (tp + fn > 0) & (tn + fp > 0)
    values = ratio(tp, 2 * tp + fp + fn) + ratio(tn, 2 * tn + fp + fn)
    values = np.where(both, values, np.nan)
    found = {"macro_f1": values[0]} | ends_of({"macro_f1": values})
    if both[0] and 0 in sums[0]:
        drawn = np.append(values[0], _drawn_macro_f1(sums, cells, together, seed)[1:])
        ends = ends_of({"macro_f1": drawn})
        found["macro_f1_low"] = min(found["macro_f1_low"], ends["macro_f1_low"])
        found["macro_f1_high"] = max(found["macro_f1_high"], ends["macro_f1_high"])
    return found


def _drawn_macro_f1(
    sums: np.ndarray, cells: np.ndarray, together: np.ndarray, seed: int
) -> np.ndarray:
    """Macro-F1 by the rates drawn from resampled cells (R, 4), of a slice with both labels."""
    tp, fp, tn, fn = sums.T
    alone = cells - together.sum(axis=0)
    hateful, harmless = (
        int(alone[kind].sum() + together[:, kind].any(axis=1).sum()) for kind in ([0, 3], [1, 2])
    )
    r, q = rates(tp, tp + fn, hateful, 0, seed), rates(fp, fp + tn, harmless, 1, seed)
    return decision_figures(r, q, float((tp + fn)[0] / sums[0].sum()))["macro_f1"]
