"""Temperature scaling: the exact optimum, or a status that says why there is none.

Dividing all logits by one T > 0 changes how sure a model is but not what it predicts, and T is
chosen to make the labels most likely. `temperature_problem` states that as one equation, with an
example to follow by hand, and `temperature_solver` solves it.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import expit

from lib.calibration.checked_input import binary_labels, check_same_shape, finite, refuse, to_numpy
from lib.calibration.temperature_problem import Problem, Status


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

        >>> fit_temperature([3.0, -1.0], [1, 0]).limit
        0.0
        """
        ends: dict[str, float | np.ndarray] = {
            "separable": 0.0,
            "uninformative": math.inf,
            "one_class": math.nan,
        }
        if isinstance(self.status, str):
            return ends.get(self.status, self.temperature)
        pairs = zip(self.status, np.asarray(self.temperature), strict=True)
        return np.array([ends.get(status, t) for status, t in pairs])


def prob_hate(logits: ArrayLike, temperature: float = 1.0) -> np.ndarray:
    """Return the probability of hate at a temperature, sigmoid(z / T).

    Parameters
    ----------
    logits
        Shape (N, 2), hate second, or binary margins, hate minus the other, shape (N,).
    temperature
        T > 0; 1 leaves the model as it is, a larger one makes it less sure.

    Returns
    -------
    p(hate), shape (N,).

    Raises
    ------
    ValueError
        For logits of another shape, empty or not finite, and for a temperature that is not positive
        and finite.

    Examples
    --------
    >>> prob_hate([[0.0, 2.0], [1.0, 1.0]], temperature=2.0).round(4).tolist()
    [0.7311, 0.5]
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
    """Find the T > 0 that minimises the negative log-likelihood of logits / T [1]_.

    The optimum is finite only if some true label is not the largest logit and the true logits
    exceed the mean logits on average. Otherwise T = 1, and the status is "separable" (T -> 0),
    "uninformative" (T -> infinity), or "one_class" if the labels are all the same.

    Parameters
    ----------
    logits
        Shape (N, K) for softmax, (N, L) for independent sigmoids, or (N,) for binary margins,
        log p(1) - log p(0). NumPy, pandas or torch, of any floating type; computed in float64.
    labels
        Integer classes (N,) for softmax, multi-hot (N, L) for sigmoids, 0 or 1 (N,) for margins.
    per_label
        For multi-hot labels: fit a temperature for each label instead of a shared one.
    shrinkage
        How many pseudo-examples to add that have the uniform distribution as label, Laplace's rule
        of succession. A small separable set then has a finite T, which still scales with the
        logits.

    Returns
    -------
    The temperature, its status, and the negative log-likelihood before and after.

    Raises
    ------
    ValueError
        For shapes that fit no case, for values that are empty, not finite or not labels, and for a
        negative shrinkage.

    References
    ----------
    .. [1] C. Guo, G. Pleiss, Y. Sun and K. Q. Weinberger, "On Calibration of Modern Neural
       Networks", ICML 2017

    Examples
    --------
    Three of four equal margins are right, so the optimum is sigmoid(2 / T) = 3/4:

    >>> fit = fit_temperature([2.0, 2.0, -2.0, 2.0], [1, 1, 0, 0])
    >>> round(fit.temperature, 4), fit.status
    (1.8205, 'ok')
    >>> prob_hate([2.0], fit.temperature).round(4).tolist()
    [0.75]

    Without a mistake the likelihood rises for ever as T falls, unless shrinkage holds it:

    >>> fit_temperature([2.0, -2.0], [1, 0]).status
    'separable'
    >>> round(fit_temperature([2.0, -2.0], [1, 0], shrinkage=1).temperature, 4)
    1.2427
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


def calibrated_loss(logits: ArrayLike, labels: ArrayLike) -> float:
    """The negative log-likelihood that is left at the best temperature, in nats per example.

    What a model knows, whatever it is sure of: the refinement error of Berta et al. [1]_, by which
    to choose an epoch or a model that is to be calibrated later. A pseudo-example (`shrinkage` 1)
    keeps scores without a mistake comparable. Scores that speak against their labels
    count as log 2, what no score at all gives; labels of one class as the loss at T = 1.

    Parameters
    ----------
    logits
        Shape (N, K) for softmax, or (N,) for binary margins.
    labels
        Integer classes (N,), 0 or 1 for margins.

    Returns
    -------
    The loss, at least 0; lower is better.

    Raises
    ------
    ValueError
        As `fit_temperature`.

    References
    ----------
    .. [1] E. Berta, D. Holzmüller, M. I. Jordan and F. Bach, "Rethinking Early Stopping: Refine,
       Then Calibrate", 2025

    Examples
    --------
    Three of four equal margins are right, whatever their size:

    >>> [round(calibrated_loss([m, m, -m, m], [1, 1, 0, 0]), 4) for m in (0.1, 2.0, 9.0)]
    [0.5685, 0.5685, 0.5685]
    """
    fit = fit_temperature(logits, labels, shrinkage=1)
    return math.log(2) if fit.status == "uninformative" else float(fit.nll_after)


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


def _fit(z: np.ndarray, y: np.ndarray, shrinkage: float) -> TemperatureFit:
    n = len(z)
    problem = Problem.of(z, y)
    status = "one_class" if (y == y.flat[0]).all() else problem.status(shrinkage)
    if status != "ok":
        before = problem.nll(1.0)
        return TemperatureFit(1.0, status, before, before, n, 0)
    t, passes, before, after = problem.optimum(n, shrinkage)
    if not 0 < t < math.inf:
        # Logits near the ends of float64 can have an optimum that float64 cannot hold.
        return TemperatureFit(1.0, "separable" if t == 0 else "uninformative", before, before, n, 0)
    return TemperatureFit(t, "ok", before, after, n, passes)
