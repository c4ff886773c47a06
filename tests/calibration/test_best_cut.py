import math

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lib.calibration import best_cut as module
from lib.calibration import best_threshold, score_bins
from lib.calibration.best_cut import best_cut

quick = settings(deadline=None, max_examples=150, derandomize=True)

# Every objective with options of both extremes.
OBJECTIVES = [
    ("f1", {}),
    ("macro_f1", {}),
    ("f_beta", {"beta": 2.0}),
    ("f_beta", {"beta": 1e-3}),
    ("balanced_accuracy", {}),
    ("cost", {"costs": (5, 2)}),
    ("cost", {"costs": (0, 0)}),
    ("cost", {"costs": (0.1, 0.3)}),
    ("precision_at_recall", {"floor": 0.7}),
    ("precision_at_recall", {"floor": 0.0}),
    ("recall_at_precision", {"floor": 0.3}),
    ("recall_at_precision", {"floor": 0.0}),
    ("recall_at_precision", {"floor": 0.99}),
]


def both_ways(p, y, objective, options, block=score_bins.BLOCK):
    """What is found by sorting all scores, and by the bins; a message where nothing is."""
    found = []
    for few in (math.inf, 0):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(module, "FEW", few)
            patch.setattr(score_bins, "BLOCK", block)
            try:
                found.append(best_threshold(p, y, objective, **options))
            except ValueError as error:
                found.append(str(error))
    return found


# Ties, denormals, neighbours, both zeros, and scores that are all equal.
score = st.one_of(
    st.sampled_from([0.0, -0.0, 5e-324, 1e-310, 0.25, 0.5, np.nextafter(0.5, 1), 1.0]),
    st.floats(0, 1),
    st.integers(0, 20).map(lambda k: 0.5 + k * 1e-6),
)


@quick
@given(
    st.lists(st.tuples(score, st.booleans()), min_size=2, max_size=60),
    st.sampled_from(OBJECTIVES),
    st.sampled_from([np.float64, np.float32]),
    st.sampled_from([3, 65_536]),
)
@example([(0.5, True), (0.5, False)], OBJECTIVES[0], np.float64, 3)
@example([(0.0, True), (5e-324, False)], OBJECTIVES[0], np.float64, 3)
def test_bins_find_what_sorting_finds(rows, objective, dtype, block):
    p = np.array([p for p, _ in rows]).astype(dtype)
    y = np.array([y for _, y in rows])
    y[:2] = [False, True]
    by_sorting, by_bins = both_ways(p, y, *objective, block)
    assert by_bins == by_sorting


@pytest.mark.parametrize(("objective", "options"), OBJECTIVES)
@pytest.mark.parametrize("kind", ["smooth", "tied", "single", "skewed", "separable", "random"])
def test_bins_find_what_sorting_finds_in_large_samples(objective, options, kind):
    rng = np.random.default_rng(3)
    p = rng.random(60_000)
    y = rng.random(len(p)) < p**2
    if kind == "tied":
        p = p.round(3)
    elif kind == "single":
        p = p.astype(np.float32)
    elif kind == "skewed":
        p = p**40
    elif kind == "separable":
        y = p > 0.4
    elif kind == "random":
        y = rng.random(len(p)) < 0.02
    by_sorting, by_bins = both_ways(p, y, objective, options)
    assert by_bins == by_sorting


def test_few_of_many_scores_are_sorted(monkeypatch):
    rng = np.random.default_rng(0)
    p = rng.random(200_000)
    y = rng.random(len(p)) < p
    sorted_scores = []
    of = module.Ranking.of
    monkeypatch.setattr(module.Ranking, "of", lambda p, y: sorted_scores.append(len(p)) or of(p, y))
    for objective, options in (("f1", {}), ("macro_f1", {}), ("balanced_accuracy", {})):
        best_threshold(p, y, objective, **options)
    assert len(sorted_scores) == 3 and max(sorted_scores) < len(p) / 20


def test_nothing_reaches_the_floor():
    p = np.linspace(0, 1, 30_000)
    cut = best_cut(p, p > 0.5, lambda tp, flagged: np.full(len(tp), -math.inf))
    assert cut.value == -math.inf
