import numpy as np
import pandas as pd
import pytest
import torch

from lib.calibration.checked_input import (
    binary_labels,
    finite,
    in_precision_of,
    probabilities,
    to_numpy,
)


@pytest.mark.parametrize(
    "values",
    [
        [0.5, 1.0],
        np.array([0.5, 1.0], np.float16),
        pd.Series([0.5, 1.0]),
        pd.Series([0.5, 1.0], dtype="Float64"),
        torch.tensor([0.5, 1.0], dtype=torch.bfloat16),
        torch.tensor([0.5, 1.0], requires_grad=True),
    ],
)
def test_anything_array_like_is_read(values):
    assert to_numpy(values, "prob").tolist() == [0.5, 1.0]


@pytest.mark.parametrize(
    "values",
    [
        ["a"],
        [1j],
        [object()],
        [10**400],
        np.array(["2020-01-01"], "datetime64[D]"),
        torch.tensor([1j]).conj(),
    ],
)
def test_what_is_no_number_is_refused_by_name(values):
    with pytest.raises(ValueError, match="prob must be an array of real numbers"):
        to_numpy(values, "prob")


def test_empty_is_refused():
    with pytest.raises(ValueError, match=r"logits is empty \(shape \(0, 2\)\)"):
        to_numpy(np.empty((0, 2)), "logits")


def test_missing_values_are_counted_and_the_first_is_named():
    with pytest.raises(ValueError, match=r"2 of 4 values that are NaN.*first at index 1;"):
        finite([0.0, np.nan, 1.0, np.inf], "logits")
    with pytest.raises(ValueError, match=r"first at index \(1, 0\)"):
        finite([[0.0, 1.0], [-np.inf, 1.0]], "logits")
    with pytest.raises(ValueError, match="1 of 2 values that are NaN"):
        finite(pd.Series([1, None], dtype="Int64"), "logits")
    with pytest.raises(ValueError, match=r"1 of 2 values that are NaN.*index 1;"):
        finite(np.ma.array([1, 2], mask=[False, True]), "logits")


def test_logits_are_not_taken_for_probabilities():
    with pytest.raises(ValueError, match=r"1 of 2 values that are outside \[0, 1\].*not logits"):
        probabilities([0.5, 1.5])
    with pytest.raises(ValueError, match=r"prob must have shape \(N,\), got \(1, 2\)"):
        probabilities([[0.5, 0.6]])


def test_labels_are_zero_or_one():
    assert binary_labels([0, 1.0, True]).tolist() == [False, True, True]
    with pytest.raises(ValueError, match=r"1 of 2 values that are neither 0 nor 1.*index 1"):
        binary_labels([0, 2])


def test_cuts_are_compared_in_the_scores_own_precision():
    score = np.float32(0.7)
    (cut,) = in_precision_of(np.array([score]), np.array([0.7]))
    assert float(score) >= cut
    assert in_precision_of([0.7], np.array([0.7])).tolist() == [0.7]
    for scores in (
        torch.tensor([0.7]),
        pd.Series([0.7], dtype="float32"),
        pd.Series([0.7], dtype="Float32"),
        pd.DataFrame({"a": [0.7], "b": [0.7]}, dtype="float32"),
    ):
        (cut,) = in_precision_of(scores, np.array([0.7]))
        assert float(score) >= cut
    for whole in (torch.tensor([0, 1]), np.array([0, 1]), pd.Series([0, 1], dtype="Int8")):
        assert in_precision_of(whole, np.array([0.7])).tolist() == [0.7]
