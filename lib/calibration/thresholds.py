"""Thresholds on p(hate): the exact optimum over all distinct scores, and counts on a grid.

`best_threshold` asks for the `best_cut` of all. `sweep_thresholds` counts on a grid that somebody
chose, for tables and plots. Neither sorts a large sample: both count its scores in fine bins.

Objectives that add two ratios are compared by one division, (a d + c b) / (b d), because a sum of
two rounded ratios can differ where the exact sums are equal, and the lowest of the best thresholds
would be missed:

>>> 1 / 10 + 2 / 10 == 3 / 10 + 0 / 10
False
>>> _sum_of_ratios(1, 10, 2, 10) == _sum_of_ratios(3, 10, 0, 10) == 0.3
True
"""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike

from lib.calibration.best_cut import best_cut
from lib.calibration.checked_input import check_ndim, finite, in_precision_of, scores_and_labels
from lib.calibration.ranking import Value, midway
from lib.calibration.score_bins import BLOCK, cell_finder, count_keys

if TYPE_CHECKING:
    import pandas as pd

GRID = np.round(np.arange(10, 91, 5) / 100, 2)

Objective = Literal[
    "f1",
    "macro_f1",
    "f_beta",
    "balanced_accuracy",
    "cost",
    "precision_at_recall",
    "recall_at_precision",
]


@dataclass(frozen=True)
class BestThreshold:
    """A threshold, `prob >= threshold` is positive, and the scores of its decisions.

    `value` is the objective's; `f1`, `precision` and `recall` are those of the positive class.
    """

    threshold: float
    f1: float
    precision: float
    recall: float
    value: float


def sweep_thresholds(
    prob: ArrayLike, labels: ArrayLike, grid: ArrayLike | None = None
) -> "pd.DataFrame":
    """Count and score the decisions `prob >= threshold` at every threshold of a grid.

    Parameters
    ----------
    prob
        p(hate), shape (N,).
    labels
        0 or 1, shape (N,).
    grid
        Thresholds, shape (G,), in any order; 0.10, 0.15, ..., 0.90 by default. They are compared in
        the precision of `prob`, so that a float32 score of 0.7 meets a threshold of 0.7.

    Returns
    -------
    A row per threshold, in the order of `grid`, with the columns threshold, precision, recall, f1,
    tp, fp, tn and fn. A ratio without denominator is 0.

    Raises
    ------
    ValueError
        For input that is empty, of different shapes, not finite, outside [0, 1] or not 0/1.

    Examples
    --------
    >>> sweep_thresholds([0.2, 0.4, 0.6, 0.9], [0, 1, 0, 1], grid=[0.3, 0.7])
       threshold  precision  recall        f1  tp  fp  tn  fn
    0        0.3   0.666667     1.0  0.800000   2   1   1   0
    1        0.7   1.000000     0.5  0.666667   1   0   2   1
    """
    import pandas as pd

    p, y = scores_and_labels(prob, labels)
    thresholds = GRID if grid is None else finite(grid, "grid")
    check_ndim(thresholds, "grid", 1)
    tp, flagged = _counts(p, y, in_precision_of(prob, thresholds))
    fp, positives = flagged - tp, int(np.count_nonzero(y))
    return pd.DataFrame(
        {
            "threshold": thresholds,
            "precision": ratio(tp, flagged),
            "recall": ratio(tp, positives),
            "f1": ratio(2 * tp, flagged + positives),
            "tp": tp,
            "fp": fp,
            "tn": len(y) - positives - fp,
            "fn": positives - tp,
        }
    )


def best_threshold(
    prob: ArrayLike,
    labels: ArrayLike,
    objective: Objective = "f1",
    *,
    beta: float = 1.0,
    costs: tuple[float, float] = (1.0, 1.0),
    floor: float = 0.0,
) -> BestThreshold:
    """Find the threshold with the best objective among all that decide differently.

    Equal scores get equal decisions. The threshold lies midway between the lowest flagged score and
    the next lower one (0 below the lowest score, 1 above the highest); of equally good thresholds
    the lowest is returned.

    Parameters
    ----------
    prob
        p(hate), shape (N,).
    labels
        0 or 1, shape (N,), both of them present.
    objective
        "f1"; "macro_f1", the mean of both classes' F1; "f_beta" [1]_; "balanced_accuracy";
        "cost", the mean cost of an example, whose `value` is negative; "precision_at_recall", the
        best precision with a recall of at least `floor`; "recall_at_precision", the other way
        round, and of equal recalls the more precise.
    beta
        For "f_beta": how many times as much recall counts as precision.
    costs
        For "cost": those of a false positive and of a false negative.
    floor
        For "precision_at_recall" and "recall_at_precision": the least recall or precision.

    Returns
    -------
    The threshold with its objective, F1, precision and recall.

    Raises
    ------
    ValueError
        For input that is empty, of different shapes, not finite, outside [0, 1] or not 0/1, for
        labels of one class, for options out of range and for a `floor` that no threshold reaches.

    References
    ----------
    .. [1] C. J. van Rijsbergen, "Information Retrieval", 2nd edition, Butterworths, 1979, chapter 7

    Examples
    --------
    Flagging 0.4, 0.6 and 0.9 finds both positives with one false positive, F1 = 2 * 2 / (3 + 2):

    >>> best_threshold([0.2, 0.4, 0.6, 0.9], [0, 1, 0, 1])
    BestThreshold(threshold=0.3..., f1=0.8, precision=0.66..., recall=1.0, value=0.8)

    A false positive that costs three times a false negative moves the threshold up:

    >>> best = best_threshold([0.2, 0.4, 0.6, 0.9], [0, 1, 0, 1], "cost", costs=(3, 1))
    >>> best.threshold, best.value
    (0.75, -0.25)
    """
    p, y = scores_and_labels(prob, labels)
    refuse_one_class(y)
    positives = int(np.count_nonzero(y))
    value = objective_value(positives, len(y), objective, beta=beta, costs=costs, floor=floor)
    cut = best_cut(p, y, value, last=objective == "recall_at_precision")
    if cut.value == -math.inf:
        reached = best_cut(p, y, ratio).value
        raise ValueError(f"no threshold has precision {floor}; the highest is {reached:.6g}")
    return BestThreshold(
        threshold=midway(cut.lower, cut.upper, prob),
        f1=2 * cut.tp / (cut.flagged + positives),
        precision=cut.tp / cut.flagged if cut.flagged else 0.0,
        recall=cut.tp / positives,
        value=cut.value,
    )


def refuse_one_class(y: np.ndarray) -> None:
    """Raise ValueError unless both labels occur."""
    if y.all() or not y.any():
        raise ValueError(
            f"labels holds class {int(y.flat[0])} only; a threshold needs examples of both classes"
        )


def _check_options(objective: str, beta: float, costs: tuple[float, float], floor: float) -> None:
    if objective not in get_args(Objective):
        raise ValueError(f"objective must be one of {get_args(Objective)}, got {objective!r}")
    if objective == "f_beta" and not 0 < beta * beta < math.inf:
        raise ValueError(f"beta must be positive and finite, and beta**2 too, got {beta}")
    if objective == "cost" and not (
        len(costs) == 2 and all(math.isfinite(c) and c >= 0 for c in costs)
    ):
        raise ValueError(f"costs must be two finite numbers, not negative, got {costs}")
    if objective.endswith(("_at_recall", "_at_precision")) and not 0 <= floor <= 1:
        raise ValueError(f"floor must be within [0, 1], got {floor}")


def objective_value(
    positives: int,
    n: int,
    objective: Objective = "f1",
    *,
    beta: float = 1.0,
    costs: tuple[float, float] = (1.0, 1.0),
    floor: float = 0.0,
) -> Value:
    """The function of true positives and flagged examples that `best_threshold` maximises.

    Raises ValueError for options out of range.
    """
    _check_options(objective, beta, costs, floor)
    negatives = n - positives
    values: dict[Objective, Value] = {
        "f1": lambda tp, flagged: 2 * tp / (flagged + positives),
        # The negatives' F1: n - flagged are cleared, negatives - (flagged - tp) of them rightly.
        "macro_f1": lambda tp, flagged: _sum_of_ratios(
            tp, flagged + positives, negatives - flagged + tp, n - flagged + negatives
        ),
        "f_beta": lambda tp, flagged: (1 + beta**2) * tp / (flagged + beta**2 * positives),
        "balanced_accuracy": lambda tp, flagged: (
            _sum_of_ratios(tp, positives, negatives - flagged + tp, negatives) / 2
        ),
        "cost": lambda tp, flagged: -(costs[0] * (flagged - tp) + costs[1] * (positives - tp)) / n,
        "precision_at_recall": lambda tp, flagged: np.where(
            tp / positives >= floor, ratio(tp, flagged), -math.inf
        ),
        "recall_at_precision": lambda tp, flagged: np.where(
            ratio(tp, flagged) >= floor, tp / positives, -math.inf
        ),
    }
    return values[objective]


def _sum_of_ratios(a: Any, b: Any, c: Any, d: Any) -> Any:
    """a / b + c / d of whole numbers, rounded once, so that equal sums are equal."""
    return (a * d + c * b) / (b * d)


def _counts(p: np.ndarray, y: np.ndarray, thresholds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """True positives and flagged examples of `p >= threshold`, each of shape (len(thresholds),)."""
    cuts, place = np.unique(thresholds, return_inverse=True)
    cells = np.zeros(2 * len(cuts) + 2, np.intp)
    kind = np.min_scalar_type(len(cells)).type
    find = cell_finder(cuts, 0.0, 1.0, min(BLOCK, len(p)), kind)
    for i in range(0, len(p), BLOCK):
        key = find(p[i : i + BLOCK])
        key <<= 1
        key |= y[i : i + BLOCK].view(np.uint8)
        cells += count_keys(key, len(cells))
    # A score that reaches k cuts is flagged by the first k.
    flagged = cells.reshape(-1, 2)[::-1].cumsum(axis=0)[::-1][1:][place]
    return flagged[:, 1], flagged.sum(axis=1)


def ratio(top: np.ndarray, bottom: np.ndarray | int) -> np.ndarray:
    """A ratio of counts, 0 where nothing is counted."""
    return top / np.maximum(bottom, 1)
