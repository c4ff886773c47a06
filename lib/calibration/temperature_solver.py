"""The root that a temperature fit looks for, by safe Halley steps on sums without cancellation."""

import math

import numpy as np
from scipy.optimize import brentq
from scipy.special import logsumexp

# Doubles in one block of work: a pass stays in the processor's cache, and each dot product below
# the length from which OpenBLAS wakes its threads, which costs more than the product.
BLOCK = 8_192
MAX_ITERATIONS = 200

MAX = float(np.finfo(np.float64).max)


def blocks(gaps: np.ndarray) -> list[np.ndarray]:
    rows = max(BLOCK * len(gaps) // gaps.size, 1)
    return [gaps[i : i + rows] for i in range(0, len(gaps), rows)]


def solve(gaps: np.ndarray, wrong: float, right: float) -> tuple[float, int]:
    """Find b with U(b) = wrong, that is V(b) = right for V = chance - U, by safe Halley steps.

    log U is almost linear in b when little is wrong, and log V in log b when little is right. Each
    side has sums without cancellation, so the form is chosen by which of the two is small.
    """
    flat = right < wrong
    low, high, b = 0.0, math.inf, _start(gaps, wrong, right, flat)
    for iteration in range(1, MAX_ITERATIONS + 1):
        sums = np.sum([_moments(g, b, flat) for g in blocks(gaps)], axis=0)
        value, slope, bend = sums.tolist()
        below = value < right if flat else value > wrong
        low, high = (b, high) if below else (low, b)
        new = _step(b, value, slope, bend, right if flat else wrong, flat)
        if abs(new - b) <= 1e-5 * b:
            return new, iteration
        b = new if low < new < high else _between(low, high)
    return b, iteration


def _step(b: float, value: float, slope: float, bend: float, target: float, flat: bool) -> float:
    """Halley's step in log V over log b, or in log U over b; NaN where the sums underflowed."""
    if not (value > 0 and slope > 0):
        return math.nan
    residual = math.log(value / target)
    if flat:
        first, second = b * slope / value, -b * b * bend / value
        # On a plateau the step can be anything; what exp can take is far enough.
        return b * math.exp(min(_halley(residual, first, second + first - first * first), 99.0))
    first, second = -slope / value, bend / value
    return b + _halley(residual, first, second - first * first)


def _halley(residual: float, first: float, second: float) -> float:
    newton = -residual / first
    return newton / max(1 + newton * second / (2 * first), 0.5)


def _between(low: float, high: float) -> float:
    if math.isinf(high):
        return 2 * low
    return math.sqrt(low) * math.sqrt(high) if low else high / 4


def solve_minute(gaps: np.ndarray, log_wrong: float, log_start: float) -> tuple[float, int]:
    """`solve` in logarithms, for so little wrong that U would underflow on the way there."""
    g = gaps if gaps.ndim == 2 else np.column_stack([np.zeros_like(gaps), gaps])
    with np.errstate(divide="ignore"):
        log_gaps = np.log(g)

    def residual(log_b: float) -> float:
        with np.errstate(over="ignore"):
            x = -math.exp(log_b) * g
        log_p = x - logsumexp(x, axis=1, keepdims=True)
        return float(logsumexp(log_gaps + log_p)) - log_wrong

    low = high = log_start
    while residual(high) > 0:
        low, high = high, high + 1
        if high > math.log(MAX):
            return math.inf, 0
    log_b, result = brentq(residual, low, high, xtol=1e-14, full_output=True)
    return math.exp(log_b), result.iterations


def _start(gaps: np.ndarray, wrong: float, right: float, flat: bool) -> float:
    """The optimum of a subsample of a large set, where that resembles it; else the tangent's."""
    step = len(gaps) // (2 * BLOCK)
    if step > 2:
        sample = np.ascontiguousarray(gaps[::step])
        share = len(sample) / len(gaps)
        chance = sum(_moments(g, 0.0, False)[0] for g in blocks(sample)) / share
        if wrong + right / 2 < chance < 2 * (wrong + right):
            return solve(sample, wrong * share, right * share)[0]
    return tangent(gaps, right)


def tangent(gaps: np.ndarray, right: float) -> float:
    """Where V's tangent at 0 reaches `right`: never beyond the optimum, V being concave."""
    return right / sum(_moments(g, 0.0, False)[1] for g in blocks(gaps))


def _moments(gaps: np.ndarray, b: float, flat: bool) -> tuple[float, float, float]:
    """U(b), or V(b) if `flat`, then -U' (the variance of the gaps) and U'' (their third moment)."""
    return (_binary_moments if gaps.ndim == 1 else _softmax_moments)(gaps, b, flat)


def _binary_moments(a: np.ndarray, b: float, flat: bool) -> tuple[float, float, float]:
    e = np.exp(-b * a)
    p = e / (1 + e)
    expected = a * p
    spread = expected * (a - expected)
    value = float(np.dot(a, np.tanh(b / 2 * a))) / 2 if flat else float(expected.sum())
    return value, float(spread.sum()), float(np.dot(spread, a - 2 * expected))


def _softmax_moments(g: np.ndarray, b: float, flat: bool) -> tuple[float, float, float]:
    p = np.exp(-b * g)
    p /= p.sum(axis=1, keepdims=True)
    mean = (p * g).sum(axis=1)
    away = g - mean[:, None]
    spread = p * away * away
    value = _right_gap(g, b) if flat else float(mean.sum())
    return value, float(spread.sum()), float((spread * away).sum())


def _right_gap(g: np.ndarray, b: float) -> float:
    """V(b), as a sum of terms c (e^(bc) - 1) >= 0 over centred logits c, each row normalised."""
    c = g.mean(axis=1, keepdims=True) - g
    top = b * c.max(axis=1, keepdims=True)
    x = b * c
    grown = np.exp(x - top)
    small = np.exp(-top) * np.expm1(np.minimum(x, 1))
    terms = c * np.where(x < 1, small, grown - np.exp(-top))
    return float((terms.sum(axis=1) / grown.sum(axis=1)).sum())
