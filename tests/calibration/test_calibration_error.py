import itertools
import math

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchmetrics.functional.classification import binary_calibration_error

from lib.calibration import brier_decomposition, expected_calibration_error, zero_truth_ece

quick = settings(deadline=None, max_examples=60, derandomize=True)


@quick
@given(
    st.lists(
        st.one_of(st.floats(0, 1, width=32), st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0])),
        min_size=2,
        max_size=60,
    ),
    st.one_of(st.integers(1, 20), st.sampled_from([2, 4])),
    st.randoms(use_true_random=False),
)
def test_ece_is_its_definition(ece_by_definition, p, n_bins, random):
    y = np.array([random.random() < q for q in p]).astype(int)
    p = np.array(p)
    ours = expected_calibration_error(p, y, n_bins)
    assert ours == pytest.approx(ece_by_definition(p, y, n_bins), abs=1e-12)
    assert 0 <= ours <= 1


@pytest.mark.parametrize("n_bins", [1, 10, 15, 100])
def test_ece_agrees_with_torchmetrics(n_bins, sample):
    # Its documentation says top-label, but it bins p(1) and compares it with the label, as we do.
    p, y = sample(5_000)
    peer = binary_calibration_error(torch.tensor(p), torch.tensor(y), n_bins=n_bins)
    assert expected_calibration_error(p, y, n_bins) == pytest.approx(float(peer), abs=1e-12)


def test_ece_is_not_the_top_label_one():
    # The confidences 0.6 and 0.6, one of them right, are off by 0.1; p(hate) by 0.6 and by 0.4.
    assert expected_calibration_error([0.4, 0.6], [1, 1]) == pytest.approx(0.5)


def test_ece_on_the_edges():
    # 0.2 opens the second of five bins, apart from 0.1; 1 closes the last, together with 0.9.
    apart, together = (0.8 + 0.1) / 2, (1.0 + 0.9 - 1) / 2
    assert expected_calibration_error([0.2, 0.1], [1, 0], 5) == pytest.approx(apart)
    assert expected_calibration_error([1.0, 0.9], [0, 1], 5) == pytest.approx(together)


def test_quantile_bins_hold_equally_many_and_keep_equal_scores_together():
    p, y = np.linspace(0.01, 0.1, 10), [0] * 5 + [1] * 5
    halves = 0.5 * 0.03 + 0.5 * 0.92
    assert expected_calibration_error(p, y, 2, "quantile") == pytest.approx(halves)
    assert expected_calibration_error([0.3] * 9, [1] * 9, 3, "quantile") == pytest.approx(0.7)


# ---- what calibrated scores would have


def test_zero_truth_ece_is_the_mean_over_labels_drawn_from_the_scores():
    rng = np.random.default_rng(1)
    for p in (rng.random(50), rng.random(2_000) ** 8, np.repeat(rng.random(8), 100)):
        draws = [expected_calibration_error(p, rng.random(len(p)) < p) for _ in range(2_000)]
        error = np.std(draws) / math.sqrt(len(draws))
        assert zero_truth_ece(p) == pytest.approx(np.mean(draws), abs=4 * error)


@quick
@given(st.lists(st.floats(0, 1), min_size=1, max_size=7), st.integers(1, 4))
def test_zero_truth_ece_is_exact_on_a_small_set(p, n_bins):
    exact = 0.0
    for labels in itertools.product((0, 1), repeat=len(p)):
        chance = math.prod(q if label else 1 - q for q, label in zip(p, labels, strict=True))
        exact += chance * expected_calibration_error(p, labels, n_bins)
    assert zero_truth_ece(p, n_bins) == pytest.approx(exact, abs=1e-14)


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


# ---- the Brier score's parts


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


# ---- inputs


@pytest.mark.parametrize("function", [expected_calibration_error, brier_decomposition])
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


def test_bad_bins_are_named(sample):
    p, y = sample(20)
    for call in (
        lambda *bins: expected_calibration_error(p, y, *bins),
        lambda *b: zero_truth_ece(p, *b),
    ):
        with pytest.raises(ValueError, match="n_bins must be at least 1"):
            call(0)
        with pytest.raises(ValueError, match="strategy must be one of"):
            call(5, "width")
