"""One threshold per label of a multi-label classifier.

Macro and weighted F1 are averages of the labels' own F1, so each label's best threshold serves.
Micro F1 is one ratio of sums over all labels, tp / (flagged + positives) but for a factor of 2, so
the labels' thresholds depend on each other. Dinkelbach's method solves it by turns: given the ratio
c reached so far, tp - c * flagged is a plain sum and each label can be maximised by itself; the new
thresholds give a higher c, or else c is the maximum.

By hand: label A has the scores 0.1 (negative) and 0.6 (positive), label B 0.2 and 0.3 (negative)
and 0.7 (positive). With c = 0 each label keeps all its positives by flagging everything: 2 true
positives, 5 flagged, 2 positives, so c = 2 / (5 + 2). With c = 2/7, each flagged negative costs
2/7 and gains nothing, so only 0.6 and 0.7 are flagged: c = 2 / (2 + 2). With c = 1/2 the same
thresholds win again, so the micro F1 of 2 c = 1 is the maximum.

>>> a = Ranking.of(np.array([0.1, 0.6]), np.array([False, True]))
>>> b = Ranking.of(np.array([0.2, 0.3, 0.7]), np.array([False, False, True]))
>>> _micro_cuts([a, b], 0, 0)
[1, 2]
"""

from functools import partial
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike

from lib.calibration.checked_input import binary_labels, check_same_shape, probabilities
from lib.calibration.ranking import Ranking
from lib.calibration.thresholds import refuse_one_class

Average = Literal["micro", "macro", "weighted"]


def per_label_thresholds(
    prob: ArrayLike, labels: ArrayLike, min_positives: int = 30, average: Average = "macro"
) -> np.ndarray:
    """Find the thresholds, one per label, with the best average F1.

    Parameters
    ----------
    prob
        Probabilities, shape (N, L).
    labels
        Multi-hot 0 or 1, shape (N, L).
    min_positives
        A label with fewer positives, or without negatives, takes the shared threshold: the one with
        the best F1 of all labels pooled.
    average
        The F1 to maximise: "micro" [1]_, "macro" or "weighted", the last two by the same
        thresholds.

    Returns
    -------
    Thresholds, shape (L,).

    Raises
    ------
    ValueError
        For input that is empty, of different shapes, not finite, outside [0, 1] or not 0/1, for an
        unknown `average`, and if all labels of all examples are the same.

    References
    ----------
    .. [1] W. Dinkelbach, "On Nonlinear Fractional Programming", Management Science 13(7), 1967

    Examples
    --------
    >>> prob = [[0.1, 0.2], [0.6, 0.3], [0.1, 0.7]]
    >>> labels = [[0, 0], [1, 0], [0, 1]]
    >>> per_label_thresholds(prob, labels, min_positives=1).tolist()
    [0.35, 0.5]
    """
    p, y = probabilities(prob, ndim=2), binary_labels(labels)
    check_same_shape(p, "prob", y)
    if average not in get_args(Average):
        raise ValueError(f"average must be one of {get_args(Average)}, got {average!r}")
    refuse_one_class(y)
    pooled = Ranking.of(p.ravel(), y.ravel())
    shared = pooled.threshold(_own_cuts([pooled])[0], prob)
    support = np.count_nonzero(y, axis=0)
    own = np.flatnonzero((support >= max(min_positives, 1)) & (support < len(y)))
    rankings = [Ranking.of(np.ascontiguousarray(p[:, j]), y[:, j]) for j in own]
    thresholds = np.full(p.shape[1], shared)
    others = np.delete(np.arange(p.shape[1]), own)
    hits = p[:, others] >= shared
    tp = int(np.count_nonzero(hits & y[:, others]))
    size = int(np.count_nonzero(hits)) + int(support[others].sum())
    best = _micro_cuts(rankings, tp, size) if average == "micro" else _own_cuts(rankings)
    thresholds[own] = [r.threshold(i, prob) for r, i in zip(rankings, best, strict=True)]
    return thresholds


def _own_cuts(rankings: list[Ranking]) -> list[int]:
    return [r.best(partial(_half_f1, positives=r.positives))[0] for r in rankings]


def _half_f1(tp: np.ndarray, flagged: np.ndarray, positives: int) -> np.ndarray:
    return tp / (flagged + positives)


def _micro_cuts(rankings: list[Ranking], tp: int, size: int) -> list[int]:
    """Maximise tp / (flagged + positives) over all labels, as the module explains.

    `tp` and `size` (flagged + positives) are those of the labels whose threshold is given.
    """
    reached = 0.0
    while True:
        best = [r.best(partial(_gain, price=reached)) for r in rankings]
        top = tp + sum(b[1] for b in best)
        bottom = size + sum(
            len(r.keys) - b[0] + r.positives for r, b in zip(rankings, best, strict=True)
        )
        if not best or top / bottom <= reached:
            return [b[0] for b in best]
        reached = top / bottom


def _gain(tp: np.ndarray, flagged: np.ndarray, price: float) -> np.ndarray:
    return tp - price * flagged
