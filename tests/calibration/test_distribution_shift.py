import numpy as np
import pytest
from scipy.special import expit
from scipy.stats import chi2_contingency, kstest

from lib.calibration.distribution_shift import even_bins, ks, psi

EDGES = np.linspace(0, 1, 201)


def counts_of(rng, n, moved=0.0):
    """Counts of n probabilities in fine bins."""
    return np.histogram(expit(rng.normal(moved, 2, n)), EDGES)[0]


def both(rng, m, n, moved=0.0):
    """PSI over about ten coarse bins, and KS over the fine ones."""
    reference, now = counts_of(rng, m), counts_of(rng, n, moved)
    starts = even_bins(reference, 10)
    coarse = (np.add.reduceat(counts, starts) for counts in (reference, now))
    return psi(*coarse), ks(reference, now)


@pytest.mark.parametrize(("m", "n"), [(150, 400), (1000, 1000)])
def test_without_a_shift_alarms_are_as_rare_as_stated(m, n):
    rng = np.random.default_rng(0)
    found = [both(rng, m, n) for _ in range(250)]
    alarms = np.array([[shift.p_value <= 0.05 for shift in pair] for pair in found])
    # 250 worlds at 5%: outside of these counts in less than one of a thousand
    assert 3 <= alarms[:, 0].sum() <= 25
    # At the edges of bins alone KS is a little too careful.
    assert 1 <= alarms[:, 1].sum() <= 25


def test_a_shift_is_found_and_the_intervals_hold_the_truth():
    rng = np.random.default_rng(1)
    large = 1_000_000
    reference, moved = counts_of(rng, large), counts_of(rng, large, 0.8)
    true_ks, held, found = ks(reference, moved).value, [], []
    for _ in range(100):
        few, now = counts_of(rng, 300), counts_of(rng, 1000, 0.8)
        starts = even_bins(few, 10)
        true_psi = psi(*(np.add.reduceat(c, starts) for c in (reference, moved))).value
        by_psi = psi(*(np.add.reduceat(c, starts) for c in (few, now)))
        by_ks = ks(few, now)
        found.append((by_psi.p_value <= 0.05, by_ks.p_value <= 0.05))
        held.append((by_psi.low <= true_psi <= by_psi.high, by_ks.low <= true_ks <= by_ks.high))
    assert (np.mean(found, axis=0) >= 0.95).all()
    assert (np.mean(held, axis=0) >= 0.88).all()


def test_a_slight_psi_is_pearsons_chi_squared():
    reference, now = np.array([400, 300, 200, 100]), np.array([390, 310, 195, 105])
    pearson = chi2_contingency([reference, now])
    found = psi(reference, now)
    assert found.value / (2 / 1000) == pytest.approx(pearson.statistic, rel=0.01)
    assert found.p_value == pytest.approx(pearson.pvalue, rel=0.01)


def test_ks_is_scipys_where_each_value_has_a_bin():
    rng = np.random.default_rng(2)
    a, b = rng.integers(0, 50, 500), rng.integers(3, 53, 800)
    found = ks(np.bincount(a, minlength=53), np.bincount(b, minlength=53))
    known = kstest(a, b, method="asymp")
    assert found.value == pytest.approx(known.statistic)
    assert found.p_value == pytest.approx(known.pvalue, rel=0.2)


def test_coarse_bins_have_like_shares_however_the_mass_lies():
    reference = counts_of(np.random.default_rng(3), 10_000)
    starts = even_bins(reference, 10)
    shares = np.add.reduceat(reference, starts) / 10_000
    assert len(starts) == 10
    assert shares.min() > 0.07
    assert even_bins([5, 0, 0, 0], 10).tolist() == [0]
    assert even_bins([0, 0, 90, 10], 2).tolist() == [0, 3]


@pytest.mark.parametrize(
    ("reference", "now"), [([1, 2], [1, 2, 3]), ([1], [1]), ([0, 0], [1, 2]), ([-1, 3], [1, 2])]
)
def test_counts_that_are_none_are_refused(reference, now):
    for measure in (psi, ks):
        with pytest.raises(ValueError, match="counts"):
            measure(reference, now)
