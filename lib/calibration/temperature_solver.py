"""The equation behind a temperature fit, U(b) = wrong with b = 1 / T, and its solution.

`temperature` reduces a fit to gaps g >= 0, the largest logit of an example minus each of its
logits. At p proportional to e^(-b g), U(b) is the expected gap, the sum of p g over examples and
classes. It falls from `chance` at b = 0 towards 0, so it takes each value between just once. The
same equation from the other end is V(b) = right, with V = chance - U and right = chance - wrong.

By hand, for one example with the gaps 0 and 2: p of the gap 2 is 1 / (1 + e^(2b)), so
U(b) = 2 / (1 + e^(2b)), chance = U(0) = 1 and V(b) = tanh(b).

>>> gaps = np.array([2.0])
>>> [round(_moments(gaps, b, use_v=False)[0], 4) for b in (0.0, 1.0, 5.0)]
[1.0, 0.2384, 0.0001]

Both ends have a form that is almost a straight line, where Newton's and Halley's method need few
steps. For large b, U is about 2 e^(-2b), and log U about 0.69 - 2b: at b = 5, 6 and 7 it is -9.31,
-11.31 and -13.31. For small b, V is about b, so log V is about log b. `solve` takes log U over b
if less is wrong than right and log V over log b otherwise, which is also the form whose sums do
not cancel: at b = 1e-20, chance - U(b) is 0 in floating point, but tanh(b) is 1e-20.

>>> _moments(gaps, 1e-20, use_v=True)[0], 1 - _moments(gaps, 1e-20, use_v=False)[0]
(1e-20, 0.0)

To find U(b) = 1/2, which is e^(2b) = 3 and b = log(3) / 2:

>>> b, passes = solve(gaps, wrong=0.5, right=0.5)
>>> round(b, 12) == round(math.log(3) / 2, 12), passes <= 5
(True, True)
"""

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
    """Divide gaps, (N,) or (N, K), into views of whole examples with about BLOCK values."""
    rows = max(BLOCK * len(gaps) // gaps.size, 1)
    return [gaps[i : i + rows] for i in range(0, len(gaps), rows)]


def solve(gaps: np.ndarray, wrong: float, right: float) -> tuple[float, int]:
    """Find b with U(b) = wrong, that is V(b) = right, and the number of passes over the gaps.

    Halley's method, safeguarded: `low` and `high` enclose the root, and a step that leaves them is
    replaced by their middle. A step of less than 1e-5 b is the last, because Halley's method
    converges cubically: what remains is of the order of 1e-15.
    """
    use_v = right < wrong
    low, high, b = 0.0, math.inf, _start(gaps, wrong, right, use_v)
    for iteration in range(1, MAX_ITERATIONS + 1):
        sums = np.sum([_moments(g, b, use_v) for g in blocks(gaps)], axis=0)
        value, slope, curvature = sums.tolist()
        below = value < right if use_v else value > wrong
        low, high = (b, high) if below else (low, b)
        new = _step(b, value, slope, curvature, right if use_v else wrong, use_v)
        if abs(new - b) <= 1e-5 * b:
            return new, iteration
        b = new if low < new < high else _middle(low, high)
    return b, iteration


def _step(
    b: float, value: float, slope: float, curvature: float, target: float, use_v: bool
) -> float:
    """Halley's step in log V over log b, or in log U over b; NaN where the sums underflowed.

    `slope` and `curvature` are -U' and U'', which by the chain rule give the derivatives of either
    logarithm.
    """
    if not (value > 0 and slope > 0):
        return math.nan
    residual = math.log(value / target)
    if use_v:
        first, second = b * slope / value, -b * b * curvature / value
        # On a plateau the step can be anything; what exp can take is far enough.
        return b * math.exp(min(_halley(residual, first, second + first - first * first), 99.0))
    first, second = -slope / value, curvature / value
    return b + _halley(residual, first, second - first * first)


def _halley(residual: float, first: float, second: float) -> float:
    newton = -residual / first
    # Where the curvature would more than double or reverse Newton's step, it is no guide.
    return newton / max(1 + newton * second / (2 * first), 0.5)


def _middle(low: float, high: float) -> float:
    """The geometric mean, as b spans many orders of magnitude; outwards while an end is unknown."""
    if math.isinf(high):
        return 2 * low
    return math.sqrt(low) * math.sqrt(high) if low else high / 4


def solve_in_logs(gaps: np.ndarray, log_wrong: float, log_start: float) -> tuple[float, int]:
    """`solve` for so little wrong that U(b) would underflow, from the logarithm of `wrong`.

    For one gap of 2 and log(wrong) = -2000, far below what exp can represent, U is 2 e^(-2b):

    >>> b, _ = solve_in_logs(np.array([2.0]), -2000.0, log_start=0.0)
    >>> round(b - (2000 + math.log(2)) / 2, 6)
    0.0
    """
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


def _start(gaps: np.ndarray, wrong: float, right: float, use_v: bool) -> float:
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
    """Where V's tangent at b = 0 reaches `right`: never beyond the root, as V is concave.

    One gap of 2 has V = tanh(b), whose tangent is b itself:

    >>> tangent(np.array([2.0]), right=0.5) <= math.atanh(0.5)
    True
    """
    return right / sum(_moments(g, 0.0, False)[1] for g in blocks(gaps))


def _moments(gaps: np.ndarray, b: float, use_v: bool) -> tuple[float, float, float]:
    """U(b), or V(b) if `use_v`; then -U' (the gaps' variance) and U'' (their third moment).

    Gaps (N,) are the second of two, the first being 0; gaps (N, K) are of all K classes.
    """
    return (_binary_moments if gaps.ndim == 1 else _softmax_moments)(gaps, b, use_v)


def _binary_moments(a: np.ndarray, b: float, use_v: bool) -> tuple[float, float, float]:
    x = -b * a
    e = np.exp(x)
    above = 1 + e
    expected = a * (e / above)
    spread = expected * (a - expected)
    if use_v:
        # 1 - e loses the digits of a small x; expm1 keeps them and takes three times as long.
        fall = 1 - e if x.min() < -0.01 else -np.expm1(x)
        value = float(np.dot(a, fall / above)) / 2
    else:
        value = float(expected.sum())
    return value, float(spread.sum()), float(np.dot(spread, a - 2 * expected))


def _softmax_moments(g: np.ndarray, b: float, use_v: bool) -> tuple[float, float, float]:
    p = np.exp(-b * g)
    p /= p.sum(axis=1, keepdims=True)
    mean = (p * g).sum(axis=1)
    away = g - mean[:, None]
    spread = p * away * away
    value = _right_gap(g, b) if use_v else float(mean.sum())
    return value, float(spread.sum()), float((spread * away).sum())


def _right_gap(g: np.ndarray, b: float) -> float:
    """V(b) without cancellation, of gaps (N, K).

    With c, the mean gap minus each gap, V of one example is the sum of c e^(bc) over that of
    e^(bc). As the c add up to 0, each term may be c (e^(bc) - 1), which is never negative. All
    exponents are taken relative to the largest, so that none overflows.
    """
    c = g.mean(axis=1, keepdims=True) - g
    top = b * c.max(axis=1, keepdims=True)
    x = b * c
    grown = np.exp(x - top)
    small = np.exp(-top) * np.expm1(np.minimum(x, 1))
    terms = c * np.where(x < 1, small, grown - np.exp(-top))
    return float((terms.sum(axis=1) / grown.sum(axis=1)).sum())
