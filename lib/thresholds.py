"""Cuts on p(hate): the exact optimum over all distinct scores, and the documented grids."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.special import logit
from sklearn.model_selection import StratifiedKFold

from lib.arrays import binary_labels, check_ndim, check_same_shape, finite, probabilities
from lib.temperature import fit_temperature, prob_hate

GRID = np.round(np.arange(10, 91, 5) / 100, 2)

Average = Literal["micro", "macro", "weighted"]


@dataclass(frozen=True)
class BestThreshold:
    """A cut: `prob >= threshold` is positive. The other fields are measured at that cut."""

    threshold: float
    f1: float
    precision: float
    recall: float


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
    """Counts and scores at every threshold of `grid` (0.10, 0.15, ..., 0.90 by default).

    `prob` and 0/1 `labels` have shape (N,). Columns: threshold, precision, recall, f1, tp, fp, tn,
    fn; a ratio without denominator is 0.
    """
    p, y = _read(prob, labels)
    cuts = GRID if grid is None else finite(grid, "grid")
    check_ndim(cuts, "grid", 1)
    pos, neg = np.sort(p[y]), np.sort(p[~y])
    cast = _in_score_precision(prob, cuts)
    tp = len(pos) - np.searchsorted(pos, cast)
    fp = len(neg) - np.searchsorted(neg, cast)
    return pd.DataFrame(
        {
            "threshold": cuts,
            "precision": _ratio(tp, tp + fp),
            "recall": _ratio(tp, len(pos)),
            "f1": _ratio(2 * tp, tp + fp + len(pos)),
            "tp": tp,
            "fp": fp,
            "tn": len(neg) - fp,
            "fn": len(pos) - tp,
        }
    )


def best_threshold(prob: ArrayLike, labels: ArrayLike) -> BestThreshold:
    """The cut with the best F1 over all distinct scores, tied scores kept together.

    `prob` and 0/1 `labels` have shape (N,). The cut lies midway to the next lower score (0 below
    the lowest); of equally good cuts the lowest is returned.
    """
    p, y = _read(prob, labels)
    positives = np.count_nonzero(y)
    if positives in (0, len(y)):
        raise ValueError("labels holds one class only; a threshold needs examples of both")
    order = np.argsort(p)[::-1]
    s = p[order]
    tp = np.cumsum(y[order])
    last = np.append(s[1:] < s[:-1], True)
    s, tp, flagged = s[last], tp[last], np.flatnonzero(last) + 1
    f1 = 2 * tp / (flagged + positives)
    i = len(f1) - 1 - int(np.argmax(f1[::-1]))
    lower = s[i + 1] if i + 1 < len(s) else 0.0
    return BestThreshold(
        _midpoint(prob, lower, s[i]),
        float(f1[i]),
        float(tp[i] / flagged[i]),
        float(tp[i] / positives),
    )


def joint_search(
    logits: ArrayLike,
    labels: ArrayLike,
    temperatures: ArrayLike,
    thresholds: ArrayLike,
    average: Average = "macro",
) -> pd.DataFrame:
    """F1 of `sigmoid(z / T) >= t` for every pair: columns temperature, threshold, f1.

    `logits` and multi-hot `labels` have shape (N, L). The decision is z >= T logit(t), so one
    sort per label serves every pair.
    """
    z, y = finite(logits, "logits"), binary_labels(labels)
    check_ndim(z, "logits", 2)
    check_same_shape(z, "logits", y)
    ts, cuts = finite(temperatures, "temperatures"), probabilities(thresholds, "thresholds")
    if ts.min() <= 0:
        raise ValueError(f"temperatures must be positive, got {ts.min()}")
    grid = np.multiply.outer(ts, logit(cuts)).ravel()
    tp = np.empty((z.shape[1], len(grid)))
    flagged = np.empty_like(tp)
    for j in range(z.shape[1]):
        column, pos = np.sort(z[:, j]), np.sort(z[y[:, j], j])
        flagged[j] = len(column) - np.searchsorted(column, grid)
        tp[j] = len(pos) - np.searchsorted(pos, grid)
    support = y.sum(axis=0)[:, None]
    if average == "micro":
        f1 = _ratio(2 * tp.sum(axis=0), flagged.sum(axis=0) + support.sum())
    else:
        weights = support[:, 0] if average == "weighted" else None
        f1 = np.average(_ratio(2 * tp, flagged + support), axis=0, weights=weights)
    pairs = {"temperature": np.repeat(ts, len(cuts)), "threshold": np.tile(cuts, len(ts))}
    return pd.DataFrame({**pairs, "f1": f1})


def per_label_thresholds(prob: ArrayLike, labels: ArrayLike, min_positives: int = 30) -> np.ndarray:
    """One cut per label, shape (L,): the exact F1 optimum of each.

    `prob` and multi-hot `labels` have shape (N, L). A label with fewer than `min_positives`
    positives takes the global cut, the optimum of all labels pooled.
    """
    p, y = probabilities(prob, ndim=2), binary_labels(labels)
    check_same_shape(p, "prob", y)
    cuts = np.full(p.shape[1], best_threshold(p.ravel(), y.ravel()).threshold)
    for j in np.flatnonzero(y.sum(axis=0) >= max(min_positives, 1)):
        if not y[:, j].all():
            cuts[j] = best_threshold(p[:, j], y[:, j]).threshold
    return cuts


def cross_fit(
    logits: ArrayLike, labels: ArrayLike, n_folds: int = 5, seed: int = 0, shrinkage: float = 0.0
) -> CrossFit:
    """Judge every example by a temperature and an F1 cut fitted on the other folds.

    `logits` is (N, 2), hate second, or margins (N,); `labels` are 0/1, (N,). Folds are stratified;
    fewer are made if a class has fewer than `n_folds` examples.
    Raises ValueError if a class has fewer than two examples.
    """
    z, y = finite(logits, "logits"), binary_labels(labels)
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
    return np.divide(top, bottom, out=np.zeros(np.shape(top)), where=np.asarray(bottom) > 0)


def _in_score_precision(prob: ArrayLike, cuts: np.ndarray) -> np.ndarray:
    # A float32 score of 0.7 is below the float64 0.7; users compare in the scores' precision.
    if hasattr(prob, "new_tensor"):
        return prob.new_tensor(cuts.tolist()).detach().cpu().double().numpy()
    dtype = np.asarray(prob).dtype
    return cuts.astype(dtype).astype(np.float64) if dtype.kind == "f" else cuts


def _midpoint(prob: ArrayLike, lower: float, score: float) -> float:
    middle = float(_in_score_precision(prob, np.array([lower + (score - lower) / 2]))[0])
    return middle if middle > lower else float(score)
