"""Temperature scaling (Guo, Pleiss, Sun and Weinberger, ICML 2017): exact, or it says why not."""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import brentq
from scipy.special import expit, logsumexp

from lib.arrays import binary_labels, check_same_shape, finite, refuse, to_numpy

Status = Literal["ok", "separable", "uninformative", "one_class"]

# Doubles in one block of work: a pass stays in the processor's cache, and each dot product below
# the length from which OpenBLAS wakes its threads, which costs more than the product.
BLOCK = 8_192
MAX_ITERATIONS = 200
# Below this share of `wrong`, `right` is summed exactly: its sign decides the status, its digits T.
CANCELLED = 1e-4
MAX = float(np.finfo(np.float64).max)
# The binary exponent up to which the cubes of gaps can be summed.
CUBED = 256


@dataclass(frozen=True)
class TemperatureFit:
    """What `fit_temperature` found.

    `temperature` divides the logits; it is 1 unless `status` is "ok". `nll_before` and `nll_after`
    are mean negative log-likelihoods in nats, at T = 1 and at `temperature`, per example (softmax,
    margins) or per entry (sigmoid). `n` counts the examples, `iterations` the passes over them.
    After a per-label fit every field but `n` is an array of shape (L,).
    """

    temperature: float | np.ndarray
    status: Status | np.ndarray
    nll_before: float | np.ndarray
    nll_after: float | np.ndarray
    n: int
    iterations: int | np.ndarray

    @property
    def limit(self) -> float | np.ndarray:
        """Where the likelihood leads: T, 0 (separable), inf (uninformative) or NaN (one class).

        For intervals: a resample without an optimum must not count as T = 1.
        """
        ends = {"separable": 0.0, "uninformative": math.inf, "one_class": math.nan}
        if np.ndim(self.status) == 0:
            return ends.get(self.status, self.temperature)
        pairs = zip(self.status, self.temperature, strict=True)
        return np.array([ends.get(status, t) for status, t in pairs])


def prob_hate(logits: ArrayLike, temperature: float = 1.0) -> np.ndarray:
    """p(hate) at a temperature: sigmoid(z / T), shape (N,).

    `logits` is (N, 2), hate second, or binary margins (N,).
    Raises ValueError for another shape, for values that are not finite, and unless T > 0.
    """
    z = finite(logits, "logits")
    if not (math.isfinite(temperature) and temperature > 0):
        raise ValueError(f"temperature must be positive and finite, got {temperature}")
    if z.ndim == 2 and z.shape[1] == 2:
        with np.errstate(over="ignore"):
            z = z[:, 1] - z[:, 0]
    elif z.ndim != 1:
        raise ValueError(f"logits must have shape (N, 2) or (N,), got {z.shape}")
    with np.errstate(over="ignore"):
        return expit(z / temperature)


def fit_temperature(
    logits: ArrayLike, labels: ArrayLike, *, per_label: bool = False, shrinkage: float = 0.0
) -> TemperatureFit:
    """Find the T > 0 that minimises the negative log-likelihood of logits / T.

    `logits` (N, K) with integer labels (N,) is softmax; (N, L) with multi-hot labels (N, L) is
    sigmoid with one shared T, or one per label with `per_label`; (N,) with 0/1 labels (N,) is
    binary margins, log p(1) - log p(0). NumPy, pandas and torch, any floating type; float64 inside.

    The optimum is finite only if some true label is not the largest logit and the true logits
    exceed the mean logits on average; otherwise `status` says "separable" (T -> 0) or
    "uninformative" (T -> inf), or "one_class" if the labels are all the same, and T = 1.

    `shrinkage` adds that many pseudo-examples with the uniform distribution as label, Laplace's
    rule of succession: a separable small set then has a finite T, and T still scales with the
    logits.

    Raises ValueError for shapes that fit no case, for values that are empty, NaN, infinite or not
    labels (with their count and first index), and for a negative shrinkage.
    """
    z, y = _read(logits, labels)
    if not (math.isfinite(shrinkage) and shrinkage >= 0):
        raise ValueError(f"shrinkage must be finite and not negative, got {shrinkage}")
    if not per_label:
        return _fit(z, y, shrinkage)
    if y.ndim != 2:
        raise ValueError(f"per_label needs multi-hot labels (N, L), got shape {y.shape}")
    fits = [_fit(z[:, j], y[:, j], shrinkage) for j in range(z.shape[1])]
    names = ("temperature", "status", "nll_before", "nll_after", "iterations")
    return TemperatureFit(n=len(z), **{k: np.array([getattr(f, k) for f in fits]) for k in names})


def _read(logits: ArrayLike, labels: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Logits as float64; labels as indices (K > 2) or as bool (everything binary)."""
    z, y = finite(logits, "logits"), to_numpy(labels, "labels")
    if z.ndim == 2 and y.ndim == 1 and z.shape[1] >= 2:
        if len(z) != len(y):
            raise ValueError(
                f"logits has {len(z)} rows but labels has {len(y)}; pass one label per row"
            )
        return z, binary_labels(y) if z.shape[1] == 2 else _class_indices(y, z.shape[1])
    if z.ndim not in (1, 2) or z.ndim != y.ndim:
        raise ValueError(
            f"logits {z.shape} and labels {y.shape} fit no case: "
            "(N, K) with (N,) is softmax, (N, L) with (N, L) sigmoid, (N,) with (N,) margins"
        )
    check_same_shape(z, "logits", y)
    return z, binary_labels(y)


def _class_indices(y: np.ndarray, n_classes: int) -> np.ndarray:
    values = finite(y, "labels")
    bad = (values != np.floor(values)) | (values < 0) | (values >= n_classes)
    if bad.any():
        refuse(bad, "labels", f"not whole numbers from 0 to {n_classes - 1}", "label by column")
    return values.astype(np.intp)


@dataclass(frozen=True)
class _Problem:
    """A fit in terms of gaps, the largest logit minus each: find b = 1 / T with U(b) = wrong.

    The likelihood is stationary where the gap the model expects, U(b) = sum of p g over examples
    and classes, equals the gap observed at the true labels, `wrong`. U falls from `chance`, at
    uniform p, to 0, so there is exactly one root if 0 < wrong < chance. `right` is
    chance - wrong, summed without cancellation.

    `gaps` is (N, K), or (N,) where the other of two gaps is 0; they are logits times 2^-shift.
    """

    gaps: np.ndarray
    wrong: float
    right: float
    shift: int

    @property
    def chance(self) -> float:
        return self.wrong + self.right


def _fit(z: np.ndarray, y: np.ndarray, shrinkage: float) -> TemperatureFit:
    n = len(z)
    problem = _reduce(z, y)
    before = _nll(problem, 1.0)
    status = _status(problem, y, shrinkage)
    if status != "ok":
        return TemperatureFit(1.0, status, before, before, n, 0)
    b, shift, iterations = _optimum(problem, n, shrinkage)
    with np.errstate(over="ignore", under="ignore", divide="ignore"):
        t = float(np.ldexp(np.divide(1, b), shift))
    if not 0 < t < math.inf:
        # Logits near the ends of float64 can have an optimum that float64 cannot hold.
        return TemperatureFit(1.0, "separable" if t == 0 else "uninformative", before, before, n, 0)
    return TemperatureFit(t, "ok", before, _nll(problem, t), n, iterations)


def _optimum(problem: _Problem, n: int, shrinkage: float) -> tuple[float, int, int]:
    """b = 1 / T of logits times 2^-shift, that shift, and the passes; n counts the examples."""
    kept, added = n / (n + shrinkage), shrinkage / (n + shrinkage)
    target = kept * problem.wrong + added * problem.chance
    down = max(math.frexp(problem.gaps.max())[1] - CUBED, 0)
    gaps = np.ldexp(problem.gaps, -down) if down else problem.gaps
    right = math.ldexp(kept * problem.right, -down)
    if target < 1e-30 * problem.chance:
        with np.errstate(divide="ignore"):
            log_target = np.logaddexp(
                np.log(n) + np.log(problem.wrong), np.log(shrinkage) + np.log(problem.chance)
            ) - np.log(n + shrinkage)
        log_start = math.log(_tangent(gaps, right)) - down * math.log(2)
        b, iterations = _solve_minute(problem.gaps, log_target, log_start)
        return b, problem.shift, iterations
    if right == 0:
        # Logits this far apart have an optimum beyond float64.
        return 0.0, problem.shift + down, 0
    b, iterations = _solve(gaps, math.ldexp(target, -down), right)
    return b, problem.shift + down, iterations


def _status(problem: _Problem, y: np.ndarray, shrinkage: float) -> Status:
    if (y == y.flat[0]).all():
        return "one_class"
    if problem.right <= 0:
        return "uninformative"
    return "ok" if problem.wrong > 0 or shrinkage > 0 else "separable"


def _reduce(z: np.ndarray, y: np.ndarray) -> _Problem:
    shift = _shift(z)
    if shift:
        z = np.ldexp(z, -shift)
    if y.dtype == bool:
        margins = (z[:, 1] - z[:, 0] if z.ndim > y.ndim else z).ravel()
        gaps, missed = np.abs(margins), (margins > 0) != y.ravel()
        wrong = float(np.einsum("i,i->", gaps, missed))
        right = float(gaps.sum()) / 2 - wrong
        if right < CANCELLED * wrong:
            right = math.fsum(gaps * (0.5 - missed))
        return _Problem(gaps, wrong, right, shift)
    gaps = z.max(axis=1, keepdims=True) - z
    observed = gaps[np.arange(len(y)), y]
    wrong = float(observed.sum())
    right = float(gaps.mean(axis=1).sum()) - wrong
    if right < CANCELLED * wrong:
        k = z.shape[1]
        right = math.fsum(np.append(np.repeat(z[np.arange(len(y)), y], k), -z)) / k
    return _Problem(gaps, wrong, right, shift)


def _shift(z: np.ndarray) -> int:
    """The power of two that takes logits off the ends of float64, so that all can be summed."""
    exponent = math.frexp(max(z.max(), -z.min()))[1]
    return max(exponent + z.size.bit_length() - 1022, 0) + min(exponent + CUBED, 0)


def _nll(problem: _Problem, t: float) -> float:
    # By way of the exponents, because 1 / t of a subnormal t is infinite.
    fraction, exponent = math.frexp(t)
    total = 0.0
    # Logits near the ends of float64 may overflow, into a probability of exactly 0.
    with np.errstate(over="ignore"):
        b = min(float(np.ldexp(1 / fraction, problem.shift - exponent)), MAX)
        for gaps in _blocks(problem.gaps):
            e = np.exp(-b * gaps)
            total += float((np.log1p(e) if gaps.ndim == 1 else np.log(e.sum(axis=1))).sum())
    n = len(problem.gaps)
    return total / n + b * (problem.wrong / n)


def _blocks(gaps: np.ndarray) -> list[np.ndarray]:
    rows = max(BLOCK * len(gaps) // gaps.size, 1)
    return [gaps[i : i + rows] for i in range(0, len(gaps), rows)]


def _solve(gaps: np.ndarray, wrong: float, right: float) -> tuple[float, int]:
    """Find b with U(b) = wrong, that is V(b) = right for V = chance - U, by safe Halley steps.

    log U is almost linear in b when little is wrong, and log V in log b when little is right. Each
    side has sums without cancellation, so the form is chosen by which of the two is small.
    """
    flat = right < wrong
    low, high, b = 0.0, math.inf, _start(gaps, wrong, right, flat)
    for iteration in range(1, MAX_ITERATIONS + 1):
        sums = np.sum([_moments(g, b, flat) for g in _blocks(gaps)], axis=0)
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


def _solve_minute(gaps: np.ndarray, log_wrong: float, log_start: float) -> tuple[float, int]:
    """`_solve` in logarithms, for so little wrong that U would underflow on the way there."""
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
        chance = sum(_moments(g, 0.0, False)[0] for g in _blocks(sample)) / share
        if wrong + right / 2 < chance < 2 * (wrong + right):
            return _solve(sample, wrong * share, right * share)[0]
    return _tangent(gaps, right)


def _tangent(gaps: np.ndarray, right: float) -> float:
    """Where V's tangent at 0 reaches `right`: never beyond the optimum, V being concave."""
    return right / sum(_moments(g, 0.0, False)[1] for g in _blocks(gaps))


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
