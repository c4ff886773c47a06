"""How sure a sample lets us be: bootstrap intervals of metrics, differences and tuned numbers."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from lib.calibration.checked_input import binary_labels, check_same_shape, finite
from lib.calibration.metrics import N_BINS, bin_of, cut_like, read_scores

Statistic = str | Callable[[np.ndarray, np.ndarray], float | np.ndarray]

# Resampled values held at once: enough to amortise a call, little enough for the cache.
CHUNK = 65_536


@dataclass(frozen=True)
class Interval:
    """A statistic on the full sample, and the ends of its bootstrap percentile interval.

    Floats, or arrays of shape (k,) for a statistic that returns k values.
    """

    point: float | np.ndarray
    low: float | np.ndarray
    high: float | np.ndarray


def bootstrap_ci(
    prob: ArrayLike,
    labels: ArrayLike,
    statistic: Statistic,
    n_resamples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
    *,
    threshold: float = 0.5,
) -> Interval:
    """The percentile interval (Efron 1979) of a statistic over resampled examples.

    `prob` and 0/1 `labels` have shape (N,). `statistic` is accuracy, precision, recall, f1 or
    macro_f1 at `threshold`, or ece, brier, nll, auroc or average_precision, all vectorised; or a
    function of resampled (prob, labels) that returns a number or an array (k,). Logits, (N,) or
    (N, K), may then stand for `prob`, so that what was tuned is tuned again in each resample:

        bootstrap_ci(logits, labels, lambda z, y: fit_temperature(z, y).limit)
        bootstrap_ci(prob, labels, lambda p, y: best_threshold(p, y).threshold)

    Resamples in which a statistic is undefined (NaN; for functions, those with one class only) are
    left out. The ends are resampled values, rounded outwards, so infinite ones are kept.
    Raises ValueError for what is empty, mismatched, not finite, outside [0, 1] or not 0/1, and for
    a statistic that is not named above.
    """
    _check_resampling(n_resamples, level)
    rng = np.random.Generator(np.random.SFC64(seed))
    if callable(statistic):
        z, y = _read_any(prob, labels)
        values = np.array([statistic(z[i], y[i]) for i in _draws(y, n_resamples, rng)])
        return _interval(np.asarray(statistic(z, y), np.float64), values, level)
    p, y = read_scores(prob, labels)
    spec = _specify(statistic, p, y, cut_like(prob, threshold))
    if isinstance(spec, _Sums):
        return _interval(spec.point, spec.resample(n_resamples, rng), level)
    values = np.concatenate([spec(w) for w in _counts(len(y), n_resamples, rng)])
    return _interval(spec(np.ones((1, len(y))))[0], values, level)


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
) -> Interval:
    """The interval of statistic(a) - statistic(b) for two models judged on the same examples.

    Paired: both models see the same resamples, so what makes an example hard for both cancels.
    `thresholds` belong to a and b; the rest is as in `bootstrap_ci`.
    """
    _check_resampling(n_resamples, level)
    rng = np.random.Generator(np.random.SFC64(seed))
    if callable(statistic):
        (a, y), (b, _) = _read_any(prob_a, labels), _read_any(prob_b, labels)
        draws = _draws(y, n_resamples, rng)
        values = [np.subtract(statistic(a[i], y[i]), statistic(b[i], y[i])) for i in draws]
        return _interval(np.subtract(statistic(a, y), statistic(b, y)), np.array(values), level)
    pairs = []
    for prob, threshold in zip((prob_a, prob_b), thresholds, strict=True):
        p, y = read_scores(prob, labels)
        spec = _specify(statistic, p, y, cut_like(prob, threshold))
        pairs.append(spec.weighted if isinstance(spec, _Sums) else spec)
    a, b = pairs
    values = np.concatenate([a(w) - b(w) for w in _counts(len(y), n_resamples, rng)])
    once = np.ones((1, len(y)))
    return _interval((a(once) - b(once))[0], values, level)


def _check_resampling(n_resamples: int, level: float) -> None:
    if n_resamples < 1:
        raise ValueError(f"n_resamples must be at least 1, got {n_resamples}")
    if not 0 < level < 1:
        raise ValueError(f"level must be between 0 and 1, got {level}")


def _interval(point: np.ndarray, values: np.ndarray, level: float) -> Interval:
    tails = (1 - level) / 2, (1 + level) / 2
    if np.isnan(values).all():
        low = high = np.full(np.shape(point), math.nan)
    else:
        low, high = (
            np.nanquantile(values, tail, axis=0, method=method)
            for tail, method in zip(tails, ("lower", "higher"), strict=True)
        )
    if np.ndim(point):
        return Interval(point, low, high)
    return Interval(float(point), float(low), float(high))


def _draws(y: np.ndarray, n_resamples: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Indices (N,) of the resamples that hold both classes, or of all if the sample does not."""
    both = bool(y.any() and not y.all())
    for _ in range(n_resamples):
        i = rng.integers(0, len(y), len(y))
        if not both or (y[i].any() and not y[i].all()):
            yield i


def _counts(n: int, n_resamples: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """How often each resample drew each example: chunks of shape (rows, n)."""
    rows = max(CHUNK // n, 1)
    for done in range(0, n_resamples, rows):
        rows = min(rows, n_resamples - done)
        drawn = rng.integers(0, n, (rows, n)) + np.arange(rows)[:, None] * n
        yield np.bincount(drawn.ravel(), minlength=rows * n).reshape(rows, n).astype(np.float64)


@dataclass(frozen=True)
class _Sums:
    """A statistic that depends on the sample through the sums of `values` within `groups` alone.

    `values` (N,) and `groups` (N,) in 0 .. G - 1; `finish` maps sums (R, G) to values (R,).
    """

    values: np.ndarray
    groups: np.ndarray
    finish: Callable[[np.ndarray], np.ndarray]

    @property
    def point(self) -> float:
        return float(self.finish(np.bincount(self.groups, self.values)[None])[0])

    def weighted(self, counts: np.ndarray) -> np.ndarray:
        members = np.eye(self.groups.max() + 1)[self.groups]
        return self.finish(counts @ (members * self.values[:, None]))

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
        return self.finish(sums)


def _resampled_sums(
    values: np.ndarray, lengths: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Sums of `lengths` (R,) values drawn with replacement, shape (R,)."""
    draw = _drawer(values, rng)
    sums = np.zeros(len(lengths))
    step = max(CHUNK // max(int(lengths.mean()), 1), 1)
    for i in range(0, len(lengths), step):
        part = lengths[i : i + step]
        some = np.flatnonzero(part)
        if len(some):
            ends = np.cumsum(part[some])
            sums[i + some] = np.add.reduceat(draw(int(ends[-1])), ends - part[some])
    return sums


def _drawer(values: np.ndarray, rng: np.random.Generator) -> Callable[[int], np.ndarray]:
    """A function that draws so many of `values` with replacement."""
    n = len(values)
    if n > 4096:
        return lambda size: values.take(rng.integers(0, n, size))

    surplus = np.uint16(65536 % n)

    def draw(size: int) -> np.ndarray:
        # 16 random bits make an integer below n, four of them from one number (Lemire 2019).
        bits = rng.integers(0, 2**64, -(-size // 4), dtype=np.uint64).view(np.uint16)[:size]
        product = bits.astype(np.uint32) * np.uint32(n)
        drawn = values.take((product >> np.uint32(16)).astype(np.intp))
        # Low halves below 65536 mod n are the surplus that would favour some integers.
        again = (product.astype(np.uint16) < surplus).nonzero()[0]
        drawn[again] = values.take(rng.integers(0, n, len(again)))
        return drawn

    return draw


def _specify(
    name: str, p: np.ndarray, y: np.ndarray, threshold: float
) -> _Sums | Callable[[np.ndarray], np.ndarray]:
    """A named statistic as sums within groups, or as a function of counts (R, N)."""
    if name in _DECISIONS:
        # Cells: true negative, false positive, false negative, true positive.
        return _Sums(np.ones(len(p)), 2 * y + (p >= threshold), _finish_decision(name))
    if name == "ece":
        return _Sums(p - y, bin_of(p, N_BINS, "uniform"), lambda s: np.abs(s).sum(axis=1) / len(p))
    if name in ("brier", "nll"):
        loss = (p - y) ** 2 if name == "brier" else _log_losses(p, y)
        return _Sums(loss, np.zeros(len(p), np.intp), lambda s: s[:, 0] / len(p))
    if name in ("auroc", "average_precision"):
        return _ranked(p, y, _auroc if name == "auroc" else _average_precision)
    names = (*_DECISIONS, "ece", "brier", "nll", "auroc", "average_precision")
    raise ValueError(f"statistic must be a function or one of {', '.join(names)}, got {name!r}")


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


def _finish_decision(name: str) -> Callable[[np.ndarray], np.ndarray]:
    def finish(sums: np.ndarray) -> np.ndarray:
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
    """Mann and Whitney's probability (1947), ties counting one half; arrays (R, scores)."""
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


def _read_any(values: ArrayLike, labels: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    z, y = finite(values, "prob"), binary_labels(labels)
    if z.ndim == 0:
        raise ValueError(f"prob must have one row per example, got the single number {z}")
    check_same_shape(z[(slice(None),) + (0,) * (z.ndim - 1)], "prob", y)
    return z, y
