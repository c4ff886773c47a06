"""Scores and labels in one sort: what every search for a cut walks along."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from lib.calibration.checked_input import in_precision_of

BLOCK = 32_768

# The objective of a cut, from its true positives and its positives, both of shape (cuts,).
Value = Callable[[np.ndarray, np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Ranking:
    """Examples by ascending score. Cut i flags all from the i-th on, so cut n flags none.

    `keys` (n,) are the scores' bits with the label as the lowest bit: bits of numbers that are not
    negative sort as the numbers do, so one integer sort carries the labels along.
    """

    keys: np.ndarray
    positives: int

    @classmethod
    def of(cls, p: np.ndarray, y: np.ndarray) -> "Ranking":
        # NumPy sorts unsigned integers a quarter faster than signed ones.
        keys = np.empty(len(p), np.uint64)
        for i in range(0, len(p), BLOCK):
            # Adding 0.0 turns -0.0, whose sign bit would sort it wrongly, into 0.0.
            bits = (p[i : i + BLOCK] + 0.0).view(np.uint64) << 1
            keys[i : i + BLOCK] = bits | y[i : i + BLOCK].astype(np.uint64)
        keys.sort()
        return cls(keys, int(np.count_nonzero(y)))

    def best(self, value: Value, last: bool = False) -> tuple[int, float, float]:
        """The first (or last) cut of the highest value: its index, true positives and value."""
        n, passed, previous = len(self.keys), 0, -1
        best = (0, 0.0, -math.inf)
        for start in range(0, n, BLOCK):
            keys = self.keys[start : start + BLOCK]
            label = (keys & 1).view(np.int64)
            seen = np.cumsum(label)
            tp = (self.positives - passed - seen + label).astype(np.float64)
            values = value(tp, np.arange(n - start, n - start - len(keys), -1, dtype=np.float64))
            scores = keys >> 1
            # A cut between equal scores is none.
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
        return float((self.keys[i : i + 1] >> 1).view(np.float64)[0])

    def cut(self, i: int, like: ArrayLike) -> float:
        """Midway between the scores around cut i, in the floating type of `like`."""
        lower = self.score(i - 1) if i else 0.0
        upper = self.score(i) if i < len(self.keys) else 1.0
        middle = float(in_precision_of(like, np.array([lower + (upper - lower) / 2]))[0])
        if middle > lower or i == 0:
            return middle
        # Neighbouring floats have no middle, and only a cut above 1 is above a score of 1.
        return upper if upper > lower else 2.0
