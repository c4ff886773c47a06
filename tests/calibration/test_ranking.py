import math

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lib.calibration import ranking
from lib.calibration.ranking import Ranking

quick = settings(deadline=None, max_examples=100, derandomize=True)

# Equal scores, both ends of the range, and numbers whose bits are close.
scores = st.one_of(
    st.sampled_from([-0.0, 0.0, 5e-324, 0.25, 0.5, np.nextafter(0.5, 1), 1.0]), st.floats(0, 1)
)
examples = st.lists(st.tuples(scores, st.booleans()), min_size=1, max_size=30)


def f1(tp, flagged):
    return 2 * tp / (flagged + 3)


def balance(tp, flagged):
    """A value that often has equal maxima."""
    return np.round(np.asarray(tp / 2 - flagged / 4))


def reference_keys(rows):
    """Scores in order, and of equal ones the negatives first."""
    return sorted((abs(p), y) for p, y in rows)


def reference_best(rows, value, last):
    """Try each distinct score and a threshold above all; of equal values the first or the last."""
    ordered = reference_keys(rows)
    thresholds = [*sorted({p for p, _ in ordered}), math.inf]
    found = []
    for threshold in thresholds:
        flagged = [y for p, y in ordered if p >= threshold]
        v = float(value(np.float64(sum(flagged)), np.float64(len(flagged))))
        found.append((len(ordered) - len(flagged), float(sum(flagged)), v))
    highest = max(v for _, _, v in found)
    # Flagging none wins only if it is better than every other threshold.
    best = [f for f in found[:-1] if f[2] == highest] or found[-1:]
    return best[-1 if last else 0]


def ranked(rows):
    return Ranking.of(np.array([p for p, _ in rows]), np.array([y for _, y in rows]))


@quick
@given(examples)
def test_one_sort_orders_scores_and_carries_labels(rows):
    keys = ranked(rows).keys
    decoded = zip((keys >> 1).view(np.float64).tolist(), (keys & 1).tolist(), strict=True)
    assert list(decoded) == reference_keys(rows)


@quick
@given(examples, st.sampled_from([f1, balance]), st.booleans(), st.sampled_from([1, 2, 5, 99]))
@example([(0.5, True)] * 4, f1, False, 2)
def test_best_is_that_of_trying_every_threshold(rows, value, last, block):
    # Small blocks, so that equal scores lie on both sides of a border.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ranking, "BLOCK", block)
        assert ranked(rows).best(value, last) == reference_best(rows, value, last)


@quick
@given(examples)
def test_every_threshold_separates_its_cut(rows):
    found = ranked(rows)
    p = np.array([p for p, _ in reference_keys(rows)])
    for i in range(len(p) + 1):
        if i in (0, len(p)) or p[i] > p[i - 1]:
            hits = p >= found.threshold(i, p)
            assert hits.tolist() == [False] * i + [True] * (len(p) - i)


def test_threshold_has_the_precision_of_the_scores():
    found = Ranking.of(np.array([0.1, 0.4]), np.array([False, True]))
    assert found.threshold(1, np.array([0.1, 0.4])) == 0.25
    third = found.threshold(0, np.array([0.1], np.float32))
    assert third == float(np.float32(0.05)) != 0.05
