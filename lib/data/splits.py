"""Train, val and test without leaks: no text, and no picture or near copy of it, in two of them."""

import itertools
import unicodedata
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

# From the least to the most protected: where two leak into each other, the later one keeps its copy
SPLITS = ("train", "val", "test", "heldout")
FOLDS = 10
# Bits, on photographs: 0-5 if saved again or resized, 0-10 if cropped or written on, else over 20
MAX_DISTANCE = 6
_HASH_BITS = 64


@dataclass(frozen=True)
class Item:
    """What splitting needs to know of an example.

    Equal groups (within a data set), equal texts and near pictures tie it to others.
    """

    id: str
    dataset: str
    label: int
    text: str
    picture: int | None = None
    group: str | None = None
    split: str | None = None


def normalise_text(text: str) -> str:
    """NFKC, case folded, punctuation and white space collapsed to single spaces."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    kept = (c if unicodedata.category(c)[0] in "LNMS" else " " for c in folded)
    return " ".join("".join(kept).split())


def near_pairs(hashes: Sequence[int], max_distance: int = MAX_DISTANCE) -> np.ndarray:
    """Index pairs, int64 (P, 2), of hashes that differ in at most `max_distance` bits.

    Two such hashes agree in one of `max_distance + 1` bands of bits (pigeonhole), so only hashes
    that share a band are compared. Pass distinct hashes: equal ones make quadratically many pairs.
    """
    values = np.asarray(hashes, dtype=np.uint64)
    edges = np.linspace(0, _HASH_BITS, max_distance + 2).astype(int)
    found = [np.empty((0, 2), dtype=np.int64)]
    for low, high in itertools.pairwise(edges):
        band = (values >> np.uint64(low)) & np.uint64((1 << int(high - low)) - 1)
        order = np.argsort(band, kind="stable")
        starts = np.flatnonzero(np.diff(band[order])) + 1
        for bucket in np.split(order, starts):
            found.extend(_pairs_within(bucket, values, max_distance))
    pairs = np.sort(np.concatenate(found), axis=1)
    return np.unique(pairs, axis=0)


def _pairs_within(
    bucket: np.ndarray, values: np.ndarray, max_distance: int
) -> Iterable[np.ndarray]:
    for place, index in enumerate(bucket[:-1]):
        rest = bucket[place + 1 :]
        near = rest[np.bitwise_count(values[rest] ^ values[index]) <= max_distance]
        if len(near):
            yield np.stack([np.full_like(near, index), near], axis=1)


class Ties:
    """Which items are tied to each other: the keys each holds, and which keys are near copies."""

    def __init__(self, items: Sequence[Item]) -> None:
        self.keys_of = [_keys(item) for item in items]
        self.holders: dict[tuple[str, Any], list[int]] = defaultdict(list)
        for index, keys in enumerate(self.keys_of):
            for key in keys:
                self.holders[key].append(index)
        hashes = [key[1] for key in self.holders if key[0] == "picture"]
        self.near: dict[tuple[str, Any], list[tuple[str, Any]]] = defaultdict(list)
        for a, b in near_pairs(hashes):
            one, other = ("picture", hashes[a]), ("picture", hashes[b])
            self.near[one].append(other)
            self.near[other].append(one)

    def components(self) -> np.ndarray:
        """The number of the group, int (N,), that each of N items is in."""
        n = len(self.keys_of)
        ends = [
            (first, holder)
            for key, (first, *_) in self.holders.items()
            for same in (key, *self.near[key])
            for holder in self.holders[same]
        ]
        rows, columns = np.array(ends, dtype=np.int64).reshape(-1, 2).T
        graph = coo_array((np.ones(len(rows), dtype=bool), (rows, columns)), shape=(n, n))
        return connected_components(graph, directed=False)[1]

    def same(self, index: int) -> Iterator[tuple[str, Any]]:
        """Yield the keys of item `index` and the near copies of these."""
        for key in self.keys_of[index]:
            yield key
            yield from self.near.get(key, ())


def _keys(item: Item) -> list[tuple[str, Any]]:
    text = normalise_text(item.text)
    keys = {
        "group": None if item.group is None else (item.dataset, item.group),
        "text": text or None,
        "picture": item.picture,
    }
    return [(kind, key) for kind, key in keys.items() if key is not None]


def assign_splits(items: Sequence[Item], seed: int = 0) -> tuple[dict[str, str], dict[str, Any]]:
    """Return {id: split}, and a report of what the leak check dropped and what was carved out.

    A publisher's own splits stay, save for members that equal or nearly equal one of a more
    protected split (`SPLITS`): these are dropped. A data set that lacks val or test (labelled)
    gets a tenth of its unassigned and train members for each, in whole groups and stratified by
    data set and label; its other unassigned members go to train.
    Raises ValueError if there are too few groups to fill the splits.
    """
    ties = Ties(items)
    split_of: list[Any] = [item.split for item in items]
    dropped = find_leaks(items, split_of, ties)
    gone = {leak["id"] for leak in dropped}
    kept = [i for i, item in enumerate(items) if item.id not in gone]
    items, split_of = [items[i] for i in kept], [split_of[i] for i in kept]
    group_of = Ties(items).components()
    carved: dict[str, dict[str, int]] = {}
    for wanted, pool in _pools(items, split_of).items():
        _fill(items, split_of, group_of, pool, wanted, seed)
        for i in pool:
            counts = carved.setdefault(items[i].dataset, dict.fromkeys(("train", *wanted), 0))
            counts[split_of[i]] = counts.get(split_of[i], 0) + 1
    report = {
        "dropped": dropped,
        "assigned": carved,
        "groups": len(set(group_of.tolist())),
    }
    return {item.id: split for item, split in zip(items, split_of, strict=True)}, report


def groups_of(items: Sequence[Item]) -> dict[str, str]:
    """Id to the name of its group, the id of the group's first member.

    Members of a group share a text, a picture or a group of their own, directly or through others:
    they are not independent of each other.
    """
    first: dict[int, str] = {}
    number = Ties(items).components().tolist()
    return {item.id: first.setdefault(k, item.id) for item, k in zip(items, number, strict=True)}


def find_leaks(
    items: Sequence[Item], split_of: Sequence[str | None], ties: Ties | None = None
) -> list[dict[str, str | None]]:
    """List the members whose text, picture or group also occurs in a more protected split.

    A split of None counts as the least protected and may share with train. What leaks into a
    member that leaks itself is no leak: that member goes anyway.
    """
    ties = ties or Ties(items)
    rank = [-1 if split is None else SPLITS.index(split) for split in split_of]
    leaks: dict[int, dict[str, str | None]] = {}
    for level in range(len(SPLITS) - 1, 0, -1):
        protected: dict[tuple[str, Any], int] = {}
        for i, own in enumerate(rank):
            if own == level and i not in leaks:
                for key in ties.same(i):
                    protected.setdefault(key, i)
        for i, own in enumerate(rank):
            hits = [key for key in ties.keys_of[i] if own < level and key in protected]
            if hits and i not in leaks:
                leaks[i] = {
                    "id": items[i].id,
                    "split": split_of[i],
                    "shares": hits[0][0],
                    "with": items[protected[hits[0]]].id,
                    "of": SPLITS[level],
                }
    return [leaks[i] for i in sorted(leaks)]


def find_duplicates(items: Sequence[Item]) -> list[dict[str, str]]:
    """List the items whose text or picture (or a near copy of it) occurs earlier in `items`."""
    ties = Ties(items)
    found = []
    for i, item in enumerate(items):
        for kind in ("text", "picture"):
            first = min((ties.holders[k][0] for k in ties.same(i) if k[0] == kind), default=i)
            if first < i:
                found.append({"id": item.id, "shares": kind, "with": items[first].id})
    return found


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
) -> None:
    """Give each pool member its split: whole groups, a fold each to `wanted`, the rest to train."""
    inside = set(pool)
    settled = {
        int(group): split
        for i, (group, split) in enumerate(zip(group_of, split_of, strict=True))
        if i not in inside and split is not None
    }
    free = [i for i in pool if int(group_of[i]) not in settled]
    if wanted and free:
        strata = [f"{items[i].dataset}/{items[i].label}" for i in free]
        folds = _folds(strata, group_of[free], len(wanted) + 1, seed)
        for split, fold in zip(wanted, folds, strict=False):
            settled |= {int(group_of[free[k]]): split for k in fold}
    for i in pool:
        split_of[i] = settled.get(int(group_of[i]), "train")


def _folds(strata: Sequence[str], groups: np.ndarray, parts: int, seed: int) -> list[np.ndarray]:
    """Stratified folds of whole groups: ten, or as many as groups and labels allow."""
    # Here, so that packing's worker processes need not load it
    from sklearn.model_selection import StratifiedGroupKFold

    n_groups = len(set(groups.tolist()))
    if n_groups < parts:
        raise ValueError(
            f"{len(strata)} examples in {n_groups} groups of equal text or picture cannot fill "
            f"{parts} splits; give more examples or a split of their own"
        )
    if max(Counter(strata).values()) < parts:
        strata = ["too few of any label to stratify"] * len(strata)
    n_folds = min(FOLDS, n_groups, max(Counter(strata).values()))
    folds = StratifiedGroupKFold(n_folds, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        # A label rarer than the folds cannot be in each of them; there is nothing to do about it
        warnings.filterwarnings("ignore", message="The least populated class")
        return [test for _, test in folds.split(strata, strata, groups)]
