import fcntl

import pytest

from lib.serving.histograms import Histograms
from lib.serving.service import metrics
from lib.serving.service.metrics import KeptHistograms

ANSWER = {
    "prob_hate": 0.5,
    "text": "monday",
    "decision": "allow",
    "label": 0,
    "text_from": "given",
}


def test_a_lock_that_another_holds_is_given_up_and_the_counts_are_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(metrics, "_LOCK_SECONDS", 0.1)
    file = tmp_path / "histograms.json"
    kept = KeptHistograms(file, {"mm_fusion": "f" * 16})
    kept.add([ANSWER])
    with (tmp_path / ".histograms.json.lock").open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(TimeoutError, match=r"histograms\.json\.lock"):
            kept.write()
    kept.add([ANSWER])
    kept.write()
    assert Histograms.read(file).n == 2
