"""How sure a sample lets us be: bootstrap intervals of metrics, differences and tuned numbers."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from lib.calibration.auroc import Interval, auroc_difference, auroc_interval, group_numbers
from lib.calibration.average_precision import average_precision_interval
from lib.calibration.checked_input import (
    binary_labels,
    check_same_shape,
    finite,
    scores_and_labels,
)
from lib.calibration.metrics import threshold_like
from lib.calibration.resampled_statistics import CHUNK, Sums, specify

Statistic = str | Callable[[np.ndarray, np.ndarray], float | np.ndarray]

# Above this many examples the AUROC and the average precision have their intervals in closed form:
# they are equally wide there, and resampling so many takes minutes.
LARGE = 20_000


def bootstrap_ci(
    prob: ArrayLike,
    labels: ArrayLike,
    statistic: Statistic,
    n_resamples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
    *,
    threshold: float = 0.5,
    groups: ArrayLike | None = None,
) -> Interval:
    """Compute the bootstrap percentile interval of a statistic [1]_ over resampled examples.

    Examples that share a text or a picture are not independent: with `groups` whole groups are
    resampled, which is wider and right [2]_.

    Resamples in which a statistic is undefined (NaN; for functions, those with one class only) are
    left out. The ends are resampled values, rounded outwards, so infinite ones are kept. The AUROC
    and the average precision of more than 20,000 examples are not resampled: their intervals are
    those of `auroc_interval` and `average_precision_interval`.

    Parameters
    ----------
    prob
        p(hate), shape (N,). For a function, logits, (N,) or (N, K), may stand in its place, so that
        what was tuned on them is tuned again in each resample.
    labels
        0 or 1, shape (N,).
    statistic
        accuracy, precision, recall, f1 or macro_f1 at `threshold`, or ece, brier, nll, auroc or
        average_precision, all vectorised; or a function of resampled (prob, labels) that returns a
        number or an array (k,).
    n_resamples
        At least 1.
    seed
        The same seed gives the same interval.
    level
        The share of resamples within the interval, between 0 and 1.
    threshold
        For the first five statistics: `prob >= threshold` is positive.
    groups
        The group of each example, (N,) names or numbers; None: every example is one of its own.

    Returns
    -------
    The statistic of the sample and the ends of its interval.

    Raises
    ------
    ValueError
        For input that is empty, of different shapes, not finite, outside [0, 1] or not 0/1, for a
        statistic that is not named above, and for options out of range.

    References
    ----------
    .. [1] B. Efron, "Bootstrap Methods: Another Look at the Jackknife", Annals of Statistics 7(1),
       1979
    .. [2] A. C. Davison and D. V. Hinkley, "Bootstrap Methods and their Application", section 3.8,
       1997

    Examples
    --------
    Three of four decisions are right, so the number of right ones in a resample is binomial: 0 in
    0.4%, 1 in 4.7% and 4 in 32% of all.

    >>> bootstrap_ci([0.1, 0.2, 0.9, 0.8], [0, 0, 1, 0], "accuracy")
    Interval(point=0.75, low=0.25, high=1.0)

    A threshold chosen on the sample, and its F1, chosen again in each resample:

    >>> from lib.calibration.thresholds import best_threshold
    >>> def chosen(p, y):
    ...     best = best_threshold(p, y)
    ...     return np.array([best.threshold, best.f1])
    >>> bootstrap_ci([0.2, 0.4, 0.6, 0.9], [0, 1, 0, 1], chosen).point.round(4).tolist()
    [0.3, 0.8]
    """
    check_resampling(n_resamples, level)
    rng = np.random.Generator(np.random.SFC64(seed))
    if callable(statistic):
        z, y = _read_any(prob, labels)
        draws = _draws(y, n_resamples, rng, members_of(groups, len(y)))
        values = np.array([statistic(z[i], y[i]) for i in draws])
        return interval_of(np.asarray(statistic(z, y), np.float64), values, level)
    p, y = scores_and_labels(prob, labels)
    if statistic == "auroc" and len(y) > LARGE:
        return auroc_interval(p, y, level, groups=groups)
    if statistic == "average_precision" and len(y) > LARGE:
        return average_precision_interval(p, y, level, groups=groups)
    spec = specify(statistic, p, y, threshold_like(prob, threshold))
    if isinstance(spec, Sums):
        if groups is None:
            return interval_of(spec.point, spec.resample(n_resamples, rng), level)
        units = units_of(groups, len(y))
        of_units = spec.of_units(units)
        drawn = [of_units(w) for w in draw_units(units.max() + 1, n_resamples, rng)]
        return interval_of(spec.point, np.concatenate(drawn), level)
    counts = draw_counts(n_resamples, rng, units_of(groups, len(y)))
    values = np.concatenate([spec(w) for w in counts])
    return interval_of(spec(np.ones((1, len(y))))[0], values, level)


def bootstrap_difference(
    prob_a: ArrayLike,
    prob_b: ArrayLike,
    labels: ArrayLike,
    statistic: Statistic,
    n_resamples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
    *,
    thresholds: tuple[float, float] = (0.5, 0.5),
    groups: ArrayLike | None = None,
) -> Interval:
    """Compute the interval of statistic(a) - statistic(b) for two models on the same examples.

    Paired: both models see the same resamples, so what makes an example hard for both cancels.

    Parameters
    ----------
    prob_a, prob_b
        p(hate) of the two models, each of shape (N,), or whatever `bootstrap_ci` takes.
    labels
        0 or 1, shape (N,).
    statistic, n_resamples, seed, level
        As in `bootstrap_ci`.
    thresholds
        Those of a and b.
    groups
        As in `bootstrap_ci`.

    Returns
    -------
    The difference on the sample and the ends of its interval.

    Raises
    ------
    ValueError
        As `bootstrap_ci` does.

    Examples
    --------
    a decides all four examples rightly, b one of them wrongly. That one is drawn at most three
    times in 99.6% of all resamples:

    >>> a, b, labels = [0.1, 0.2, 0.9, 0.8], [0.1, 0.7, 0.9, 0.8], [0, 0, 1, 1]
    >>> bootstrap_difference(a, b, labels, "accuracy")
    Interval(point=0.25, low=0.0, high=0.75)
    """
    check_resampling(n_resamples, level)
    rng = np.random.Generator(np.random.SFC64(seed))
    if callable(statistic):
        (a, y), (b, _) = _read_any(prob_a, labels), _read_any(prob_b, labels)
        draws = _draws(y, n_resamples, rng, members_of(groups, len(y)))
        apart = [np.subtract(statistic(a[i], y[i]), statistic(b[i], y[i])) for i in draws]
        return interval_of(np.subtract(statistic(a, y), statistic(b, y)), np.array(apart), level)
    if statistic == "auroc" and binary_labels(labels).size > LARGE:
        return auroc_difference(prob_a, prob_b, labels, level, groups=groups)
    pair: list[Any] = []
    for prob, threshold in zip((prob_a, prob_b), thresholds, strict=True):
        p, y = scores_and_labels(prob, labels)
        pair.append(specify(statistic, p, y, threshold_like(prob, threshold)))
    of_a, of_b = pair
    units = units_of(groups, len(y))
    if isinstance(of_a, Sums) and isinstance(of_b, Sums):
        point, (of_a, of_b) = of_a.point - of_b.point, (of_a.of_units(units), of_b.of_units(units))
        counts = draw_units(units.max() + 1, n_resamples, rng)
    else:
        once = np.ones((1, len(y)))
        point, counts = (of_a(once) - of_b(once))[0], draw_counts(n_resamples, rng, units)
    return interval_of(point, np.concatenate([of_a(w) - of_b(w) for w in counts]), level)


def check_resampling(n_resamples: int, level: float) -> None:
    if n_resamples < 1:
        raise ValueError(f"n_resamples must be at least 1, got {n_resamples}")
    if not 0 < level < 1:
        raise ValueError(f"level must be between 0 and 1, got {level}")


def interval_of(point: float | np.ndarray, values: np.ndarray, level: float) -> Interval:
    if np.isnan(values).all():
        low = high = np.full(np.shape(point), math.nan)
    else:
        low = np.nanquantile(values, (1 - level) / 2, axis=0, method="lower")
        high = np.nanquantile(values, (1 + level) / 2, axis=0, method="higher")
    if np.ndim(point):
        return Interval(point, low, high)
    return Interval(float(point), float(low), float(high))


def members_of(groups: ArrayLike | None, n: int) -> list[np.ndarray] | None:
    """The indices of each group's members, None where every example is a group of its own."""
    number = group_numbers(groups, n)
    if number is None:
        return None
    return np.split(np.argsort(number, kind="stable"), np.cumsum(np.bincount(number))[:-1])


def units_of(groups: ArrayLike | None, n: int) -> np.ndarray:
    """The number of what is drawn whole, 0 .. U - 1, for each example (N,)."""
    number = group_numbers(groups, n)
    return np.arange(n) if number is None else number


def _draws(
    y: np.ndarray,
    n_resamples: int,
    rng: np.random.Generator,
    members: list[np.ndarray] | None,
) -> Iterator[np.ndarray]:
    """Indices of the resamples that hold both classes, or of all if the sample does not."""
    both = bool(y.any() and not y.all())
    if members is not None:
        order, size = np.concatenate(members), np.array([len(member) for member in members])
        start = np.cumsum(size) - size
    for _ in range(n_resamples):
        if members is None:
            i = rng.integers(0, len(y), len(y))
        else:
            drawn = rng.integers(0, len(size), len(size))
            end = np.cumsum(size[drawn])
            i = order[np.arange(end[-1]) + np.repeat(start[drawn] - end + size[drawn], size[drawn])]
        if not both or (y[i].any() and not y[i].all()):
            yield i


def draw_units(
    n_units: int, n_resamples: int, rng: np.random.Generator, rows: int | None = None
) -> Iterator[np.ndarray]:
    """How often each resample drew each unit: chunks of shape (rows, n_units)."""
    rows = rows or max(CHUNK // n_units, 1)
    for done in range(0, n_resamples, rows):
        rows = min(rows, n_resamples - done)
        drawn = rng.integers(0, n_units, (rows, n_units))
        if rows > 1:
            drawn += np.arange(rows)[:, None] * n_units
        counts = np.bincount(drawn.ravel(), minlength=rows * n_units).reshape(rows, n_units)
        yield counts.astype(np.float64)


def draw_counts(
    n_resamples: int, rng: np.random.Generator, units: np.ndarray
) -> Iterator[np.ndarray]:
    """How often each resample drew each of N examples, whole units (N,): chunks (rows, N)."""
    alone = np.array_equal(units, np.arange(len(units)))
    rows = max(CHUNK // len(units), 1)
    for counts in draw_units(units.max() + 1, n_resamples, rng, rows):
        yield counts if alone else counts[:, units]


def _read_any(values: ArrayLike, labels: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    z, y = finite(values, "prob"), binary_labels(labels)
    if z.ndim == 0:
        raise ValueError(f"prob must have one row per example, got the single number {z}")
    check_same_shape(z[(slice(None),) + (0,) * (z.ndim - 1)], "prob", y)
    return z, y
