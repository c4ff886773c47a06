"""Whether probabilities are calibrated on fresh labels, or as far off as they were: tests."""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import minimize
from scipy.special import expit, logit
from scipy.stats import chi2, norm

from lib.calibration.checked_input import scores_and_labels

# Closer to 0 and 1 a probability has no logit that a computer can hold.
_CLOSEST = 1e-12
# Intercept and slope of the line of perfect calibration.
_PERFECT = np.array([0.0, 1.0])


class Recalibration(NamedTuple):
    """The line logit(P) = intercept + slope logit(p) of greatest likelihood.

    `statistic` is the likelihood ratio against the line of perfect calibration, 0 and 1, and
    `p_value` its chi-squared tail. The intervals are Wald's at 95%; they and the line are NaN where
    the likelihood has no finite optimum: of one class, or of classes that p tells apart.
    """

    intercept: float
    slope: float
    intercept_interval: tuple[float, float]
    slope_interval: tuple[float, float]
    statistic: float
    p_value: float


def spiegelhalter(prob: ArrayLike, labels: ArrayLike) -> tuple[float, float]:
    """Compute Spiegelhalter's z and its two-sided p-value [1]_.

    z = sum of (y - p)(1 - 2p) over the root of the sum of (1 - 2p)^2 p (1 - p): how far the Brier
    score is from what it would be if each p were right, in standard deviations. Below 0 the
    probabilities are less sure than they might be, above 0 too sure. Both are (0, 1) where all p
    are 0, 0.5 or 1.

    Parameters
    ----------
    prob
        p(hate), shape (N,).
    labels
        0 or 1, shape (N,).

    References
    ----------
    .. [1] D. J. Spiegelhalter, "Probabilistic Prediction in Patient Management and Clinical
       Trials", Statistics in Medicine 5(5), 1986

    Examples
    --------
    >>> z, p_value = spiegelhalter([0.1] * 10, [1] + [0] * 9)
    >>> abs(round(z, 9)), round(p_value, 9)
    (0.0, 1.0)
    """
    p, y = scores_and_labels(prob, labels)
    variance = float(((1 - 2 * p) ** 2 * p * (1 - p)).sum())
    if variance == 0:
        return 0.0, 1.0
    z = float(((y - p) * (1 - 2 * p)).sum()) / math.sqrt(variance)
    return z, float(2 * norm.sf(abs(z)))


def recalibration(prob: ArrayLike, labels: ArrayLike) -> Recalibration:
    """Fit Cox's line of recalibration [1]_ and test it against perfect calibration [2]_.

    The test is of intercept 0 and slope 1 together, with two degrees of freedom. A slope below 1
    says that the probabilities are too extreme, an intercept above 0 that they are too low.

    Parameters
    ----------
    prob
        p(hate), shape (N,); those beyond 1e-12 of 0 or 1 count as that far away.
    labels
        0 or 1, shape (N,).

    References
    ----------
    .. [1] D. R. Cox, "Two further applications of a model for binary regression", Biometrika
       45(3/4), 1958
    .. [2] M. E. Miller, S. L. Hui and W. M. Tierney, "Validation techniques for logistic regression
       models", Statistics in Medicine 10(8), 1991

    Examples
    --------
    >>> line = recalibration([0.2] * 10 + [0.8] * 10, [1] * 2 + [0] * 8 + [1] * 8 + [0] * 2)
    >>> abs(round(line.intercept, 6)), round(line.slope, 6), round(line.p_value, 6)
    (0.0, 1.0, 1.0)
    """
    p, y = scores_and_labels(prob, labels)
    x = _design(p)
    line, loss = _best_line(x, y)
    statistic = max(2 * (_loss(_PERFECT, x, y) - loss), 0.0)
    p_value = float(chi2.sf(statistic, 2))
    shown = expit(x @ line)
    information = x.T @ (x * (shown * (1 - shown))[:, None])
    if _told_apart(x[:, 1], y) or np.linalg.cond(information) > 1e12:
        none = (math.nan, math.nan)
        return Recalibration(math.nan, math.nan, none, none, statistic, p_value)
    reach = norm.ppf(0.975) * np.sqrt(np.diag(np.linalg.inv(information)))
    (a, b), (da, db) = line.tolist(), reach.tolist()
    return Recalibration(a, b, (a - da, a + da), (b - db, b + db), statistic, p_value)


def recalibration_change(
    prob_then: ArrayLike, labels_then: ArrayLike, prob_now: ArrayLike, labels_now: ArrayLike
) -> tuple[float, float]:
    """Test whether two independent samples have one line of recalibration: statistic and p-value.

    The statistic is the likelihood ratio of a line each against one for both, chi-squared with two
    degrees of freedom without a change. Where the truth is no line the ratio is too large, on
    average by the mean eigenvalue of information^-1 times the squared scores [1]_, and is divided
    by that where it is above 1. A temperature stretches both samples alike and does not move the
    statistic, so that one that was fitted on the first sample needs no allowance.

    Parameters
    ----------
    prob_then, prob_now
        p(hate), shapes (M,) and (N,), as for `recalibration`.
    labels_then, labels_now
        0 or 1, shapes (M,) and (N,).

    References
    ----------
    .. [1] J. T. Kent, "Robust properties of likelihood ratio tests", Biometrika 69(1), 1982

    Examples
    --------
    Too sure by the same on both sides is no change:

    >>> prob, labels = [0.1] * 10 + [0.9] * 10, [1] * 2 + [0] * 8 + [1] * 8 + [0] * 2
    >>> round(recalibration(prob * 9, labels * 9).p_value, 4)
    0.0003
    >>> round(recalibration_change(prob, labels, prob * 9, labels * 9)[1], 4)
    1.0
    """
    samples = [
        scores_and_labels(*given) for given in ((prob_then, labels_then), (prob_now, labels_now))
    ]
    both = tuple(np.concatenate(parts) for parts in zip(*samples, strict=True))
    (_, then), (_, now), (line, together) = (_best_line(_design(p), y) for p, y in (*samples, both))
    excess = _mean_eigenvalue(_design(both[0]), both[1], line)
    statistic = max(2 * (together - then - now) / max(excess, 1.0), 0.0)
    return statistic, float(chi2.sf(statistic, 2))


def _mean_eigenvalue(x: np.ndarray, y: np.ndarray, line: np.ndarray) -> float:
    """Kent's: how much the scores vary over how much they would if the line were true."""
    shown = expit(x @ line)
    information = x.T @ (x * (shown * (1 - shown))[:, None])
    squared_scores = x.T @ (x * ((y - shown) ** 2)[:, None])
    return float(np.trace(np.linalg.pinv(information, hermitian=True) @ squared_scores)) / 2


def _design(p: np.ndarray) -> np.ndarray:
    return np.column_stack([np.ones(len(p)), logit(np.clip(p, _CLOSEST, 1 - _CLOSEST))])


def _best_line(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, float]:
    """The line of greatest likelihood and its loss, where there is none the one search ends at."""
    found = minimize(_loss, _PERFECT, (x, y), method="BFGS", jac=_gradient)
    return found.x, float(found.fun)


def _told_apart(x: np.ndarray, y: np.ndarray) -> bool:
    """Whether a cut on x has all of one class on one side and all of the other on the other."""
    hate, other = x[y == 1], x[y == 0]
    if not len(hate) or not len(other):
        return True
    return bool(hate.min() >= other.max() or other.min() >= hate.max())


def _loss(line: np.ndarray, x: np.ndarray, y: np.ndarray) -> float:
    return float(np.logaddexp(0, np.where(y == 1, -1, 1) * (x @ line)).sum())


def _gradient(line: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return x.T @ (expit(x @ line) - y)
