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
        sums = np.zeros(drawn.shape)
        for g, values in enumerate(members):
            if len(values) and values.min() == values.max():
                sums[:, g] = drawn[:, g] * values[0]
            elif len(values):
                sums[:, g] = _resampled_sums(values, drawn[:, g], rng)
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
    values: np.ndarray, lengths: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Sums of `lengths` (R,) values drawn with replacement, shape (R,)."""
    sums = np.zeros(len(lengths))
    step = max(CHUNK // max(int(lengths.mean()), 1), 1)
    most = int(np.add.reduceat(lengths, np.arange(0, len(lengths), step)).max())
    draw = _drawer(values, rng, most)
    for i in range(0, len(lengths), step):
        part = lengths[i : i + step]
        some = np.flatnonzero(part)
        if len(some):
            ends = np.cumsum(part[some])
            sums[i + some] = np.add.reduceat(draw(int(ends[-1])), ends - part[some])
    return sums


def _drawer(values: np.ndarray, rng: np.random.Generator, most: int) -> Callable[[int], np.ndarray]:
    """A function that draws so many of `values`, up to `most`, with replacement.

    What it returns may be overwritten when it is called again.

    Up to 4096 values are drawn by 16 random bits each, four draws from one random number [1]_.
    With 3 bits instead of 16, and 3 values: the bits 0 to 7 times 3 are 0, 3, 6, 9, 12, 15, 18 and
    21, whose eighths round down to 0, 0, 0, 1, 1, 1, 2 and 2. Their remainders by 8 are 0, 3, 6, 1,
    4, 7, 2 and 5. Drawing again where the remainder is below 8 mod 3 = 2 takes one 0 and one 1 out,
    and leaves two of each.

    .. [1] D. Lemire, "Fast Random Integer Generation in an Interval", ACM TOMACS 29(1), 2019
    """
    n = len(values)
    if n > 4096:
        return lambda size: values.take(rng.integers(0, n, size))

    surplus = np.uint16(65536 % n)
    # New arrays for every call would cost as much as the draws.
    products, places = np.empty(most, np.uint32), np.empty(most, np.intp)
    draws = np.empty(most, values.dtype)

    def draw(size: int) -> np.ndarray:
        bits = rng.integers(0, 2**64, -(-size // 4), dtype=np.uint64).view(np.uint16)[:size]
        product, place = products[:size], places[:size]
        product[:] = bits
        product *= np.uint32(n)
        again = (product.astype(np.uint16) < surplus).nonzero()[0]
        product >>= np.uint32(16)
        place[:] = product
        # What is clipped does not occur; NumPy would copy `out` to raise for it.
        drawn = values.take(place, out=draws[:size], mode="clip")
        drawn[again] = values.take(rng.integers(0, n, len(again)))
        return drawn

    return draw


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
