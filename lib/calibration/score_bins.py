"""Scores counted in fine bins: what sorting would tell of them, in a fraction of the time.

A bin is a score's distance from the lowest one, scaled and rounded down. Rounding never turns the
order of two floats round, so a score in a higher bin is higher, and only scores in one bin must be
compared with each other. A cut (a threshold) lies in one bin; all other bins are above or below it
as a whole. So it is enough to count bins, and to look at the scores in the few bins of the cuts.

By hand: between the scores 0 and 1 the cuts 0.3 and 0.7 lie in bins 4914 and 11468. A score of 0.5
is in bin 8191, between these, so it reaches the first cut and not the second. One of 0.3 is in the
first cut's own bin, and comparing them says that it reaches it:

>>> find = cell_finder(np.array([0.3, 0.7]), 0.0, 1.0, size=4, kind=np.uint8)
>>> find(np.array([0.2999, 0.3, 0.5, 1.0])).tolist()
[0, 1, 1, 2]
"""

from collections.abc import Callable

import numpy as np

# Bins whose counts of both classes stay in the processor's cache.
BINS = 16_384

# Up to this many different keys, the counts of their pairs stay in the processor's cache.
MOST_IN_PAIRS = 128

# So many scores tell how far all of them spread.
GLANCE = 4096

# Scores in one block of work: its temporary arrays stay in the cache, and reuse their memory.
BLOCK = 131_072


def scale_of(low: float, high: float) -> float:
    """What a distance from `low` is multiplied by to give its bin, 0 where no bins can be made.

    That is where all scores are equal, or so close or so far apart that the scale is no float32.
    """
    span = float(high) - float(low)
    return (BINS - 1) / span if 1e-30 < span < 1e30 else 0.0


def cell_finder(
    cuts: np.ndarray, low: float, high: float, size: int, kind: type[np.unsignedinteger]
) -> Callable[[np.ndarray], np.ndarray]:
    """A function that says how many of the cuts each score reaches: score >= cut, exactly.

    `cuts` (C,) ascend and have the scores' type, float32 or float64; `low` and `high` are the
    lowest and the highest score. The function takes up to `size` scores at once. Its answer is of
    `kind`, which must hold C + 1, and is overwritten when it is called again.
    """
    scale = cuts.dtype.type(scale_of(low, high))
    if not scale:
        return lambda scores: cuts.searchsorted(scores, side="right").astype(kind)
    bottom = cuts.dtype.type(low)
    bins = ((cuts.clip(low, high) - bottom) * scale).astype(np.intp)
    # No score reaches so many cuts; it marks the bins in which a cut lies.
    unsure = np.iinfo(kind).max
    reached = np.repeat(np.arange(len(cuts) + 1, dtype=kind), np.diff(bins, prepend=0, append=BINS))
    reached[bins] = unsure
    # New arrays for every block would cost more than what is done with them.
    places, narrow, wide, answers = (np.empty(size, t) for t in (scale.dtype, "i4", "i8", kind))

    def find(scores: np.ndarray) -> np.ndarray:
        n = len(scores)
        cells = answers[:n]
        distance = np.subtract(scores, bottom, out=places[:n]) if bottom else scores
        # NumPy converts to 32 bits with vector instructions, to 64 bits one by one.
        np.multiply(distance, scale, out=narrow[:n], casting="unsafe")
        wide[:n] = narrow[:n]
        # No bin is out of range; NumPy takes "wrap" quicker than "clip".
        reached.take(wide[:n], out=cells, mode="wrap")
        look = (cells == unsure).nonzero()[0]
        cells[look] = cuts.searchsorted(scores[look], side="right")
        return cells

    return find


def ends_of(p: np.ndarray) -> tuple[float, float]:
    """Between which ends bins of probabilities (N,) shall lie: 0 and 1, or their own if narrow.

    A glance at some of them tells: where they fill half of [0, 1], its bins are fine enough, and
    the ends need not be looked for.

    >>> ends_of(np.array([0.1, 0.9])), ends_of(np.array([0.4, 0.6]))
    ((0.0, 1.0), (0.4, 0.6))
    """
    some = p[:: len(p) // GLANCE + 1]
    if some.max() - some.min() > 0.5:
        return 0.0, 1.0
    return float(p.min()), float(p.max())


def count_by_bin(
    p: np.ndarray, y: np.ndarray, low: float, high: float
) -> tuple[np.ndarray, np.ndarray]:
    """Each score's bin (N,), and how many of both labels each bin holds (BINS, 2).

    `p` (N,) lie within [low, high], between which there is room for bins (`scale_of` is not 0); `y`
    (N,) is boolean.

    >>> bins, counts = count_by_bin(np.array([0.0, 0.5, 1.0]), np.array([False, True, True]), 0, 1)
    >>> bins.tolist(), counts[bins].tolist()
    ([0, 8191, 16383], [[1, 0], [0, 1], [0, 1]])
    """
    scale, positive = scale_of(low, high), y.view(np.uint8)
    bins, counts = np.empty(len(p), np.uint16), np.zeros(2 * BINS, np.intp)
    size = min(BLOCK, len(p))
    places, keys = np.empty(size), np.empty(size, np.uint16)
    for i in range(0, len(p), size):
        part = slice(i, i + size)
        n = len(p[part])
        # Without what all scores lie above, a large sample is read and written once less.
        distance = np.subtract(p[part], low, out=places[:n]) if low else p[part]
        np.multiply(distance, scale, out=bins[part], casting="unsafe")
        # The positives' counts stand behind those of the negatives.
        key = np.multiply(positive[part], BINS, out=keys[:n], dtype=np.uint16)
        key += bins[part]
        counts += np.bincount(key, minlength=len(counts))
    return bins, counts.reshape(2, BINS).T


def count_keys(keys: np.ndarray, size: int) -> np.ndarray:
    """How often each of the keys 0, ..., size - 1 occurs, shape (size,), as `numpy.bincount` says.

    Few different keys are counted in pairs, one from either half of them, so that there is half as
    much to count: of the keys 1, 0, 1, 1 the pairs are (1, 1) and (0, 1).

    `keys` (N,) are unsigned integers.

    >>> count_keys(np.array([1, 0, 1, 1], np.uint8), size=2).tolist()
    [1, 3]
    """
    if size > MOST_IN_PAIRS:
        return np.bincount(keys, minlength=size)
    half = len(keys) // 2
    pairs = np.multiply(keys[:half], size, dtype=np.uint16)
    pairs += keys[half : 2 * half]
    table = np.bincount(pairs, minlength=size * size).reshape(size, size)
    counts = table.sum(axis=0) + table.sum(axis=1)
    counts[keys[2 * half :]] += 1
    return counts
