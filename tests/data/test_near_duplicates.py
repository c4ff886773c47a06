import itertools
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from lib.data import near_duplicates
from lib.data.near_duplicates import MAX_DISTANCE, first_near, near_groups

HASHES = st.builds(
    lambda bases, copies: [
        *bases,
        *(bases[i % len(bases)] ^ sum(1 << bit for bit in bits) for i, bits in copies),
    ],
    st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=8, unique=True),
    st.lists(st.tuples(st.integers(0, 7), st.sets(st.integers(0, 63), max_size=9)), max_size=14),
)


def groups_by_comparing_all(hashes):
    near = [
        (i, j)
        for (i, a), (j, b) in itertools.combinations(enumerate(hashes), 2)
        if (a ^ b).bit_count() <= MAX_DISTANCE
    ]
    rows, columns = np.array(near, dtype=int).reshape(-1, 2).T
    graph = coo_array((np.ones(len(rows)), (rows, columns)), shape=(len(hashes),) * 2)
    return connected_components(graph, directed=False)[1]


def partition(numbers):
    return {frozenset(np.flatnonzero(numbers == number)) for number in numbers}


@pytest.mark.parametrize(("agreeing", "small"), [(1, 1024), (1, 1), (2, 1024), (2, 1), (4, 1)])
@given(hashes=HASHES)
@settings(max_examples=15, deadline=None)
def test_groups_are_those_of_comparing_all_with_all(hashes, agreeing, small):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(near_duplicates, "_blocks_to_agree", lambda n, d: agreeing)
        patch.setattr(near_duplicates, "_SMALL", small)
        patch.setattr(near_duplicates, "_BUFFERED", 2 * small)
        found = near_groups(hashes)
    assert partition(found) == partition(groups_by_comparing_all(hashes))


@given(HASHES)
@settings(max_examples=50, deadline=None)
def test_the_first_near_is_that_of_comparing_all_with_all(hashes):
    values = np.array(hashes, dtype=np.uint64)

    def first(hash_, others):
        near = (k for k, o in enumerate(others) if (hash_ ^ o).bit_count() <= MAX_DISTANCE)
        return next(near, -1)

    half = len(hashes) // 2
    assert first_near(values[half:], values[:half]).tolist() == [
        first(h, hashes[:half]) for h in hashes[half:]
    ]
    assert first_near(values, values, earlier=True).tolist() == [
        first(h, hashes[:i]) for i, h in enumerate(hashes)
    ]


def test_no_hash_and_one_hash_are_no_problem():
    assert near_groups([]).tolist() == []
    assert near_groups([7]).tolist() == [0]


def around_a_centre(n, bits, seed=0):
    """Distinct hashes that differ from one in this many bits."""
    flips = np.random.default_rng(seed).random((2 * n, 64)).argsort(axis=1)[:, :bits]
    copies = np.bitwise_xor.reduce(np.uint64(1) << flips.astype(np.uint64), axis=1)
    return np.unique(copies)[:n]


@pytest.mark.parametrize("bits", [4, 6])
def test_a_template_of_20000_copies_is_one_group_at_once(bits):
    hashes = around_a_centre(20_000, bits)
    assert len(hashes) == 20_000
    tracemalloc.start()
    assert len(set(near_groups(hashes).tolist())) == 1
    first_near(hashes, hashes, earlier=True)
    memory = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert memory < 300e6
