"""Cuts on p(hate): the exact optimum over all distinct scores, and the documented grids."""

import math
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from lib.calibration.checked_input import (
    binary_labels,
    check_ndim,
    check_same_shape,
    finite,
    in_precision_of,
    probabilities,
)
from lib.calibration.ranking import BLOCK, Ranking, Value

GRID = np.round(np.arange(10, 91, 5) / 100, 2)

Average = Literal["micro", "macro", "weighted"]
Objective = Literal[
    "f1",
    "macro_f1",
    "f_beta",
    "balanced_accuracy",
    "cost",
    "precision_at_recall",
    "recall_at_precision",
]

# Up to this many cuts, comparing every score with every cut is faster than sorting the scores.
FEW_CUTS = 64


@dataclass(frozen=True)
class BestThreshold:
    """A cut, `prob >= threshold` is positive, and what it scores; `value` is the objective's."""

    threshold: float
    f1: float
    precision: float
    recall: float
    value: float


def sweep_thresholds(
    prob: ArrayLike, labels: ArrayLike, grid: ArrayLike | None = None
) -> pd.DataFrame:
    """Counts and scores of `prob >= threshold` at every threshold of `grid`, in its order.

    `prob` and 0/1 `labels` have shape (N,); `grid` is 0.10, 0.15, ..., 0.90 by default, and is
    compared in the precision of `prob`. Columns: threshold, precision, recall, f1, tp, fp, tn, fn;
    a ratio without denominator is 0.
    Raises ValueError for what is empty, mismatched, not finite, outside [0, 1] or not 0/1.
    """
    p, y = read_pair(prob, labels)
    cuts = GRID if grid is None else finite(grid, "grid")
    check_ndim(cuts, "grid", 1)
    tp, flagged = _counts(p, y, in_precision_of(prob, cuts))
    fp, positives = flagged - tp, np.count_nonzero(y)
    return pd.DataFrame(
        {
            "threshold": cuts,
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
    """The best cut over all distinct scores, tied scores kept together, and above all of them.

    `prob` and 0/1 `labels` have shape (N,). The cut lies midway to the next lower score (0 below
    the lowest); of equally good cuts the lowest is returned.

    Objectives: "f1"; "macro_f1", the mean of the F1 of both classes; "f_beta" with `beta`
    (van Rijsbergen 1979); "balanced_accuracy"; "cost", the mean of `costs` = (per false positive,
    per false negative), whose `value` is negative; "precision_at_recall" and "recall_at_precision",
    the best of the one with the other at least `floor` (of equal recalls the more precise).

    Raises ValueError for what is empty, mismatched, not finite, outside [0, 1] or not 0/1, for one
    class only, and for a `floor` that no cut reaches.
    """
    p, y = read_pair(prob, labels)
    _refuse_one_class(y)
    ranking = Ranking.of(p, y)
    value = _value(objective, ranking.positives, len(y), beta, costs, floor)
    i, tp, best = ranking.best(value, last=objective == "recall_at_precision")
    if best == -math.inf:
        reached = ranking.best(ratio)[2]
        raise ValueError(f"no threshold has precision {floor}; the highest is {reached:.6g}")
    flagged = len(y) - i
    return BestThreshold(
        threshold=ranking.cut(i, prob),
        f1=2 * tp / (flagged + ranking.positives),
        precision=tp / flagged if flagged else 0.0,
        recall=tp / ranking.positives,
        value=best,
    )


def _refuse_one_class(y: np.ndarray) -> None:
    if y.all() or not y.any():
        raise ValueError(
            f"labels holds class {int(y.flat[0])} only; a threshold needs examples of both classes"
        )


def _value(
    objective: Objective,
    positives: int,
    n: int,
    beta: float,
    costs: tuple[float, float],
    floor: float,
) -> Value:
    """The function that `best_threshold` maximises."""
    negatives = n - positives
    if objective == "f1":
        return lambda tp, flagged: 2 * tp / (flagged + positives)
    if objective == "macro_f1":
        # The negatives' F1: n - flagged are given, negatives - (flagged - tp) of them rightly.
        return lambda tp, flagged: _sum_of_ratios(
            tp, flagged + positives, negatives - flagged + tp, n - flagged + negatives
        )
    if objective == "f_beta":
        if not 0 < beta * beta < math.inf:
            raise ValueError(f"beta must be positive and finite, and beta**2 too, got {beta}")
        return lambda tp, flagged: (1 + beta**2) * tp / (flagged + beta**2 * positives)
    if objective == "balanced_accuracy":
        return lambda tp, flagged: (
            _sum_of_ratios(tp, positives, negatives - flagged + tp, negatives) / 2
        )
    if objective == "cost":
        if len(costs) != 2 or not all(math.isfinite(c) and c >= 0 for c in costs):
            raise ValueError(f"costs must be two finite numbers, not negative, got {costs}")
        return lambda tp, flagged: -(costs[0] * (flagged - tp) + costs[1] * (positives - tp)) / n
    if objective not in ("precision_at_recall", "recall_at_precision"):
        raise ValueError(f"objective must be one of {get_args(Objective)}, got {objective!r}")
    if not 0 <= floor <= 1:
        raise ValueError(f"floor must be within [0, 1], got {floor}")
    if objective == "precision_at_recall":
        return lambda tp, flagged: np.where(tp / positives >= floor, ratio(tp, flagged), -math.inf)
    return lambda tp, flagged: np.where(ratio(tp, flagged) >= floor, tp / positives, -math.inf)


def _sum_of_ratios(
    a: np.ndarray, b: np.ndarray | int, c: np.ndarray, d: np.ndarray | int
) -> np.ndarray:
    """a / b + c / d of whole numbers, rounded once, so that equal sums are equal."""
    return (a * d + c * b) / (b * d)


def _counts(p: np.ndarray, y: np.ndarray, cuts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """True positives and positives of `p >= cut`, each of shape (len(cuts),)."""
    if len(cuts) > FEW_CUTS:
        ranking = Ranking.of(p, y)
        # Every cut above 1 flags none, and the bits of those from 2 on would lose one.
        first = np.searchsorted(ranking.keys, cuts.clip(0.0, 1.5).view(np.uint64) << 1)
        passed = np.concatenate([[0], np.cumsum((ranking.keys & 1).view(np.int64))])
        return ranking.positives - passed[first], len(p) - first
    tp, flagged = [0] * len(cuts), [0] * len(cuts)
    for i in range(0, len(p), BLOCK):
        scores, positive = p[i : i + BLOCK], y[i : i + BLOCK]
        for j, cut in enumerate(cuts.tolist()):
            hit = scores >= cut
            flagged[j] += np.count_nonzero(hit)
            tp[j] += np.count_nonzero(hit & positive)
    return np.array(tp), np.array(flagged)


def per_label_thresholds(
    prob: ArrayLike, labels: ArrayLike, min_positives: int = 30, average: Average = "macro"
) -> np.ndarray:
    """One cut per label, shape (L,): the exact optimum of the averaged F1.

    `prob` and multi-hot `labels` have shape (N, L). Macro and weighted F1 are highest where every
    label's own F1 is; micro F1 couples the labels, and is solved by Dinkelbach's method (1967). A
    label with fewer than `min_positives` positives, or without negatives, takes the global cut:
    the best F1 of all labels pooled.
    Raises ValueError for what is empty, mismatched, not finite, outside [0, 1] or not 0/1, and if
    the pooled labels are all the same.
    """
    p, y = probabilities(prob, ndim=2), binary_labels(labels)
    check_same_shape(p, "prob", y)
    if average not in ("micro", "macro", "weighted"):
        raise ValueError(f"average must be one of {get_args(Average)}, got {average!r}")
    _refuse_one_class(y)
    pooled = Ranking.of(p.ravel(), y.ravel())
    shared = pooled.cut(_own_cuts([pooled])[0], prob)
    support = np.count_nonzero(y, axis=0)
    own = np.flatnonzero((support >= max(min_positives, 1)) & (support < len(y)))
    rankings = [Ranking.of(np.ascontiguousarray(p[:, j]), y[:, j]) for j in own]
    cuts = np.full(p.shape[1], shared)
    others = np.delete(np.arange(p.shape[1]), own)
    hits = p[:, others] >= shared
    rest = (
        np.count_nonzero(hits & y[:, others]),
        np.count_nonzero(hits) + int(support[others].sum()),
    )
    best = _micro_cuts(rankings, *rest) if average == "micro" else _own_cuts(rankings)
    cuts[own] = [r.cut(i, prob) for r, i in zip(rankings, best, strict=True)]
    return cuts


def _own_cuts(rankings: list[Ranking]) -> list[int]:
    return [r.best(lambda tp, flagged, p=r.positives: tp / (flagged + p))[0] for r in rankings]


def _micro_cuts(rankings: list[Ranking], tp: int, size: int) -> list[int]:
    """Maximise tp / (flagged + positives), a ratio of sums, by maximising top - ratio * bottom.

    `tp` and `size` (flagged + positives) belong to the labels whose cut is given.
    """
    ratio = 0.0
    while True:
        best = [r.best(lambda tp, flagged, c=ratio: tp - c * flagged) for r in rankings]
        top = tp + sum(b[1] for b in best)
        bottom = size + sum(
            len(r.keys) - b[0] + r.positives for r, b in zip(rankings, best, strict=True)
        )
        if not best or top / bottom <= ratio:
            return [b[0] for b in best]
        ratio = top / bottom


def read_pair(prob: ArrayLike, labels: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    p, y = probabilities(prob), binary_labels(labels)
    check_same_shape(p, "prob", y)
    return p, y


def ratio(top: np.ndarray, bottom: np.ndarray | int) -> np.ndarray:
    """A ratio of counts, 0 where nothing is counted."""
    return top / np.maximum(bottom, 1)
