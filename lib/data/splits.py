"""Train, val and test without leaks: no text, and no picture or near copy of it, in two of them."""

import math
import warnings
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np

from lib.data.ties import KINDS, Item, Ties

# From the least to the most protected: where two leak into each other, the later one keeps its copy
SPLITS = ("train", "val", "test", "heldout")
FOLDS = 10


def assign_splits(
    items: Sequence[Item], seed: int = 0, ties: Ties | None = None
) -> tuple[dict[str, str], dict[str, Any]]:
    """Return {id: split}, and a report of what the leak check dropped and what was carved out.

    A publisher's own splits stay, save for members that equal or nearly equal one of a more
    protected split (`SPLITS`): these are dropped. A data set that lacks val or test (labelled)
    gets a tenth of its unassigned and train members for each, in whole groups and stratified by
    data set and label, one of each label at least where train can spare it; its other unassigned
    members go to train. A group that is larger than such a tenth goes to train, with a warning.
    Raises ValueError if there are too few groups to fill the splits.
    """
    ties = ties or Ties(items)
    split_of: list[Any] = [item.split for item in items]
    dropped = find_leaks(items, split_of, ties)
    gone = {leak["id"] for leak in dropped}
    if gone:
        kept = [i for i, item in enumerate(items) if item.id not in gone]
        items, split_of = [items[i] for i in kept], [split_of[i] for i in kept]
        ties = Ties(items)
    group_of = ties.components
    carved: dict[str, dict[str, int]] = {}
    oversized: list[dict[str, Any]] = []
    for wanted, pool in _pools(items, split_of).items():
        oversized += _fill(items, split_of, group_of, pool, wanted, seed)
        for i in pool:
            counts = carved.setdefault(items[i].dataset, dict.fromkeys(("train", *wanted), 0))
            counts[split_of[i]] = counts.get(split_of[i], 0) + 1
    report = {
        "dropped": dropped,
        "assigned": carved,
        "groups": len(set(group_of.tolist())),
        "oversized_groups": oversized,
    }
    return {item.id: split for item, split in zip(items, split_of, strict=True)}, report


def find_leaks(
    items: Sequence[Item], split_of: Sequence[str | None], ties: Ties
) -> list[dict[str, str | None]]:
    """List the members whose text, picture or group also occurs in a more protected split.

    A split of None counts as the least protected and may share with train. What leaks into a
    member that leaks itself is no leak: that member goes anyway.
    """
    rank = np.array([-1 if split is None else SPLITS.index(split) for split in split_of], dtype=int)
    leaks: dict[int, dict[str, str | None]] = {}
    for level in range(len(SPLITS) - 1, 0, -1):
        open_ = np.ones(len(items), dtype=bool)
        open_[list(leaks)] = False
        protected = np.flatnonzero(open_ & (rank == level))
        lower = np.flatnonzero(open_ & (rank < level))
        if not len(protected) or not len(lower):
            continue
        for kind in KINDS:
            found = ties.first_tied(kind, lower, protected)
            for i, holder in zip(lower[found >= 0], found[found >= 0], strict=True):
                leak = {"id": items[i].id, "split": split_of[i], "shares": kind}
                leaks.setdefault(int(i), leak | {"with": items[holder].id, "of": SPLITS[level]})
    return [leaks[i] for i in sorted(leaks)]


def _pools(
    items: Sequence[Item], split_of: Sequence[str | None]
) -> dict[tuple[str, ...], list[int]]:
    """Members to distribute, by the splits that their data set lacks."""
    has: dict[str, set[str | None]] = defaultdict(set)
    for item, split in zip(items, split_of, strict=True):
        has[item.dataset].add(split)
    pools: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for i, (item, split) in enumerate(zip(items, split_of, strict=True)):
        lacks = tuple(name for name in ("test", "val") if name not in has[item.dataset])
        if split is None or (split == "train" and lacks):
            pools[lacks].append(i)
    return dict(pools)


def _fill(
    items: Sequence[Item],
    split_of: list[str | None],
    group_of: np.ndarray,
    pool: Sequence[int],
    wanted: Sequence[str],
    seed: int,
) -> list[dict[str, Any]]:
    """Give each pool member its split: whole groups, a fold each to `wanted`, the rest to train.

    Returns the groups that are larger than a fold.
    """
    inside = set(pool)
    settled = {
        int(group): split
        for i, (group, split) in enumerate(zip(group_of, split_of, strict=True))
        if i not in inside and split is not None
    }
    free = [i for i in pool if int(group_of[i]) not in settled]
    oversized = []
    if wanted and free:
        strata = [f"{items[i].dataset}/{items[i].label}" for i in free]
        names, groups = np.unique(group_of[free], return_inverse=True)
        folds, large = _folds(strata, groups, len(wanted), seed)
        _share_rare_labels(folds, groups, [items[i].label for i in free], len(wanted))
        settled |= {
            int(name): wanted[fold]
            for name, fold in zip(names, folds, strict=True)
            if fold < len(wanted)
        }
        for group in large:
            members = [free[k] for k in np.flatnonzero(groups == group)]
            row = {"id": items[members[0]].id, "memes": len(members), "of": len(free)}
            oversized.append(row | {"split": settled.get(int(names[group]), "train")})
            warnings.warn(
                f"{row['memes']} of {row['of']} memes are near copies of {row['id']} or tied to "
                "it; a held-out split cannot hold them, so they all go to "
                f"{oversized[-1]['split']}",
                stacklevel=4,
            )
    for i in pool:
        split_of[i] = settled.get(int(group_of[i]), "train")
    return oversized


def _share_rare_labels(
    folds: np.ndarray, groups: np.ndarray, labels: Sequence[Any], held_out: int
) -> None:
    """Give each held-out fold a group of every label that it lacks and that train can spare.

    A label of a few memes falls to none of the tenths by its share, and a split of one label
    chooses and calibrates nothing. Of train's groups with that label the smallest goes, as long as
    train keeps another; `folds` (G,) is changed.
    """
    sizes = np.bincount(groups)
    fits = sizes <= math.ceil(len(groups) / FOLDS)
    for label in sorted(set(labels)):
        of_label = np.unique(groups[[found == label for found in labels]])
        for fold in range(held_out):
            spare = of_label[folds[of_label] >= held_out]
            smallest = spare[np.argmin(sizes[spare])] if len(spare) > 1 else None
            lacks = not (folds[of_label] == fold).any()
            if lacks and smallest is not None and fits[smallest]:
                folds[smallest] = fold


def _folds(
    strata: Sequence[str], groups: np.ndarray, held_out: int, seed: int
) -> tuple[np.ndarray, list[int]]:
    """The fold of each of G groups, int (G,), and the groups that are larger than a fold.

    Folds below `held_out` are a tenth each (more, where groups or labels do not suffice for ten),
    the others share the rest. The largest groups choose first, each the fold with most room for
    what it holds; those larger than a fold go to no held-out one while there are others.
    """
    n, n_groups = len(strata), int(groups.max()) + 1
    if n_groups <= held_out:
        raise ValueError(
            f"{n} examples in {n_groups} groups of equal text or picture cannot fill "
            f"{held_out + 1} splits; give more examples or a split of their own"
        )
    if max(Counter(strata).values()) <= held_out:
        strata = ["too few of any label to stratify"] * n
    n_folds = min(FOLDS, n_groups, max(Counter(strata).values()))
    names, stratum = np.unique(strata, return_inverse=True)
    holds = np.zeros((n_groups, len(names)))
    np.add.at(holds, (groups, stratum), 1)
    sizes = holds.sum(axis=1)
    rng = np.random.default_rng(seed)
    shuffled = rng.permutation(n_groups)
    order = shuffled[np.argsort(-sizes[shuffled], kind="stable")]
    large = order[sizes[order] > math.ceil(n / n_folds)][: n_groups - held_out]
    chosen = np.full(n_groups, held_out)
    room = _room(holds.sum(axis=0), holds[large].sum(axis=0), n_folds, held_out)
    load = np.zeros_like(room)
    part = np.minimum(np.arange(len(room)), held_out)
    empty = set(range(held_out + (not len(large))))
    for left, group in zip(range(n_groups - len(large), 0, -1), order[len(large) :], strict=True):
        # How full each fold would be, of what the group holds; among equals the emptiest
        full = ((load + holds[group]) / room) @ holds[group] / sizes[group]
        if left <= len(empty):
            full[~np.isin(part, list(empty))] = np.inf
        ties = np.flatnonzero(full <= full.min() + 1e-9)
        total = load[ties].sum(axis=1) / room[ties].sum(axis=1)
        fold = rng.choice(ties[total <= total.min() + 1e-9])
        load[fold] += holds[group]
        chosen[group] = part[fold]
        empty.discard(int(part[fold]))
    return chosen, np.flatnonzero(sizes > math.ceil(n / n_folds)).tolist()


def _room(counts: np.ndarray, taken: np.ndarray, n_folds: int, held_out: int) -> np.ndarray:
    """What each fold should hold of each of K strata, float (F, K), `taken` being in train."""
    tenth = np.minimum(counts / n_folds, (counts - taken) / held_out)
    rest = np.maximum(counts - taken - held_out * tenth, 0.0)
    others = round(rest.sum() * n_folds / counts.sum()) or int(rest.sum() >= 1)
    room = [tenth] * held_out + [rest / others] * others if others else [tenth] * held_out
    return np.maximum(np.stack(room), 1e-6)
