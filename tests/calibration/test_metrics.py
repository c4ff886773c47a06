import itertools
import math
import warnings

import netcal.metrics
import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk
from sklearn.metrics import confusion_matrix_at_thresholds

from lib.calibration import (
    best_threshold,
    bootstrap_ci,
    bootstrap_difference,
    brier_decomposition,
    classification_metrics,
    constant_baselines,
    expected_calibration_error,
    fit_temperature,
    sweep_thresholds,
    zero_truth_ece,
)

quick = settings(deadline=None, max_examples=60, derandomize=True)


def sample(n=400, seed=0, power=1.5):
    rng = np.random.default_rng(seed)
    p = rng.random(n)
    return p, (rng.random(n) < p**power).astype(int)


def named_error(p, y, n_bins=15):
    """ECE as its definition reads."""
    total = 0.0
    for k in range(n_bins):
        low, high = np.linspace(0, 1, n_bins + 1)[k : k + 2]
        inside = (p >= low) & ((p < high) | (k == n_bins - 1))
        if inside.any():
            total += inside.mean() * abs(p[inside].mean() - y[inside].mean())
    return total


# ---- metrics


def test_metrics_are_scikit_learn_s():
    p, y = sample()
    values = classification_metrics(p, y, threshold=0.4)
    hate = p >= 0.4
    expected = {
        "n": 400,
        "accuracy": sk.accuracy_score(y, hate),
        "macro_f1": sk.f1_score(y, hate, average="macro"),
        "precision": sk.precision_score(y, hate),
        "recall": sk.recall_score(y, hate),
        "f1": sk.f1_score(y, hate),
        "auroc": sk.roc_auc_score(y, p),
        "average_precision": sk.average_precision_score(y, p),
        "brier": sk.brier_score_loss(y, p),
        "nll": sk.log_loss(y, p),
        "ece": expected_calibration_error(p, y),
        "ece_quantile": expected_calibration_error(p, y, strategy="quantile"),
        "ece_debiased": expected_calibration_error(p, y, debias=True),
        "ece_zero_truth": zero_truth_ece(p),
    }
    assert {k: values[k] for k in expected} == expected
    assert all(type(v) is float for k, v in values.items() if k != "n")


def test_counts_agree_with_scikit_learn_at_every_threshold():
    p, y = sample()
    tn, fp, fn, tp, cuts = confusion_matrix_at_thresholds(y, p)
    curve = sweep_thresholds(p, y, cuts)
    assert curve[["tn", "fp", "fn", "tp"]].to_numpy().T.tolist() == [
        list(c) for c in (tn, fp, fn, tp)
    ]


@pytest.mark.parametrize(
    ("label", "undefined"),
    [
        (0, {"macro_f1", "auroc", "average_precision", "precision", "recall", "f1"}),
        (1, {"macro_f1", "auroc", "average_precision"}),
    ],
)
def test_one_class_gives_nan_and_one_warning_that_names_it(label, undefined):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        values = classification_metrics([0.2, 0.7], [label] * 2)
    assert {k for k, v in values.items() if math.isnan(v)} == undefined
    assert len(caught) == 1
    message = str(caught[0].message)
    assert f"class {label} only" in message and all(name in message for name in undefined)
    assert caught[0].filename == __file__


def test_no_positive_decision_has_precision_0_and_no_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        values = classification_metrics([0.1, 0.2], [0, 1])
    assert (values["precision"], values["recall"], values["f1"]) == (0, 0, 0)


def test_threshold_counts_in_the_precision_of_the_scores():
    for scores in (np.float32([0.7, 0.1]), torch.tensor([0.7, 0.1])):
        assert classification_metrics(scores, [1, 0], threshold=0.7)["recall"] == 1


def test_constant_baselines():
    rows = constant_baselines([1, 0, 0, 0])
    assert rows["always_negative"]["accuracy"] == 0.75
    assert rows["always_positive"]["f1"] == pytest.approx(0.4)
    assert rows["always_positive"]["macro_f1"] == pytest.approx(0.2)
    assert rows["prior"]["brier"] == pytest.approx(0.25 * 0.75)
    assert rows["prior"]["ece"] == pytest.approx(0)
    assert {row["auroc"] for row in rows.values()} == {0.5}


# ---- calibration


@quick
@given(
    st.lists(st.floats(0, 1, width=32), min_size=2, max_size=60),
    st.integers(1, 20),
    st.randoms(use_true_random=False),
)
def test_ece_is_its_definition(p, n_bins, random):
    y = np.array([random.random() < q for q in p]).astype(int)
    p = np.array(p)
    ours = expected_calibration_error(p, y, n_bins)
    assert ours == pytest.approx(named_error(p, y, n_bins), abs=1e-12)
    assert 0 <= ours <= 1


def test_ece_agrees_with_netcal():
    p, y = sample(5_000)
    for n_bins in (10, 15):
        peer = netcal.metrics.ECE(n_bins).measure(p, y)
        assert expected_calibration_error(p, y, n_bins) == pytest.approx(peer, abs=1e-12)


def test_ece_on_the_edges():
    # 0.2 opens the second of five bins, 1 closes the last: two bins of one miss each.
    assert expected_calibration_error([0.2, 0.1], [0, 0], 5) == pytest.approx(0.15)
    assert expected_calibration_error([1.0, 0.9], [1, 0], 5) == pytest.approx(0.45)


def test_quantile_bins_hold_equally_many_and_keep_ties_together():
    p, y = np.linspace(0.01, 0.1, 10), [0] * 5 + [1] * 5
    halves = 0.5 * 0.03 + 0.5 * 0.92
    assert expected_calibration_error(p, y, 2, "quantile") == pytest.approx(halves)
    assert expected_calibration_error([0.3] * 9, [1] * 9, 3, "quantile") == pytest.approx(0.7)


def test_zero_truth_ece_is_the_mean_over_labels_drawn_from_the_scores():
    rng = np.random.default_rng(1)
    for p in (rng.random(50), rng.random(2_000) ** 8, np.repeat(rng.random(8), 100)):
        draws = [expected_calibration_error(p, rng.random(len(p)) < p) for _ in range(2_000)]
        error = np.std(draws) / math.sqrt(len(draws))
        assert zero_truth_ece(p) == pytest.approx(np.mean(draws), abs=4 * error)


def test_zero_truth_ece_is_exact_on_a_small_set():
    p = np.array([0.11, 0.13, 0.7])
    exact = 0.0
    for labels in itertools.product((0, 1), repeat=3):
        chance = np.prod(np.where(labels, p, 1 - p))
        exact += chance * expected_calibration_error(p, labels, 4)
    assert zero_truth_ece(p, 4) == pytest.approx(exact, abs=1e-15)


def test_debiasing_lowers_the_error_of_calibrated_scores():
    rng = np.random.default_rng(2)
    plain, debiased = [], []
    for _ in range(200):
        p = rng.random(300)
        y = rng.random(300) < p
        plain.append(expected_calibration_error(p, y))
        debiased.append(expected_calibration_error(p, y, debias=True))
    # For gaps d ~ N(0, s): E|N(d, s)| is the square root of 2 times E|d|.
    assert np.mean(debiased) / np.mean(plain) == pytest.approx(2 - math.sqrt(2), rel=0.06)
    p = np.full(50, 0.2)
    certain = expected_calibration_error(p, np.ones(50), debias=True)
    assert certain == pytest.approx(0.8)


def test_debiased_ece_of_one_bin_is_the_folded_normal_s():
    y = np.repeat([0, 1], [60, 40])
    gap, sd = 0.1, math.sqrt(0.4 * 0.6 / 100)
    rise = scipy.stats.foldnorm(gap / sd, scale=sd).mean() - gap
    assert expected_calibration_error([0.5] * 100, y, 1, debias=True) == pytest.approx(gap - rise)


@quick
@given(st.lists(st.floats(0, 1), min_size=1, max_size=50), st.randoms(use_true_random=False))
def test_brier_decomposition_adds_up(p, random):
    y = [int(random.random() < q) for q in p]
    parts = brier_decomposition(p, y)
    total = parts["reliability"] - parts["resolution"] + parts["uncertainty"]
    assert total == pytest.approx(np.mean((np.array(p) - y) ** 2), abs=1e-14)
    assert min(parts.values()) >= -1e-15


def test_brier_decomposition_in_closed_form():
    # Two scores, rates 1/4 and 1: rising, so the isotonic regression is the rates themselves.
    parts = brier_decomposition([0.1] * 4 + [0.6] * 4, [1, 0, 0, 0, 1, 1, 1, 1])
    assert parts["reliability"] == pytest.approx((0.15**2 + 0.4**2) / 2)
    assert parts["resolution"] == pytest.approx((0.375**2 + 0.375**2) / 2)
    assert parts["uncertainty"] == pytest.approx(0.625 * 0.375)


# ---- intervals


def decided(ratio):
    """A statistic of the counts tp, fp, fn, tn at 0.5, as its definition reads."""

    def statistic(p, y):
        hate = p >= 0.5
        tp, fp, fn = (hate & (y == 1)).sum(), (hate & (y == 0)).sum(), (~hate & (y == 1)).sum()
        return ratio(tp, fp, fn, len(y) - tp - fp - fn)

    return statistic


ORACLES = {
    "accuracy": decided(lambda tp, fp, fn, tn: (tp + tn) / (tp + fp + fn + tn)),
    "precision": decided(lambda tp, fp, fn, tn: tp / (tp + fp)),
    "recall": decided(lambda tp, fp, fn, tn: tp / (tp + fn)),
    "f1": decided(lambda tp, fp, fn, tn: 2 * tp / (2 * tp + fp + fn)),
    "macro_f1": decided(lambda tp, fp, fn, tn: tp / (2 * tp + fp + fn) + tn / (2 * tn + fp + fn)),
    "ece": named_error,
    "brier": lambda p, y: np.mean((p - y) ** 2),
    "nll": lambda p, y: -np.log(np.where(y == 1, p, 1 - p)).mean(),
    "auroc": lambda p, y: sk.roc_auc_score(y, p),
    "average_precision": lambda p, y: sk.average_precision_score(y, p),
}


@pytest.mark.parametrize("name", ORACLES)
def test_interval_is_that_of_resampling_one_by_one(name):
    p, y = sample(120)
    p = np.clip(np.round(p, 2), 0.01, 0.99)
    ours = bootstrap_ci(p, y, name, n_resamples=4_000)
    assert ours.point == pytest.approx(ORACLES[name](p, y), abs=1e-12)
    rng = np.random.default_rng(9)
    draws = [ORACLES[name](p[i], y[i]) for i in rng.integers(0, 120, (2_000, 120))]
    sd = np.std(draws)
    # Ends of 2,000 resamples vary by about 6% of a standard deviation.
    assert [ours.low, ours.high] == pytest.approx(np.quantile(draws, [0.025, 0.975]), abs=0.3 * sd)


def test_interval_of_a_function_is_scipy_s():
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


def test_interval_of_a_large_bin_and_of_many_chunks():
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


def test_interval_is_seeded():
    p, y = sample(100)
    for name in ("f1", "ece", "auroc"):
        assert bootstrap_ci(p, y, name, seed=5) == bootstrap_ci(p, y, name, seed=5)
        assert bootstrap_ci(p, y, name, seed=5) != bootstrap_ci(p, y, name, seed=6)


def test_level_and_threshold_count():
    p, y = sample()
    wide, narrow = (bootstrap_ci(p, y, "f1", level=level) for level in (0.99, 0.5))
    assert wide.low < narrow.low < narrow.high < wide.high
    assert bootstrap_ci(p, y, "recall", threshold=0.0).low == 1


def test_tuned_values_are_tuned_again_in_each_resample():
    rng = np.random.default_rng(0)
    z = rng.normal(0, 3, (300, 2))
    y = (rng.random(300) < 1 / (1 + np.exp((z[:, 0] - z[:, 1]) / 2))).astype(int)
    ours = bootstrap_ci(z, y, lambda z, y: fit_temperature(z, y).limit, n_resamples=300)
    assert ours.point == fit_temperature(z, y).temperature
    assert 1 < ours.low < ours.point < ours.high < 4
    p, y = sample()

    def cut_and_f1(p, y):
        best = best_threshold(p, y)
        return np.array([best.threshold, best.f1])

    both = bootstrap_ci(p, y, cut_and_f1, n_resamples=300)
    assert both.point.tolist() == cut_and_f1(p, y).tolist()
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


@pytest.mark.parametrize("statistic", ["f1", "auroc", lambda p, y: sk.brier_score_loss(y, p)])
def test_difference_of_a_model_to_itself_is_nothing(statistic):
    p, y = sample()
    same = bootstrap_difference(p, p, y, statistic, n_resamples=50)
    assert (same.point, same.low, same.high) == (0, 0, 0)


def test_ends_have_the_shape_of_the_statistic_even_without_a_valid_resample():
    intervals = [
        bootstrap_ci([0.2, 0.8], [0, 1], lambda p, y: np.array([p.mean(), y.mean()]), 1, seed)
        for seed in range(9)
    ]
    assert any(np.isnan(found.low).all() for found in intervals)
    assert {(found.low.shape, found.high.shape) for found in intervals} == {((2,), (2,))}


@pytest.mark.parametrize("name", ["f1", "ece", "auroc", "average_precision", "nll"])
def test_paired_difference_is_that_of_resampling_pairs(name):
    p, y = sample(150)
    other = np.clip(p + np.random.default_rng(1).normal(0, 0.2, 150), 0.01, 0.99)
    ours = bootstrap_difference(p, other, y, name, n_resamples=3_000)
    statistic = ORACLES[name]
    assert ours.point == pytest.approx(statistic(p, y) - statistic(other, y), abs=1e-12)
    rng = np.random.default_rng(2)
    draws = [
        statistic(p[i], y[i]) - statistic(other[i], y[i])
        for i in rng.integers(0, 150, (1_500, 150))
    ]
    ends = np.quantile(draws, [0.025, 0.975])
    assert [ours.low, ours.high] == pytest.approx(ends, abs=0.3 * np.std(draws))


def test_difference_takes_a_threshold_for_each():
    p, y = sample()
    apart = bootstrap_difference(p, p, y, "recall", thresholds=(0.0, 0.5))
    assert apart.point == pytest.approx(1 - sk.recall_score(y, p >= 0.5))


# ---- inputs


@pytest.mark.parametrize(
    "function",
    [
        classification_metrics,
        expected_calibration_error,
        brier_decomposition,
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


def test_bad_options_are_named():
    p, y = sample(20)
    for call, message in (
        (lambda: bootstrap_ci(p, y, "f2"), "statistic must be a function or one of accuracy"),
        (lambda: bootstrap_ci(p, y, "f1", n_resamples=0), "n_resamples must be at least 1"),
        (lambda: bootstrap_ci(p, y, "f1", level=95), "level must be between 0 and 1"),
        (lambda: bootstrap_ci(0.5, 1, lambda p, y: 1.0), "one row per example"),
        (lambda: classification_metrics(p, y, math.nan), "threshold holds 1 of 1 values"),
        (lambda: classification_metrics(p, y, "high"), "threshold must be"),
        (lambda: expected_calibration_error(p, y, 0), "n_bins must be at least 1"),
        (lambda: expected_calibration_error(p, y, 5, "width"), "strategy must be one of"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
