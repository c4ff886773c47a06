import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from lib.decisions.resampled_counts import (
    ends_of,
    rates,
    ratio,
    resampled_cells,
    resampled_sums,
)


def test_the_sample_s_own_sums_come_first():
    counts = np.array([[1, 0], [1, 1], [0, 1], [1, 1]])
    assert resampled_sums(counts)[0].tolist() == [3, 3]
    assert resampled_sums(counts, ["a", "b", "b", "a"])[0].tolist() == [3, 3]
    assert resampled_cells([1, 2], [[3, 0], [0, 4]])[0].tolist() == [4, 6]


def test_a_resample_is_of_as_many_groups_drawn_whole():
    counts = np.column_stack([np.ones(6, int), [1, 0, 0, 0, 0, 0]])
    alone = resampled_sums(counts, n_resamples=200)
    assert (alone[:, 0] == 6).all() and set(alone[:, 1]) <= set(range(7))
    # Groups of 3, 2 and 1 memes: three are drawn.
    sizes = resampled_sums(counts, ["a", "a", "a", "b", "b", "c"], n_resamples=500)[:, 0]
    assert set(sizes) == set(range(3, 10))


def test_memes_and_their_counts_are_resampled_alike():
    rng = np.random.default_rng(0)
    groups, cell = rng.integers(0, 90, 300), rng.integers(0, 3, 300)
    counts = np.eye(3, dtype=int)[cell]
    several = np.bincount(groups, minlength=90) > 1
    together = np.array([counts[groups == g].sum(axis=0) for g in np.flatnonzero(several)])
    alone = counts[~several[groups]].sum(axis=0)
    one = resampled_sums(counts, groups, 20_000)
    other = resampled_cells(alone, together, 20_000, seed=1)
    assert one[0].tolist() == other[0].tolist()
    assert one.mean(axis=0) == pytest.approx(other.mean(axis=0), rel=0.01)
    assert np.cov(one.T) == pytest.approx(np.cov(other.T), rel=0.1, abs=2)


@given(st.integers(1, 400), st.floats(0.05, 0.95), st.integers(0, 5))
def test_of_single_memes_the_spread_is_that_of_the_binomial(n, share, seed):
    hits = (np.arange(n) < share * n).sum()
    drawn = resampled_sums((np.arange(n) < hits)[:, None], n_resamples=4000, seed=seed)[1:, 0]
    p = hits / n
    assert drawn.mean() == pytest.approx(hits, abs=5 * np.sqrt(n * p * (1 - p) / 4000) + 1e-9)
    assert drawn.var() == pytest.approx(n * p * (1 - p), rel=0.2, abs=1e-9)


def test_what_the_sample_lacks_has_no_interval():
    values = np.array([np.nan, 0.5, 0.6])
    assert np.isnan(list(ends_of({"f1": values}).values())).all()
    assert ends_of({"f1": np.array([0.5, 0.4, np.nan, 0.7])}) == {"f1_low": 0.4, "f1_high": 0.7}
    assert np.isnan(ratio(np.array([1, 1]), np.array([2, 0]))).tolist() == [False, True]


def sums_of(hits, n, n_resamples=20_000):
    hit = np.arange(n) < hits
    return resampled_sums(np.column_stack([hit, np.ones(n, int)]), n_resamples=n_resamples).T


@given(st.integers(3, 2000))
def test_a_rate_that_no_resample_moves_has_the_end_of_jeffreys(n):
    end = stats.beta(0.5, n + 0.5).ppf(0.975)
    of_none, of_all = (ends_of({"r": rates(*sums_of(hits, n), n)}) for hits in (0, n))
    assert of_none["r_low"] == 0 and of_none["r_high"] == pytest.approx(end, rel=0.1)
    assert of_all["r_high"] == 1 and of_all["r_low"] == pytest.approx(1 - end, rel=0.1)


def test_other_rates_are_those_of_the_resamples_and_nothing_has_none():
    hits, there = sums_of(3, 10, 50)
    assert rates(hits, there, 10).tolist() == (hits / there).tolist()
    assert np.isnan(rates(np.zeros(4), np.zeros(4), 0)).all()


def test_two_such_rates_are_drawn_independently():
    one, other = (rates(*sums_of(0, 50), 50, column) for column in (0, 1))
    assert abs(np.corrcoef(one, other)[0, 1]) < 0.05
    assert one.tolist() == rates(*sums_of(0, 50), 50, 0).tolist()
