import numpy as np
import pytest
from scipy import stats

from lib.calibration import bootstrap_ci
from lib.decisions.metric_intervals import OF_DECISIONS, OF_RANKINGS, metric_interval

LABELS = np.tile([0, 1], 100)


def decided(wrong_hateful, wrong_harmless):
    """Scores of 200 memes, of whose decisions at one half so many of each class are wrong."""
    prob = np.where(LABELS == 1, 0.9, 0.1)
    prob[np.flatnonzero(LABELS == 1)[:wrong_hateful]] = 0.2
    prob[np.flatnonzero(LABELS == 0)[:wrong_harmless]] = 0.8
    return prob


@pytest.mark.parametrize("metric", [*OF_DECISIONS, *OF_RANKINGS])
def test_no_error_among_few_memes_is_no_proof_of_none(metric):
    prob = decided(0, 0)
    assert bootstrap_ci(prob, LABELS, metric).low == 1
    found = metric_interval(prob, LABELS, metric)
    assert found.point == found.high == 1
    # Of 100 memes of a class: 2.5% each, so that of both classes less than twice that is lost.
    end = stats.beta(0.5, 100.5).ppf(0.975)
    assert 1 - 2.5 * end < found.low < 1 - end / 2


@pytest.mark.parametrize("metric", [*OF_DECISIONS, "auroc", "ece", "brier", "nll"])
def test_where_resamples_differ_the_interval_is_theirs(metric):
    prob = decided(7, 4)
    assert metric_interval(prob, LABELS, metric, seed=3) == bootstrap_ci(
        prob, LABELS, metric, seed=3
    )


def test_the_interval_never_gets_narrower():
    prob = decided(30, 0)
    for metric in OF_DECISIONS:
        plain, found = bootstrap_ci(prob, LABELS, metric), metric_interval(prob, LABELS, metric)
        assert found.low <= plain.low and found.high >= plain.high
    assert metric_interval(prob, LABELS, "precision").low < 1


def test_groups_say_less_than_as_many_memes():
    groups, prob = np.arange(200) // 10, decided(0, 0)
    low = metric_interval(prob, LABELS, "recall", groups=groups).low
    assert low == pytest.approx(stats.beta(20.5, 0.5).ppf(0.025), abs=0.02)


@pytest.mark.parametrize("threshold", [0.0, 2.0])
def test_a_threshold_beside_all_scores_decides_for_certain(threshold):
    prob = decided(3, 3)
    for metric in OF_DECISIONS:
        assert metric_interval(prob, LABELS, metric, threshold) == bootstrap_ci(
            prob, LABELS, metric, threshold=threshold
        )


def test_a_missing_class_is_left_to_the_bootstrap():
    only = np.ones(20)
    found = metric_interval(np.full(20, 0.7), only, "recall")
    assert (found.low, found.point, found.high) == (1, 1, 1)


def test_the_stated_interval_holds_the_truth_where_errors_are_rare():
    rng, covered = np.random.default_rng(0), 0
    for wrong in rng.binomial(100, 0.01, (100, 2)):
        found = metric_interval(decided(*wrong), LABELS, "macro_f1", n_resamples=300)
        covered += found.low <= 0.99 <= found.high
    assert covered >= 88
