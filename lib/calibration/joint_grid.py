"""F1 over a grid of temperatures and thresholds, counted for the whole grid in one pass.

A loop over the grid decides every example again for each of its A B pairs. But sigmoid(z/T) >= t
is z >= T logit(t), so a pair is a cut on the raw logits: with T = 2 and t = 0.75 it is 2 ln 3 =
2.197. It is enough to find for each logit how many of the ascending cuts it reaches, its cell, and
to count cells per label: a cut flags what lies in the cells above it.

By hand, for the cuts 0.5 and 2 and four logits: -2 and 1 reach none and one, 3 reaches both and -1
none. Of the positives, -2 and 3, one is above either cut; of the negatives, -1 and 1, one is above
the first cut and none above the second:

>>> z, y = np.array([[-2.0], [3.0], [-1.0], [1.0]]), np.array([[True], [True], [False], [False]])
>>> tp, flagged, support = _label_counts(z, y, np.array([0.5, 2.0]), low=-2.0, high=3.0)
>>> tp.tolist(), flagged.tolist(), support.tolist()
([[1, 1]], [[2, 1]], [2])
"""

import math
from functools import cache
from typing import TYPE_CHECKING, get_args

import numpy as np
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
from lib.calibration.score_bins import cell_finder
from lib.calibration.thresholds import ratio

if TYPE_CHECKING:
    import pandas as pd

# Logits in one block of work. In a process that has held nothing larger, the buffers of 80,000 went
# back to the system after each call, and getting them anew took longer than all that is done there.
BLOCK = 48_000


def joint_search(
    logits: ArrayLike,
    labels: ArrayLike,
    temperatures: ArrayLike,
    thresholds: ArrayLike,
    average: Average = "macro",
) -> "pd.DataFrame":
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
    import pandas as pd

    (z, low, high), y = _read_logits(logits), binary_labels(labels)
    check_same_shape(z, "logits", y)
    ts, thresholds = _read_grid(temperatures, thresholds)
    with np.errstate(over="ignore"):
        cuts = _at_least(ts[:, None] * logit(thresholds), z.dtype)
        # Many cuts are as good as one: below all logits, or above all.
        cuts = cuts.clip(low, np.nextafter(z.dtype.type(high), z.dtype.type(np.inf)))
    cuts, pair = np.unique(cuts, return_inverse=True)
    tp, flagged, support = _label_counts(z, y, cuts, low, high)
    if average == "micro":
        scores = ratio(2 * tp.sum(axis=0), flagged.sum(axis=0) + support.sum())
    elif average in ("macro", "weighted"):
        weights = support if average == "weighted" and support.any() else np.ones(len(support))
        scores = weights @ ratio(2 * tp, flagged + support[:, None]) / weights.sum()
    else:
        raise ValueError(f"average must be one of {get_args(Average)}, got {average!r}")
    rows = np.empty((*pair.shape, 3))
    rows[..., 0], rows[..., 1], rows[..., 2] = ts[:, None], thresholds, scores[pair]
    return pd.DataFrame(rows.reshape(-1, 3), columns=_columns(), copy=False)


@cache
def _columns() -> "pd.Index":
    """The names of the columns; pandas takes longer to make an index than to fill the table."""
    import pandas as pd

    return pd.Index(["temperature", "threshold", "f1"])


def _read_logits(logits: ArrayLike) -> tuple[np.ndarray, float, float]:
    """Finite logits (N, L), float32 or float64, with the lowest and the highest."""
    z = to_numpy(logits, "logits")
    check_ndim(z, "logits", 2)
    z = np.ascontiguousarray(z if z.dtype.kind == "f" else z.astype(np.float64))
    low, high = float(z.min()), float(z.max())
    if not (math.isfinite(low) and math.isfinite(high)):
        finite(z, "logits")
    return z, low, high


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


def _label_counts(
    z: np.ndarray, y: np.ndarray, cuts: np.ndarray, low: float, high: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """True positives and flagged examples of z >= cut per label, and each label's positives.

    `z` and `y` (N, L) and `cuts` (C,), ascending, give shapes (L, C), (L, C) and (L,); `low` and
    `high` are the lowest and the highest logit.
    """
    n, width = z.shape
    cells = len(cuts) + 1
    kind = np.uint16 if 2 * width * cells < 65_536 else np.uint32
    # Each label has cells of its own, and its positives have others than its negatives.
    first = np.tile(np.arange(0, width * cells, cells).astype(kind), min(max(BLOCK // width, 1), n))
    to_positive = kind(width * cells)
    find = cell_finder(cuts, low, high, len(first), kind)
    scores, labels = z.ravel(), y.ravel()
    keys, wide = np.empty(len(first), kind), np.empty(len(first), np.intp)
    counts = np.zeros(2 * width * cells, np.intp)
    for i in range(0, len(scores), len(first)):
        part = slice(0, min(len(first), len(scores) - i))
        key = np.multiply(labels[i : i + len(first)], to_positive, out=keys[part])
        key += first[part]
        key += find(scores[i : i + len(first)])
        wide[part] = key
        # As `bincount` counts, which looks for the smallest and the largest key first.
        np.add.at(counts, wide[part], 1)
    # What reaches k cuts is flagged by the first k.
    negative, positive = counts.reshape(2, width, cells)[..., ::-1].cumsum(axis=-1)[..., ::-1]
    return positive[:, 1:], (negative + positive)[:, 1:], positive[:, 0]
