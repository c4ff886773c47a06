"""Near copies among perceptual hashes, in time that grows with their number and not its square.

Multi-index hashing (Norouzi, Punjani and Fleet, "Fast exact search in Hamming space with
multi-index hashing", 2014): cut into `d + k` blocks of bits, two hashes that differ in at most d
bits agree in some k blocks. So for each choice of k blocks only hashes that agree are compared.
"""

import itertools
import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import ArrayLike
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

# Bits, on photographs: 0-5 if saved again or resized, 0-10 if cropped or written on, else over 20
MAX_DISTANCE = 6
_BITS = 64
# A smaller bucket is compared whole, side by side with all the others of its size
_SMALL = 1024
# Hashes that a bucket should hold on average, as a power of two
_FILL = 3
_BUFFERED = 1 << 22


def near_groups(hashes: ArrayLike, max_distance: int = MAX_DISTANCE) -> np.ndarray:
    """The number of the group, int (N,), of each of N 64-bit hashes.

    Hashes are in one group where a chain of them leads from one to the other, each at most
    `max_distance` bits from the next. Takes about 55 bytes of memory a hash.
    """
    values = np.asarray(hashes, dtype=np.uint64)
    groups = np.arange(len(values))
    if len(values) < 2:
        return groups
    agreeing = _blocks_to_agree(len(values), max_distance)
    edges = np.linspace(0, _BITS, max_distance + agreeing + 1).astype(int)
    blocks = [(int(low), int(high - low)) for low, high in itertools.pairwise(edges)]
    mixed = _interleaved(values, len(blocks))
    for chosen in itertools.combinations(blocks, agreeing):
        order, starts, sizes = _buckets(mixed, chosen, groups)
        for one, other in _links(values, groups, order, starts, sizes, max_distance):
            groups = _joined(groups, one, other)
    return groups


def first_near(
    hashes: np.ndarray, others: np.ndarray, max_distance: int = MAX_DISTANCE, earlier: bool = False
) -> np.ndarray:
    """The place in `others`, int (N,), of the first that is near to each of N hashes, -1 for none.

    With `earlier` only others at a lower place count: pass the same hashes twice to learn which of
    them each is a near copy of. What has found its first is not compared any more, so hashes that
    are all near to each other take linear time.
    """
    first = np.full(len(hashes), -1)
    left = np.arange(len(hashes))
    for place, other in enumerate(others):
        if earlier:
            left = left[np.searchsorted(left, place, side="right") :]
        if not len(left):
            break
        near = _distances(hashes[left], other) <= max_distance
        if near.any():
            first[left[near]] = place
            left = left[~near]
    return first


def _distances(hashes: np.ndarray, other: np.ndarray | np.uint64) -> np.ndarray:
    return np.bitwise_count(hashes ^ other)


def _blocks_to_agree(n: int, max_distance: int) -> int:
    """The fewest blocks whose bits divide n hashes into buckets of about 2**_FILL."""
    wanted = math.log2(max(n, 2)) - _FILL
    for agreeing in range(1, 4):
        if _BITS * agreeing / (max_distance + agreeing) >= wanted:
            return agreeing
    return 4


def _interleaved(values: np.ndarray, step: int) -> np.ndarray:
    """The bits in another order, every `step`-th side by side.

    Neighbouring bits of a perceptual hash belong to neighbouring frequencies and depend on each
    other; a block of such bits would tell fewer hashes apart.
    """
    mixed = np.zeros_like(values)
    order = (bit for first in range(step) for bit in range(first, _BITS, step))
    for place, bit in enumerate(order):
        mixed |= ((values >> np.uint64(bit)) & np.uint64(1)) << np.uint64(place)
    return mixed


def _buckets(
    mixed: np.ndarray, chosen: tuple[tuple[int, int], ...], groups: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The hashes in the order of their chosen bits; start and size of buckets of several groups."""
    key = np.zeros_like(mixed)
    for low, width in chosen:
        key <<= np.uint64(width)
        key |= (mixed >> np.uint64(low)) & np.uint64((1 << width) - 1)
    # Key and place share a word: to sort words is quicker than to sort places by keys
    place = np.uint64(max(len(mixed) - 1, 1).bit_length())
    key <<= place
    key |= np.arange(len(mixed), dtype=np.uint64)
    key.sort()
    order = (key & ((np.uint64(1) << place) - np.uint64(1))).astype(np.int64)
    key >>= place
    starts = np.concatenate([[0], np.flatnonzero(key[1:] != key[:-1]) + 1])
    sizes = np.diff(starts, append=len(mixed))
    sorted_groups = groups[order]
    several = np.minimum.reduceat(sorted_groups, starts) < np.maximum.reduceat(
        sorted_groups, starts
    )
    return order, starts[several], sizes[several]


def _links(
    values: np.ndarray,
    groups: np.ndarray,
    order: np.ndarray,
    starts: np.ndarray,
    sizes: np.ndarray,
    max_distance: int,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield pairs of places, a block of them at a time, that join each bucket's near hashes."""
    large = sizes > _SMALL
    for start, size in zip(starts[large].tolist(), sizes[large].tolist(), strict=True):
        members = order[start : start + size]
        yield _links_of_large(values[members], members, groups[members], max_distance)
    starts, sizes = starts[~large], sizes[~large]
    sorted_values = values[order]
    last = np.repeat(starts + sizes, sizes) - 1
    here = np.repeat(starts - np.concatenate([[0], np.cumsum(sizes)[:-1]]), sizes)
    here += np.arange(len(here))
    found: list[np.ndarray] = []
    for step in range(1, int(sizes.max(initial=1))):
        inside = here + step <= last
        here, last = here[inside], last[inside]
        near = _distances(sorted_values[here], sorted_values[here + step]) <= max_distance
        hits = here[near]
        pairs = np.stack([order[hits], order[hits + step]])
        found.append(pairs[:, groups[pairs[0]] != groups[pairs[1]]])
        if sum(pair.shape[1] for pair in found) > _BUFFERED:
            yield tuple(np.concatenate(found, axis=1))
            found = []
    if found:
        yield tuple(np.concatenate(found, axis=1))


def _links_of_large(
    values: np.ndarray, members: np.ndarray, groups: np.ndarray, max_distance: int
) -> tuple[np.ndarray, np.ndarray]:
    """Grow one group after the other; what one has reached is never looked for again."""
    one, other = [], []
    while len(members):
        own = groups == groups[0]
        seed, frontier = members[0], values[own]
        values, members, groups = values[~own], members[~own], groups[~own]
        while len(frontier) and len(members):
            reached = _reached(frontier, values, max_distance)
            one.append(np.full(reached.sum(), seed))
            other.append(members[reached])
            frontier = values[reached]
            values, members, groups = values[~reached], members[~reached], groups[~reached]
    if not one:
        return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
    return np.concatenate(one), np.concatenate(other)


def _reached(frontier: np.ndarray, others: np.ndarray, max_distance: int) -> np.ndarray:
    """Which of the others are near to any of the frontier, bool; the fewer are looped over."""
    reached = np.zeros(len(others), dtype=bool)
    left = np.arange(len(others))
    for done, value in enumerate(frontier):
        if len(left) <= len(frontier) - done:
            rest = frontier[done:]
            reached[left] = [(_distances(rest, v) <= max_distance).any() for v in others[left]]
            break
        near = _distances(others[left], value) <= max_distance
        if near.any():
            reached[left[near]] = True
            left = left[~near]
    return reached


def _joined(groups: np.ndarray, one: np.ndarray, other: np.ndarray) -> np.ndarray:
    if not len(one):
        return groups
    n = len(groups)
    graph = coo_array((np.ones(len(one), dtype=bool), (groups[one], groups[other])), shape=(n, n))
    return connected_components(graph, directed=False)[1][groups]
