"""Whether two samples of counts in the same bins are of one distribution: PSI and KS."""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import brentq
from scipy.stats import chi2, kstwobign, ncx2

# Counts are raised by this much, so that an empty bin has a logarithm.
SMOOTHING = 0.5


class Shift(NamedTuple):
    """A measure of distance with its interval, and the p-value of there being none."""

    value: float
    low: float
    high: float
    p_value: float


def psi(reference: ArrayLike, now: ArrayLike, level: float = 0.95) -> Shift:
    """Compute the population stability index of two samples counted in the same B bins.

    PSI = sum of (q_i - p_i) ln(q_i / p_i) over the shares p of `reference` and q of `now` [1]_.
    Of one distribution, PSI / (1/m + 1/n) is chi-squared with B - 1 degrees of freedom [2]_; for
    small shifts it is noncentral with PSI_true / (1/m + 1/n), and the interval is that law
    inverted. So the interval holds the true index, while the value itself is too high by
    (B - 1) (1/m + 1/n) on average.

    Parameters
    ----------
    reference, now
        Counts, (B,) each, B at least 2. To each count `SMOOTHING` is added.
    level
        The coverage of the interval.

    Raises
    ------
    ValueError
        For counts of different or too small shape, or negative ones, or a sample of none.

    References
    ----------
    .. [1] N. Siddiqi, "Credit Risk Scorecards", 2006
    .. [2] B. Yurdakul and J. Naranjo, "Statistical properties of the population stability index",
       Journal of Risk Model Validation 14(4), 2020

    Examples
    --------
    >>> shift = psi([500, 500], [600, 400])
    >>> round(shift.value, 4)
    0.0405
    """
    m, n, p, q = _shares(reference, now, SMOOTHING)
    value, scale = float(((q - p) * np.log(q / p)).sum()), 1 / m + 1 / n
    degrees, statistic = len(p) - 1, value / scale
    ends = (_noncentrality(statistic, degrees, tail) for tail in ((1 + level) / 2, (1 - level) / 2))
    low, high = (scale * end for end in ends)
    return Shift(value, low, high, float(chi2.sf(statistic, degrees)))


def ks(reference: ArrayLike, now: ArrayLike, level: float = 0.95) -> Shift:
    """Compute the greatest distance D of two samples' distribution functions, at the bins' edges.

    Its p-value is Kolmogorov's, P(K >= D / sqrt(1/m + 1/n)), and its interval D -+ k sqrt(1/m +
    1/n) with k the `level` quantile of K: the empirical functions are no further from the true ones
    at once [1]_. Between edges D is not looked at, so that both err towards no shift.

    Parameters and errors are those of `psi`, without its smoothing.

    References
    ----------
    .. [1] N. V. Smirnov, "Table for Estimating the Goodness of Fit of Empirical Distributions",
       Annals of Mathematical Statistics 19(2), 1948

    Examples
    --------
    >>> round(ks([500, 500], [600, 400]).value, 4)
    0.1
    """
    m, n, p, q = _shares(reference, now)
    value, scale = float(np.abs(np.cumsum(p - q)).max()), math.sqrt(1 / m + 1 / n)
    reach = float(kstwobign.ppf(level)) * scale
    p_value = float(kstwobign.sf(value / scale))
    return Shift(value, max(value - reach, 0.0), min(value + reach, 1.0), p_value)


def even_bins(reference: ArrayLike, n_bins: int) -> np.ndarray:
    """Which fine bin begins each of about `n_bins` coarse ones of like share of `reference`.

    The starts are ascending and begin with 0, as `numpy.add.reduceat` wants them; fewer where one
    fine bin holds more than a coarse one's share.
    """
    counts = np.asarray(reference, float)
    reached = np.cumsum(counts) / counts.sum() * n_bins
    after = np.searchsorted(reached, np.arange(1, n_bins) - 1e-9) + 1
    starts = np.unique([0, *after[after < len(counts)]])
    # What lies beyond the last meme of the reference is no bin of its own.
    return starts[[counts[start:].sum() > 0 for start in starts]]


def _shares(
    reference: ArrayLike, now: ArrayLike, smoothing: float = 0.0
) -> tuple[float, float, np.ndarray, np.ndarray]:
    p, q = np.asarray(reference, float), np.asarray(now, float)
    if p.shape != q.shape or p.ndim != 1 or len(p) < 2:
        raise ValueError(f"counts need one shape (B,), B >= 2; got {p.shape} and {q.shape}")
    if min(p.min(), q.min()) < 0 or not p.sum() or not q.sum():
        raise ValueError("counts must be at least 0, and at least one of each sample above it")
    m, n = float(p.sum()), float(q.sum())
    p, q = p + smoothing, q + smoothing
    return m, n, p / p.sum(), q / q.sum()


def _noncentrality(statistic: float, degrees: int, tail: float) -> float:
    """The noncentrality at which the chi-squared law has `tail` of its mass below `statistic`."""

    def excess(noncentrality: float) -> float:
        return float(ncx2.cdf(statistic, degrees, noncentrality)) - tail

    if chi2.cdf(statistic, degrees) <= tail:
        return 0.0
    most = statistic + 10 * math.sqrt(statistic + degrees) + 50
    return float(brentq(excess, 1e-12, most)) if excess(most) < 0 else most
