from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib.decisions.policy import Policy
from lib.report_page.counts import CUTS, places, policy_counts, reliability, threshold_counts

# Probabilities that lie on cuts and beside them.
NEAR = st.builds(
    lambda step, side: float(np.clip(np.nextafter(step / 1000, side), 0, 1)),
    st.integers(0, 1000),
    st.sampled_from([0.0, 1.0, np.nan]),
).map(lambda p: 0.5 if np.isnan(p) else p)
PROBS = st.lists(st.tuples(NEAR | st.floats(0, 1), st.integers(0, 1)), min_size=1, max_size=30)


@given(PROBS, st.floats(0, 1))
def test_counts_and_places_say_who_is_positive_at_each_cut(pairs, threshold):
    prob, labels = map(np.array, zip(*pairs, strict=True))
    found = threshold_counts(prob, labels, threshold)
    positive = prob >= CUTS[:, None]
    assert found["tp"] == (positive & (labels == 1)).sum(axis=1).tolist()
    assert found["fp"] == (positive & (labels == 0)).sum(axis=1).tolist()
    at = prob >= threshold
    assert found["frozen"] == [(at & (labels == 1)).sum(), (at & (labels == 0)).sum()]
    assert ((places(prob) >= 10 * np.arange(1001)[:, None]) == positive).all()


def test_the_policy_s_sides_are_counted_by_label():
    policy = replace(Policy.at_threshold(0.5), allow=0.3, block=0.7)
    prob, labels = np.array([0.1, 0.3, 0.5, 0.7, 0.9]), np.array([0, 1, 0, 1, 0])
    found = policy_counts(policy, prob, labels)
    assert found == {"block": [1, 1], "review": [1, 1], "allow": [0, 1]}


def test_reliability_has_a_row_a_filled_bin(logits_frame):
    frame = logits_frame(400, "test")
    bins = reliability(frame, "mm_fusion", {"before": 1.0, "after": 2.0})
    for _, of_one in bins.groupby("when"):
        assert of_one["n"].sum() == 400
        off = ((of_one["p"] - of_one["rate"]).abs() * of_one["n"]).sum() / 400
        assert of_one["ece"].iloc[0] == pytest.approx(off)
