"""The best of all cuts, with only the scores sorted that could hold it.

Every objective rises with the true positives and falls with the false ones. Raising a cut through
a bin of scores gives up its positives and its negatives in some order; the best that could happen
is that all negatives go first. So the objective at the bin's lower edge, counted without the bin's
negatives, is a bound for all cuts in it, and a bin whose bound is below the best edge of any bin
need not be looked into. Of a million scores some thousands are left, which a `Ranking` sorts.

By hand, for F1 with 4 positives: the upper bin holds 3 of them, the lower bin 1 and 5 negatives.
The upper bin's lower edge has 2 * 3 / (3 + 4) = 0.86, the lower bin's 2 * 4 / (9 + 4) = 0.62, but
its bound is 2 * 4 / (4 + 4) = 1. Were the last positive in a bin of its own below the negatives,
the bound of that bin would be 0.62, which rules it out:

>>> f1 = lambda tp, flagged: 2 * tp / (flagged + 4)
>>> could_be_best(np.array([4, 3]), np.array([9, 3]), np.array([5, 0]), f1).tolist()
[True, True]
>>> could_be_best(np.array([4, 3, 3]), np.array([9, 8, 3]), np.array([0, 5, 0]), f1).tolist()
[False, True, True]
"""

import math
from dataclasses import dataclass

import numpy as np

from lib.calibration.ranking import Ranking, Value
from lib.calibration.score_bins import BINS, count_by_bin, ends_of, scale_of

# Up to this many scores, sorting them all is quicker than the bins.
FEW = 20_000

# An objective in floating point exceeds its bound by a few roundings at most.
SLACK = 1e-9


@dataclass(frozen=True)
class Cut:
    """What a cut flags: `flagged` examples, `tp` of them positive, for the objective's `value`.

    `upper` is the lowest flagged score, `lower` the highest that is not, None where there is none.
    """

    flagged: int
    tp: float
    value: float
    lower: float | None
    upper: float | None


def best_cut(p: np.ndarray, y: np.ndarray, value: Value, last: bool = False) -> Cut:
    """The first (or last) cut of the highest value, as `Ranking.best` finds it.

    `p` (N,) are probabilities, `y` (N,) is boolean; `value` must not fall with true positives nor
    rise with false ones, and its values must be of one sign, or -inf where it is undefined.
    """
    if len(p) > FEW:
        low, high = ends_of(p)
        if scale_of(low, high):
            return _best_by_bins(p, y, *count_by_bin(p, y, low, high), value, last)
    ranking = Ranking.of(p, y)
    i, tp, best = ranking.best(value, last)
    return Cut(len(p) - i, tp, best, *ranking.around(i))


def _best_by_bins(
    p: np.ndarray, y: np.ndarray, bins: np.ndarray, counts: np.ndarray, value: Value, last: bool
) -> Cut:
    negatives, positives = counts.T
    filled = np.flatnonzero(negatives + positives)
    negatives, positives = negatives[filled], positives[filled]
    size = negatives + positives
    flagged, tp = _from(size), _from(positives)
    look = could_be_best(tp, flagged, negatives, value)
    if not look.any():
        return Cut(len(p), 0.0, -math.inf, None, None)
    # The score below a bin's lower edge is the highest of the bin before.
    look[:-1] |= look[1:]
    members = _members(bins, filled[look])
    ranking = Ranking.of(p[members], y[members])
    return _best_of_some(ranking, size[look], flagged[look], tp[look], value, last, p)


def _from(counts: np.ndarray) -> np.ndarray:
    """How many lie in each bin and all above."""
    return counts[::-1].cumsum()[::-1]


def could_be_best(
    tp: np.ndarray,
    flagged: np.ndarray,
    negatives: np.ndarray,
    value: Value,
    no_cut: np.ndarray | None = None,
) -> np.ndarray:
    """Which bins must be looked into, bool (bins,), from what cuts at their lower edges flag.

    `negatives` are those of each bin by itself; `no_cut` marks edges between equal scores, which no
    threshold separates.
    """
    true, all_flagged = tp.astype(np.float64), flagged.astype(np.float64)
    edges = value(true, all_flagged)
    if no_cut is not None:
        edges[no_cut] = -math.inf
    edge = edges.max()
    bound = value(true, all_flagged - negatives)
    return (bound >= edge - abs(edge) * SLACK) & (bound > -math.inf)


def _members(bins: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """The indices of the scores in the wanted bins, which ascend."""
    first, reach = np.uint16(wanted[0]), np.uint16(wanted[-1] - wanted[0])
    # Unsigned differences below zero wrap to large numbers: one comparison tests both ends.
    near = (bins - first <= reach).nonzero()[0]
    chosen = np.zeros(BINS, bool)
    chosen[wanted] = True
    return near[chosen[bins[near]]]


def _best_of_some(
    ranking: Ranking,
    size: np.ndarray,
    flagged: np.ndarray,
    tp: np.ndarray,
    value: Value,
    last: bool,
    p: np.ndarray,
) -> Cut:
    """The best cut of a ranking of some bins, from their sizes and what their lower edges flag."""
    n = len(ranking.keys)
    label = (ranking.keys & 1).view(np.int64)
    before = label.cumsum() - label
    start = size.cumsum() - size
    flags = np.repeat(flagged + start, size) - np.arange(n)
    true = np.repeat(tp + before[start], size) - before
    values = value(true.astype(np.float64), flags.astype(np.float64))
    scores = ranking.keys >> 1
    # No threshold separates equal scores.
    values[1:][scores[1:] == scores[:-1]] = -math.inf
    i = n - 1 - int(np.argmax(values[::-1])) if last else int(np.argmax(values))
    none = float(value(np.zeros(1), np.zeros(1))[0])
    if none > values[i]:
        return Cut(0, 0.0, none, float(p.max()), None)
    lower = ranking.score(i - 1) if flags[i] < len(p) else None
    return Cut(int(flags[i]), float(true[i]), float(values[i]), lower, ranking.score(i))
