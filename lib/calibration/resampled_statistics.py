"""The named statistics of `bootstrap_ci`, computed for all resamples at once.

Most statistics know the sample through a few sums only, and those can be drawn without touching
the examples one by one. Take the accuracy of 8 decisions of which 3 are true negatives, 1 is a
false positive, 1 a false negative and 3 are true positives. Resampling 8 examples with replacement
gives counts that are multinomial with the probabilities 3/8, 1/8, 1/8 and 3/8, so one draw of four
numbers is a resample, however large the sample. For the ECE the groups are the bins and the sums
those of p - y: the multinomial says how many examples fall into each bin, and so many are drawn
there.

>>> decisions = Sums(np.ones(8), np.repeat([0, 1, 2, 3], [3, 1, 1, 3]), finish=lambda sums, n: sums)
>>> decisions.resample(2, np.random.default_rng(0)).sum(axis=1).tolist()
[8.0, 8.0]

AUROC and average precision depend on the order of scores. They are functions of how often each
example was drawn, a matrix of resamples by examples.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from lib.calibration.calibration_error import N_BINS, bin_of

# Resampled values held at once: enough to amortise a call, little enough for the cache.
CHUNK = 65_536

# Values drawn from one group at once, in arrays that every draw uses again.
DRAWS = 131_072


@dataclass(frozen=True)
class Sums:
    """A statistic that depends on the sample through the sums of `values` within `groups` alone.

    `values` (N,) and `groups` (N,) in 0 .. G - 1; `finish` maps sums (R, G) and the sizes of the
    resamples, a number or (R,), to values (R,).
    """

    values: np.ndarray
    groups: np.ndarray
    finish: Callable[[np.ndarray, int | np.ndarray], np.ndarray]

    @property
    def point(self) -> float:
        """The statistic of the sample itself."""
        return float(self.finish(np.bincount(self.groups, self.values)[None], len(self.values))[0])

    def of_units(self, units: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
        """The statistic (R,) of resamples that drew each of U units `counts` (R, U) times.

        `units` (N,) in 0 .. U - 1 says which unit an example belongs to. Each unit's sums are taken
        once, whatever the number of resamples.
        """
        size = np.bincount(units)
        width = self.groups.max() + 1
        cells = np.bincount(units * width + self.groups, self.values, len(size) * width)
        sums = cells.reshape(len(size), width)
        return lambda counts: self.finish(counts @ sums, counts @ size)

    def resample(self, n_resamples: int, rng: np.random.Generator) -> np.ndarray:
        """Resampled statistics (R,), drawing first how many fall into each group, then which.

        Where a group's values are all the same, which makes no difference.
        """
        n, size = len(self.values), np.bincount(self.groups)
        members = np.split(
            self.values[np.argsort(self.groups, kind="stable")], np.cumsum(size)[:-1]
        )
        drawn = rng.multinomial(n, size / n, n_resamples)
        sums, draw = np.zeros(drawn.shape), _Draw()
        for g, values in enumerate(members):
            if len(values) and values.min() == values.max():
                sums[:, g] = drawn[:, g] * values[0]
            elif len(values):
                sums[:, g] = _resampled_sums(values, drawn[:, g], rng, draw)
        return self.finish(sums, n)


def specify(
    name: str, p: np.ndarray, y: np.ndarray, threshold: float
) -> Sums | Callable[[np.ndarray], np.ndarray]:
    """A named statistic as sums within groups, or as a function of counts (R, N)."""
    if name in _DECISIONS:
        # Cells: true negative, false positive, false negative, true positive.
        return Sums(np.ones(len(p)), 2 * y + (p >= threshold), _finish_decision(name))
    if name == "ece":
        return Sums(p - y, bin_of(p, N_BINS, "uniform"), lambda s, n: np.abs(s).sum(axis=1) / n)
    if name in ("brier", "nll"):
        loss = (p - y) ** 2 if name == "brier" else _log_losses(p, y)
        return Sums(loss, np.zeros(len(p), np.intp), lambda s, n: s[:, 0] / n)
    if name in ("auroc", "average_precision"):
        return _ranked(p, y, _auroc if name == "auroc" else _average_precision)
    names = (*_DECISIONS, "ece", "brier", "nll", "auroc", "average_precision")
    raise ValueError(f"statistic must be a function or one of {', '.join(names)}, got {name!r}")


def _resampled_sums(
    values: np.ndarray, lengths: np.ndarray, rng: np.random.Generator, draw: "_Draw"
) -> np.ndarray:
    """Sums of `lengths` (R,) values drawn with replacement, shape (R,)."""
    sums = np.zeros(len(lengths))
    step = max(DRAWS // max(int(lengths.mean()), 1), 1)
    draw.from_values(values)
    for i in range(0, len(lengths), step):
        part = lengths[i : i + step]
        some = np.flatnonzero(part)
        if len(some):
            ends = np.cumsum(part[some])
            sums[i + some] = np.add.reduceat(draw(int(ends[-1]), rng), ends - part[some])
    return sums


class _Draw:
    """Draws of values with replacement, in arrays that are made once: new ones cost as much.

    Up to 4096 values are drawn by 16 random bits each, four draws from one random number. Each
    value has an equal share of the 65,536 places of a table, and a draw that falls on the rest is
    made again. With 3 bits instead of 16, and 3 values: the places 0 to 7 hold the values 0, 0, 1,
    1, 2 and 2, and draws of 6 and 7 are made again.
    """

    def __init__(self) -> None:
        self.table = np.empty(65_536)
        self.values = self.table[:0]
        self.places, self.drawn = np.empty(0, np.intp), np.empty(0)

    def from_values(self, values: np.ndarray) -> None:
        """Draw from these float64 values (n,) from now on."""
        self.values = values
        self.each = len(self.table) // len(values)
        if len(values) <= 4096:
            self.table[: self.each * len(values)].reshape(-1, self.each)[:] = values[:, None]

    def __call__(self, size: int, rng: np.random.Generator) -> np.ndarray:
        """So many values, in an array that the next call overwrites."""
        n = len(self.values)
        if n > 4096:
            return self.values.take(rng.integers(0, n, size))
        if size > len(self.places):
            self.places, self.drawn = np.empty(size, np.intp), np.empty(size)
        bits = rng.bit_generator.random_raw(-(-size // 4)).view(np.uint16)[:size]
        self.places[:size] = bits
        # No place is outside the table; NumPy would copy `out` to raise for one.
        drawn = self.table.take(self.places[:size], out=self.drawn[:size], mode="wrap")
        if self.each * n < len(self.table):
            again = (bits >= np.uint16(self.each * n)).nonzero()[0]
            drawn[again] = self.values.take(rng.integers(0, n, len(again)))
        return drawn


def _log_losses(p: np.ndarray, y: np.ndarray) -> np.ndarray:
    eps = np.finfo(p.dtype).eps
    return -np.log(np.clip(np.where(y, p, 1 - p), eps, 1))


def _f1(tp: np.ndarray, wrong: np.ndarray) -> np.ndarray:
    return _ratio(2 * tp, 2 * tp + wrong)


_DECISIONS: dict[str, Callable[..., np.ndarray]] = {
    "accuracy": lambda tn, fp, fn, tp: _ratio(tn + tp, tn + fp + fn + tp),
    "precision": lambda tn, fp, fn, tp: _ratio(tp, tp + fp),
    "recall": lambda tn, fp, fn, tp: _ratio(tp, tp + fn),
    "f1": lambda tn, fp, fn, tp: _f1(tp, fp + fn),
    "macro_f1": lambda tn, fp, fn, tp: (_f1(tp, fp + fn) + _f1(tn, fp + fn)) / 2,
}


def _finish_decision(name: str) -> Callable[[np.ndarray, int | np.ndarray], np.ndarray]:
    """A function of cells (R, 4) that is NaN where the resample has no example it needs."""

    def finish(sums: np.ndarray, n: int | np.ndarray) -> np.ndarray:
        cells = np.zeros((len(sums), 4))
        cells[:, : sums.shape[1]] = sums
        tn, fp, fn, tp = cells.T
        values = _DECISIONS[name](tn, fp, fn, tp)
        if name == "accuracy":
            return values
        lost = (tp + fn == 0) | ((tn + fp == 0) if name == "macro_f1" else False)
        return np.where(lost, np.nan, values)

    return finish


def _ranked(
    p: np.ndarray, y: np.ndarray, finish: Callable[[np.ndarray, np.ndarray], np.ndarray]
) -> Callable[[np.ndarray], np.ndarray]:
    """A function of counts (R, N), from `finish`, a function of each score's counts by class."""
    order = np.argsort(p)
    starts = np.flatnonzero(np.diff(p[order], prepend=-1.0))

    def weighted(counts: np.ndarray) -> np.ndarray:
        counts = counts[:, order]
        positive = np.add.reduceat(counts * y[order], starts, axis=1)
        return finish(positive, np.add.reduceat(counts, starts, axis=1) - positive)

    return weighted


def _auroc(positive: np.ndarray, negative: np.ndarray) -> np.ndarray:
    """The share of pairs in which the positive has the higher score, equal ones counting half.

    Arrays are (R, scores), by ascending score. This is Mann and Whitney's statistic (1947).
    """
    below = np.cumsum(negative, axis=1) - negative / 2
    pairs = positive.sum(axis=1) * negative.sum(axis=1)
    return _ratio((positive * below).sum(axis=1), pairs, empty=np.nan)


def _average_precision(positive: np.ndarray, negative: np.ndarray) -> np.ndarray:
    """Mean of the precision at each score, weighted by the recall it adds; arrays (R, scores)."""
    tp = np.cumsum(positive[:, ::-1], axis=1)
    fp = np.cumsum(negative[:, ::-1], axis=1)
    precision = _ratio(tp, tp + fp)
    both = (tp[:, -1] > 0) & (fp[:, -1] > 0)
    return np.where(both, _ratio((positive[:, ::-1] * precision).sum(axis=1), tp[:, -1]), np.nan)


def _ratio(top: np.ndarray, bottom: np.ndarray, empty: float = 0.0) -> np.ndarray:
    return np.divide(top, bottom, out=np.full(np.shape(top), empty), where=bottom > 0)
