"""How far probabilities are from frequencies: ECE, its expected value, and the Brier score's parts.

All are of p(hate) against 0/1 labels: among memes given 0.3, three in ten should be hateful. They
are not the top-label errors of multi-class work, which compare the confidence in the predicted
class with how often it is right.
"""

import math
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import ndtr

from lib.calibration.checked_input import probabilities, scores_and_labels

Strategy = Literal["uniform", "quantile"]

N_BINS = 15

# Up to this many examples in a bin, the distribution of their label count is computed exactly.
EXACT = 256


def expected_calibration_error(
    prob: ArrayLike,
    labels: ArrayLike,
    n_bins: int = N_BINS,
    strategy: Strategy = "uniform",
    *,
    debias: bool = False,
) -> float:
    """Compute the binary ECE [1]_: the mean of |mean p - mean y| over bins, weighted by size.

    Parameters
    ----------
    prob
        p(hate), shape (N,).
    labels
        0 or 1, shape (N,).
    n_bins
        At least 1.
    strategy
        "uniform" bins have the edges `linspace(0, 1, n_bins + 1)`, "quantile" bins the quantiles of
        `prob`, equal ones merged. A bin holds its lower edge, the last also its upper one.
    debias
        The plain estimate is too high, the more so the fewer examples (see `zero_truth_ece`).
        Subtract, in each bin, the expected rise of |mean p - mean y| under the sampling noise of
        mean y, taken as normal [2]_; the result is not below 0.

    Returns
    -------
    The error, from 0 to 1.

    Raises
    ------
    ValueError
        For input that is empty, of different shapes, not finite, outside [0, 1] or not 0/1, for
        fewer than one bin and an unknown strategy.

    References
    ----------
    .. [1] M. P. Naeini, G. F. Cooper and M. Hauskrecht, "Obtaining Well Calibrated Probabilities
       Using Bayesian Binning", AAAI 2015
    .. [2] A. Kumar, P. Liang and T. Ma, "Verified Uncertainty Calibration", NeurIPS 2019

    Examples
    --------
    Two bins: in the lower, mean p is 0.2 and mean y is 0; in the upper, 0.8 and 0.5.

    >>> round(expected_calibration_error([0.1, 0.3, 0.7, 0.9], [0, 0, 0, 1], n_bins=2), 6)
    0.25
    """
    p, y = scores_and_labels(prob, labels)
    bins = bin_of(p, n_bins, strategy)
    error = np.abs(np.bincount(bins, p - y)) / len(p)
    if not debias:
        return float(error.sum())
    size = np.maximum(np.bincount(bins), 1)
    rate = np.bincount(bins, y) / size
    noise = np.sqrt(size * rate * (1 - rate)) / len(p)
    return float(max((2 * error - _folded_normal_mean(error, noise)).sum(), 0.0))


def zero_truth_ece(prob: ArrayLike, n_bins: int = N_BINS, strategy: Strategy = "uniform") -> float:
    """Compute the ECE to expect of these probabilities if they were perfectly calibrated.

    It is the mean over labels drawn from the probabilities themselves [1]_, computed instead of
    simulated: a measured ECE is evidence of miscalibration only as far as it exceeds this. Exact
    for bins of up to 256 examples; the label counts of larger bins are taken as normal.

    Parameters
    ----------
    prob
        p(hate), shape (N,).
    n_bins, strategy
        As in `expected_calibration_error`.

    Returns
    -------
    The expected error, from 0 to 1.

    Raises
    ------
    ValueError
        For probabilities that are empty, not finite or outside [0, 1], for fewer than one bin and
        an unknown strategy.

    References
    ----------
    .. [1] J. Bröcker and L. A. Smith, "Increasing the Reliability of Reliability Diagrams", Weather
       and Forecasting 22(3), 2007

    Examples
    --------
    A single p = 0.5 is off by 0.5 whatever its label; of two, half of all draws have one label of
    each kind and no error, the other half are off by 0.5:

    >>> zero_truth_ece([0.5]), zero_truth_ece([0.5, 0.5])
    (0.5, 0.25)
    """
    p = probabilities(prob)
    bins = bin_of(p, n_bins, strategy)
    in_bins = np.split(p[np.argsort(bins, kind="stable")], np.cumsum(np.bincount(bins))[:-1])
    return sum(map(_mean_absolute_deviation, in_bins)) / len(p)


def brier_decomposition(prob: ArrayLike, labels: ArrayLike) -> dict[str, float]:
    """Split the Brier score exactly: brier = reliability - resolution + uncertainty.

    These are Murphy's terms [1]_ with the isotonic regression of labels on scores in place of bins,
    which needs no choice of bins and leaves no remainder [2]_.

    Parameters
    ----------
    prob
        p(hate), shape (N,).
    labels
        0 or 1, shape (N,).

    Returns
    -------
    reliability, what recalibration would gain (0 is best, also called miscalibration); resolution,
    what the scores know about the labels (also called discrimination); uncertainty, the variance of
    the labels.

    Raises
    ------
    ValueError
        For input that is empty, of different shapes, not finite, outside [0, 1] or not 0/1.

    References
    ----------
    .. [1] A. H. Murphy, "A New Vector Partition of the Probability Score", Journal of Applied
       Meteorology 12(4), 1973
    .. [2] T. Dimitriadis, T. Gneiting and A. I. Jordan, "Stable reliability diagrams for
       probabilistic classifiers", PNAS 118(8), 2021

    Examples
    --------
    Scores of 0.25 and 0.75 whose labels are 0 and 1 know everything and are off by 0.25:

    >>> brier_decomposition([0.25, 0.25, 0.75, 0.75], [0, 0, 1, 1])
    {'reliability': 0.0625, 'resolution': 0.25, 'uncertainty': 0.25}
    """
    from sklearn.isotonic import isotonic_regression

    p, y = scores_and_labels(prob, labels)
    group = np.unique(p, return_inverse=True)[1]
    size = np.bincount(group)
    rate = np.bincount(group, y) / size
    recalibrated = isotonic_regression(rate, sample_weight=size, y_min=0, y_max=1)[group]
    base = float(y.mean())
    uncertainty = base * (1 - base)
    best = float(np.mean((recalibrated - y) ** 2))
    return {
        "reliability": float(np.mean((p - y) ** 2)) - best,
        "resolution": uncertainty - best,
        "uncertainty": uncertainty,
    }


def bin_of(p: np.ndarray, n_bins: int, strategy: Strategy) -> np.ndarray:
    """The bin of each probability, shape (N,), as `expected_calibration_error` describes them."""
    if n_bins < 1:
        raise ValueError(f"n_bins must be at least 1, got {n_bins}")
    if strategy not in get_args(Strategy):
        raise ValueError(f"strategy must be one of {get_args(Strategy)}, got {strategy!r}")
    edges = np.linspace(0, 1, n_bins + 1)
    if strategy == "quantile":
        edges = np.unique(np.quantile(p, edges))
    return np.searchsorted(edges[1:-1], p, side="right")


def _mean_absolute_deviation(p: np.ndarray) -> float:
    """E|count - sum of p| of labels drawn from p: the count's distribution is Poisson-binomial.

    It is built up label by label: with one more label of probability q, a count of k comes from k
    without it or k - 1 with it.
    """
    if len(p) > EXACT:
        return math.sqrt(2 / math.pi * float((p * (1 - p)).sum()))
    counts = np.ones(1)
    for q in p:
        counts = np.append(counts * (1 - q), 0) + np.append(0, counts * q)
    return float(np.abs(np.arange(len(p) + 1) - p.sum()) @ counts)


def _folded_normal_mean(mean: np.ndarray, sd: np.ndarray) -> np.ndarray:
    """E|x| of a normal x."""
    ratio = np.divide(mean, sd, out=np.full_like(mean, np.inf), where=sd > 0)
    peak = np.sqrt(2 / np.pi) * sd * np.exp(-(ratio**2) / 2)
    return peak + mean * (2 * ndtr(ratio) - 1)
