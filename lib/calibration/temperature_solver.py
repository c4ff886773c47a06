"""The equation behind a temperature fit, U(b) = wrong with b = 1 / T, and its solution.

`temperature` reduces a fit to gaps g >= 0, the largest logit of an example minus each of its
logits. At p proportional to e^(-b g), U(b) is the expected gap, the sum of p g over examples and
classes. It falls from `chance` at b = 0 towards 0, so it takes each value between just once. The
same equation from the other end is V(b) = right, with V = chance - U and right = chance - wrong.

By hand, for one example with the gaps 0 and 2: p of the gap 2 is 1 / (1 + e^(2b)), so
U(b) = 2 / (1 + e^(2b)), chance = U(0) = 1 and V(b) = tanh(b).

>>> gaps = np.array([2.0])
>>> [round(_moments(gaps, b, use_v=False).value, 4) for b in (0.0, 1.0, 5.0)]
[1.0, 0.2384, 0.0001]

Both ends have a form that is almost a straight line, where Newton's and Halley's method need few
steps. For large b, U is about 2 e^(-2b), and log U about 0.69 - 2b: at b = 5, 6 and 7 it is -9.31,
-11.31 and -13.31. For small b, V is about b, so log V is about log b. `solve` takes log U over b
if less is wrong than right and log V over log b otherwise, which is also the form whose sums do
not cancel: at b = 1e-20, chance - U(b) is 0 in floating point, but tanh(b) is 1e-20.

>>> _moments(gaps, 1e-20, use_v=True).value, 1 - _moments(gaps, 1e-20, use_v=False).value
(1e-20, 0.0)

To find U(b) = 1/2, which is e^(2b) = 3 and b = log(3) / 2:

>>> root = solve(gaps, wrong=0.5, right=0.5)
>>> round(root.b, 12) == round(math.log(3) / 2, 12), root.passes <= 5
(True, True)

What takes the time of a pass is e^(-b g), from which the negative log-likelihood needs just a
logarithm more: L(b), the sum of log(sum of e^(-b g)). Each pass has both, and as L' = -U, what the
last pass says of the moments gives L at the root, a hundred-thousandth of b away:

>>> round(root.log_sum, 12) == round(math.log(1 + 1 / 3), 12)
True
"""

import math
from typing import NamedTuple

import numpy as np
from scipy.optimize import brentq
from scipy.special import logsumexp

# Doubles in one block of work: a pass stays in the processor's cache, and each dot product below
# the length from which OpenBLAS wakes its threads, which costs more than the product.
BLOCK = 8_192
MAX_ITERATIONS = 200

# So many values in the product whose logarithm `sum_of_log1p` takes; each is at most 2.
FACTORS = 64

MAX = float(np.finfo(np.float64).max)


def blocks(gaps: np.ndarray) -> list[np.ndarray]:
    """Divide gaps, (N,) or (N, K), into views of whole examples with about BLOCK values."""
    rows = max(BLOCK * len(gaps) // gaps.size, 1)
    return [gaps[i : i + rows] for i in range(0, len(gaps), rows)]


class Sums(NamedTuple):
    """U(b), or V(b); -U' (the gaps' variance); U'' (their third moment); and L(b)."""

    value: float
    slope: float
    curvature: float
    log_sum: float


class Root(NamedTuple):
    """The b that solves the equation, the passes over the gaps that it took, and L(b)."""

    b: float
    passes: int
    log_sum: float


def solve(gaps: np.ndarray, wrong: float, right: float, at_1: Sums | None = None) -> Root:
    """Find b with U(b) = wrong, that is V(b) = right.

    Halley's method, safeguarded: `low` and `high` enclose the root, and a step that leaves them is
    replaced by their middle. A step of less than 1e-5 b is the last, because Halley's method
    converges cubically: what remains is of the order of 1e-15.

    `at_1` is what `sums` says of b = 1, if it is known: then the search begins there, unless the
    root is far away.
    """
    use_v = right < wrong
    low, high = 0.0, math.inf
    start = _start(gaps, wrong, right)
    found, b = (at_1, 1.0) if at_1 and start > 0.05 else (None, start)
    step = math.inf
    for iteration in range(1, MAX_ITERATIONS + 1):
        # After a short step the next pass is likely the last, whose L(b) is wanted.
        found = found or sums(gaps, b, use_v, with_log=abs(step) < 0.1 * b)
        below = found.value < right if use_v else found.value > wrong
        low, high = (b, high) if below else (low, b)
        new = _step(b, found, right if use_v else wrong, use_v)
        step = new - b
        if abs(step) <= 1e-5 * b:
            return Root(new, iteration, _log_sum_near(found, step, wrong + right, use_v))
        if found is at_1 and not new >= start:
            new = start
        b, found = new if low < new < high else _middle(low, high), None
    return Root(b, iteration, math.nan)


def sums(gaps: np.ndarray, b: float, use_v: bool, with_log: bool = True) -> Sums:
    """One pass over all gaps, (N,) or (N, K), at b; L(b) is NaN where it is not asked for."""
    found = [_moments(g, b, use_v, with_log) for g in blocks(gaps)]
    return Sums(*np.sum(found, axis=0).tolist())


def _log_sum_near(found: Sums, step: float, chance: float, use_v: bool) -> float:
    """L(b + step) by its Taylor series, whose next term is of the order of step^4."""
    u = chance - found.value if use_v else found.value
    return found.log_sum - step * (u - step * (found.slope / 2 - step * found.curvature / 6))


def _step(b: float, found: Sums, target: float, use_v: bool) -> float:
    """Halley's step in log V over log b, or in log U over b; NaN where the sums underflowed.

    By the chain rule the derivatives of U give those of either logarithm.
    """
    value, slope, curvature, _ = found
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


def solve_in_logs(gaps: np.ndarray, log_wrong: float, log_start: float) -> Root:
    """`solve` for so little wrong that U(b) would underflow, from the logarithm of `wrong`.

    For one gap of 2 and log(wrong) = -2000, far below what exp can represent, U is 2 e^(-2b):

    >>> root = solve_in_logs(np.array([2.0]), -2000.0, log_start=0.0)
    >>> round(root.b - (2000 + math.log(2)) / 2, 6)
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
            return Root(math.inf, 0, math.nan)
    log_b, result = brentq(residual, low, high, xtol=1e-14, full_output=True)
    return Root(math.exp(log_b), result.iterations, math.nan)


def is_large(gaps: np.ndarray) -> bool:
    """Whether a subsample is so much smaller that its optimum is the best place to begin."""
    return len(gaps) // (2 * BLOCK) > 2


def _start(gaps: np.ndarray, wrong: float, right: float) -> float:
    """The optimum of a subsample of a large set, where that resembles it; else the tangent's."""
    if is_large(gaps):
        sample = np.ascontiguousarray(gaps[:: len(gaps) // (2 * BLOCK)])
        share = len(sample) / len(gaps)
        chance = sum(_moments(g, 0.0, False).value for g in blocks(sample)) / share
        if wrong + right / 2 < chance < 2 * (wrong + right):
            return solve(sample, wrong * share, right * share).b
    return tangent(gaps, right)


def tangent(gaps: np.ndarray, right: float) -> float:
    """Where V's tangent at b = 0 reaches `right`: never beyond the root, as V is concave.

    One gap of 2 has V = tanh(b), whose tangent is b itself:

    >>> tangent(np.array([2.0]), right=0.5) <= math.atanh(0.5)
    True
    """
    if gaps.ndim == 1:
        # Two equally likely gaps 0 and a have the variance a^2 / 4.
        return right / (sum(float(np.dot(a, a)) for a in blocks(gaps)) / 4)
    return right / sum(float(g.var(axis=1).sum()) for g in blocks(gaps))


def _moments(gaps: np.ndarray, b: float, use_v: bool, with_log: bool = False) -> Sums:
    """The sums of a block. With `use_v`, V(b) stands in the place of U(b).

    Gaps (N,) are the second of two, the first being 0; gaps (N, K) are of all K classes.
    """
    return (_binary_moments if gaps.ndim == 1 else _softmax_moments)(gaps, b, use_v, with_log)


def _binary_moments(a: np.ndarray, b: float, use_v: bool, with_log: bool) -> Sums:
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
    third = float(np.dot(spread, a - 2 * expected))
    return Sums(value, float(spread.sum()), third, sum_of_log1p(e) if with_log else math.nan)


def _softmax_moments(g: np.ndarray, b: float, use_v: bool, with_log: bool) -> Sums:
    p = np.exp(-b * g)
    total = p.sum(axis=1, keepdims=True)
    p /= total
    mean = (p * g).sum(axis=1)
    away = g - mean[:, None]
    spread = p * away * away
    value = _right_gap(g, b) if use_v else float(mean.sum())
    third = float((spread * away).sum())
    logs = float(np.log(total).sum()) if with_log else math.nan
    return Sums(value, float(spread.sum()), third, logs)


def log_sum(gaps: np.ndarray, b: float) -> float:
    """L(b) alone, of gaps (N,) or (N, K).

    >>> round(math.exp(log_sum(np.array([2.0]), math.log(3) / 2)), 12)
    1.333333333333
    """
    total = 0.0
    # Logits near the ends of float64 may overflow, into a probability of exactly 0.
    with np.errstate(over="ignore"):
        for part in blocks(gaps):
            e = np.exp(-b * part)
            total += sum_of_log1p(e) if e.ndim == 1 else float(np.log(e.sum(axis=1)).sum())
    return total


def sum_of_log1p(e: np.ndarray) -> float:
    """The sum of log(1 + e) over e (N,) within [0, 1].

    Many terms are the logarithms of products of `FACTORS` of them, a logarithm being slow where
    NumPy has no vector instructions for it. A product drops what 1 + e drops of a tiny e, so small
    sums are added up term by term.
    """
    whole = len(e) // FACTORS * FACTORS
    if whole >= 1024:
        products = (1 + e[:whole]).reshape(FACTORS, -1).prod(axis=0)
        total = float(np.log(products).sum())
        if total > 0.01 * whole:
            return total + float(np.log1p(e[whole:]).sum())
    return float(np.log1p(e).sum())


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
