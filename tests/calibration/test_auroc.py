import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit, ndtr
from sklearn.metrics import roc_auc_score

from lib.calibration import (
    auroc_difference,
    auroc_interval,
    bootstrap_ci,
    bootstrap_difference,
)
from lib.calibration.auroc import _mean_and_variance, _placements

quick = settings(deadline=None, max_examples=60, derandomize=True)


def width(interval):
    return interval.high - interval.low


def beats(a, b):
    return 1.0 if a > b else 0.5 if a == b else 0.0


def obuchowski(p, y, groups):
    """Variance as section 2 of the paper defines it, pair by pair and group by group."""
    positives, negatives = np.flatnonzero(y), np.flatnonzero(~y)
    m, n = len(positives), len(negatives)
    v10 = {i: np.mean([beats(p[i], p[j]) for j in negatives]) for i in positives}
    v01 = {j: np.mean([beats(p[i], p[j]) for i in positives]) for j in negatives}
    area = np.mean(list(v10.values()))
    names = sorted(set(groups))
    members = [np.flatnonzero(groups == g) for g in names]
    a = np.array([sum(v10[i] - area for i in rows if y[i]) for rows in members])
    b = np.array([sum(v01[j] - area for j in rows if not y[j]) for rows in members])
    i10 = sum(any(y[rows]) for rows in members)
    i01 = sum(any(~y[rows]) for rows in members)
    i = len(names)
    s10, s01 = i10 / ((i10 - 1) * m) * (a @ a), i01 / ((i01 - 1) * n) * (b @ b)
    return area, s10 / m + s01 / n + 2 / (m * n) * (i / (i - 1) * (a @ b))


@quick
@given(
    st.lists(
        st.tuples(st.sampled_from([0.1, 0.3, 0.5, 0.9]), st.booleans(), st.integers(0, 4)),
        min_size=1,
        max_size=15,
    )
)
def test_variance_is_the_published_sum_over_pairs_and_groups(rows):
    # Two groups more, each with both classes, so that the variance is defined.
    rows = [*rows, (0.2, False, 5), (0.6, True, 5), (0.3, False, 6), (0.3, True, 6)]
    p, y, groups = (np.array(column) for column in zip(*rows, strict=True))
    numbers = np.unique(groups, return_inverse=True)[1]
    area, variance = _mean_and_variance(_placements(p, y), y, numbers)
    expected = obuchowski(p, y, groups)
    assert area == pytest.approx(roc_auc_score(y, p), abs=1e-12)
    assert (area, variance) == pytest.approx((expected[0], max(expected[1], 0)), abs=1e-12)


def test_single_groups_are_examples(sample):
    p, y = sample(200, digits=2)
    assert width(auroc_interval(p, y, groups=np.arange(200))) == pytest.approx(
        width(auroc_interval(p, y)), rel=1e-12
    )
    # DeLong's variance: that of both classes' mean placements.
    v = _placements(p, y == 1)
    expected = v[y == 1].var(ddof=1) / y.sum() + v[y == 0].var(ddof=1) / (200 - y.sum())
    assert _mean_and_variance(v, y == 1, None)[1] == pytest.approx(expected, rel=1e-12)


def test_interval_is_as_wide_as_the_bootstrap_s(sample):
    p, y = sample(2_000)
    ours, peer = auroc_interval(p, y), bootstrap_ci(p, y, "auroc", 4_000)
    assert ours.point == pytest.approx(peer.point, abs=1e-12)
    assert width(ours) == pytest.approx(width(peer), rel=0.05)
    assert ours.low == pytest.approx(peer.low, abs=0.05 * width(peer))
    other = np.clip(p + np.random.default_rng(1).normal(0, 0.2, 2_000), 0, 1)
    ours, peer = auroc_difference(p, other, y), bootstrap_difference(p, other, y, "auroc", 4_000)
    assert ours.point == pytest.approx(peer.point, abs=1e-12)
    assert width(ours) == pytest.approx(width(peer), rel=0.05)


def clustered(rng, groups, size):
    """Scores and labels of groups whose members have like scores, and the true AUROC."""
    group = np.repeat(np.arange(groups), size)
    y = rng.random(len(group)) < 0.4
    noise = np.sqrt(0.8) * rng.normal(size=groups)[group] + np.sqrt(0.2) * rng.normal(size=len(y))
    return expit(y + noise), y, group, float(ndtr(1 / math.sqrt(2)))


def test_groups_widen_the_interval_as_in_the_bootstrap():
    p, y, group, _ = clustered(np.random.default_rng(4), 500, 4)
    names = np.array([f"g{g}" for g in group])
    ours = auroc_interval(p, y, groups=names)
    peer = bootstrap_ci(p, y, "auroc", 3_000, groups=names)
    assert width(ours) == pytest.approx(width(peer), rel=0.06)
    other = expit(np.random.default_rng(5).normal(y, 1))
    ours = auroc_difference(p, other, y, groups=names)
    peer = bootstrap_difference(p, other, y, "auroc", 3_000, groups=names)
    assert width(ours) == pytest.approx(width(peer), rel=0.06)


def test_interval_covers_the_true_area_as_often_as_it_says():
    # The AUROC of two normals with standard deviation 1, one apart, is Phi(1 / sqrt(2)).
    rng = np.random.default_rng(0)
    covered = {"grouped": 0, "examples": 0, "blind": 0}
    for _ in range(500):
        p, y, group, truth = clustered(rng, 60, 4)
        alone, labels, _, _ = clustered(rng, 240, 1)
        for name, found in (
            ("grouped", auroc_interval(p, y, groups=group)),
            ("blind", auroc_interval(p, y)),
            ("examples", auroc_interval(alone, labels)),
        ):
            covered[name] += found.low <= truth <= found.high
    assert 0.92 < covered["grouped"] / 500 < 0.98
    assert 0.92 < covered["examples"] / 500 < 0.98
    assert covered["blind"] < covered["grouped"]


def test_difference_of_a_model_to_itself_is_nothing(sample):
    p, y = sample()
    same = auroc_difference(p, p, y)
    assert (same.point, same.low, same.high) == (0, 0, 0)


def test_what_cannot_be_known_is_nan():
    assert all(math.isnan(v) for v in vars(auroc_interval([0.2, 0.9], [0, 0])).values())
    one_positive = auroc_interval([0.2, 0.3, 0.9], [0, 1, 0])
    assert one_positive.point == 0.5 and math.isnan(one_positive.low + one_positive.high)
    one_group = auroc_interval([0.2, 0.3, 0.9, 0.8], [0, 1, 0, 1], groups=[7] * 4)
    assert one_group.point == 0.5 and math.isnan(one_group.low)


def test_perfect_and_reversed_scores_have_no_width():
    assert vars(auroc_interval([0.1, 0.2, 0.8, 0.9], [0, 0, 1, 1])) == dict.fromkeys(
        ("point", "low", "high"), 1.0
    )
    assert auroc_interval([0.9, 0.8, 0.2, 0.1], [0, 0, 1, 1]).high == 0


def test_a_million_examples_in_groups_have_a_narrow_interval():
    rng = np.random.default_rng(0)
    p = rng.random(1_000_000)
    y = rng.random(len(p)) < p
    found = bootstrap_ci(p, y, "auroc", groups=np.arange(len(p)) // 3)
    assert 0 < width(found) < 0.003


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (([], []), {}, "prob is empty"),
        (([0.1, 2.0], [0, 1]), {}, "not logits"),
        (([0.1, 0.2], [0, 3]), {}, "neither 0 nor 1"),
        (([0.1, 0.2], [0, 1]), {"level": 95}, "level must be between 0 and 1"),
        (([0.1, 0.2], [0, 1]), {"groups": ["a"]}, r"groups must have shape \(2,\)"),
    ],
)
def test_bad_input_is_named(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        auroc_interval(*arguments, **options)
    with pytest.raises(ValueError, match=message):
        auroc_difference(arguments[0], *arguments, **options)
