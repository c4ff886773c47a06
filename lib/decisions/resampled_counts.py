"""Sums of counts over resampled groups: what the intervals of rates and of F1 are made of.

Groups of equal counts are one kind, and a resample draws each group with one chance, so how often
the kinds are drawn is multinomial. A resample of 100,000 memes that are right or wrong, in groups
of their own, is then one binomial number instead of 100,000 drawn rows.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike

from lib.calibration.intervals import interval_of, units_of


def resampled_sums(
    counts: ArrayLike, groups: ArrayLike | None = None, n_resamples: int = 1000, seed: int = 0
) -> np.ndarray:
    """Sums of the columns of `counts` (N, K), shape (1 + n_resamples, K): of all rows first.

    Each further row is what a resample sums to, of as many groups as there are, drawn whole with
    replacement (Davison and Hinkley 1997, section 3.8). `groups` (N,) names the group of each row;
    None: each is one of its own.
    """
    table = np.asarray(counts)
    units = units_of(groups, len(table))
    sums = np.column_stack([np.bincount(units, column) for column in table.T]).astype(np.int32)
    kinds, times = np.unique(sums, axis=0, return_counts=True)
    return _drawn(kinds, times, n_resamples, seed)


def resampled_cells(
    alone: ArrayLike, together: ArrayLike, n_resamples: int = 1000, seed: int = 0
) -> np.ndarray:
    """As `resampled_sums`, of memes of which only counts are known, (1 + n_resamples, K).

    `alone` (K,) says how many memes are in each cell that share a group with no other, and a row of
    `together` (G, K) how many of a group of several are.
    """
    alone, (groups, times) = np.asarray(alone), np.unique(together, axis=0, return_counts=True)
    kinds = np.vstack([np.eye(len(alone)), groups])
    return _drawn(kinds, np.concatenate([alone, times]), n_resamples, seed)


def rates(
    hits: np.ndarray, there: np.ndarray, n_groups: int, column: int = 0, seed: int = 0
) -> np.ndarray:
    """hits / there of sums (1 + n_resamples,), the sample's first; NaN where `there` is 0.

    A rate of 0 or 1 is so in each resample, too, as if it were certain. What else it may be is then
    drawn from Jeffreys' posterior on `n_groups` independent memes, that of 0 from
    Beta(1/2, n_groups + 1/2) (Brown, Cai and DasGupta 2001): the half beyond its median, while the
    other draws stay, so that an interval begins at the rate itself. `column` tells rates of the
    same resamples apart, which are drawn independently.
    """
    found = ratio(hits, there)
    if found[0] not in (0, 1):
        return found
    rng = np.random.Generator(np.random.SFC64([seed, column]))
    drawn = rng.beta(0.5, n_groups + 0.5, len(found) - 1)
    away = np.where(drawn > np.median(drawn), drawn, 0)
    return np.concatenate([found[:1], np.abs(found[0] - away)])


def ends_of(values: Mapping[str, np.ndarray], level: float = 0.95) -> dict[str, float]:
    """`<name>_low` and `<name>_high` for each name: the interval of its values, the sample's first.

    NaN where the sample's own value is.
    """
    found: dict[str, float] = {}
    for name, value in values.items():
        if np.isnan(value[0]):
            value = np.full(2, np.nan)
        interval = interval_of(value[0], value[1:], level)
        found |= {f"{name}_low": float(interval.low), f"{name}_high": float(interval.high)}
    return found


def ratio(top: np.ndarray, bottom: np.ndarray) -> np.ndarray:
    """top / bottom, NaN where `bottom` is 0."""
    return np.divide(top, bottom, out=np.full(np.shape(top), np.nan), where=bottom != 0)


def _drawn(kinds: np.ndarray, times: np.ndarray, n_resamples: int, seed: int) -> np.ndarray:
    rng = np.random.Generator(np.random.SFC64(seed))
    total = int(times.sum())
    drawn = rng.multinomial(total, times / max(total, 1), size=n_resamples)
    return np.vstack([times, drawn]) @ kinds
