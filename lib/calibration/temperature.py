"""Temperature scaling (Guo, Pleiss, Sun and Weinberger, ICML 2017): exact, or it says why not."""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import expit

from lib.calibration.checked_input import binary_labels, check_same_shape, finite, refuse, to_numpy
from lib.calibration.temperature_solver import MAX, blocks, solve, solve_minute, tangent

Status = Literal["ok", "separable", "uninformative", "one_class"]

# Below this share of `wrong`, `right` is summed exactly: its sign decides the status, its digits T.
CANCELLED = 1e-4

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
        log_start = math.log(tangent(gaps, right)) - down * math.log(2)
        b, iterations = solve_minute(problem.gaps, log_target, log_start)
        return b, problem.shift, iterations
    if right == 0:
        # Logits this far apart have an optimum beyond float64.
        return 0.0, problem.shift + down, 0
    b, iterations = solve(gaps, math.ldexp(target, -down), right)
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
        for gaps in blocks(problem.gaps):
            e = np.exp(-b * gaps)
            total += float((np.log1p(e) if gaps.ndim == 1 else np.log(e.sum(axis=1))).sum())
    n = len(problem.gaps)
    return total / n + b * (problem.wrong / n)
