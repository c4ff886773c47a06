"""The interval of the average precision in closed form, for samples too large to resample.

The average precision is the mean, over the positives, of the precision at each one's score. How
much it moves when an example counts a little more is its influence, and the variance follows from
the influences, by examples or by groups: the infinitesimal jackknife [1]_. All come from one sort.

By hand: of the scores 0.9, 0.6 and 0.4 the first and last are positive, with precision 1 and 2/3,
so the average precision is 5/6. The negative between them lowers the last precision, 2/3, by
2/3 / 3 of itself where it counts more, which half of the positives feel:

>>> p, y = np.array([0.4, 0.6, 0.9]), np.array([True, False, True])
>>> point, influences = _influences(p, y)
>>> round(point, 4), influences.round(4).tolist()
(0.8333, [-0.0278, -0.1111, 0.1389])

.. [1] B. Efron, "The Jackknife, the Bootstrap and Other Resampling Plans", chapter 6, SIAM 1982
"""

import math

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import expit, logit, ndtri

from lib.calibration.auroc import Interval, group_numbers
from lib.calibration.checked_input import scores_and_labels


def average_precision_interval(
    prob: ArrayLike, labels: ArrayLike, level: float = 0.95, *, groups: ArrayLike | None = None
) -> Interval:
    """Compute the average precision and its interval, normal on the logit scale.

    Parameters
    ----------
    prob
        p(hate), shape (N,).
    labels
        0 or 1, shape (N,). Without a positive all three numbers are NaN.
    level
        The chance that the interval holds the population's, between 0 and 1.
    groups
        The group of each example, (N,) names or numbers, within which examples need not be
        independent; None: every example is one of its own.

    Returns
    -------
    The average precision and the ends of its interval, which are NaN where there is one group, and
    the average precision itself where that is 1.

    Raises
    ------
    ValueError
        For input that is empty, of different shapes, not finite, outside [0, 1] or not 0/1, and for
        a level outside (0, 1).

    Examples
    --------
    >>> round(average_precision_interval([0.4, 0.6, 0.9], [1, 0, 1]).point, 4)
    0.8333
    """
    p, y = scores_and_labels(prob, labels)
    if not 0 < level < 1:
        raise ValueError(f"level must be between 0 and 1, got {level}")
    if not y.any():
        return Interval(math.nan, math.nan, math.nan)
    point, influences = _influences(p, y)
    numbers = group_numbers(groups, len(y))
    if numbers is not None:
        influences = np.bincount(numbers, influences)
    n = len(influences)
    if n < 2:
        return Interval(point, math.nan, math.nan)
    if point == 1:
        return Interval(point, point, point)
    spread = math.sqrt(float(influences @ influences) * n / (n - 1))
    # The logit's derivative is 1 / (point (1 - point)).
    reach = float(ndtri((1 + level) / 2)) * spread / (point * (1 - point))
    return Interval(point, float(expit(logit(point) - reach)), float(expit(logit(point) + reach)))


def _influences(p: np.ndarray, y: np.ndarray) -> tuple[float, np.ndarray]:
    """The average precision, and the derivative of it by each example's weight, (N,)."""
    order = np.argsort(-p, kind="stable")
    score, hit = p[order], y[order].astype(float)
    # Equal scores are above one another: each has the counts at the end of their run.
    starts = np.flatnonzero(np.r_[True, score[1:] != score[:-1]])
    run = np.repeat(np.arange(len(starts)), np.diff(np.r_[starts, len(p)]))
    ends = np.r_[starts[1:], len(p)] - 1
    hits, above = np.cumsum(hit)[ends][run], (ends + 1.0)[run]
    precision, positives = hits / above, hit.sum()
    point = float(hit @ precision / positives)
    # Sums over the positives at or below an example's score.
    gained, lost = (
        _from_here_on(of_each, starts)[run] for of_each in (hit / above, hit * hits / above**2)
    )
    influences = np.empty(len(p))
    influences[order] = (hit * (precision - point) + hit * gained - lost) / positives
    return point, influences


def _from_here_on(values: np.ndarray, starts: np.ndarray) -> np.ndarray:
    return np.cumsum(values[::-1])[::-1][starts]
