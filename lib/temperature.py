"""Temperature scaling (Guo, Pleiss, Sun and Weinberger, ICML 2017): exact, or it says why not."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import expit

from lib.arrays import binary_labels, check_same_shape, finite, refuse

Status = Literal["ok", "separable", "uninformative", "one_class"]


@dataclass(frozen=True)
class TemperatureFit:
    """What `fit_temperature` found.

    `temperature` divides the logits; it is 1 unless `status` is "ok". `nll_before` and `nll_after`
    are mean negative log-likelihoods in nats, at T = 1 and at `temperature`, per example (softmax,
    margins) or per label (sigmoid). `n` counts the examples, `iterations` the Newton steps.
    After a per-label fit every field but `n` is an array of shape (L,).
    """

    temperature: float | np.ndarray
    status: Status | np.ndarray
    nll_before: float | np.ndarray
    nll_after: float | np.ndarray
    n: int
    iterations: int | np.ndarray


def prob_hate(logits: ArrayLike, temperature: float = 1.0) -> np.ndarray:
    """p(hate) at a temperature: sigmoid(z / T), shape (N,).

    `logits` is (N, 2), hate second, or binary margins (N,).
    Raises ValueError for another shape, for values that are not finite, and unless T > 0.
    """
    z = finite(logits, "logits")
    if not (math.isfinite(temperature) and temperature > 0):
        raise ValueError(f"temperature must be positive and finite, got {temperature}")
    if z.ndim == 2 and z.shape[1] == 2:
        z = z[:, 1] / temperature - z[:, 0] / temperature
    elif z.ndim == 1:
        z = z / temperature
    else:
        raise ValueError(f"logits must have shape (N, 2) or (N,), got {z.shape}")
    return expit(z)


def fit_temperature(
    logits: ArrayLike, labels: ArrayLike, *, per_label: bool = False, shrinkage: float = 0.0
) -> TemperatureFit:
    """Find the T > 0 that minimises the negative log-likelihood of logits / T.

    `logits` (N, K) with integer labels (N,) is softmax; (N, L) with multi-hot labels (N, L) is
    sigmoid with one shared T, or one per label with `per_label`; (N,) with 0/1 labels (N,) is
    binary margins, log p(1) - log p(0).

    `shrinkage` adds that many pseudo-examples with the uniform distribution as label, Laplace's
    rule: a separable small set then has a finite T, and scaling the logits still scales T.
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
    z = finite(logits, "logits")
    y = finite(labels, "labels")
    if z.ndim == 2 and y.ndim == 1 and z.shape[1] >= 2:
        if len(z) != len(y):
            raise ValueError(
                f"logits has {len(z)} rows but labels has {len(y)}; pass one label per row"
            )
        bad = (y < 0) | (y >= z.shape[1]) | (y != np.floor(y))
        if bad.any():
            k = z.shape[1] - 1
            refuse(bad, "labels", f"not whole numbers from 0 to {k}", "label the logits' columns")
        return z, y.astype(np.intp)
    if z.ndim not in (1, 2) or z.ndim != y.ndim:
        raise ValueError(
            f"logits {z.shape} and labels {y.shape} fit no case: "
            "(N, K) with (N,) is softmax, (N, L) with (N, L) sigmoid, (N,) with (N,) margins"
        )
    check_same_shape(z, "logits", y)
    return z, binary_labels(y)


@dataclass(frozen=True)
class _Problem:
    """A fit, reduced to gaps to the largest logit: solve U(b) = wrong for b = 1 / T.

    The likelihood's derivative vanishes where the gap the model expects, U(b) = sum of p g, equals
    the gap observed at the true labels, `wrong`. U falls from `chance` (uniform p) to 0, so there
    is one root exactly if 0 < wrong < chance. `right` is chance - wrong, summed without
    cancellation.
    """

    gaps: np.ndarray
    wrong: float
    chance: float
    right: float
    scale: float


def _fit(z: np.ndarray, y: np.ndarray, shrinkage: float) -> TemperatureFit:
    n = len(z)
    problem = _reduce(z, y)
    before = _nll(problem, 1.0)
    status = _status(problem, y, shrinkage)
    if status != "ok":
        return TemperatureFit(1.0, status, before, before, n, 0)
    weight = shrinkage / (n + shrinkage)
    target = (1 - weight) * problem.wrong + weight * problem.chance
    b, iterations = _solve(problem, target, (1 - weight) * problem.right)
    t = problem.scale / b
    if not (math.isfinite(t) and t > 0):
        return TemperatureFit(1.0, "uninformative" if t else "separable", before, before, n, 0)
    return TemperatureFit(t, "ok", before, _nll(problem, t), n, iterations)


def _status(problem: _Problem, y: np.ndarray, shrinkage: float) -> Status:
    if (y == y.flat[0]).all():
        return "one_class"
    if problem.right <= 0:
        return "uninformative"
    return "ok" if problem.wrong > 0 or shrinkage > 0 else "separable"


def _reduce(z: np.ndarray, y: np.ndarray) -> _Problem:
    # A power of two costs no rounding, so T(c z) = c T(z) holds to the last bit for such c.
    scale = math.ldexp(1.0, math.frexp(float(max(z.max(), -z.min())))[1])
    z = z / scale if scale else z
    if y.dtype != bool and z.shape[1] == 2:
        z, y = z[:, 1] - z[:, 0], y == 1
    if y.dtype == bool:
        signed = np.where(y, z, -z).ravel()
        gaps = np.abs(signed)
        wrong = -np.minimum(signed, 0).sum()
        right = _careful_sum(signed) / 2
        return _Problem(gaps, float(wrong), float(gaps.sum()) / 2, right, scale or 1.0)
    gaps = z.max(axis=1, keepdims=True) - z
    observed = gaps[np.arange(len(y)), y]
    right = _careful_sum(gaps.mean(axis=1) - observed)
    return _Problem(gaps, float(observed.sum()), float(gaps.mean(axis=1).sum()), right, scale)


def _careful_sum(terms: np.ndarray) -> float:
    total = float(terms.sum())
    # Its sign decides the status, so a sum near zero is taken exactly.
    return math.fsum(terms) if abs(total) < 1e-6 * float(np.abs(terms).sum()) else total


def _nll(problem: _Problem, t: float) -> float:
    b = problem.scale / t
    if problem.gaps.ndim == 1:
        losses = np.log1p(np.exp(-b * problem.gaps))
    else:
        losses = np.log(np.exp(-b * problem.gaps).sum(axis=1))
    return float(losses.mean() + b * (problem.wrong / len(losses)))


def _solve(problem: _Problem, target: float, right: float) -> tuple[float, int]:
    moments: Callable = _binary_moments if problem.gaps.ndim == 1 else _softmax_moments
    flat = right < target
    low, high = 0.0, math.inf
    curvature = moments(problem.gaps, 0.0, flat)[1]
    b = right / curvature
    for iteration in range(1, 200):
        value, slope = moments(problem.gaps, b, flat)
        if flat:
            new = b * math.exp(math.log(right / value) * value / (b * slope))
            low, high = (b, high) if value < right else (low, b)
        else:
            new = b + math.log(value / target) * value / slope
            low, high = (b, high) if value > target else (low, b)
        if abs(new - b) <= 1e-9 * b:
            return new, iteration
        if not low < new < high:
            new = 2 * low if math.isinf(high) else (low + high) / 2
        b = new
    return b, iteration


def _binary_moments(a: np.ndarray, b: float, flat: bool) -> tuple[float, float]:
    e = np.exp(-b * a)
    s = e / (1 + e)
    slope = float(np.dot(a * a, s * (1 - s)))
    if flat:
        return float(np.dot(a, np.tanh(b / 2 * a))) / 2, slope
    return float(np.dot(a, s)), slope


def _softmax_moments(g: np.ndarray, b: float, flat: bool) -> tuple[float, float]:
    p = np.exp(-b * g)
    p /= p.sum(axis=1, keepdims=True)
    mean = (p * g).sum(axis=1)
    slope = float((p * (g - mean[:, None]) ** 2).sum())
    if flat:
        return float((g.mean(axis=1) - mean).sum()), slope
    return float(mean.sum()), slope
