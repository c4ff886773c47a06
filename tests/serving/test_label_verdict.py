from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from lib.decisions.policy import Policy
from lib.serving.fresh_labels import judge_labels


def said(block, allow, rest=(0, 0), precision=0.9, miss=0.1):
    """What is concluded of sides with (hateful, all) memes each, probabilities being right."""
    prob, label = [], []
    for hateful, n in (block, rest, allow):
        prob += [hateful / max(n, 1)] * n
        label += [1] * hateful + [0] * (n - hateful)
    policy = Policy(
        "targets", {"precision": precision, "miss": miss}, 0.9, 0.3, 0.8, "", 1, 100, 0.5, []
    )
    decision = SimpleNamespace(policy=policy, temperatures={"mm_fusion": 1.0}, objective={})
    prob, label = np.array(prob), np.array(label)
    frame = pd.DataFrame({"prob_hate": prob, "label": label})
    return judge_labels(frame, decision, prob, label)


def test_a_promise_that_is_missed_as_observed_is_named_and_not_passed_over():
    found = said((172, 200), (2, 200))
    assert found["policy"][0]["verdict"] == "not refuted"
    assert found["policy"][0]["labels_wanted"] is None
    assert found["verdict"] == (
        "calibration holds; the precision of block is observed below its promise, 0.86 for 0.9"
    )
    assert "nothing to" not in found["advice"]
    assert "label more memes" in found["advice"]
    assert "--from 3" in found["advice"]


def test_labels_settle_only_what_a_number_of_them_certifies():
    found = said((25, 30), (4, 30))
    assert [row["labels_wanted"] for row in found["policy"]] == [None] * 3
    assert "the precision of block is observed below its promise, 0.833 for 0.9" in found["verdict"]
    assert "the miss of allow is observed above its promise, 0.138 for 0.1" in found["verdict"]
    assert "would settle" not in found["advice"]
    assert "more labels would tell the mean error to within 0.05" in found["advice"]


def test_a_promise_that_more_labels_would_certify_is_named_with_their_number():
    found = said((92, 100), (1, 300))
    (block, _, allow), n = found["policy"], 400
    assert (block["verdict"], allow["verdict"]) == ("not refuted", "kept, certified")
    assert found["verdict"] == "calibration holds as far as these labels tell"
    assert found["advice"] == (
        f"nothing to re-fit; {block['labels_wanted'] - n:,} more labels would settle the promise "
        "of block"
    )


def test_a_rate_just_at_its_promise_is_not_called_below_it():
    found = said((180, 200), (2, 200))
    assert "the precision of block is observed at its promise, 0.9 for 0.9" in found["verdict"]


@pytest.mark.parametrize("harmless", [300, 2000])
def test_kept_promises_and_calibration_leave_nothing_to_do(harmless):
    found = said((295, 300), (5, harmless))
    assert (found["verdict"], found["advice"]) == ("calibration holds", "nothing to do")
