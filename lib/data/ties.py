"""Which memes are tied to each other: by an equal text, a near copy of a picture, or a group."""

import unicodedata
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from lib.data.near_duplicates import first_near, near_groups

KINDS = ("group", "text", "picture")


@dataclass(frozen=True)
class Item:
    """What splitting needs to know of an example.

    Equal groups, equal texts and near pictures tie it to others. A group is one of its data set
    alone, unless `group_spans` says that its name means the same in all. `picture` is a 64-bit
    perceptual hash.
    """

    id: str
    dataset: str
    label: int
    text: str
    picture: int | None = None
    group: str | None = None
    split: str | None = None
    group_spans: bool = False

    def group_key(self) -> tuple[str | None, str] | None:
        """What the items of its group have in common, None without a group."""
        if self.group is None:
            return None
        return None if self.group_spans else self.dataset, self.group


def normalise_text(text: str) -> str:
    """NFKC, case folded, punctuation and white space collapsed to single spaces."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    kept = (c if unicodedata.category(c)[0] in "LNMS" else " " for c in folded)
    return " ".join("".join(kept).split())


class Ties:
    """The ties among N items, found once for all who ask.

    `codes` holds for each kind of tie an int (N,): items with equal codes share that group, text
    or picture; -1 where an item has none.
    """

    def __init__(self, items: Sequence[Item]) -> None:
        self.n = len(items)
        self.codes = {
            "group": _codes(item.group_key() for item in items),
            "text": _codes(normalise_text(item.text) or None for item in items),
            "picture": _codes(item.picture for item in items),
        }
        known = dict.fromkeys(item.picture for item in items if item.picture is not None)
        self.hashes = np.fromiter(known, dtype=np.uint64, count=len(known))

    @cached_property
    def components(self) -> np.ndarray:
        """The number of the group, int (N,), that each item is in, tied directly or by others."""
        codes = self.codes | {"picture": _through(self._alike, self.codes["picture"])}
        rows, firsts = [], []
        for kind in KINDS:
            holders = np.flatnonzero(codes[kind] >= 0)
            rows.append(holders)
            firsts.append(_first_holders(codes[kind], holders)[codes[kind][holders]])
        ends = (np.concatenate(rows), np.concatenate(firsts))
        graph = coo_array((np.ones(len(ends[0]), dtype=bool), ends), shape=(self.n, self.n))
        return connected_components(graph, directed=False)[1]

    def first_tied(self, kind: str, rows: np.ndarray, to: np.ndarray) -> np.ndarray:
        """The first of the items `to` that each of the items `rows` is tied to, -1 for none."""
        codes = self.codes[kind]
        holders = to[codes[to] >= 0]
        first = _first_holders(codes, holders)
        if kind == "picture":
            first = self._first_near_holders(first, np.unique(codes[rows[codes[rows] >= 0]]))
        return _through(first, codes[rows])

    def duplicated(self, kind: str) -> np.ndarray:
        """The first earlier item that each item shares its text or picture with, -1 for none."""
        codes = self.codes[kind]
        first = _first_holders(codes, np.flatnonzero(codes >= 0))
        if kind == "picture":
            for alike in self._clusters(np.arange(len(self.hashes))):
                hashes = self.hashes[alike]
                near = first_near(hashes, hashes, earlier=True)
                first[alike[near >= 0]] = first[alike[near[near >= 0]]]
        found = _through(first, codes)
        return np.where(found < np.arange(self.n), found, -1)

    def _first_near_holders(self, first: np.ndarray, wanted: np.ndarray) -> np.ndarray:
        """For each wanted picture the first holder of any near to it, of the holders in `first`."""
        held = np.flatnonzero(first >= 0)
        held = held[np.argsort(first[held], kind="stable")]
        found = np.full(len(first), -1)
        both = np.intersect1d(self._alike[held], self._alike[wanted])
        sources = {number: alike for number, alike in self._by_group(held, both)}
        for number, alike in self._by_group(wanted, both):
            near = first_near(self.hashes[alike], self.hashes[sources[number]])
            found[alike] = _through(first[sources[number]], near)
        return found

    @cached_property
    def _alike(self) -> np.ndarray:
        """The number of the cluster of near copies, int (H,), of each of H distinct pictures."""
        return near_groups(self.hashes)

    def _by_group(self, pictures: np.ndarray, groups: np.ndarray) -> Iterator:
        kept = pictures[np.isin(self._alike[pictures], groups)]
        for alike in self._clusters(kept, least=1):
            yield int(self._alike[alike[0]]), alike

    def _clusters(self, pictures: np.ndarray, least: int = 2) -> Iterator[np.ndarray]:
        """The pictures of each cluster of near copies, in their order, of at least so many."""
        order = np.argsort(self._alike[pictures], kind="stable")
        numbers = self._alike[pictures][order]
        starts = np.flatnonzero(np.diff(numbers, prepend=-1))
        sizes = np.diff(starts, append=len(numbers))
        for start, size in zip(starts[sizes >= least], sizes[sizes >= least], strict=True):
            yield pictures[order[start : start + size]]


def groups_of(items: Sequence[Item], ties: Ties) -> dict[str, str]:
    """Id to the name of its group, the id of the group's first member.

    Members of a group share a text, a picture or a group of their own, directly or through others:
    they are not independent of each other.
    """
    first: dict[int, str] = {}
    numbers = ties.components.tolist()
    return {item.id: first.setdefault(k, item.id) for item, k in zip(items, numbers, strict=True)}


def find_duplicates(items: Sequence[Item], ties: Ties) -> list[dict[str, str]]:
    """List the items whose text or picture (or a near copy of it) occurs earlier in `items`."""
    first = {kind: ties.duplicated(kind) for kind in ("text", "picture")}
    some = np.flatnonzero((first["text"] >= 0) | (first["picture"] >= 0)).tolist()
    return [
        {"id": items[i].id, "shares": kind, "with": items[first[kind][i]].id}
        for i in some
        for kind in first
        if first[kind][i] >= 0
    ]


def _codes(keys: Iterable[Hashable | None]) -> np.ndarray:
    """Number the keys in the order of their first occurrence; None is -1."""
    known: dict[Hashable, int] = {}
    return np.array(
        [-1 if key is None else known.setdefault(key, len(known)) for key in keys], dtype=np.int64
    )


def _first_holders(codes: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """The first of the ascending `rows` that has each code, -1 where none has."""
    first = np.full(int(codes.max(initial=-1)) + 1, -1)
    # Of several values for one place the last is kept
    first[codes[rows][::-1]] = rows[::-1]
    return first


def _through(values: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """`values[codes]`, and -1 where a code is -1."""
    return np.append(values, -1)[codes]
