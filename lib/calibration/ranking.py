"""Scores and labels in one integer sort: what every search for a threshold walks along.

A threshold matters only by which examples it flags, so of n scores there are at most n + 1
thresholds to try. Sorting the scores puts the flagged examples at the end, and one running sum
over the sorted labels gives the true positives of every threshold.

The labels travel in the sort itself. The bits of a float that is not negative, read as an unsigned
integer, ascend as the float does, and its highest bit, the sign, is 0. Shifting the bits up by one
therefore loses nothing, but makes -0.0 equal to 0.0, and frees the lowest bit for the label. NumPy
sorts such integer keys several times faster than it finds the order of floats and applies it to the
labels.

By hand: the bits of 0.25 are 3fd0000000000000, those of 0.5 are 3fe0000000000000. Shifted they are
7fa0... and 7fc0..., and a label of 1 makes the last digit 1:

>>> ranking = Ranking.of(np.array([0.5, 0.25, 0.5]), np.array([True, True, False]))
>>> [f"{key:x}" for key in ranking.keys.tolist()]
['7fa0000000000001', '7fc0000000000000', '7fc0000000000001']
>>> (ranking.keys >> 1).view(np.float64).tolist(), (ranking.keys & 1).tolist()
([0.25, 0.5, 0.5], [1, 0, 1])

Cut i flags all examples from the i-th on. Cut 2 is missing, as no threshold separates equal scores:

    cut   flagged         true positives   F1 = 2 tp / (flagged + positives)
    0     0.25 0.5 0.5    2                2 * 2 / (3 + 2) = 0.8
    1     0.5 0.5         1                2 * 1 / (2 + 2) = 0.5
    3     none            0                0

>>> ranking.best(lambda tp, flagged: 2 * tp / (flagged + 2))
(0, 2.0, 0.8)
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from lib.calibration.checked_input import in_precision_of

# Examples in one block of work: its temporary arrays stay in the processor's cache.
BLOCK = 32_768

# The threshold that calls nothing hate where a score is 1.
ABOVE_ALL = 2.0

# The objective of a cut, from its true positives and its flagged examples, both of shape (cuts,).
Value = Callable[[np.ndarray, np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Ranking:
    """Examples by ascending score. Cut i flags all from the i-th on, so cut n flags none.

    `keys` (n,) are the scores' bits with the label as the lowest bit, as the module explains.
    """

    keys: np.ndarray
    positives: int

    @classmethod
    def of(cls, p: np.ndarray, y: np.ndarray) -> "Ranking":
        """Rank probabilities (n,) with their boolean labels (n,)."""
        # NumPy sorts unsigned integers a quarter faster than signed ones.
        keys = np.empty(len(p), np.uint64)
        for i in range(0, len(p), BLOCK):
            bits = p[i : i + BLOCK].view(np.uint64) << 1
            keys[i : i + BLOCK] = bits | y[i : i + BLOCK].astype(np.uint64)
        keys.sort()
        return cls(keys, int(np.count_nonzero(y)))

    def best(self, value: Value, last: bool = False) -> tuple[int, float, float]:
        """The first (or last) cut of the highest value: its index, true positives and value.

        Works through the keys in blocks; `passed` counts the positives of the blocks before, and
        `previous` is their highest score, which the next block's first may equal.
        """
        n, passed, previous = len(self.keys), 0, -1
        best = (0, 0.0, -math.inf)
        for start in range(0, n, BLOCK):
            keys = self.keys[start : start + BLOCK]
            label = (keys & 1).view(np.int64)
            seen = np.cumsum(label)
            tp = (self.positives - passed - seen + label).astype(np.float64)
            values = value(tp, np.arange(n - start, n - start - len(keys), -1, dtype=np.float64))
            scores = keys >> 1
            # No threshold separates equal scores.
            values[1:][scores[1:] == scores[:-1]] = -math.inf
            if scores[0] == previous:
                values[0] = -math.inf
            i = len(keys) - 1 - int(np.argmax(values[::-1])) if last else int(np.argmax(values))
            if values[i] > best[2] or (last and values[i] == best[2]):
                best = (start + i, float(tp[i]), float(values[i]))
            passed, previous = passed + int(seen[-1]), scores[-1]
        none = float(value(np.zeros(1), np.zeros(1))[0])
        return (n, 0.0, none) if none > best[2] else best

    def score(self, i: int) -> float:
        """The i-th lowest score."""
        return float((self.keys[i : i + 1] >> 1).view(np.float64)[0])

    def around(self, i: int) -> tuple[float | None, float | None]:
        """The scores below and above cut i, None where there is none."""
        lower = self.score(i - 1) if i else None
        return lower, self.score(i) if i < len(self.keys) else None

    def threshold(self, i: int, like: ArrayLike) -> float:
        """Cut i as a number, `midway` in the floating type of `like`.

        >>> ranking = Ranking.of(np.array([0.2, 0.6]), np.array([False, True]))
        >>> [ranking.threshold(i, like=[0.2, 0.6]) for i in range(3)]
        [0.1, 0.4, 0.8]
        """
        return midway(*self.around(i), like)


def midway(lower: float | None, upper: float | None, like: ArrayLike) -> float:
    """The threshold between two neighbouring scores, in the floating type of `like`.

    Without a lower score that is midway to 0, without an upper one midway to 1.

    >>> midway(None, 0.2, like=[0.2]), midway(0.25, 0.75, like=[0.25, 0.75])
    (0.1, 0.5)
    """
    low, high = lower or 0.0, 1.0 if upper is None else upper
    middle = float(in_precision_of(like, np.array([low + (high - low) / 2]))[0])
    if middle > low or lower is None:
        return middle
    # Neighbouring floats have no middle, and only a threshold above 1 is above a score of 1.
    return high if high > low else ABOVE_ALL
