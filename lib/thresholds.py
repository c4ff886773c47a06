"""Cuts on p(hate): the exact optimum over all distinct scores, and the documented grids."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.special import logit
from sklearn.model_selection import StratifiedKFold

from lib.arrays import (
    binary_labels,
    check_ndim,
    check_same_shape,
    finite,
    in_precision_of,
    probabilities,
    to_numpy,
)
from lib.temperature import fit_temperature, prob_hate

JOINT_COLUMNS = pd.Index(["temperature", "threshold", "f1"])
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
BLOCK = 32_768
# Adding APART to the exponent parts two classes whose magnitudes are all within [NEAR, FAR).
NEAR, FAR, APART = 2.0**-32, 2.0**31, 64


@dataclass(frozen=True)
class BestThreshold:
    """A cut, `prob >= threshold` is positive, and what it scores; `value` is the objective's."""

    threshold: float
    f1: float
    precision: float
    recall: float
    value: float


@dataclass(frozen=True)
class CrossFit:
    """Out-of-fold results: every example was judged by a T and a cut fitted without it.

    `prob`, `decision` and `fold` have shape (N,), `temperatures` and `thresholds` (folds,).
    """

    prob: np.ndarray
    decision: np.ndarray
    fold: np.ndarray
    temperatures: np.ndarray
    thresholds: np.ndarray


def sweep_thresholds(
    prob: ArrayLike, labels: ArrayLike, grid: ArrayLike | None = None
) -> pd.DataFrame:
    """Counts and scores of `prob >= threshold` at every threshold of `grid`, in its order.

    `prob` and 0/1 `labels` have shape (N,); `grid` is 0.10, 0.15, ..., 0.90 by default, and is
    compared in the precision of `prob`. Columns: threshold, precision, recall, f1, tp, fp, tn, fn;
    a ratio without denominator is 0.
    Raises ValueError for what is empty, mismatched, not finite, outside [0, 1] or not 0/1.
    """
    p, y = _read(prob, labels)
    cuts = GRID if grid is None else finite(grid, "grid")
    check_ndim(cuts, "grid", 1)
    tp, flagged = _counts(p, y, in_precision_of(prob, cuts))
    fp, positives = flagged - tp, np.count_nonzero(y)
    return pd.DataFrame(
        {
            "threshold": cuts,
            "precision": _ratio(tp, flagged),
            "recall": _ratio(tp, positives),
            "f1": _ratio(2 * tp, flagged + positives),
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
    p, y = _read(prob, labels)
    _refuse_one_class(y)
    ranking = _Ranking.of(p, y)
    value = _value(objective, ranking.positives, len(y), beta, costs, floor)
    i, tp, best = ranking.best(value, last=objective == "recall_at_precision")
    if best == -math.inf:
        reached = ranking.best(_ratio)[2]
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


# The objective of a cut, from its true positives and its positives, both of shape (cuts,).
_Value = Callable[[np.ndarray, np.ndarray], np.ndarray]


@dataclass(frozen=True)
class _Ranking:
    """Examples by ascending score. Cut i flags all from the i-th on, so cut n flags none.

    `keys` (n,) are the scores' bits with the label as the lowest bit: bits of numbers that are not
    negative sort as the numbers do, so one integer sort carries the labels along.
    """

    keys: np.ndarray
    positives: int

    @classmethod
    def of(cls, p: np.ndarray, y: np.ndarray) -> "_Ranking":
        # NumPy sorts unsigned integers a quarter faster than signed ones.
        keys = np.empty(len(p), np.uint64)
        for i in range(0, len(p), BLOCK):
            # Adding 0.0 turns -0.0, whose sign bit would sort it wrongly, into 0.0.
            bits = (p[i : i + BLOCK] + 0.0).view(np.uint64) << 1
            keys[i : i + BLOCK] = bits | y[i : i + BLOCK].astype(np.uint64)
        keys.sort()
        return cls(keys, int(np.count_nonzero(y)))

    def best(self, value: _Value, last: bool = False) -> tuple[int, float, float]:
        """The first (or last) cut of the highest value: its index, true positives and value."""
        n, passed, previous = len(self.keys), 0, -1
        best = (0, 0.0, -math.inf)
        for start in range(0, n, BLOCK):
            keys = self.keys[start : start + BLOCK]
            label = (keys & 1).view(np.int64)
            seen = np.cumsum(label)
            tp = (self.positives - passed - seen + label).astype(np.float64)
            values = value(tp, np.arange(n - start, n - start - len(keys), -1, dtype=np.float64))
            scores = keys >> 1
            # A cut between equal scores is none.
            values[1:][scores[1:] == scores[:-1]] = -math.inf
            if scores[0] == previous:
                values[0] = -math.inf
            i = len(keys) - 1 - int(np.argmax(values[::-1])) if last else int(np.argmax(values))
            if values[i] > best[2] or (last and values[i] == best[2]):
                best = (start + i, float(tp[i]), float(values[i]))
            passed, previous = passed + int(seen[-1]), scores[-1]
        none = float(value(np.zeros(1), np.zeros(1))[0])
        return (n, 0.0, none) if none > best[2] else best

    def score(self, i: int) -> float:
        return float((self.keys[i : i + 1] >> 1).view(np.float64)[0])

    def cut(self, i: int, like: ArrayLike) -> float:
        """Midway between the scores around cut i, in the floating type of `like`."""
        lower = self.score(i - 1) if i else 0.0
        upper = self.score(i) if i < len(self.keys) else 1.0
        middle = float(in_precision_of(like, np.array([lower + (upper - lower) / 2]))[0])
        if middle > lower or i == 0:
            return middle
        # Neighbouring floats have no middle, and only a cut above 1 is above a score of 1.
        return upper if upper > lower else 2.0


def _value(
    objective: Objective,
    positives: int,
    n: int,
    beta: float,
    costs: tuple[float, float],
    floor: float,
) -> _Value:
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
        return lambda tp, flagged: np.where(tp / positives >= floor, _ratio(tp, flagged), -math.inf)
    return lambda tp, flagged: np.where(_ratio(tp, flagged) >= floor, tp / positives, -math.inf)


def _sum_of_ratios(
    a: np.ndarray, b: np.ndarray | int, c: np.ndarray, d: np.ndarray | int
) -> np.ndarray:
    """a / b + c / d of whole numbers, rounded once, so that equal sums are equal."""
    return (a * d + c * b) / (b * d)


def _counts(p: np.ndarray, y: np.ndarray, cuts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """True positives and positives of `p >= cut`, each of shape (len(cuts),)."""
    if len(cuts) > FEW_CUTS:
        ranking = _Ranking.of(p, y)
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


def joint_search(
    logits: ArrayLike,
    labels: ArrayLike,
    temperatures: ArrayLike,
    thresholds: ArrayLike,
    average: Average = "macro",
) -> pd.DataFrame:
    """F1 of `sigmoid(z / T) >= t` for every pair: columns temperature, threshold, f1.

    `logits` and multi-hot `labels` have shape (N, L), `temperatures` (A,), `thresholds` (B,); the
    frame has A B rows, temperature by temperature. The decision is taken as z >= T logit(t), so
    one sort per label serves every pair. A label that nobody has and nobody is given counts 0.
    Raises ValueError for what is empty, mismatched, not finite or not 0/1, for temperatures that
    are not positive and thresholds outside [0, 1].
    """
    z, y = to_numpy(logits, "logits"), binary_labels(labels)
    check_ndim(z, "logits", 2)
    check_same_shape(z, "logits", y)
    ts, thresholds = _read_grid(temperatures, thresholds)
    with np.errstate(over="ignore"):
        z, cuts = _within_reach(z, ts[:, None] * logit(thresholds))
    cuts, pair = np.unique(cuts, return_inverse=True)
    tp, flagged, support = _label_counts(z, y, cuts)
    if average == "micro":
        scores = _ratio(2 * tp.sum(axis=0), flagged.sum(axis=0) + support.sum())
    elif average in ("macro", "weighted"):
        weights = support if average == "weighted" and support.any() else np.ones(len(support))
        scores = weights @ _ratio(2 * tp, flagged + support[:, None]) / weights.sum()
    else:
        raise ValueError(f"average must be one of {get_args(Average)}, got {average!r}")
    rows = np.empty((*pair.shape, 3))
    rows[..., 0], rows[..., 1], rows[..., 2] = ts[:, None], thresholds, scores[pair]
    return pd.DataFrame(rows.reshape(-1, 3), columns=JOINT_COLUMNS, copy=False)


def _read_grid(temperatures: ArrayLike, thresholds: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    ts, cuts = finite(temperatures, "temperatures"), probabilities(thresholds, "thresholds")
    check_ndim(ts, "temperatures", 1)
    if ts.min() <= 0:
        raise ValueError(f"temperatures must be positive, got {ts.min():g}")
    return ts, cuts


def _at_least(cuts: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """The smallest values of `dtype` that are not below `cuts`: z >= cut stays exact in float32."""
    if dtype != np.float32:
        return cuts
    rounded = cuts.astype(dtype)
    return np.where(rounded < cuts, np.nextafter(rounded, np.float32(np.inf)), rounded)


def _within_reach(z: np.ndarray, cuts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Logits and cuts of one type that compare as these do, all of magnitudes in [NEAR, FAR).

    Raises ValueError for logits that are not finite.
    """
    if z.dtype.kind != "f":
        z = z.astype(np.float64)
    cuts = _at_least(cuts, z.dtype)
    size = np.abs(z)
    top = size.max()
    if not (size.min() >= NEAR and top < FAR):
        finite(z, "logits")
        ranks = np.unique(np.concatenate([z.ravel(), cuts.ravel()]), return_inverse=True)[1] + 1.0
        return ranks[: z.size].reshape(z.shape), ranks[z.size :].reshape(cuts.shape)
    # No logit is nearer to zero than NEAR or farther than top, so many cuts are as good as one.
    return z, np.where(np.abs(cuts) < NEAR, NEAR, cuts).clip(-top, np.nextafter(top, top + top))


def _label_counts(
    z: np.ndarray, y: np.ndarray, cuts: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """True positives and positives of z >= cut per label, (L, len(cuts)); label counts (L,).

    One sort serves both classes of a label: its positives are scaled away from zero, beyond all of
    its negatives on their side, so that each class is found in order. The numbers are sorted as
    their bits, which is quicker; below zero those ascend as the numbers descend.
    """
    bits = np.dtype(f"i{z.itemsize}")
    mantissa = np.finfo(z.dtype).nmant
    keys = y.astype(bits)
    keys *= APART << mantissa
    keys += z.view(bits)
    columns = keys.T.copy()
    columns.sort(axis=1)
    marks = np.concatenate([np.ldexp(cuts, APART), cuts, [-FAR, FAR, 0]]).astype(z.dtype).view(bits)
    mirrored = marks < 0
    marks += mirrored
    below = np.stack([column.searchsorted(marks) for column in columns])
    below = np.where(mirrored, below[:, -1:] - below, below)
    missed, passed = below[:, : len(cuts)], below[:, len(cuts) : -3]
    first, last = below[:, -3:-2], below[:, -2:-1]
    negatives = last - first
    # All negatives lie between the positives below zero and those above.
    tp = len(z) - negatives - missed + (cuts > 0) * negatives
    return tp, tp + last - passed, len(z) - negatives[:, 0]


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
    pooled = _Ranking.of(p.ravel(), y.ravel())
    shared = pooled.cut(_own_cuts([pooled])[0], prob)
    support = np.count_nonzero(y, axis=0)
    own = np.flatnonzero((support >= max(min_positives, 1)) & (support < len(y)))
    rankings = [_Ranking.of(np.ascontiguousarray(p[:, j]), y[:, j]) for j in own]
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


def _own_cuts(rankings: list[_Ranking]) -> list[int]:
    return [r.best(lambda tp, flagged, p=r.positives: tp / (flagged + p))[0] for r in rankings]


def _micro_cuts(rankings: list[_Ranking], tp: int, size: int) -> list[int]:
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


def cross_fit(
    logits: ArrayLike, labels: ArrayLike, n_folds: int = 5, seed: int = 0, shrinkage: float = 0.0
) -> CrossFit:
    """Judge every example by a temperature and an F1 cut fitted on the other folds.

    `logits` is (N, 2), hate second, or margins (N,); `labels` are 0/1, (N,). Folds are stratified;
    fewer are made if a class has fewer than `n_folds` examples.
    Raises ValueError as `fit_temperature` does, for fewer than two folds, and if a class has fewer
    than two examples.
    """
    z, y = finite(logits, "logits"), binary_labels(labels)
    check_same_shape(z[:, 0] if z.ndim == 2 else z, "logits", y)
    if n_folds < 2:
        raise ValueError(f"n_folds must be at least 2, got {n_folds}")
    folds = min(n_folds, np.count_nonzero(y), np.count_nonzero(~y))
    if folds < 2:
        raise ValueError("cross-fitting needs at least two examples of each class")
    prob, decision, fold = np.empty(len(y)), np.empty(len(y), bool), np.empty(len(y), int)
    temperatures, thresholds = np.empty(folds), np.empty(folds)
    splitter = StratifiedKFold(folds, shuffle=True, random_state=seed)
    for k, (rest, held) in enumerate(splitter.split(z, y)):
        t = fit_temperature(z[rest], y[rest], shrinkage=shrinkage).temperature
        cut = best_threshold(prob_hate(z[rest], t), y[rest]).threshold
        prob[held] = prob_hate(z[held], t)
        decision[held], fold[held] = prob[held] >= cut, k
        temperatures[k], thresholds[k] = t, cut
    return CrossFit(prob, decision, fold, temperatures, thresholds)


def _read(prob: ArrayLike, labels: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    p, y = probabilities(prob), binary_labels(labels)
    check_same_shape(p, "prob", y)
    return p, y


def _ratio(top: np.ndarray, bottom: np.ndarray | int) -> np.ndarray:
    """A ratio of counts, 0 where nothing is counted."""
    return top / np.maximum(bottom, 1)
