"""Whether memes about some are treated otherwise than memes about others: gaps in fusion's rates.

The false-positive rate is the share of the harmless memes that are called hate, the false-negative
rate that of the hateful ones that are missed. Formulas, for a value with n such memes of which e
are errors, and the m others of its attribute of which f are:

    rate, low, high          e / n with Wilson's score interval at 95%
    gap, gap_low, gap_high   e / n - f / m with Newcombe's hybrid score interval at 95% (Newcombe
                             1998, Interval estimation for the difference between independent
                             proportions, method 10)
    design_effect            of e / n, by which intervals and tests count memes of shared groups, as
                             in `lib.decisions.slices`
    p_value, p_adjusted      as in `lib.decisions.slices`, over all judged rows of this table

The last row of an attribute and rate, "A over B", is its largest gap, fairlearn's
`MetricFrame.difference()`, between values of at least 30 such memes. As it is the largest of all
pairs, its interval holds for all of them together (Bonferroni); so does its p-value. That the table
has several such rows only `p_adjusted` knows.
"""

from collections.abc import Sequence
from math import comb, sqrt
from typing import Any

import numpy as np
import pandas as pd

from lib.decisions.design_effect import Rate, effective
from lib.decisions.slices import (
    ALONE,
    LEVEL,
    OTHERS,
    SLICE_MINIMUM,
    adjusted,
    fisher,
    named_as_in,
    slice_rates,
    wilson,
)

# The attributes beside those of `slice_by`.
ATTRIBUTES = ("target_type", "language")

# Values that are no group of people: to differ from them is no unfairness. As a target "none" is
# nobody; a field of `slice_by` may mean something by the word.
NOBODY = ("unlabelled", OTHERS)
NO_TARGET = "none"

# Of each rate: what is wrong, and what is right, among the memes of one label.
RATES = {"false_positive_rate": ("fp", "tn"), "false_negative_rate": ("fn", "tp")}

# Verdicts on a largest gap.
APART, NOT_APART = "told apart", "not told apart"

GAP = ("gap", "gap_low", "gap_high")
COLUMNS = (
    *("attribute", "metric", "value", "n", "errors", "rate", "low", "high"),
    *("design_effect", *GAP, "p_value", "p_adjusted", "verdict"),
)


def fairness(
    counts: pd.DataFrame, slice_by: Sequence[str] = (), shared: pd.DataFrame | None = None
) -> pd.DataFrame:
    """Gaps of fusion's rates between targets, languages and the fields of `slice_by`: `COLUMNS`.

    `counts` and `shared` are the tables of `lib.decisions.slices`. Under 30 memes of the label,
    or where memes share groups that count as under 10 of one size, a value is "insufficient" and
    has numbers of memes alone; against such a rest nothing is compared (`ALONE`). A verdict is
    "higher than the rest" where `p_adjusted` is at most 0.05, and for a largest gap "told apart"
    from 0 where the interval is above 0 as well, else "not told apart".
    """
    parts: list[dict[str, Any]] = []
    shared = named_as_in(counts, shared)
    for attribute in dict.fromkeys((*ATTRIBUTES, *slice_by)):
        nobody = (*NOBODY, NO_TARGET) if attribute == "target_type" else NOBODY
        cells = counts[(counts["slice"] == attribute) & ~counts["value"].isin(nobody)]
        for metric, (wrong, right) in RATES.items():
            known = cells[cells[wrong] + cells[right] > 0]
            pairs = slice_rates(known, shared, [wrong], [right])
            named = {"attribute": attribute, "metric": metric}
            parts += [named | row for row in _of_rate(known["value"].tolist(), pairs)]
    table = pd.DataFrame(parts, columns=list(COLUMNS))
    table["p_adjusted"] = adjusted(table["p_value"], table["attribute"])
    beyond_chance = table["p_adjusted"] <= LEVEL
    higher = (table["gap"].astype(float) > 0) & beyond_chance
    table.loc[higher & (table["verdict"] == ""), "verdict"] = "higher than the rest"
    table.loc[~beyond_chance & (table["verdict"] == APART), "verdict"] = NOT_APART
    return table


def newcombe(
    errors: float, n: float, others: float, m: float, level: float = 1 - LEVEL
) -> tuple[float, float]:
    """Newcombe's hybrid score interval of errors / n - others / m (method 10 of the paper)."""
    one, other = errors / n, others / m
    (low, high), (least, most) = wilson(errors, n, level), wilson(others, m, level)
    apart = one - other
    return (
        apart - sqrt((one - low) ** 2 + (most - other) ** 2),
        apart + sqrt((high - one) ** 2 + (other - least) ** 2),
    )


def _of_rate(values: Sequence[str], pairs: Sequence[tuple[Rate, Rate]]) -> list[dict[str, Any]]:
    """One rate's row for each value, and that of the largest gap where two can be judged."""
    found = [_of_value(value, *pair) for value, pair in zip(values, pairs, strict=True)]
    judged = [(v, own) for v, (own, _) in zip(values, pairs, strict=True) if _enough(own)]
    return found + ([_largest(judged)] if len(judged) > 1 else [])


def _enough(rate: Rate) -> bool:
    return rate.n >= SLICE_MINIMUM and rate.enough


def _of_value(value: str, own: Rate, rest: Rate) -> dict[str, Any]:
    row: dict[str, Any] = {"value": value, "n": own.n, "errors": own.errors}
    if not _enough(own):
        return row | {"verdict": "insufficient"}
    one, _ = effective(own, rest)
    low, high = wilson(*one)
    row |= {"rate": own.errors / own.n, "low": low, "high": high, "verdict": ""}
    row |= {"design_effect": own.n / one[1]}
    return row | (_gap(own, rest) if _enough(rest) else {"verdict": ALONE})


def _largest(judged: Sequence[tuple[str, Rate]]) -> dict[str, Any]:
    rates = [rate.errors / rate.n for _, rate in judged]
    top, bottom = judged[int(np.argmax(rates))], judged[int(np.argmin(rates))]
    if top is bottom:
        bottom = judged[1]
    (name, highest), (other, lowest) = top, bottom
    gap = _gap(highest, lowest, comb(len(judged), 2))
    return gap | {
        "value": f"{name} over {other}",
        "n": highest.n + lowest.n,
        "errors": highest.errors + lowest.errors,
        "verdict": APART if gap["gap_low"] > 0 else NOT_APART,
    }


def _gap(own: Rate, rest: Rate, pairs: int = 1) -> dict[str, float]:
    one, other = effective(own, rest)
    ends = newcombe(*one, *other, 1 - LEVEL / pairs)
    p_value = min(1.0, fisher(one, other) * pairs)
    apart = own.errors / own.n - rest.errors / rest.n
    return dict(zip(GAP, (apart, *ends), strict=True)) | {"p_value": p_value}
