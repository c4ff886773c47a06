import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lib.calibration import (
    best_threshold,
    bootstrap_ci,
    decision_intervals,
    fit_temperature,
    prob_hate,
    resampled_decisions,
)
from lib.calibration.resampled_decisions import FACTORIALS, _root, _series

quick = settings(deadline=None, max_examples=40, derandomize=True)

OBJECTIVES = [
    {},
    {"objective": "macro_f1"},
    {"objective": "f_beta", "beta": 2.0},
    {"objective": "balanced_accuracy"},
    {"objective": "cost", "costs": (30, 1)},
    {"objective": "precision_at_recall", "floor": 0.7},
    {"objective": "recall_at_precision", "floor": 0.8},
    {"objective": "recall_at_precision", "floor": 0.0},
]


def overconfident(n, seed=0, digits=None):
    """Margins whose best temperature is 1.7, and labels."""
    rng = np.random.default_rng(seed)
    margins = rng.normal(0, 3, n)
    y = rng.random(n) < 1 / (1 + np.exp(-margins / 1.7))
    return (margins if digits is None else margins.round(digits)), y


def refitted(margins, y, temperature, objective, **options):
    """Both intervals by fitting and choosing anew in each resample."""

    def cut(p, labels):
        try:
            return best_threshold(p, labels, **objective).threshold
        except ValueError:
            return math.nan

    return (
        bootstrap_ci(margins, y, lambda z, y: float(fit_temperature(z, y).limit), **options),
        bootstrap_ci(prob_hate(margins, temperature), y, cut, **options),
    )


def ends(interval):
    return [interval.point, interval.low, interval.high]


@pytest.mark.parametrize("objective", OBJECTIVES, ids=str)
@pytest.mark.parametrize("digits", [None, 0])
@pytest.mark.parametrize("size", [1, 3])
def test_intervals_are_those_of_fitting_anew(objective, digits, size):
    margins, y = overconfident(600, digits=digits)
    options = {"n_resamples": 60, "seed": 3, "groups": None if size == 1 else np.arange(600) // 3}
    ours = decision_intervals(margins, y, 1.7, **options, **objective)
    peers = refitted(margins, y, 1.7, objective, **options)
    assert ends(ours[0]) == pytest.approx(ends(peers[0]), rel=1e-8)
    assert ours[1] == peers[1]


def test_large_samples_are_never_fitted_anew(monkeypatch):
    margins, y = overconfident(100_000)
    (expected, _) = refitted(margins, y, 1.7, {}, n_resamples=8)
    fits = []
    monkeypatch.setattr(
        resampled_decisions,
        "fit_temperature",
        lambda z, y: fits.append(len(z)) or fit_temperature(z, y),
    )
    found, _ = decision_intervals(margins, y, 1.7, 8)
    assert len(fits) == 1
    assert ends(found) == pytest.approx(ends(expected), rel=1e-9)


@quick
@given(
    st.lists(st.tuples(st.sampled_from([-2.0, -1.0, 0.0, 0.5, 3.0]), st.booleans()), max_size=12),
    st.sampled_from(OBJECTIVES),
)
def test_tiny_samples_with_ties_and_without_an_optimum(rows, objective):
    rows = [(-1.0, False), (2.0, True), *rows]
    margins, y = (np.array(column) for column in zip(*rows, strict=True))
    try:
        peers = refitted(margins, y, 1.3, objective, n_resamples=20)
    except ValueError:
        return
    ours = decision_intervals(margins, y, 1.3, 20, **objective)
    assert ends(ours[0]) == pytest.approx(ends(peers[0]), rel=1e-8, nan_ok=True)
    assert ends(ours[1]) == pytest.approx(ends(peers[1]), rel=0, nan_ok=True)


def test_series_is_that_of_the_function():
    margins, y = overconfident(50)
    gap, missed = np.abs(margins), (margins > 0) != y
    sums = _series(margins, y, 0.6).sum(axis=1)
    for step in (-0.01, 0.0, 0.02):
        series = step ** np.arange(5) / FACTORIALS @ sums
        exact = (gap * (1 / (1 + np.exp((0.6 + step) * gap)) - missed)).sum()
        assert series == pytest.approx(exact, abs=1e-6)


def test_a_polynomial_without_a_root_near_zero_says_so():
    assert _root(np.array([1.0, 0.0, 1.0, 0.0, 0.0])) == math.inf
    assert _root(np.array([1.0, 1e-3, 0.0, 0.0, 0.0])) == math.inf


def test_intervals_of_a_large_sample_are_narrow():
    margins, y = overconfident(100_000)
    of_t, of_threshold = decision_intervals(margins, y, 1.7, 100)
    assert 1.6 < of_t.low < of_t.point < of_t.high < 1.8
    assert of_threshold.low < of_threshold.point < of_threshold.high


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (([], [], 1.0), {}, "margins is empty"),
        (([[0.1, 0.2]], [[0, 1]], 1.0), {}, "margins must have shape"),
        (([0.1, np.nan], [0, 1], 1.0), {}, "margins holds 1 of 2"),
        (([0.1, 0.2], [0], 1.0), {}, "shape"),
        (([0.1, 0.2], [1, 1], 1.0), {}, "class 1 only"),
        (([0.1, 0.2], [0, 1], 1.0), {"objective": "f2"}, "objective must be one of"),
        (([0.1, 0.2], [0, 1], 1.0), {"n_resamples": 0}, "n_resamples must be at least 1"),
        (([0.1, 0.2], [0, 1], 1.0), {"groups": ["a"]}, "groups must have shape"),
    ],
)
def test_bad_input_is_named(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        decision_intervals(*arguments, **options)
