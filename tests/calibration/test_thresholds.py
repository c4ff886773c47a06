import math
from fractions import Fraction

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import (
    balanced_accuracy_score,
    confusion_matrix_at_thresholds,
    f1_score,
    fbeta_score,
    precision_recall_curve,
    precision_score,
    recall_score,
)

from lib.calibration import best_threshold, sweep_thresholds, thresholds

quick = settings(deadline=None, max_examples=60, derandomize=True)


# Equal and distinct scores, both ends of the range, both classes.
@st.composite
def scored(draw):
    score = st.one_of(st.sampled_from([0.0, 0.25, 0.5, 1.0]), st.floats(0, 1))
    p = draw(st.lists(score, min_size=2, max_size=30))
    y = draw(st.lists(st.integers(0, 1), min_size=len(p), max_size=len(p)))
    y[:2] = [0, 1]
    return np.array(p), np.array(y)


# ---- sweep


def counts(p, y, threshold):
    """True and false positives, true and false negatives, as their definitions read."""
    pairs = [(score >= threshold, label) for score, label in zip(p, y, strict=True)]
    return [pairs.count(cell) for cell in ((True, 1), (True, 0), (False, 0), (False, 1))]


def test_default_grid_is_the_documented_one(sample):
    curve = sweep_thresholds(*sample())
    assert curve["threshold"].tolist() == [round(0.1 + 0.05 * i, 2) for i in range(17)]
    names = ["threshold", "precision", "recall", "f1", "tp", "fp", "tn", "fn"]
    assert curve.columns.tolist() == names


@quick
@given(
    scored(),
    st.lists(st.one_of(st.floats(-1, 3), st.sampled_from([0.25, 0.5, 1.0])), min_size=1),
)
def test_sweep_counts_by_definition(case, grid):
    p, y = case
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(thresholds, "BLOCK", 7)
        curve = sweep_thresholds(p, y, grid)
    expected = [counts(p.tolist(), y.tolist(), threshold) for threshold in grid]
    assert curve[["tp", "fp", "tn", "fn"]].to_numpy().tolist() == expected


@pytest.mark.parametrize("size", [1, 17, 300])
def test_sweep_agrees_with_scikit_learn(size, sample):
    p, y = sample(500, power=2, digits=2)
    grid = np.random.default_rng(0).permutation(np.linspace(0, 1.01, size))
    for row in sweep_thresholds(p, y, grid).itertuples():
        hate = p >= row.threshold
        assert row.precision == precision_score(y, hate, zero_division=0)
        assert row.recall == recall_score(y, hate)
        assert row.f1 == pytest.approx(f1_score(y, hate, zero_division=0), abs=1e-15)
        assert [row.tp, row.fp, row.tn, row.fn] == counts(p, y, row.threshold)


def test_counts_agree_with_scikit_learn_at_every_threshold(sample):
    p, y = sample()
    tn, fp, fn, tp, cuts = confusion_matrix_at_thresholds(y, p)
    curve = sweep_thresholds(p, y, cuts)
    assert curve[["tn", "fp", "fn", "tp"]].to_numpy().T.tolist() == [
        list(c) for c in (tn, fp, fn, tp)
    ]


def test_sweep_in_blocks_counts_the_same_on_a_finer_grid(sample):
    p, y = sample(100_000, power=2)
    grid = np.linspace(0, 1, 200)
    every_tenth = sweep_thresholds(p, y, grid).iloc[::10].reset_index(drop=True)
    pd.testing.assert_frame_equal(sweep_thresholds(p, y, grid[::10]), every_tenth)


def test_long_grid_counts_as_a_short_one(sample):
    p, y = sample(50, digits=1)
    cuts = [-1.0, -0.0, 0.0, 0.3, 1.0, 1.5, 2.0, 1e300]
    short, long = (sweep_thresholds(p, y, cuts * times) for times in (1, 20))
    assert long.head(len(cuts)).equals(short)


@pytest.mark.parametrize("size", [1, 100])
@pytest.mark.parametrize("single", [np.float32, lambda a: torch.tensor(a, dtype=torch.float32)])
def test_scores_in_single_precision_meet_their_own_threshold(single, size):
    scores = single([0.7, 0.6, 0.1])
    curve = sweep_thresholds(scores, [1, 0, 1], [0.7] * size)
    assert curve.loc[0, ["tp", "fp"]].tolist() == [1, 0]


# ---- the best threshold


@quick
@given(scored())
def test_best_f1_is_that_of_every_decision_there_is(every_cut, case):
    p, y = case
    best = best_threshold(p, y)
    scores = [f1_score(y, p >= c, zero_division=0) for c in every_cut(p)]
    assert best.f1 == max(scores) == best.value
    hate = p >= best.threshold
    assert best.f1 == f1_score(y, hate)
    assert best.precision == precision_score(y, hate)
    assert best.recall == recall_score(y, hate)


@quick
@given(scored())
def test_threshold_lies_midway_to_the_next_lower_score_and_is_the_lowest_of_equals(case):
    p, y = case
    scores = np.unique(p)
    first = int(np.argmax([f1_score(y, p >= c) for c in scores]))
    lower = scores[first - 1] if first else 0.0
    threshold = best_threshold(p, y).threshold
    assert threshold == scores[first] or lower < threshold < scores[first]
    assert threshold == pytest.approx((lower + scores[first]) / 2, abs=1e-15)


@quick
@given(scored(), st.lists(st.floats(0, 1), min_size=1, max_size=100))
def test_best_threshold_is_never_below_any_grid(case, grid):
    p, y = case
    assert best_threshold(p, y).f1 >= sweep_thresholds(p, y, grid)["f1"].max()


@quick
@given(scored(), st.randoms(use_true_random=False))
def test_order_and_duplication_do_not_matter(case, random):
    p, y = case
    order = list(range(len(p)))
    random.shuffle(order)
    best = best_threshold(p, y)
    assert best_threshold(p[order], y[order]) == best
    assert best_threshold(np.tile(p, 3), np.tile(y, 3)) == best


def test_agrees_with_precision_recall_curve_over_many_blocks(sample):
    p, y = sample(100_000, power=2, digits=4)
    precision, recall, cuts = precision_recall_curve(y, p)
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-300)
    best = best_threshold(p, y)
    assert best.f1 == pytest.approx(f1.max(), rel=1e-13)
    assert best.f1 == f1_score(y, p >= best.threshold)
    assert cuts[np.argmax(f1)] == pytest.approx(best.threshold, abs=1e-4)


def macro_f1(y, hate):
    return f1_score(y, hate, average="macro", zero_division=0)


def cost(y, hate):
    return -(5 * ((y == 0) & hate).sum() + 2 * ((y == 1) & ~hate).sum()) / len(y)


def precision_if_recall(y, hate):
    enough = recall_score(y, hate, zero_division=0) >= 0.7
    return precision_score(y, hate, zero_division=0) if enough else -math.inf


def recall_if_precision(y, hate):
    enough = precision_score(y, hate, zero_division=0) >= 0.3
    return recall_score(y, hate) if enough else -math.inf


OBJECTIVES = [
    ("macro_f1", {}, macro_f1),
    ("f_beta", {"beta": 2.0}, lambda y, hate: fbeta_score(y, hate, beta=2, zero_division=0)),
    ("balanced_accuracy", {}, balanced_accuracy_score),
    ("cost", {"costs": (5, 2)}, cost),
    ("precision_at_recall", {"floor": 0.7}, precision_if_recall),
    ("recall_at_precision", {"floor": 0.3}, recall_if_precision),
]


@pytest.mark.parametrize(("objective", "options", "oracle"), OBJECTIVES)
@pytest.mark.parametrize("digits", [None, 1])
def test_objectives_agree_with_every_decision_there_is(
    objective, options, oracle, digits, sample, every_cut
):
    for seed in range(8):
        p, y = sample(60, seed, power=2, digits=digits)
        best = best_threshold(p, y, objective, **options)
        expected = max(oracle(y, p >= c) for c in every_cut(p))
        assert best.value == pytest.approx(expected, abs=1e-14)
        assert oracle(y, p >= best.threshold) == pytest.approx(expected, abs=1e-14)


# Sums of two ratios in exact arithmetic, of which floating point would see equal ones as different.
EXACT = {
    "balanced_accuracy": lambda tp, fp, p, n: Fraction(tp, p) + Fraction(n - fp, n),
    "macro_f1": lambda tp, fp, p, n: (
        Fraction(2 * tp, tp + fp + p) + Fraction(2 * (n - fp), 2 * n - fp + p - tp)
    ),
}


def lowest_of_the_best(p, y, objective, cuts):
    values = {}
    for cut in cuts:
        tp, fp, tn, fn = counts(p, y, cut)
        values[cut] = EXACT[objective](tp, fp, tp + fn, fp + tn)
    return max(values, key=lambda cut: (values[cut], -cut))


@pytest.mark.parametrize("objective", EXACT)
def test_of_equally_good_thresholds_the_lowest_is_returned(objective, sample, every_cut):
    for seed in range(300):
        p, y = sample(8, seed, power=2, digits=1)
        if 0 < y.sum() < len(y):
            lowest = lowest_of_the_best(p, y, objective, every_cut(p))
            found = best_threshold(p, y, objective).threshold
            assert np.array_equal(p >= found, p >= lowest)


def test_flagging_nothing_can_be_best():
    p, y = [0.2, 0.9, 0.8], [1, 0, 0]
    best = best_threshold(p, y, "cost", costs=(10, 1))
    assert best.threshold == pytest.approx(0.95)
    assert (best.f1, best.precision, best.recall) == (0, 0, 0)
    assert best.value == pytest.approx(-1 / 3)
    certain = best_threshold([0.2, 1.0, 0.8], y, "cost", costs=(10, 1))
    assert certain.threshold > 1
    single = torch.tensor([0.2, 1.0, 0.8])
    assert not (single >= best_threshold(single, y, "cost", costs=(10, 1)).threshold).any()


def test_equal_recall_is_reached_with_the_best_precision():
    best = best_threshold([0.1, 0.2, 0.8, 0.9], [0, 0, 1, 1], "recall_at_precision", floor=0.5)
    assert (best.recall, best.precision) == (1, 1)


def test_floor_that_no_threshold_reaches_is_named():
    with pytest.raises(ValueError, match=r"precision 0.9; the highest is 0.5$"):
        best_threshold([0.1, 0.2, 0.9], [0, 1, 0], "recall_at_precision", floor=0.9)


def test_neighbouring_scores_are_still_separated():
    for dtype in (np.float64, np.float32):
        low = dtype(0.3)
        high = np.nextafter(low, dtype(1))
        best = best_threshold(np.array([low, high]), [0, 1])
        assert [bool(s >= best.threshold) for s in np.array([low, high])] == [False, True]


def test_signed_zero_equals_zero():
    assert best_threshold([-0.0, 0.0, 1.0], [0, 1, 1]).f1 == pytest.approx(0.8)


# ---- inputs


@pytest.mark.parametrize(
    ("prob", "labels", "message"),
    [
        ([], [], "prob is empty"),
        ([0.1, 0.2], [1], "shape"),
        ([0.1, np.nan], [0, 1], "1 of 2 values that are NaN or infinite, the first at index 1"),
        ([0.1, 1.2, -3], [0, 1, 1], "2 of 3 values that are outside.*index 1.*not logits"),
        ([0.1, 0.2], [0, 2], "neither 0 nor 1, the first at index 1"),
        ([[0.1, 0.2]], [[0, 1]], "must have shape"),
    ],
)
@pytest.mark.parametrize("function", [best_threshold, sweep_thresholds])
def test_bad_input_is_named(function, prob, labels, message):
    with pytest.raises(ValueError, match=message):
        function(prob, labels)


def test_one_class_has_no_best_threshold_but_a_curve():
    for label in (0, 1):
        with pytest.raises(ValueError, match=f"class {label} only"):
            best_threshold([0.1, 0.9], [label] * 2)
    assert sweep_thresholds([0.1, 0.9], [0, 0])["f1"].tolist() == [0] * 17


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"objective": "f2"}, "objective must be one of"),
        ({"objective": "f_beta", "beta": 0}, "beta must be positive"),
        ({"objective": "f_beta", "beta": 1e200}, "beta must be positive"),
        ({"objective": "cost", "costs": (1,)}, "costs must be two"),
        ({"objective": "cost", "costs": (-1, 1)}, "costs must be two"),
        ({"objective": "recall_at_precision", "floor": 2}, "floor must be within"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        best_threshold([0.1, 0.9], [0, 1], **options)
