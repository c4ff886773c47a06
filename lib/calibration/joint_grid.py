"""F1 over a grid of temperatures and thresholds, with one sort a label instead of a pass a pair."""

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
from lib.calibration.thresholds import Average, ratio

JOINT_COLUMNS = pd.Index(["temperature", "threshold", "f1"])

# Adding APART to the exponent parts two classes whose magnitudes are all within [NEAR, FAR).
NEAR, FAR, APART = 2.0**-32, 2.0**31, 64


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
