import math

import numpy as np
import pytest
from scipy.special import expit, logit
from sklearn.linear_model import LogisticRegression

from lib.calibration.calibration_tests import recalibration, recalibration_change, spiegelhalter


def world(rng, n, slope=1.0, intercept=0.0):
    """Probabilities, and labels of which they are right after this line."""
    margin = rng.normal(0, 2, n)
    return expit(margin), (rng.random(n) < expit(intercept + slope * margin)).astype(int)


def test_calibrated_probabilities_are_refuted_as_rarely_as_stated():
    rng = np.random.default_rng(0)
    worlds = [world(rng, 300) for _ in range(250)]
    lines = [recalibration(*found) for found in worlds]
    # 250 worlds at 5%: outside of these counts in less than one of a thousand
    assert 3 <= sum(line.p_value <= 0.05 for line in lines) <= 25
    assert 3 <= sum(spiegelhalter(*found)[1] <= 0.05 for found in worlds) <= 25
    held = [line.slope_interval[0] <= 1 <= line.slope_interval[1] for line in lines]
    assert np.mean(held) > 0.9


@pytest.mark.parametrize(("slope", "intercept"), [(0.5, 0.0), (1.0, 0.8), (2.0, 0.0)])
def test_what_is_off_is_found(slope, intercept):
    rng = np.random.default_rng(1)
    lines = [recalibration(*world(rng, 500, slope, intercept)) for _ in range(40)]
    assert np.mean([line.p_value <= 0.05 for line in lines]) > 0.9
    assert np.median([line.slope for line in lines]) == pytest.approx(slope, rel=0.1)
    assert np.median([line.intercept for line in lines]) == pytest.approx(intercept, abs=0.1)


def test_too_sure_is_above_zero_and_too_unsure_below():
    rng = np.random.default_rng(2)
    assert spiegelhalter(*world(rng, 1000, slope=0.5))[0] > 3
    assert spiegelhalter(*world(rng, 1000, slope=2.0))[0] < -3


def test_the_line_is_scikit_learns():
    p, y = world(np.random.default_rng(3), 400, 0.7, 0.3)
    fitted = LogisticRegression(C=np.inf, tol=1e-10).fit(logit(p)[:, None], y)
    line = recalibration(p, y)
    assert line.slope == pytest.approx(fitted.coef_[0, 0], abs=1e-4)
    assert line.intercept == pytest.approx(fitted.intercept_[0], abs=1e-4)


@pytest.mark.parametrize(
    ("prob", "labels"), [([0.1, 0.9], [0, 1]), ([0.2, 0.3, 0.4], [0, 0, 0]), ([0.0, 1.0], [1, 0])]
)
def test_without_an_optimum_there_is_a_test_but_no_line(prob, labels):
    line = recalibration(prob, labels)
    assert math.isnan(line.slope)
    assert 0 <= line.p_value <= 1


def test_certain_and_right_says_nothing():
    assert spiegelhalter([0, 1, 0.5], [0, 1, 1]) == (0.0, 1.0)


def test_one_certain_mistake_refutes():
    assert recalibration([0.0] * 9 + [1.0], [1] + [0] * 8 + [1]).p_value < 1e-3


@pytest.mark.parametrize("line", [{}, {"slope": 0.6, "intercept": 0.5}])
def test_one_line_for_both_samples_is_refuted_as_rarely_as_stated(line):
    rng = np.random.default_rng(4)
    found = [
        recalibration_change(*world(rng, 100, **line), *world(rng, 400, **line))[1] <= 0.05
        for _ in range(250)
    ]
    # 250 worlds at 5%: outside of these counts in less than one of a thousand
    assert 3 <= sum(found) <= 25


def noisy(rng, n):
    """Labels of which a tenth is wrong: their share is no line of the logit."""
    margin = rng.normal(0, 2, n)
    return expit(margin), (rng.random(n) < 0.1 + 0.8 * expit(2 * margin)).astype(int)


def test_where_no_line_is_true_no_change_is_seen_as_rarely():
    rng = np.random.default_rng(8)
    found = [recalibration_change(*noisy(rng, 300), *noisy(rng, 1000))[1] for _ in range(400)]
    # 400 worlds at 5%: more than these in less than one of a thousand
    assert sum(p_value <= 0.05 for p_value in found) <= 34


@pytest.mark.parametrize("line", [{"slope": 0.5}, {"slope": 2.0}, {"intercept": 1.0}])
def test_a_line_that_changes_is_found(line):
    rng = np.random.default_rng(5)
    found = [recalibration_change(*world(rng, 300), *world(rng, 500, **line)) for _ in range(40)]
    assert np.mean([p_value <= 0.05 for _, p_value in found]) > 0.9


def test_a_temperature_for_both_samples_changes_no_comparison():
    rng = np.random.default_rng(6)
    (then, labels), (now, fresh) = world(rng, 100), world(rng, 300, 0.7)
    plain = recalibration_change(then, labels, now, fresh)
    warmer = (expit(logit(p) / 1.7) for p in (then, now))
    then, now = warmer
    assert recalibration_change(then, labels, now, fresh) == pytest.approx(plain, rel=1e-4)


@pytest.mark.parametrize("of_one_class", [0, 1])
def test_labels_of_one_class_have_a_comparison(of_one_class):
    then = world(np.random.default_rng(7), 300)
    now = np.full(60, 0.5), np.full(60, of_one_class)
    assert recalibration_change(*then, *now)[1] < 1e-6
    assert recalibration_change(*now, *now) == pytest.approx((0, 1), abs=1e-3)
