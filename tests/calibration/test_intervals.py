import math

import numpy as np
import pytest
import scipy.stats
from sklearn import metrics as sk

from lib.calibration import (
    best_threshold,
    bootstrap_ci,
    bootstrap_difference,
    expected_calibration_error,
    fit_temperature,
)


def decided(ratio):
    """A statistic of the counts tp, fp, fn, tn at 0.5, as its definition reads."""

    def statistic(p, y):
        hate = p >= 0.5
        tp, fp, fn = (hate & (y == 1)).sum(), (hate & (y == 0)).sum(), (~hate & (y == 1)).sum()
        return ratio(tp, fp, fn, len(y) - tp - fp - fn)

    return statistic


def definition(name, ece_by_definition):
    """A named statistic as its definition reads, or as scikit-learn computes it."""
    return {
        "accuracy": decided(lambda tp, fp, fn, tn: (tp + tn) / (tp + fp + fn + tn)),
        "precision": decided(lambda tp, fp, fn, tn: tp / (tp + fp)),
        "recall": decided(lambda tp, fp, fn, tn: tp / (tp + fn)),
        "f1": decided(lambda tp, fp, fn, tn: 2 * tp / (2 * tp + fp + fn)),
        "macro_f1": decided(
            lambda tp, fp, fn, tn: tp / (2 * tp + fp + fn) + tn / (2 * tn + fp + fn)
        ),
        "ece": ece_by_definition,
        "brier": lambda p, y: np.mean((p - y) ** 2),
        "nll": lambda p, y: -np.log(np.where(y == 1, p, 1 - p)).mean(),
        "auroc": lambda p, y: sk.roc_auc_score(y, p),
        "average_precision": lambda p, y: sk.average_precision_score(y, p),
    }[name]


DECISIONS = ["accuracy", "precision", "recall", "f1", "macro_f1"]
NAMES = [*DECISIONS, "ece", "brier", "nll", "auroc", "average_precision"]


# ---- one model


@pytest.mark.parametrize("name", NAMES)
def test_interval_is_that_of_resampling_one_by_one(name, sample, ece_by_definition):
    statistic = definition(name, ece_by_definition)
    p, y = sample(120)
    p = np.clip(np.round(p, 2), 0.01, 0.99)
    ours = bootstrap_ci(p, y, name, n_resamples=4_000)
    assert ours.point == pytest.approx(statistic(p, y), abs=1e-12)
    rng = np.random.default_rng(9)
    draws = [statistic(p[i], y[i]) for i in rng.integers(0, 120, (2_000, 120))]
    sd = np.std(draws)
    # Ends of 2,000 resamples vary by about 6% of a standard deviation.
    assert [ours.low, ours.high] == pytest.approx(np.quantile(draws, [0.025, 0.975]), abs=0.3 * sd)


def test_interval_of_a_function_is_scipy_s(sample):
    p, y = sample(200)
    ours = bootstrap_ci(p, y, lambda p, y: sk.brier_score_loss(y, p), n_resamples=2_000, level=0.9)
    peer = scipy.stats.bootstrap(
        (p, y),
        lambda p, y: np.mean((p - y) ** 2),
        paired=True,
        vectorized=False,
        n_resamples=2_000,
        confidence_level=0.9,
        method="percentile",
        rng=np.random.default_rng(1),
    )
    width = peer.confidence_interval.high - peer.confidence_interval.low
    assert ours.low == pytest.approx(peer.confidence_interval.low, abs=0.1 * width)
    assert ours.high == pytest.approx(peer.confidence_interval.high, abs=0.1 * width)


def test_interval_of_a_large_bin_and_of_many_chunks(sample):
    # One bin beyond 4,096 examples and bins below, against the normal limit of the mean.
    p, y = sample(20_000, seed=4, power=1)
    p = np.where(p < 0.5, 0.01 + p / 20, p)
    ours = bootstrap_ci(p, y, "brier", n_resamples=2_000)
    sd = np.std((p - y) ** 2) / math.sqrt(len(p))
    assert (ours.high - ours.low) / 2 == pytest.approx(1.96 * sd, rel=0.1)
    peer = bootstrap_ci(p, y, expected_calibration_error, n_resamples=300)
    ours = bootstrap_ci(p, y, "ece")
    assert ours.low == pytest.approx(peer.low, abs=0.2 * (peer.high - peer.low))
    assert ours.high == pytest.approx(peer.high, abs=0.2 * (peer.high - peer.low))


def test_interval_is_seeded(sample):
    p, y = sample(100)
    for name in ("f1", "ece", "auroc"):
        assert bootstrap_ci(p, y, name, seed=5) == bootstrap_ci(p, y, name, seed=5)
        assert bootstrap_ci(p, y, name, seed=5) != bootstrap_ci(p, y, name, seed=6)


def test_level_and_threshold_count(sample):
    p, y = sample()
    wide, narrow = (bootstrap_ci(p, y, "f1", level=level) for level in (0.99, 0.5))
    assert wide.low < narrow.low < narrow.high < wide.high
    assert bootstrap_ci(p, y, "recall", threshold=0.0).low == 1


def test_tuned_values_are_tuned_again_in_each_resample(sample):
    rng = np.random.default_rng(0)
    z = rng.normal(0, 3, (300, 2))
    y = (rng.random(300) < 1 / (1 + np.exp((z[:, 0] - z[:, 1]) / 2))).astype(int)
    ours = bootstrap_ci(z, y, lambda z, y: fit_temperature(z, y).limit, n_resamples=300)
    assert ours.point == fit_temperature(z, y).temperature
    assert 1 < ours.low < ours.point < ours.high < 4
    p, y = sample()

    def threshold_and_f1(p, y):
        best = best_threshold(p, y)
        return np.array([best.threshold, best.f1])

    both = bootstrap_ci(p, y, threshold_and_f1, n_resamples=300)
    assert both.point.tolist() == threshold_and_f1(p, y).tolist()
    assert (both.low < both.high).all() and both.low.shape == (2,)


def test_interval_without_an_optimum_in_some_resamples_reaches_its_limit():
    z, y = [4.0, 3, 2, 1, -1, -2, -3, -4], [1, 1, 1, 0, 0, 0, 0, 0]
    interval = bootstrap_ci(z, y, lambda z, y: fit_temperature(z, y).limit)
    assert interval.low == 0 and 0 < interval.point < interval.high


def test_resamples_that_lost_a_class_are_left_out():
    p, y = [0.1, 0.2, 0.3, 0.9], [0, 0, 0, 1]
    for statistic in ("auroc", lambda p, y: sk.roc_auc_score(y, p)):
        interval = bootstrap_ci(p, y, statistic)
        assert (interval.point, interval.low, interval.high) == (1, 1, 1)
    one_class = bootstrap_ci(p, [0] * 4, "auroc")
    assert all(math.isnan(v) for v in (one_class.point, one_class.low, one_class.high))


def test_ends_have_the_shape_of_the_statistic_even_without_a_valid_resample():
    intervals = [
        bootstrap_ci([0.2, 0.8], [0, 1], lambda p, y: np.array([p.mean(), y.mean()]), 1, seed)
        for seed in range(9)
    ]
    assert any(np.isnan(found.low).all() for found in intervals)
    assert {(found.low.shape, found.high.shape) for found in intervals} == {((2,), (2,))}


# ---- two models


@pytest.mark.parametrize("statistic", ["f1", "auroc", lambda p, y: sk.brier_score_loss(y, p)])
def test_difference_of_a_model_to_itself_is_nothing(statistic, sample):
    p, y = sample()
    same = bootstrap_difference(p, p, y, statistic, n_resamples=50)
    assert (same.point, same.low, same.high) == (0, 0, 0)


@pytest.mark.parametrize("name", ["f1", "ece", "auroc", "average_precision", "nll"])
def test_paired_difference_is_that_of_resampling_pairs(name, sample, ece_by_definition):
    p, y = sample(150)
    other = np.clip(p + np.random.default_rng(1).normal(0, 0.2, 150), 0.01, 0.99)
    ours = bootstrap_difference(p, other, y, name, n_resamples=3_000)
    statistic = definition(name, ece_by_definition)
    assert ours.point == pytest.approx(statistic(p, y) - statistic(other, y), abs=1e-12)
    rng = np.random.default_rng(2)
    draws = [
        statistic(p[i], y[i]) - statistic(other[i], y[i])
        for i in rng.integers(0, 150, (1_500, 150))
    ]
    ends = np.quantile(draws, [0.025, 0.975])
    assert [ours.low, ours.high] == pytest.approx(ends, abs=0.3 * np.std(draws))


def test_difference_takes_a_threshold_for_each(sample):
    p, y = sample()
    apart = bootstrap_difference(p, p, y, "recall", thresholds=(0.0, 0.5))
    assert apart.point == pytest.approx(1 - sk.recall_score(y, p >= 0.5))


# ---- inputs


@pytest.mark.parametrize(
    "function",
    [
        lambda p, y: bootstrap_ci(p, y, "f1"),
        lambda p, y: bootstrap_difference(p, p, y, "f1"),
    ],
)
@pytest.mark.parametrize(
    ("prob", "labels", "message"),
    [
        ([], [], "prob is empty"),
        ([0.1, 0.2], [1], "shape"),
        ([np.nan, 0.2], [1, 0], "1 of 2 values that are NaN or infinite, the first at index 0"),
        ([0.1, 2.0], [1, 0], "1 of 2 values that are outside.*index 1.*not logits"),
        ([0.1, 0.2], [1, -1], "neither 0 nor 1, the first at index 1"),
    ],
)
def test_bad_input_is_named(function, prob, labels, message):
    with pytest.raises(ValueError, match=message):
        function(prob, labels)


def test_bad_options_are_named(sample):
    p, y = sample(20)
    for call, message in (
        (lambda: bootstrap_ci(p, y, "f2"), "statistic must be a function or one of accuracy"),
        (lambda: bootstrap_ci(p, y, "f1", n_resamples=0), "n_resamples must be at least 1"),
        (lambda: bootstrap_ci(p, y, "f1", level=95), "level must be between 0 and 1"),
        (lambda: bootstrap_ci(0.5, 1, lambda p, y: 1.0), "one row per example"),
    ):
        with pytest.raises(ValueError, match=message):
            call()


STATISTICS = ("accuracy", "macro_f1", "f1", "ece", "brier", "nll", "auroc", "average_precision")


@pytest.mark.parametrize("statistic", STATISTICS)
def test_resampled_groups_are_as_wide_as_their_number_says(statistic):
    rng = np.random.default_rng(0)
    prob = rng.uniform(0.05, 0.95, 300)
    labels = (rng.uniform(size=300) < prob).astype(int)
    copies = np.tile(prob, 4), np.tile(labels, 4), np.tile(np.arange(300), 4)
    alone = bootstrap_ci(prob, labels, statistic)
    grouped = bootstrap_ci(*copies[:2], statistic, groups=copies[2])
    naive = bootstrap_ci(*copies[:2], statistic)
    assert grouped.point == pytest.approx(alone.point)
    width, copied, blind = (found.high - found.low for found in (alone, grouped, naive))
    assert copied == pytest.approx(width, rel=0.15)
    assert blind < 0.65 * width


def test_a_function_and_a_name_agree_on_groups():
    rng = np.random.default_rng(1)
    prob = rng.uniform(size=400)
    labels = (rng.uniform(size=400) < prob).astype(int)
    groups = [f"g{i // 3}" for i in range(400)]
    named = bootstrap_ci(prob, labels, "brier", groups=groups)
    given = bootstrap_ci(prob, labels, lambda p, y: float(np.mean((p - y) ** 2)), groups=groups)
    assert (named.low, named.high) == pytest.approx((given.low, given.high), rel=0.02)


def test_single_groups_are_examples():
    prob, labels = [0.1, 0.6, 0.4, 0.9, 0.3], [0, 1, 0, 1, 1]
    assert bootstrap_ci(prob, labels, "auroc", groups=range(5)) == bootstrap_ci(
        prob, labels, "auroc"
    )


def test_paired_differences_resample_groups_too():
    rng = np.random.default_rng(2)
    labels = np.repeat([0, 1], 100)
    a, b = (np.clip(rng.normal(0.3 + 0.4 * labels, 0.3), 0, 1) for _ in range(2))
    tiled = [np.tile(x, 4) for x in (a, b, labels)]
    naive = bootstrap_difference(*tiled, "auroc")
    grouped = bootstrap_difference(*tiled, "auroc", groups=np.tile(np.arange(200), 4))
    assert grouped.high - grouped.low > 1.5 * (naive.high - naive.low)


def test_groups_of_another_length_are_refused():
    with pytest.raises(ValueError, match=r"groups must have shape \(3,\)"):
        bootstrap_ci([0.1, 0.2, 0.9], [0, 0, 1], "brier", groups=["a", "b"])
