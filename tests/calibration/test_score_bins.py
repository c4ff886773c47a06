import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lib.calibration import score_bins
from lib.calibration.score_bins import (
    BINS,
    cell_finder,
    count_by_bin,
    count_keys,
    ends_of,
    scale_of,
)

quick = settings(deadline=None, max_examples=150, derandomize=True)

# Ordinary scores, neighbours, denormals, both zeros, and what leaves no room for bins.
awkward = [0.0, -0.0, 1.0, 5e-324, 1e-310, 1e-40, np.nextafter(0.5, 1), 0.5, 2.0**60, -1e300]
number = st.one_of(st.floats(-8, 8), st.sampled_from(awkward))


def ends_and_size(scores, kind=np.uint32):
    return scores.min(), scores.max(), len(scores), kind


@quick
@given(
    st.lists(number, min_size=1, max_size=30),
    st.lists(st.one_of(number, st.sampled_from([np.inf, -np.inf])), min_size=1, max_size=300),
    st.sampled_from([np.float32, np.float64]),
)
@example([0.0, 1e-40], [1e-40], np.float32)
@example([-1e300, 1e300], [0.0], np.float64)
def test_every_cut_is_counted_as_comparing_does(scores, cuts, dtype):
    with np.errstate(over="ignore"):
        scores, cuts = np.array(scores).astype(dtype), np.array(cuts).astype(dtype)
    scores = scores[np.isfinite(scores)] if np.isfinite(scores).any() else np.ones(1, dtype)
    # Cuts at the scores themselves decide between > and >=.
    cuts = np.unique(np.append(cuts, scores[:3]))
    found = cell_finder(cuts, *ends_and_size(scores))(scores)
    assert found.tolist() == (scores[:, None] >= cuts).sum(axis=1).tolist()


def test_more_cuts_than_a_byte_can_count():
    scores = np.random.default_rng(0).random(2_000)
    for size in (254, 255, 256, 70_000):
        cuts = np.linspace(0, 1, size)
        found = cell_finder(cuts, *ends_and_size(scores))(scores)
        assert (found == np.searchsorted(cuts, scores, side="right")).all()


@quick
@given(st.lists(st.floats(0, 1), min_size=2, max_size=50), st.integers(1, 60))
def test_higher_bins_hold_higher_scores_only(scores, block):
    p = np.sort(scores)
    for low, high in ((p[0], p[-1]), (0.0, 1.0), ends_of(p)):
        if not scale_of(low, high):
            continue
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(score_bins, "BLOCK", block)
            bins, counts = count_by_bin(p, p > 0.5, low, high)
        assert (np.diff(bins.astype(int)) >= 0).all() and bins.max() < BINS
        assert counts[:, 1].sum() == (p > 0.5).sum() and counts.sum() == len(p)
        assert counts.sum(axis=1).tolist() == np.bincount(bins, minlength=BINS).tolist()


@pytest.mark.parametrize("ends", [(0.3, 0.3), (0.0, 5e-324), (-1e308, 1e308)])
def test_no_room_for_bins(ends):
    assert scale_of(*ends) == 0


@pytest.mark.parametrize("scores", [[0.1, 0.9], [0.4, 0.6], [0.2, 0.2], [0.0, 1.0], [0.7]])
def test_ends_hold_all_scores_and_not_much_more(scores):
    p = np.array(scores)
    low, high = ends_of(p)
    assert low <= p.min() <= p.max() <= high
    assert high - low <= 2 * np.ptp(p)


def test_ends_are_those_of_the_rare_scores_too():
    p = np.full(100_000, 0.5)
    p[[4_711, 99_999]] = 0.1, 0.6
    assert ends_of(p) == (0.1, 0.6)


@quick
@given(st.lists(st.integers(0, 400), max_size=50), st.integers(1, 401))
def test_keys_counted_in_pairs_and_one_by_one(keys, size):
    keys = np.array(keys, dtype=np.intp) % size
    for kind in (np.min_scalar_type(size), np.uint16, np.uint32):
        assert (
            count_keys(keys.astype(kind), size).tolist()
            == np.bincount(keys, minlength=size).tolist()
        )
