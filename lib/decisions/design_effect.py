"""How much less memes say of a rate when they come in groups that share a text or a picture.

The errors of such memes are not independent. The design effect (Kish 1965, Survey Sampling) of a
rate p = e / n is its variance over groups divided by p (1 - p) / n, here of groups g with n_g memes
and e_g errors each, a meme by itself being a group of one, G groups in all:

    design effect = G / (G - 1) * sum over g of (e_g - p n_g)^2 / (n p (1 - p)), at least 1

n memes say as much as n / design effect independent ones, by which intervals and tests count them.
Where p is 0 or 1 the variance cannot be seen, and the effect of the value and the others of its
slice together is taken, for which a group on both sides counts as one on each.

The variance is seen only as far as no group outweighs the others. Groups of unlike sizes say as
much of it as (sum over g of n_g)^2 / sum over g of n_g^2 of one size (Kish 1965): ten groups, eight
of 3 memes, one of 60 and one of 100, are 2.5.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from lib.modeling.prediction_table import FEWEST_GROUPS


class Rate(NamedTuple):
    """e of n memes, and what groups of several memes hold of them, (k,) each."""

    errors: int
    n: int
    group_errors: np.ndarray
    group_n: np.ndarray

    @property
    def groups(self) -> int:
        """The number of groups, memes by themselves included."""
        return len(self.group_n) + self.n - int(self.group_n.sum())

    @property
    def enough(self) -> bool:
        """Whether no meme shares its group, or there are `enough_groups`."""
        alone = np.ones(self.n - int(self.group_n.sum()))
        return not len(self.group_n) or enough_groups(np.concatenate([self.group_n, alone]))


def enough_groups(sizes: np.ndarray) -> bool:
    """Whether groups of these sizes (G,) count as `FEWEST_GROUPS` of one size, rounded up."""
    return bool(sizes.sum() ** 2 / (sizes**2).sum() > FEWEST_GROUPS - 1)


def design_effect(rate: Rate) -> float:
    """The design effect as said above; NaN where the rate is 0, 1 or of one group."""
    if not len(rate.group_n):
        return 1.0
    if rate.errors in (0, rate.n) or rate.groups < 2:
        return float("nan")
    p = rate.errors / rate.n
    alone, wrong = rate.n - rate.group_n.sum(), rate.errors - rate.group_errors.sum()
    spread = ((rate.group_errors - p * rate.group_n) ** 2).sum()
    spread += wrong * (1 - p) ** 2 + (alone - wrong) * p**2
    found = rate.groups / (rate.groups - 1) * spread / (rate.n * p * (1 - p))
    return max(1.0, float(found))


def rates_of(
    counts: pd.DataFrame, shared: pd.DataFrame | None, wrong: Sequence[str], right: Sequence[str]
) -> list[tuple[Rate, Rate]]:
    """The rate of each row of counts, `wrong` among `wrong` and `right`, and that of all others.

    `counts` has a row for each value of one slice, `shared` one for each value and group of several
    memes; both have the cells.
    """
    if shared is None:
        shared = pd.DataFrame(columns=["value", "group", *wrong, *right])
    place = pd.Index(counts["value"]).get_indexer(pd.Index(shared["value"]))
    of_values, of_shared = (_sides(rows, wrong, right) for rows in (counts, shared[place >= 0]))
    group, names = pd.factorize(shared["group"][place >= 0])
    place = place[place >= 0]
    whole, together = of_values.sum(axis=0), np.zeros((len(names), 2), int)
    np.add.at(together, group, of_shared)
    pairs = []
    for k, of_value in enumerate(of_values):
        own = np.zeros_like(together)
        np.add.at(own, group[place == k], of_shared[place == k])
        pairs.append((_rate(of_value, own), _rate(whole - of_value, together - own)))
    return pairs


def _sides(cells: pd.DataFrame, wrong: Sequence[str], right: Sequence[str]) -> np.ndarray:
    """Errors and memes of each row, ints (N, 2)."""
    errors, others = (cells[[*names]].to_numpy(int).sum(axis=1) for names in (wrong, right))
    return np.column_stack([errors, errors + others])


def _rate(both: np.ndarray, of_groups: np.ndarray) -> Rate:
    """The rate of errors and memes (2,), of which groups hold these (G, 2)."""
    # Of whose memes only one counts here, it is by itself.
    errors, n = of_groups[of_groups[:, 1] > 1].T
    return Rate(int(both[0]), int(both[1]), errors, n)


def effective(own: Rate, rest: Rate) -> tuple[tuple[float, float], tuple[float, float]]:
    """Errors and memes of both, divided by their design effects.

    Where one cannot be seen it is that of both together, and where that cannot be seen either, the
    mean size of the group of a meme, as if the memes of a group were all of one kind.
    """
    both = Rate(
        own.errors + rest.errors,
        own.n + rest.n,
        np.concatenate([own.group_errors, rest.group_errors]),
        np.concatenate([own.group_n, rest.group_n]),
    )
    found = []
    for rate in (own, rest):
        tried = (design_effect(rate), design_effect(both), _mean_size(rate))
        by = next(each for each in tried if not np.isnan(each))
        found.append((rate.errors / by, rate.n / by))
    return found[0], found[1]


def _mean_size(rate: Rate) -> float:
    alone = rate.n - rate.group_n.sum()
    return float(((rate.group_n**2).sum() + alone) / rate.n) if rate.n else 1.0
