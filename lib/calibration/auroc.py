"""The interval of the area under the ROC curve in closed form, for samples too large to resample.

The AUROC is the share of pairs, a positive and a negative, in which the positive has the higher
score, equal ones counting half. An example's placement is its own share: of the negatives that a
positive beats, or of the positives that a negative loses to. The AUROC is the mean of either, and
its variance follows from how much placements vary, by examples [1]_ or by groups [2]_. All
placements come from one sort [3]_.

By hand: the positives 0.4 and 0.9 beat one and two of the negatives 0.2 and 0.6, so their
placements are 0.5 and 1; 0.2 loses to both positives, 0.6 to one. The AUROC is 3/4, and its
variance that of both means, 0.125 / 2 + 0.125 / 2:

>>> p, y = np.array([0.2, 0.4, 0.6, 0.9]), np.array([False, True, False, True])
>>> _placements(p, y).tolist()
[1.0, 0.5, 0.5, 1.0]
>>> _mean_and_variance(_placements(p, y), y, None)
(0.75, 0.125)

.. [1] E. R. DeLong, D. M. DeLong and D. L. Clarke-Pearson, "Comparing the Areas under Two or More
   Correlated Receiver Operating Characteristic Curves: A Nonparametric Approach", Biometrics 44(3),
   1988
.. [2] N. A. Obuchowski, "Nonparametric Analysis of Clustered ROC Curve Data", Biometrics 53(2),
   1997
.. [3] X. Sun and W. Xu, "Fast Implementation of DeLong's Algorithm for Comparing the Areas Under
   Correlated Receiver Operating Characteristic Curves", IEEE Signal Processing Letters 21(11), 2014
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import expit, logit, ndtri

from lib.calibration.checked_input import scores_and_labels


@dataclass(frozen=True)
class Interval:
    """A statistic on the full sample, and the ends of its interval.

    Floats, or arrays of shape (k,) for a statistic that returns k values.
    """

    point: float | np.ndarray
    low: float | np.ndarray
    high: float | np.ndarray


def auroc_interval(
    prob: ArrayLike, labels: ArrayLike, level: float = 0.95, *, groups: ArrayLike | None = None
) -> Interval:
    """Compute the AUROC and its interval by DeLong's method, normal on the logit scale.

    A million examples take a fraction of a second, where resampling takes minutes. Both agree in
    samples of some hundred examples of either class; with fewer, prefer `bootstrap_ci`.

    Parameters
    ----------
    prob
        p(hate), shape (N,).
    labels
        0 or 1, shape (N,). With one class only all three numbers are NaN.
    level
        The chance that the interval holds the AUROC of the population, between 0 and 1.
    groups
        The group of each example, (N,) names or numbers, within which examples need not be
        independent; None: every example is one of its own.

    Returns
    -------
    The AUROC and the ends of its interval. They are NaN where fewer than two groups (examples) have
    positives, or negatives; and both the AUROC itself where that is 0 or 1.

    Raises
    ------
    ValueError
        For input that is empty, of different shapes, not finite, outside [0, 1] or not 0/1, and for
        a level outside (0, 1).

    Examples
    --------
    >>> auroc_interval([0.2, 0.4, 0.6, 0.9], [0, 1, 0, 1]).point
    0.75
    """
    p, y = scores_and_labels(prob, labels)
    z = _quantile(level)
    area, variance = _mean_and_variance(_placements(p, y), y, group_numbers(groups, len(y)))
    if not 0 < area < 1:
        return Interval(area, area + 0 * variance, area + 0 * variance)
    # The logit's derivative is 1 / (area (1 - area)).
    reach = z * math.sqrt(variance) / (area * (1 - area))
    return Interval(area, float(expit(logit(area) - reach)), float(expit(logit(area) + reach)))


def auroc_difference(
    prob_a: ArrayLike,
    prob_b: ArrayLike,
    labels: ArrayLike,
    level: float = 0.95,
    *,
    groups: ArrayLike | None = None,
) -> Interval:
    """Compute AUROC(a) - AUROC(b) of two models on the same examples, and its normal interval.

    Paired: what makes an example hard for both models cancels.

    Parameters
    ----------
    prob_a, prob_b
        p(hate) of the two models, each of shape (N,).
    labels, level, groups
        As in `auroc_interval`.

    Returns
    -------
    The difference and the ends of its interval, NaN as in `auroc_interval`.

    Raises
    ------
    ValueError
        As `auroc_interval` does.

    Examples
    --------
    >>> auroc_difference([0.1, 0.2, 0.8, 0.9], [0.1, 0.8, 0.2, 0.9], [0, 0, 1, 1]).point
    0.25
    """
    (a, y), (b, _) = scores_and_labels(prob_a, labels), scores_and_labels(prob_b, labels)
    z = _quantile(level)
    apart = _placements(a, y) - _placements(b, y)
    point, variance = _mean_and_variance(apart, y, group_numbers(groups, len(y)))
    reach = z * math.sqrt(variance)
    return Interval(point, max(point - reach, -1.0), min(point + reach, 1.0))


def group_numbers(groups: ArrayLike | None, n: int) -> np.ndarray | None:
    """The groups (N,) as numbers 0 .. G - 1 in the order of their names; None stays None.

    Raises ValueError unless there is one per example.
    """
    if groups is None:
        return None
    names = np.asarray(groups)
    if names.shape != (n,):
        raise ValueError(f"groups must have shape ({n},), one per example, got {names.shape}")
    return np.unique(names, return_inverse=True)[1]


def _quantile(level: float) -> float:
    if not 0 < level < 1:
        raise ValueError(f"level must be between 0 and 1, got {level}")
    return float(ndtri((1 + level) / 2))


def _placements(p: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Each positive's share of negatives below it and each negative's of positives above, (N,)."""
    score = np.unique(p, return_inverse=True)[1]
    positive, negative = np.bincount(score, y), np.bincount(score, ~y)
    below = (negative.cumsum() - negative / 2) / max(negative.sum(), 1)
    above = (positive[::-1].cumsum()[::-1] - positive / 2) / max(positive.sum(), 1)
    return np.where(y, below[score], above[score])


def _mean_and_variance(
    placements: np.ndarray, y: np.ndarray, groups: np.ndarray | None
) -> tuple[float, float]:
    """The AUROC, or a difference of two, and its variance; NaN where they are undefined."""
    positives = int(np.count_nonzero(y))
    if not 0 < positives < len(y):
        return math.nan, math.nan
    mean = float(placements[y].mean())
    # What each positive or negative adds to the mean's error.
    share = (placements - mean) / np.where(y, positives, len(y) - positives)
    numbers = np.arange(len(y)) if groups is None else groups
    of_positives, of_negatives = np.bincount(numbers, share * y), np.bincount(numbers, share * ~y)
    count = len(of_positives)
    with_positives = np.count_nonzero(np.bincount(numbers[y]))
    with_negatives = np.count_nonzero(np.bincount(numbers[~y]))
    if min(with_positives, with_negatives) < 2:
        return mean, math.nan
    variance = (
        with_positives / (with_positives - 1) * np.dot(of_positives, of_positives)
        + with_negatives / (with_negatives - 1) * np.dot(of_negatives, of_negatives)
        + count / (count - 1) * 2 * np.dot(of_positives, of_negatives)
    )
    # Groups that balance each other exactly leave a rounding below zero.
    return mean, max(float(variance), 0.0)
