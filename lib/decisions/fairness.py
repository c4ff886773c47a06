"""Whether memes about some are treated otherwise than memes about others: gaps in fusion's rates.

The false-positive rate is the share of the harmless memes that are called hate, the false-negative
rate that of the hateful ones that are missed. Formulas, for a value with n such memes of which e
are errors, and the m others of its attribute of which f are:

    rate, low, high          e / n with Wilson's score interval at 95%
    gap, gap_low, gap_high   e / n - f / m with Newcombe's hybrid score interval at 95% (Newcombe
                             1998, Interval estimation for the difference between independent
                             proportions, method 10)
    p_value, p_adjusted      as in `lib.decisions.slices`, over all judged rows of this table

The last row of an attribute and rate, "A over B", is its largest gap, fairlearn's
`MetricFrame.difference()`, between values of at least 30 such memes. As it is the largest of all
pairs, its interval holds for all of them together (Bonferroni); so does its p-value.
"""

from collections.abc import Sequence
from math import comb, sqrt
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import fisher_exact

from lib.decisions.slices import LEVEL, OTHERS, SLICE_MINIMUM, adjusted, wilson

# The attributes beside those of `slice_by`.
ATTRIBUTES = ("target_type", "language")

# Values that are no group of people: to differ from them is no unfairness.
NOBODY = ("unlabelled", OTHERS)

# Of each rate: what is wrong, and what is right, among the memes of one label.
RATES = {"false_positive_rate": ("fp", "tn"), "false_negative_rate": ("fn", "tp")}

GAP = ("gap", "gap_low", "gap_high")
COLUMNS = (
    *("attribute", "metric", "value", "n", "errors", "rate", "low", "high"),
    *(*GAP, "p_value", "p_adjusted", "verdict"),
)


def fairness(counts: pd.DataFrame, slice_by: Sequence[str] = ()) -> pd.DataFrame:
    """Gaps of fusion's rates between targets, languages and the fields of `slice_by`: `COLUMNS`.

    `counts` is the table of `lib.decisions.slices`. Under 30 memes of the label a value is
    "insufficient" and has numbers of memes alone. A verdict is "higher than the rest" where
    `p_adjusted` is at most 0.05, and for a largest gap "told apart" or "not told apart" from 0.
    """
    parts: list[dict[str, Any]] = []
    for attribute in dict.fromkeys((*ATTRIBUTES, *slice_by)):
        cells = counts[(counts["slice"] == attribute) & ~counts["value"].isin(NOBODY)]
        for metric, (wrong, right) in RATES.items():
            rows = [
                {"value": value, "n": int(errors + correct), "errors": int(errors)}
                for value, errors, correct in cells[["value", wrong, right]].to_numpy()
                if errors + correct
            ]
            named = {"attribute": attribute, "metric": metric}
            parts += [named | row for row in _of_rate(rows)]
    table = pd.DataFrame(parts, columns=list(COLUMNS))
    table["p_adjusted"] = adjusted(table["p_value"].astype(float))
    higher = (table["gap"].astype(float) > 0) & (table["p_adjusted"] <= LEVEL)
    table.loc[higher & (table["verdict"] == ""), "verdict"] = "higher than the rest"
    return table


def newcombe(
    errors: int, n: int, others: int, m: int, level: float = 1 - LEVEL
) -> tuple[float, float]:
    """Newcombe's hybrid score interval of errors / n - others / m (method 10 of the paper)."""
    one, other = errors / n, others / m
    (low, high), (least, most) = wilson(errors, n, level), wilson(others, m, level)
    apart = one - other
    return (
        apart - sqrt((one - low) ** 2 + (most - other) ** 2),
        apart + sqrt((high - one) ** 2 + (other - least) ** 2),
    )


def _of_rate(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One rate's row for each value, and that of the largest gap where two can be judged."""
    n, errors = sum(row["n"] for row in rows), sum(row["errors"] for row in rows)
    found = [_of_value(row, errors - row["errors"], n - row["n"]) for row in rows]
    judged = [row for row in rows if row["n"] >= SLICE_MINIMUM]
    return found + ([_largest(judged)] if len(judged) > 1 else [])


def _of_value(row: dict[str, Any], others: int, m: int) -> dict[str, Any]:
    errors, n = row["errors"], row["n"]
    if n < SLICE_MINIMUM:
        return row | {"verdict": "insufficient"}
    low, high = wilson(errors, n)
    gap = _gap(errors, n, others, m) if m else {}
    return row | {"rate": errors / n, "low": low, "high": high, "verdict": ""} | gap


def _largest(judged: Sequence[dict[str, Any]]) -> dict[str, Any]:
    rates = [row["errors"] / row["n"] for row in judged]
    top, bottom = judged[int(np.argmax(rates))], judged[int(np.argmin(rates))]
    if top is bottom:
        bottom = judged[1]
    pairs = comb(len(judged), 2)
    ends = (top["errors"], top["n"], bottom["errors"], bottom["n"])
    gap = _gap(*ends, pairs)
    return gap | {
        "value": f"{top['value']} over {bottom['value']}",
        "n": top["n"] + bottom["n"],
        "errors": top["errors"] + bottom["errors"],
        "verdict": "told apart" if gap["gap_low"] > 0 else "not told apart",
    }


def _gap(errors: int, n: int, others: int, m: int, pairs: int = 1) -> dict[str, float]:
    ends = newcombe(errors, n, others, m, 1 - LEVEL / pairs)
    p_value = float(fisher_exact([[errors, n - errors], [others, m - others]]).pvalue)
    found = dict(zip(GAP, (errors / n - others / m, *ends), strict=True))
    return found | {"p_value": min(1.0, p_value * pairs)}
