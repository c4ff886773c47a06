"""Which cuts of a fixed sequence keep a promised rate, by exact binomial tests.

Learn then Test (Angelopoulos, Bates, Candès, Jordan and Lei 2021): each cut stands for the
hypothesis that its rate misses the target, and a p-value of at most 1 - confidence refutes it. In
fixed sequence testing the cuts are tested in an order that their own memes have no part in, up to
the first that fails; all before it then hold together at that confidence, whatever their number.
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import betainc, expit
from scipy.stats import binom, binomtest

from lib.artifacts import as_written

# So many quantiles of the margins in the select half, their least and greatest among them.
N_QUANTILES = 1001
# Margins without a select half: 0 and both signs of 0.001 to 1000, each 5% above the one before.
GRID = np.concatenate([-np.geomspace(1e3, 1e-3, 301), [0.0], np.geomspace(1e-3, 1e3, 301)])
# Of more memes than this nobody is told that they would do.
MOST_MEMES = 200_000


class Sample(NamedTuple):
    """Independent memes: p(hate) and labels, both (N,)."""

    prob: np.ndarray
    labels: np.ndarray


class Tests(NamedTuple):
    """What was counted at each of K cuts, all (K,): `hits` of `n`, and the p-value."""

    hits: np.ndarray
    n: np.ndarray
    p_value: np.ndarray


class Walk(NamedTuple):
    """The last cut of a walk that was certified, None where the first failed.

    `start` is the first cut of the walk; those from it to `cut` are all certified.
    """

    cut: float | None
    start: float

    @property
    def judged_at(self) -> float:
        """`cut` or, without one, the first of the walk."""
        return self.start if self.cut is None else self.cut


def one_per_group(groups: Sequence[str] | np.ndarray, seed: int) -> np.ndarray:
    """The rows (G,), ascending, of one meme of each group, each of its memes as likely.

    It is the first of the group in `numpy.random.default_rng(seed).permutation(N)`.
    """
    order = np.random.default_rng(seed).permutation(len(groups))
    _, first = np.unique(np.asarray(groups, dtype=str)[order], return_index=True)
    return np.sort(order[first])


def cuts_of(margins: ArrayLike | None, temperature: float) -> np.ndarray:
    """The sequence of cuts as probabilities (K,), ascending, each once.

    They are the `N_QUANTILES` evenly spaced quantiles of `margins` (N,), those of memes that
    certify nothing, or `GRID` without; seen through the temperature, sigmoid(margin / T), and
    rounded as they are written. A cut on the margin decides the same at every T, so that T, though
    fitted on the memes that certify, has no part in which decisions are compared.
    """
    quantiles = np.linspace(0, 1, N_QUANTILES)
    found = GRID if margins is None else np.quantile(np.asarray(margins, float), quantiles)
    return np.unique(as_written(expit(found / temperature)))


def precision_tests(sample: Sample, cuts: np.ndarray, target: float) -> Tests:
    """Of the n memes with prob >= cut, `hits` are hateful; p = P(Binomial(n, target) >= hits)."""
    n = _at_least(sample.prob, cuts)
    hits = _at_least(sample.prob[sample.labels == 1], cuts)
    return Tests(hits, n, binom.sf(hits - 1, n, target))


def miss_tests(sample: Sample, cuts: np.ndarray, target: float) -> Tests:
    """Of all n hateful memes `hits` have prob < cut; p = P(Binomial(n, target) <= hits)."""
    hateful = sample.prob[sample.labels == 1]
    hits = len(hateful) - _at_least(hateful, cuts)
    return Tests(hits, np.full(len(cuts), len(hateful)), binom.cdf(hits, len(hateful), target))


def share_tests(sample: Sample, bands: np.ndarray, budget: float) -> Tests:
    """Of all n memes `hits` have low <= prob < high; p = P(Binomial(n, budget) <= hits).

    `bands` are (low, high), shape (K, 2). A band that holds nothing keeps every budget, and every
    band keeps one of 1: there p = 0.
    """
    n = len(sample.prob)
    hits = _at_least(sample.prob, bands[:, 0]) - _at_least(sample.prob, bands[:, 1])
    certain = (bands[:, 0] >= bands[:, 1]) | (budget >= 1)
    p_value = np.where(certain, 0.0, binom.cdf(hits, n, budget))
    return Tests(hits, np.full(len(bands), n), p_value)


def certified(p_values: np.ndarray, confidence: float) -> int:
    """How many of the first p-values, in the order of the walk, lie at or below 1 - confidence."""
    return int(np.argmin(np.append(p_values <= _alpha(confidence), False)))


def walk_down(
    sample: Sample, select: Sample | None, cuts: np.ndarray, target: float, confidence: float
) -> Walk:
    """The lowest cut whose precision is certified to be at least `target`.

    The walk leads down from the cut that looks best in the select half: with k of n hateful there
    and r the sample's memes over that half's, the one of least P(Binomial(r n, target) >= r k), the
    middle one of equals (split fixed sequence testing): where both classes lie apart, the lowest
    would stand at the edge of the harmless ones. Of counts that are not whole it is the regularised
    incomplete beta function at target, with a = r k and b = r (n - k) + 1, which rounding them
    would make too small where one of few is wrong. Without a select half the walk begins
    at the highest cut above which at least ln(1 - confidence) / ln(target) memes of the
    sample lie, since of fewer none certify, however right; or else at the lowest. That is exact as
    far as precision does not fall while the cut rises.
    """
    if select is None:
        fewest = math.log(_alpha(confidence)) / math.log(target)
        start = max(int((_at_least(sample.prob, cuts) >= fewest).sum()) - 1, 0)
    else:
        found, ratio = precision_tests(select, cuts, target), len(sample.prob) / len(select.prob)
        right, wrong = ratio * found.hits, ratio * (found.n - found.hits)
        # With nobody right it is 1, which betainc, begun at 0, does not give.
        p_value = np.where(right > 0, betainc(np.maximum(right, 1e-300), wrong + 1, target), 1.0)
        best = np.flatnonzero(p_value == p_value.min())
        start = int(best[len(best) // 2])
    order = cuts[start::-1]
    return _walk(order, precision_tests(sample, order, target).p_value, confidence)


def walk_up(sample: Sample, cuts: np.ndarray, target: float, confidence: float) -> Walk:
    """The highest cut whose miss rate is certified to be at most `target`, from the lowest on."""
    return _walk(cuts, miss_tests(sample, cuts, target).p_value, confidence)


def clopper_pearson(count: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """The exact two-sided interval of count / n (Clopper and Pearson 1934); (0, 1) for n = 0."""
    if n == 0:
        return 0.0, 1.0
    low, high = binomtest(count, n).proportion_ci(level, method="exact")
    return float(low), float(high)


def needed(rate: float, target: float, confidence: float, at_least: bool) -> int | None:
    """The fewest memes of the side that certify at the observed rate; None for no such number.

    For a rate to be at least the target: the smallest n with
    P(Binomial(n, target) >= floor(rate n)) <= 1 - confidence; else the smallest n with
    P(Binomial(n, target) <= ceil(rate n)) <= 1 - confidence. None too beyond `MOST_MEMES`.
    """
    if (rate <= target) if at_least else (rate >= target):
        return None
    tiny = 1e-9  # rate n may miss a whole number by rounding
    ends = [1, *(2**k for k in range(10, MOST_MEMES.bit_length())), MOST_MEMES + 1]
    for start, stop in pairwise(ends):
        n = np.arange(start, stop)
        if at_least:
            p_values = binom.sf(np.floor(rate * n + tiny) - 1, n, target)
        else:
            p_values = binom.cdf(np.ceil(rate * n - tiny), n, target)
        enough = p_values <= _alpha(confidence)
        if enough.any():
            return int(n[np.argmax(enough)])
    return None


def _walk(order: np.ndarray, p_values: np.ndarray, confidence: float) -> Walk:
    passed = certified(p_values, confidence)
    return Walk(float(order[passed - 1]) if passed else None, float(order[0]))


def _alpha(confidence: float) -> float:
    # 1 - 0.9 is 0.09999999999999998, which a p-value of 0.1 would miss.
    return round(1 - confidence, 12)


def _at_least(prob: np.ndarray, cuts: np.ndarray) -> np.ndarray:
    """How many of the probabilities are at or above each cut (K,)."""
    return len(prob) - np.searchsorted(np.sort(prob), cuts, side="left")
