import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from lib.calibration import (
    brier_decomposition,
    classification_metrics,
    constant_baselines,
    decision_metrics,
    expected_calibration_error,
    zero_truth_ece,
)

quick = settings(deadline=None, max_examples=60, derandomize=True)


# ---- of decisions

decided = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=20)


@quick
@given(decided)
def test_decision_metrics_are_scikit_learn_s(pairs):
    hate, y = np.array(pairs).T
    both = {"labels": [False, True], "zero_division": 0}
    assert decision_metrics(hate, y) == {
        "accuracy": sk.accuracy_score(y, hate),
        "macro_f1": pytest.approx(sk.f1_score(y, hate, average="macro", **both), abs=1e-15),
        "precision": sk.precision_score(y, hate, zero_division=0),
        "recall": sk.recall_score(y, hate, zero_division=0),
        "f1": sk.f1_score(y, hate, zero_division=0),
    }


@quick
@given(decided)
def test_decision_metrics_are_their_definitions(pairs):
    tp, fp, fn, tn = (
        pairs.count(cell) for cell in ((True, True), (True, False), (False, True), (False, False))
    )
    f1, other_f1 = (2 * right / max(2 * right + fp + fn, 1) for right in (tp, tn))
    values = decision_metrics(*zip(*pairs, strict=True))
    assert values == {
        "accuracy": pytest.approx((tp + tn) / len(pairs)),
        "macro_f1": pytest.approx((f1 + other_f1) / 2),
        "precision": pytest.approx(tp / max(tp + fp, 1)),
        "recall": pytest.approx(tp / max(tp + fn, 1)),
        "f1": pytest.approx(f1),
    }
    assert {type(v) for v in values.values()} == {float}


@pytest.mark.parametrize(
    ("decision", "labels", "expected"),
    [
        # In the order accuracy, macro_f1, precision, recall, f1.
        ([1, 1, 1, 0], [1, 1, 0, 0], [3 / 4, (4 / 5 + 2 / 3) / 2, 2 / 3, 1, 4 / 5]),
        ([1, 0], [1, 0], [1, 1, 1, 1, 1]),
        ([0, 1], [1, 0], [0, 0, 0, 0, 0]),
        ([0, 0, 0], [0, 1, 1], [1 / 3, 1 / 4, 0, 0, 0]),
        ([1, 1], [1, 1], [1, 1 / 2, 1, 1, 1]),
        ([0, 0], [0, 0], [1, 1 / 2, 0, 0, 0]),
    ],
)
def test_decision_metrics_in_closed_form(decision, labels, expected):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        values = decision_metrics(decision, labels)
    assert list(values) == ["accuracy", "macro_f1", "precision", "recall", "f1"]
    assert list(values.values()) == pytest.approx(expected)


def test_decisions_of_any_kind_are_read_alike():
    for kind in (torch.tensor, np.array, list, lambda a: np.array(a, bool)):
        assert decision_metrics(kind([1, 0, 1]), kind([1, 1, 0])) == {
            "accuracy": 1 / 3,
            "macro_f1": 1 / 4,
            "precision": 1 / 2,
            "recall": 1 / 2,
            "f1": 1 / 2,
        }


@pytest.mark.parametrize(
    ("decision", "labels", "message"),
    [
        ([], [], "decision is empty"),
        ([1, 0], [1], "decision has shape .*labels has shape"),
        ([0.5, 1], [1, 0], "decision holds 1 of 2 values that are neither 0 nor 1"),
        ([1, 0], [1, 2], "labels holds 1 of 2 values that are neither 0 nor 1.*index 1"),
    ],
)
def test_bad_decisions_are_named(decision, labels, message):
    with pytest.raises(ValueError, match=message):
        decision_metrics(decision, labels)


# ---- of probabilities


def test_metrics_are_scikit_learn_s(sample):
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
    parts = {f"brier_{k}": v for k, v in brier_decomposition(p, y).items()}
    assert values == expected | parts
    assert all(type(v) is float for k, v in values.items() if k != "n")


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
def test_bad_input_is_named(prob, labels, message):
    with pytest.raises(ValueError, match=message):
        classification_metrics(prob, labels)


def test_bad_thresholds_are_named(sample):
    p, y = sample(20)
    with pytest.raises(ValueError, match="threshold holds 1 of 1 values"):
        classification_metrics(p, y, math.nan)
    with pytest.raises(ValueError, match="threshold must be"):
        classification_metrics(p, y, "high")
