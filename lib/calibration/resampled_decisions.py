"""Bootstrap intervals of temperature and threshold, without fitting either anew in each resample.

A resample is how often each example was drawn. Two facts make that enough:

1. The best temperature solves an equation F(b) = 0 in b = 1 / T that is a sum over examples (see
   `temperature_solver`), and a resample's b is near the sample's. F's Taylor series there needs
   five numbers per example, computed once; their sums, weighted by the draws, give the resample's
   own series, whose root is found in no time.
2. The order of scores never changes. Sorted once, a resample's true positives and flagged examples
   at every cut are two running sums of draws.

By hand, for one margin of 2 at b = 1, whose label is right: p of the other label is q = 1 / (1 +
e^2) = 0.1192, F = 2 q = 0.2384, and F' = -4 q (1 - q) = -0.42. At b = 1.1, F is 2 / (1 + e^2.2) =
0.1995, and so says the series:

>>> series = _series(np.array([2.0]), np.array([True]), b=1.0)
>>> [round(float(v), 4) for v in series[:2, 0]]
[0.2384, -0.42]
>>> steps = 0.1 ** np.arange(5) / FACTORIALS
>>> round(float(steps @ series[:, 0]), 4), round(2 / (1 + math.exp(2.2)), 4)
(0.1995, 0.1995)
"""

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import expit

from lib.calibration.auroc import Interval
from lib.calibration.best_cut import could_be_best
from lib.calibration.checked_input import binary_labels, check_ndim, check_same_shape, finite
from lib.calibration.intervals import check_resampling, draw_counts, interval_of, units_of
from lib.calibration.ranking import midway
from lib.calibration.temperature import fit_temperature, prob_hate
from lib.calibration.thresholds import objective_value, refuse_one_class

# So near to the sample's b, relatively, what the series leaves out is below 1e-8 of it.
NEAR = 0.02

# Examples in a column of `_Recut`.
ROWS = 16

FACTORIALS = np.array([1.0, 1.0, 2.0, 6.0, 24.0])


def decision_intervals(
    margins: ArrayLike,
    labels: ArrayLike,
    temperature: float,
    n_resamples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
    *,
    groups: ArrayLike | None = None,
    **objective: Any,
) -> tuple[Interval, Interval]:
    """Compute the intervals of a fitted temperature and of the best threshold at it.

    They are those of `bootstrap_ci` with `fit_temperature(...).limit` of the margins, and with
    `best_threshold` of the probabilities at the given temperature: the threshold of the same
    resamples exactly, the temperature to eight digits, in a part of the time.

    Parameters
    ----------
    margins
        Logit of hate minus that of its opposite, shape (N,).
    labels
        0 or 1, shape (N,), both of them present.
    temperature
        The one at which the threshold is chosen, above 0.
    n_resamples, seed, level, groups
        As in `bootstrap_ci`.
    objective
        The options of `best_threshold`. Resamples that do not reach a `floor` are left out; where
        the sample itself does not, the point is NaN.

    Returns
    -------
    The interval of the temperature and that of the threshold.

    Raises
    ------
    ValueError
        As `bootstrap_ci`, `fit_temperature` and `best_threshold` do.

    Examples
    --------
    >>> margins = [4.0, 2.0, -1.0, 3.0, -2.0, 1.0, -4.0, -3.0]
    >>> of_t, of_threshold = decision_intervals(margins, [1, 1, 1, 1, 0, 0, 0, 0], 1.0)
    >>> bool(of_t.low <= of_t.point <= of_t.high), round(of_threshold.point, 3)
    (True, 0.194)
    """
    check_resampling(n_resamples, level)
    z, y = finite(margins, "margins"), binary_labels(labels)
    check_ndim(z, "margins", 1)
    check_same_shape(z, "margins", y)
    refuse_one_class(y)
    fit = fit_temperature(z, y)
    refit = _Refit(z, y, float(fit.limit))
    cut = _Recut(prob_hate(z, temperature), y, objective)
    positive = y.astype(np.float64)
    rng = np.random.Generator(np.random.SFC64(seed))
    found = [
        (refit(draws), cut(draws))
        for rows in draw_counts(n_resamples, rng, units_of(groups, len(y)))
        for draws in rows
        if 0 < draws @ positive < draws.sum()
    ]
    temperatures, thresholds = np.array(found).reshape(-1, 2).T
    point = cut(np.ones(len(y)))
    return (
        interval_of(float(fit.limit), temperatures, level),
        interval_of(point, thresholds, level),
    )


class _Refit:
    """The temperature of a resample, from how often it drew each example."""

    def __init__(self, margins: np.ndarray, y: np.ndarray, temperature: float) -> None:
        self.margins, self.y, self.temperature = margins, y, temperature
        # The series is of b relative to the sample's, so that its terms are alike in size.
        usable = 1e-100 < temperature < 1e100
        self.series = _series(margins / temperature, y, 1.0) if usable else None

    def __call__(self, draws: np.ndarray) -> float:
        if self.series is not None:
            root = _root(self.series @ draws / FACTORIALS)
            if abs(root) < NEAR:
                return self.temperature / (1 + root)
        drawn = np.repeat(np.arange(len(draws)), draws.astype(np.intp))
        return float(fit_temperature(self.margins[drawn], self.y[drawn]).limit)


class _Recut:
    """The best threshold of a resample, from how often it drew each example.

    Examples stand in the order of their scores, from the highest down, so that running sums count
    what each score's cut flags. They stand in columns of ROWS, one below the other: like the bins
    of `best_cut`, nearly all columns are ruled out by what they hold as a whole.
    """

    def __init__(self, p: np.ndarray, y: np.ndarray, objective: dict[str, Any]) -> None:
        self.order = np.argsort(p, kind="stable")[::-1]
        self.p, self.objective = p[self.order], objective
        self.highest = objective.get("objective") == "recall_at_precision"
        width = -(-len(p) // ROWS)
        # The last column is filled up with an example that counts nothing.
        self.rest = len(p) - ROWS * (width - 1)
        self.columns = self._columns(self.order)
        self.positive = y[self.columns].astype(np.float64)
        # No threshold separates equal scores.
        self.equal_below = self._columns(np.append(self.p[1:] == self.p[:-1], False))
        # New arrays for every resample would cost more than what is done with them.
        self.room = np.empty((2, ROWS, width))

    def _columns(self, values: np.ndarray) -> np.ndarray:
        """One value per example as an array of ROWS rows, filled up with the last."""
        filled = np.append(values, np.full(ROWS - self.rest, values[-1]))
        return np.ascontiguousarray(filled.reshape(-1, ROWS).T)

    def __call__(self, draws: np.ndarray) -> float:
        drawn, hits = self.room
        draws.take(self.columns, out=drawn, mode="clip")
        drawn[self.rest :, -1] = 0
        np.multiply(drawn, self.positive, out=hits)
        size, hit = drawn.sum(axis=0), hits.sum(axis=0)
        flagged, tp = size.cumsum(), hit.cumsum()
        value = objective_value(int(tp[-1]), int(flagged[-1]), **self.objective)
        look = np.flatnonzero(
            could_be_best(tp, flagged, size - hit, value, no_cut=self.equal_below[-1])
        )
        flags = drawn[:, look].cumsum(axis=0) + (flagged - size)[look]
        values = value(hits[:, look].cumsum(axis=0) + (tp - hit)[look], flags)
        values[self.equal_below[:, look]] = -math.inf
        best, none = float(values.max(initial=-math.inf)), float(value(np.zeros(1), np.zeros(1))[0])
        if max(best, none) == -math.inf:
            return math.nan
        cut = 0 if none > best else self._cut(values == best, look, flags)
        lower = _first_drawn(self.p[cut:], self.order[cut:], draws)
        upper = _first_drawn(self.p[:cut][::-1], self.order[:cut][::-1], draws)
        return midway(lower, upper, self.p)

    def _cut(self, best: np.ndarray, look: np.ndarray, flags: np.ndarray) -> int:
        """How many examples, drawn or not, lie above the best cut: the lowest of equals, mostly."""
        row, column = np.nonzero(best)
        places = look[column] * ROWS + row
        i = int(places.argmin() if self.highest else places.argmax())
        return int(places[i]) + 1 if flags[row[i], column[i]] else 0


def _first_drawn(p: np.ndarray, order: np.ndarray, draws: np.ndarray) -> float | None:
    """The first of some scores that was drawn, None if none was."""
    for some in (64, len(p)):
        drawn = draws[order[:some]] > 0
        if drawn.any():
            return float(p[np.argmax(drawn)])
    return None


def _series(margins: np.ndarray, y: np.ndarray, b: float) -> np.ndarray:
    """What each margin (N,) adds to F and its first four derivatives at b, shape (5, N)."""
    gap = np.abs(margins)
    p, r = expit(-b * gap), np.tanh(b / 2 * gap)
    s = p * (1 - p)
    missed = (margins > 0) != y
    # By s' = -s r and r' = 2 s, the derivatives over b * gap.
    terms = [p - missed, -s, s * r, s * (6 * s - 1), s * r * (1 - 12 * s)]
    power = np.ones_like(gap)
    for term in terms:
        power *= gap
        term *= power
    return np.stack(terms)


def _root(coefficients: np.ndarray) -> float:
    """The root near 0 of a polynomial of degree four, infinite where Newton's method finds none.

    >>> round(_root(np.array([-0.01, 1.0, 0.0, 0.0, 0.0])), 12)
    0.01
    """
    c0, c1, c2, c3, c4 = coefficients.tolist()
    x = 0.0
    for _ in range(20):
        slope = c1 + x * (2 * c2 + x * (3 * c3 + x * 4 * c4))
        if not abs(x) < 1 or slope == 0:
            break
        step = (c0 + x * (c1 + x * (c2 + x * (c3 + x * c4)))) / slope
        x -= step
        if abs(step) <= 1e-15:
            return x
    return math.inf
