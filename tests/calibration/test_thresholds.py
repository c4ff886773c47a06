import math
from fractions import Fraction

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit, logit
from sklearn.metrics import (
    balanced_accuracy_score,
    f1_score,
    fbeta_score,
    precision_recall_curve,
    precision_score,
    recall_score,
)

from lib.calibration import (
    best_threshold,
    cross_fit,
    fit_temperature,
    joint_search,
    per_label_thresholds,
    prob_hate,
    sweep_thresholds,
)

quick = settings(deadline=None, max_examples=60, derandomize=True)


def sample(n=500, seed=0, digits=None):
    rng = np.random.default_rng(seed)
    p = rng.random(n)
    y = (rng.random(n) < p**2).astype(int)
    return (p if digits is None else np.round(p, digits)), y


def multi_label(n=400, labels=5, seed=0):
    rng = np.random.default_rng(seed)
    z = rng.normal(np.linspace(-3, 1, labels), 2, (n, labels))
    return z, (rng.random(z.shape) < expit(z / 1.5)).astype(int)


def every_cut(p):
    """One cut for each decision there is: at each distinct score, and above all."""
    return np.append(np.unique(p), 2.0)


# Tied and distinct scores, both ends of the range, both classes.
@st.composite
def scored(draw):
    score = st.one_of(st.sampled_from([0.0, 0.25, 0.5, 1.0]), st.floats(0, 1))
    p = draw(st.lists(score, min_size=2, max_size=30))
    y = draw(st.lists(st.integers(0, 1), min_size=len(p), max_size=len(p)))
    y[:2] = [0, 1]
    return np.array(p), np.array(y)


# ---- sweep


def test_default_grid_is_the_documented_one():
    curve = sweep_thresholds(*sample())
    assert curve["threshold"].tolist() == [round(0.1 + 0.05 * i, 2) for i in range(17)]
    names = ["threshold", "precision", "recall", "f1", "tp", "fp", "tn", "fn"]
    assert curve.columns.tolist() == names


@pytest.mark.parametrize("size", [1, 17, 300])
def test_sweep_agrees_with_scikit_learn(size):
    p, y = sample(digits=2)
    grid = np.random.default_rng(0).permutation(np.linspace(0, 1.01, size))
    for row in sweep_thresholds(p, y, grid).itertuples():
        hate = p >= row.threshold
        assert row.precision == precision_score(y, hate, zero_division=0)
        assert row.recall == recall_score(y, hate)
        assert row.f1 == pytest.approx(f1_score(y, hate, zero_division=0), abs=1e-15)
        counts = [(hate == h)[y == c].sum() for h, c in ((1, 1), (1, 0), (0, 0), (0, 1))]
        assert [row.tp, row.fp, row.tn, row.fn] == counts


def test_sweep_in_blocks_counts_the_same_as_a_sorted_one():
    p, y = sample(100_000)
    grid = np.linspace(0, 1, 200)
    every_tenth = sweep_thresholds(p, y, grid).iloc[::10].reset_index(drop=True)
    pd.testing.assert_frame_equal(sweep_thresholds(p, y, grid[::10]), every_tenth)


@pytest.mark.parametrize("size", [1, 100])
@pytest.mark.parametrize("single", [np.float32, lambda a: torch.tensor(a, dtype=torch.float32)])
def test_scores_in_single_precision_meet_their_own_threshold(single, size):
    scores = single([0.7, 0.6, 0.1])
    curve = sweep_thresholds(scores, [1, 0, 1], [0.7] * size)
    assert curve.loc[0, ["tp", "fp"]].tolist() == [1, 0]


# ---- the best cut


@quick
@given(scored())
def test_best_f1_is_that_of_every_decision_there_is(case):
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
def test_cut_lies_midway_to_the_next_lower_score_and_is_the_lowest_of_equals(case):
    p, y = case
    scores = np.unique(p)
    first = int(np.argmax([f1_score(y, p >= c) for c in scores]))
    lower = scores[first - 1] if first else 0.0
    cut = best_threshold(p, y).threshold
    assert cut == scores[first] or lower < cut < scores[first]
    assert cut == pytest.approx((lower + scores[first]) / 2, abs=1e-15)


@quick
@given(scored(), st.lists(st.floats(0, 1), min_size=1, max_size=100))
def test_best_cut_is_never_below_any_grid(case, grid):
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


def test_agrees_with_precision_recall_curve_over_many_blocks():
    p, y = sample(100_000, digits=4)
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
def test_objectives_agree_with_every_decision_there_is(objective, options, oracle, digits):
    for seed in range(8):
        p, y = sample(60, seed, digits)
        best = best_threshold(p, y, objective, **options)
        expected = max(oracle(y, p >= c) for c in every_cut(p))
        assert best.value == pytest.approx(expected, abs=1e-14)
        assert oracle(y, p >= best.threshold) == pytest.approx(expected, abs=1e-14)


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


def test_floor_that_no_cut_reaches_is_named():
    with pytest.raises(ValueError, match=r"precision 0.9; the highest is 0.5$"):
        best_threshold([0.1, 0.2, 0.9], [0, 1, 0], "recall_at_precision", floor=0.9)


def test_neighbouring_scores_are_still_told_apart():
    for dtype in (np.float64, np.float32):
        low = dtype(0.3)
        high = np.nextafter(low, dtype(1))
        best = best_threshold(np.array([low, high]), [0, 1])
        assert [bool(s >= best.threshold) for s in np.array([low, high])] == [False, True]


def test_signed_zero_ties_with_zero():
    assert best_threshold([-0.0, 0.0, 1.0], [0, 1, 1]).f1 == pytest.approx(0.8)


# ---- several labels


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("average", ["micro", "macro", "weighted"])
def test_joint_search_agrees_with_a_loop(average, dtype):
    z, y = multi_label()
    z = z.astype(dtype)
    temperatures, thresholds = np.arange(1.0, 16), np.linspace(0.2, 1, 9)
    frame = joint_search(z, y, temperatures, thresholds, average)
    assert frame.columns.tolist() == ["temperature", "threshold", "f1"]
    assert len(frame) == 15 * 9
    for row in frame.itertuples():
        hate = expit(z.astype(float) / row.temperature) >= row.threshold
        expected = f1_score(y, hate, average=average, zero_division=0)
        assert row.f1 == pytest.approx(expected, abs=1e-14)


@quick
@given(
    st.floats(-50, 50),
    st.floats(0.05, 20),
    st.one_of(st.floats(0.001, 0.999), st.sampled_from([0.0, 0.2, 0.5, 1.0])),
)
def test_joint_decision_is_the_sigmoid_against_the_threshold(z, t, threshold):
    f1 = joint_search([[z], [-60.0]], [[1], [0]], [t], [threshold])["f1"][0]
    near = math.isclose(z, t * logit(threshold), rel_tol=1e-9, abs_tol=1e-9 * t)
    saturated = threshold == 1 or expit(-60 / t) >= threshold
    if not (near or saturated):
        assert f1 == (expit(z / t) >= threshold)


# Zero, denormal, ordinary and huge logits, alone and together.
@quick
@given(
    st.lists(
        st.tuples(
            st.one_of(
                st.floats(-8, 8, width=32),
                st.sampled_from([0.0, -0.0, 1.0, 2**-32, -(2**-33), 1e-40, 2**31, -(2.0**60)]),
            ),
            st.booleans(),
        ),
        min_size=1,
        max_size=20,
    ),
    st.sampled_from([np.float32, np.float64, np.int64]),
)
def test_joint_search_counts_every_logit(rows, dtype):
    z = np.array([value for value, _ in rows]).astype(dtype)[:, None]
    y = np.array([label for _, label in rows])[:, None]
    ts, thresholds = [0.5, 1.0, 1e9], [0.0, 0.2, 0.5, 0.5 + 1e-13, expit(1.0), 1.0]
    frame = joint_search(z, y, ts, thresholds)
    for row in frame.itertuples():
        hate = z.astype(float) >= row.temperature * logit(row.threshold)
        tp, flagged = np.count_nonzero(hate & y), np.count_nonzero(hate)
        assert row.f1 == pytest.approx(2 * tp / max(flagged + np.count_nonzero(y), 1), abs=1e-15)


def test_joint_decision_at_the_boundary_is_positive():
    z = 3.0 * logit(0.7)
    assert joint_search([[z], [-9.0]], [[1], [0]], [3.0], [0.7])["f1"][0] == 1
    below = np.nextafter(z, -1)
    assert joint_search([[below], [-9.0]], [[1], [0]], [3.0], [0.7])["f1"][0] == 0


def test_label_without_positives_counts_0():
    z, y = multi_label()
    y[:, 0] = 0
    frame = joint_search(z, y, [1.0], [0.5], "macro")
    assert frame["f1"][0] == pytest.approx(
        f1_score(y, z >= 0, average="macro", zero_division=0), abs=1e-14
    )
    assert joint_search(z, np.zeros_like(y), [1.0], [0.5], "weighted")["f1"][0] == 0


def test_shared_cut_is_one_of_the_scores_own_precision():
    low = np.float32(0.5)
    high = np.nextafter(low, np.float32(1))
    p, y = np.array([[low], [high], [low]]), [[0], [1], [0]]
    for prob in (p, torch.tensor(p), pd.DataFrame(p)):
        (cut,) = per_label_thresholds(prob, y)
        assert cut == high


def test_per_label_cuts_are_each_label_s_own():
    z, y = multi_label()
    p = expit(z)
    cuts = per_label_thresholds(p, y)
    assert cuts.tolist() == [best_threshold(p[:, j], y[:, j]).threshold for j in range(5)]
    assert cuts.tolist() == per_label_thresholds(p, y, average="weighted").tolist()


def test_rare_label_takes_the_global_cut():
    z, y = multi_label()
    p = expit(z)
    y[:, 1], y[:, 2] = 0, 1
    y[:29, 1] = 1
    cuts = per_label_thresholds(p, y)
    shared = best_threshold(p.ravel(), y.ravel()).threshold
    assert cuts[1] == cuts[2] == shared
    assert per_label_thresholds(p, y, min_positives=29)[1] != shared


def test_micro_cuts_beat_every_choice_of_cuts():
    rng = np.random.default_rng(5)
    for _ in range(5):
        p = np.round(rng.random((25, 2)), 1)
        y = (rng.random(p.shape) < p * [1, 0.4]).astype(int)
        y[0], y[1] = 0, 1
        cuts = per_label_thresholds(p, y, min_positives=1, average="micro")
        first, second = (every_cut(p[:, j]) for j in (0, 1))
        most = max(f1_score(y, p >= [a, b], average="micro") for a in first for b in second)
        assert f1_score(y, p >= cuts, average="micro") == pytest.approx(most, abs=1e-15)


# ---- cross-fitting


def cross_sample(n=200, seed=0):
    rng = np.random.default_rng(seed)
    z = rng.normal(0, 3, (n, 2))
    return z, (rng.random(n) < prob_hate(z, 2)).astype(int)


def test_cross_fit_judges_each_fold_by_the_others():
    z, y = cross_sample()
    out = cross_fit(z, y, n_folds=4, seed=1)
    assert sorted(np.bincount(out.fold)) == [50] * 4
    for k in range(4):
        rest, held = out.fold != k, out.fold == k
        t = fit_temperature(z[rest], y[rest]).temperature
        assert out.temperatures[k] == t
        cut = best_threshold(prob_hate(z[rest], t), y[rest]).threshold
        assert out.thresholds[k] == cut
        assert out.prob[held].tolist() == prob_hate(z[held], t).tolist()
        assert out.decision[held].tolist() == (prob_hate(z[held], t) >= cut).tolist()


def test_cross_fit_is_seeded_and_stratified():
    z, y = cross_sample(60)
    y[:] = 0
    y[:6] = 1
    out = cross_fit(z[:, 1] - z[:, 0], y, seed=3)
    assert all(y[out.fold == k].sum() >= 1 for k in range(5))
    again = cross_fit(z, y, seed=3)
    assert again.fold.tolist() == out.fold.tolist()
    assert cross_fit(z, y, seed=4).fold.tolist() != out.fold.tolist()


def test_cross_fit_makes_fewer_folds_of_a_rare_class_and_refuses_one():
    z, y = cross_sample(30)
    y[:] = 0
    y[:3] = 1
    assert len(cross_fit(z, y).thresholds) == 3
    y[1:] = 0
    with pytest.raises(ValueError, match="two examples of each class"):
        cross_fit(z, y)
    with pytest.raises(ValueError, match="n_folds must be at least 2"):
        cross_fit(z, y, n_folds=1)
    with pytest.raises(ValueError, match="one label per value"):
        cross_fit(z, y[1:])


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


def test_long_grid_counts_as_a_short_one():
    p, y = sample(50, digits=1)
    cuts = [-1.0, -0.0, 0.0, 0.3, 1.0, 1.5, 2.0, 1e300]
    short, long = (sweep_thresholds(p, y, cuts * times) for times in (1, 20))
    assert long.head(len(cuts)).equals(short)


@pytest.mark.parametrize("objective", ["balanced_accuracy", "macro_f1"])
def test_of_equally_good_cuts_the_lowest_is_returned(objective):
    exact = {
        "balanced_accuracy": lambda tp, fp, p, n: Fraction(tp, p) + Fraction(n - fp, n),
        "macro_f1": lambda tp, fp, p, n: (
            Fraction(2 * tp, tp + fp + p) + Fraction(2 * (n - fp), 2 * n - fp + p - tp)
        ),
    }[objective]
    for seed in range(300):
        p, y = sample(8, seed, digits=1)
        if 0 < y.sum() < len(y):
            values = {}
            for cut in every_cut(p):
                tp, fp = (int(np.count_nonzero((p >= cut) & (y == label))) for label in (1, 0))
                values[cut] = exact(tp, fp, int(y.sum()), int(len(y) - y.sum()))
            lowest = max(values, key=lambda cut: (values[cut], -cut))
            found = best_threshold(p, y, objective).threshold
            assert np.array_equal(p >= found, p >= lowest)


def test_one_class_has_no_best_cut_but_a_curve():
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


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([0.0], [1], [1], [0.5]), "logits must have shape"),
        (([[0.0]], [[1], [0]], [1], [0.5]), "shape"),
        (([[0.0]], [[1]], [0.0], [0.5]), "temperatures must be positive"),
        (([[0.0]], [[1]], [1], [1.5]), "thresholds holds 1 of 1 values that are outside"),
        (([[0.0]], [[1]], [1], [0.5], "mean"), "average must be one of"),
    ],
)
def test_bad_joint_search_is_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        joint_search(*arguments)


def test_bad_per_label_input_is_named():
    with pytest.raises(ValueError, match="must have shape"):
        per_label_thresholds([0.1], [1])
    with pytest.raises(ValueError, match="average must be one of"):
        per_label_thresholds([[0.1, 0.9]], [[0, 1]], average="mean")
