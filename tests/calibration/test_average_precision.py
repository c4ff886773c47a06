import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.metrics import average_precision_score

from lib.calibration import average_precision_interval, bootstrap_ci
from lib.calibration.average_precision import _influences


@given(
    arrays(float, 12, elements=st.sampled_from([0.1, 0.3, 0.5, 0.7, 0.9])),
    arrays(bool, 12, elements=st.booleans()),
)
def test_point_and_influences_are_those_of_scikit_learn_with_ties(p, y):
    if not y.any():
        return
    point, influences = _influences(p, y)
    assert point == pytest.approx(average_precision_score(y, p))
    assert influences.sum() == pytest.approx(0, abs=1e-12)
    step = 1e-6
    for row in range(len(p)):
        weights = np.ones(len(p))
        weights[row] += step
        moved = average_precision_score(y, p, sample_weight=weights)
        assert influences[row] == pytest.approx((moved - point) / step, abs=1e-5)


def test_the_interval_is_that_of_resampling():
    rng = np.random.default_rng(0)
    y = rng.random(4000) < 0.3
    p = np.clip(rng.normal(0.4 + 0.2 * y, 0.15), 0, 1)
    closed, drawn = average_precision_interval(p, y), bootstrap_ci(p, y, "average_precision", 2000)
    assert closed.point == pytest.approx(drawn.point)
    assert [closed.low, closed.high] == pytest.approx([drawn.low, drawn.high], abs=0.003)


def test_groups_widen_it_and_copies_count_once():
    rng = np.random.default_rng(1)
    y = rng.random(500) < 0.4
    p = np.clip(rng.normal(0.4 + 0.2 * y, 0.2), 0, 1)
    alone = average_precision_interval(p, y)
    groups = np.repeat(np.arange(500), 3)
    copied = average_precision_interval(p.repeat(3), y.repeat(3), groups=groups)
    assert [copied.low, copied.high] == pytest.approx([alone.low, alone.high], abs=1e-9)


def test_the_interval_holds_the_truth_as_often_as_stated():
    rng = np.random.default_rng(2)

    def sample(n):
        y = rng.random(n) < 0.3
        return np.clip(rng.normal(0.4 + 0.15 * y, 0.15), 0, 1), y

    truth = average_precision_interval(*sample(400_000)).point
    found = [average_precision_interval(*sample(800)) for _ in range(400)]
    assert np.mean([i.low <= truth <= i.high for i in found]) == pytest.approx(0.95, abs=0.035)


@pytest.mark.parametrize(
    ("p", "y", "groups", "expected"),
    [
        ([0.2, 0.8], [0, 0], None, (math.nan, math.nan, math.nan)),
        ([0.2, 0.8], [0, 1], None, (1.0, 1.0, 1.0)),
        ([0.8, 0.2], [0, 1], ["a", "a"], (0.5, math.nan, math.nan)),
    ],
)
def test_what_has_no_interval(p, y, groups, expected):
    found = average_precision_interval(p, y, groups=groups)
    assert (found.point, found.low, found.high) == pytest.approx(expected, nan_ok=True)


def test_a_level_out_of_range_is_refused():
    with pytest.raises(ValueError, match="level must be between 0 and 1"):
        average_precision_interval([0.2, 0.8], [0, 1], 1.0)


def test_of_many_examples_it_stands_for_resampling():
    rng = np.random.default_rng(3)
    y = rng.random(20_001) < 0.3
    p = np.clip(rng.normal(0.4 + 0.2 * y, 0.15), 0, 1)
    assert bootstrap_ci(p, y, "average_precision") == average_precision_interval(p, y)
