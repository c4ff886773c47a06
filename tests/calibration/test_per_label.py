import itertools

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit
from sklearn.metrics import f1_score

from lib.calibration import best_threshold, per_label_thresholds

quick = settings(deadline=None, max_examples=60, derandomize=True)


def test_per_label_thresholds_are_each_label_s_own(multi_label):
    z, y = multi_label()
    p = expit(z)
    found = per_label_thresholds(p, y)
    assert found.tolist() == [best_threshold(p[:, j], y[:, j]).threshold for j in range(5)]
    assert found.tolist() == per_label_thresholds(p, y, average="weighted").tolist()


def test_rare_label_takes_the_shared_threshold(multi_label):
    z, y = multi_label()
    p = expit(z)
    y[:, 1], y[:, 2] = 0, 1
    y[:29, 1] = 1
    found = per_label_thresholds(p, y)
    shared = best_threshold(p.ravel(), y.ravel()).threshold
    assert found[1] == found[2] == shared
    assert per_label_thresholds(p, y, min_positives=29)[1] != shared


def test_shared_threshold_is_one_of_the_scores_own_precision():
    low = np.float32(0.5)
    high = np.nextafter(low, np.float32(1))
    p, y = np.array([[low], [high], [low]]), [[0], [1], [0]]
    for prob in (p, torch.tensor(p), pd.DataFrame(p)):
        (threshold,) = per_label_thresholds(prob, y)
        assert threshold == high


def micro_f1(p, y, thresholds):
    """2 tp / (flagged + positives) over all entries."""
    hate = p >= thresholds
    return 2 * np.count_nonzero(hate & (y == 1)) / (np.count_nonzero(hate) + y.sum())


# Three labels of few distinct scores; each has both classes, and the last may be left to share.
@st.composite
def scored_labels(draw):
    n = draw(st.integers(2, 12))
    score = st.sampled_from([0.0, 0.2, 0.4, 0.6, 1.0])
    p = draw(st.lists(st.lists(score, min_size=3, max_size=3), min_size=n, max_size=n))
    y = np.array(
        draw(st.lists(st.lists(st.integers(0, 1), min_size=3, max_size=3), min_size=n, max_size=n))
    )
    y[0], y[1] = 0, 1
    return np.array(p), y


@quick
@given(scored_labels())
def test_micro_thresholds_beat_every_choice_of_thresholds(every_cut, case):
    p, y = case
    found = per_label_thresholds(p, y, min_positives=1, average="micro")
    choices = itertools.product(*(every_cut(p[:, j]) for j in range(3)))
    assert micro_f1(p, y, found) == max(micro_f1(p, y, choice) for choice in choices)


@quick
@given(scored_labels(), st.integers(2, 5))
def test_micro_thresholds_beat_every_choice_beside_shared_ones(every_cut, case, min_positives):
    p, y = case
    found = per_label_thresholds(p, y, min_positives, average="micro")
    shared = best_threshold(p.ravel(), y.ravel()).threshold
    own = (y.sum(axis=0) >= min_positives) & (y.sum(axis=0) < len(y))
    assert (found[~own] == shared).all()
    cuts = (every_cut(p[:, j]) if own[j] else [shared] for j in range(3))
    most = max(micro_f1(p, y, choice) for choice in itertools.product(*cuts))
    assert micro_f1(p, y, found) == most


def test_micro_thresholds_agree_with_scikit_learn(every_cut):
    rng = np.random.default_rng(5)
    for _ in range(5):
        p = np.round(rng.random((25, 2)), 1)
        y = (rng.random(p.shape) < p * [1, 0.4]).astype(int)
        y[0], y[1] = 0, 1
        found = per_label_thresholds(p, y, min_positives=1, average="micro")
        first, second = (every_cut(p[:, j]) for j in (0, 1))
        most = max(f1_score(y, p >= [a, b], average="micro") for a in first for b in second)
        assert f1_score(y, p >= found, average="micro") == pytest.approx(most, abs=1e-15)


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="must have shape"):
        per_label_thresholds([0.1], [1])
    with pytest.raises(ValueError, match="average must be one of"):
        per_label_thresholds([[0.1, 0.9]], [[0, 1]], average="mean")
    with pytest.raises(ValueError, match="class 1 only"):
        per_label_thresholds([[0.1, 0.9]], [[1, 1]])
