"""F1 over a grid of temperatures and thresholds, with one sort per label for the whole grid.

A loop over the grid decides every example again for each of its A B pairs. Here each label's logits
are sorted once, and every pair is a binary search. Three ideas make that one quick sort:

1. sigmoid(z / T) >= t is z >= T logit(t): a pair is a cut on the raw logits. With T = 2 and
   t = 0.75 the cut is 2 ln 3 = 2.197.
2. Positives and negatives are sorted together but stay apart. Multiplying the positives by
   S = 2^64, an addition to the exponent bits, moves them away from zero, beyond all negatives,
   which is certain while all magnitudes are within [2^-32, 2^31).
3. Floats are sorted as the signed integers that their bits spell, which is quicker. Above zero
   those ascend as the floats do. Below zero they ascend as the floats descend, so what is counted
   there is counted from the other end.

By hand, for four logits -2 and 3 (positives), -1 and 1 (negatives): the scaled values are -2S and
3S beside -1 and 1. At the cut 0.5, the values below 0.5 S are -2S, -1 and 1, all negatives among
them, so 3 - 2 = 1 positive is missed. The values below 0.5 are -2S and -1, the former a positive,
so 1 negative is passed over. Left are 1 true positive and 1 false positive:

>>> z, y = np.array([[-2.0], [3.0], [-1.0], [1.0]]), np.array([[True], [True], [False], [False]])
>>> tp, flagged, support = _label_counts(z, y, np.array([0.5]))
>>> tp.tolist(), flagged.tolist(), support.tolist()
([[1]], [[2]], [2])

Idea 3 with the bits of -1 and -2, whose order as integers is turned round:

>>> np.sort(np.array([-1.0, -2.0, 1.0]).view(np.int64)).view(np.float64).tolist()
[-1.0, -2.0, 1.0]
"""

from typing import get_args

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.special import logit

from lib.calibration.checked_input import (
    binary_labels,
    check_ndim,
    check_same_shape,
    finite,
    probabilities,
    to_numpy,
)
from lib.calibration.per_label import Average
from lib.calibration.thresholds import ratio

JOINT_COLUMNS = pd.Index(["temperature", "threshold", "f1"])

# Scaling by 2^APART separates two classes whose magnitudes are all within [NEAR, FAR).
NEAR, FAR, APART = 2.0**-32, 2.0**31, 64


def joint_search(
    logits: ArrayLike,
    labels: ArrayLike,
    temperatures: ArrayLike,
    thresholds: ArrayLike,
    average: Average = "macro",
) -> pd.DataFrame:
    """Score the decisions `sigmoid(z / T) >= t` for every pair of a temperature and a threshold.

    The decision is taken as z >= T logit(t), which is the same but for rounding.

    Parameters
    ----------
    logits
        One per example and label, shape (N, L).
    labels
        Multi-hot 0 or 1, shape (N, L).
    temperatures
        Positive, shape (A,).
    thresholds
        Within [0, 1], shape (B,).
    average
        The F1 to compute: "micro", "macro" or "weighted". A label that nobody has and nobody is
        given counts 0.

    Returns
    -------
    The columns temperature, threshold and f1, in A B rows: all thresholds of the first temperature,
    then those of the next.

    Raises
    ------
    ValueError
        For input that is empty, of different shapes, not finite or not 0/1, for temperatures that
        are not positive, thresholds outside [0, 1] and an unknown `average`.

    Examples
    --------
    A threshold of 0.75 at T = 2 asks for a logit of at least 2 ln 3 = 2.197:

    >>> joint_search([[2.0], [3.0], [-1.0]], [[0], [1], [0]], [1, 2], [0.5, 0.75])
       temperature  threshold        f1
    0          1.0       0.50  0.666667
    1          1.0       0.75  0.666667
    2          2.0       0.50  0.666667
    3          2.0       0.75  1.000000
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
        scores = ratio(2 * tp.sum(axis=0), flagged.sum(axis=0) + support.sum())
    elif average in ("macro", "weighted"):
        weights = support if average == "weighted" and support.any() else np.ones(len(support))
        scores = weights @ ratio(2 * tp, flagged + support[:, None]) / weights.sum()
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
    """The smallest values of `dtype` that are not below `cuts`: z >= cut stays exact in float32.

    >>> _at_least(np.array([0.5, 0.7]), np.dtype(np.float32)) >= [0.5, 0.7]
    array([ True,  True])
    >>> float(np.float32(0.7)) >= 0.7
    False
    """
    if dtype != np.float32:
        return cuts
    rounded = cuts.astype(dtype)
    return np.where(rounded < cuts, np.nextafter(rounded, np.float32(np.inf)), rounded)


def _within_reach(z: np.ndarray, cuts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Logits and cuts of one type that compare as these do, all of magnitudes in [NEAR, FAR).

    Logits too small or too large for that, zeros among them, are replaced together with the cuts by
    their common ranks:

    >>> z, cuts = _within_reach(np.array([[0.0], [1e300]]), np.array([[-5.0, 2.0]]))
    >>> z.ravel().tolist(), cuts.ravel().tolist()
    ([2.0, 4.0], [1.0, 3.0])

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
    """True positives and flagged examples of z >= cut per label, and each label's positives.

    `z` and `y` (N, L) and `cuts` (C,) give shapes (L, C), (L, C) and (L,). The module explains the
    order of the keys: positives below zero, negatives, positives above zero.
    """
    bits = np.dtype(f"i{z.itemsize}")
    mantissa = np.finfo(z.dtype).nmant
    keys = y.astype(bits)
    keys *= APART << mantissa
    keys += z.view(bits)
    columns = keys.T.copy()
    columns.sort(axis=1)
    marks = np.concatenate([np.ldexp(cuts, APART), cuts, [-FAR, FAR, 0]]).astype(z.dtype).view(bits)
    # Of the keys below zero, those up to and including the mark are not below it as floats.
    mirrored = marks < 0
    marks += mirrored
    below = np.stack([column.searchsorted(marks) for column in columns])
    below = np.where(mirrored, below[:, -1:] - below, below)
    missed, passed = below[:, : len(cuts)], below[:, len(cuts) : -3]
    # Where the negatives begin and end; all positives lie outside.
    first, last = below[:, -3:-2], below[:, -2:-1]
    negatives = last - first
    tp = len(z) - negatives - missed + (cuts > 0) * negatives
    return tp, tp + last - passed, len(z) - negatives[:, 0]
