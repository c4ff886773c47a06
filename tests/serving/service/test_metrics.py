import fcntl
import json
import logging

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


def counted(kept, answers):
    kept.add([ANSWER] * answers)
    kept.write()


def everything(folder):
    """All counts that lie there, by the models that answered."""
    found = [Histograms.read(file) for file in sorted(folder.glob("histograms*.json"))]
    assert len({h.models["mm_fusion"] for h in found}) == len(found)
    return {h.models["mm_fusion"]: h.n for h in found}


def test_a_process_that_counted_nothing_leaves_the_file_as_it_is(tmp_path):
    file = tmp_path / "histograms.json"
    KeptHistograms(file, {"mm_fusion": "old"}).write()
    assert not file.exists()
    counted(KeptHistograms(file, {"mm_fusion": "new"}), 5)
    before = file.read_bytes()
    KeptHistograms(file, {"mm_fusion": "old"}).write()
    assert file.read_bytes() == before
    assert everything(tmp_path) == {"new": 5}


def test_processes_of_two_models_that_answer_in_turn_each_keep_their_counts(tmp_path):
    file = tmp_path / "histograms.json"
    old, new = (KeptHistograms(file, {"mm_fusion": name}) for name in ("old", "new"))
    for kept, answers, said in (
        (old, 7, {"old": 7}),
        (new, 5, {"old": 7, "new": 5}),
        (old, 2, {"old": 9, "new": 5}),
        (old, 1, {"old": 10, "new": 5}),
        (new, 1, {"old": 10, "new": 6}),
    ):
        counted(kept, answers)
        assert everything(tmp_path) == said
    assert Histograms.read(file).models == {"mm_fusion": "new"}


def test_counts_of_no_known_models_do_not_cost_those_put_aside(tmp_path):
    file = tmp_path / "histograms.json"
    old, new, nobody = (
        KeptHistograms(file, models) for models in ({"mm_fusion": "old"}, {"mm_fusion": "new"}, {})
    )
    counted(old, 2)
    counted(new, 1)
    file.unlink()
    counted(nobody, 5)
    counted(old, 1)
    assert Histograms.read(file).n == 2 + 5 + 1


@pytest.mark.parametrize("written", [False, True])
def test_a_turn_that_is_killed_halfway_counts_nothing_twice(tmp_path, monkeypatch, written):
    file = tmp_path / "histograms.json"
    old, new = (KeptHistograms(file, {"mm_fusion": name}) for name in ("old", "new"))
    for kept, answers in ((old, 7), (new, 5)):
        counted(kept, answers)

    def killed(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(*((metrics.Path, "unlink") if written else (Histograms, "write")), killed)
        counted(old, 2)
    again = KeptHistograms(file, {"mm_fusion": "old"})
    counted(new, 1)
    counted(again, 1)
    assert everything(tmp_path) == {"old": 10 if written else 8, "new": 6}


def test_counts_that_could_not_be_written_in_a_turn_are_kept(tmp_path, monkeypatch):
    file = tmp_path / "histograms.json"
    old, new = (KeptHistograms(file, {"mm_fusion": name}) for name in ("old", "new"))
    for kept, answers in ((old, 7), (new, 5)):
        counted(kept, answers)

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched, pytest.raises(OSError, match="No space"):
        patched.setattr(Histograms, "write", full)
        counted(old, 2)
    counted(old, 1)
    assert everything(tmp_path) == {"old": 10, "new": 5}


def damaged(file):
    file.write_text(file.read_text()[:-100])


def of_another_version(file):
    content = json.loads(file.read_text())
    content["prob_hate"]["edges"][1] /= 2
    file.write_text(json.dumps(content))


@pytest.mark.parametrize("change", [damaged, of_another_version])
def test_counts_that_cannot_be_read_are_put_aside_with_a_warning(tmp_path, caplog, change):
    file = tmp_path / "histograms.json"
    put_aside = []
    for answers in (7, 5):
        counted(KeptHistograms(file, {"mm_fusion": "new"}), answers)
        change(file)
        put_aside.append(file.read_bytes())
    with caplog.at_level(logging.WARNING):
        counted(KeptHistograms(file, {"mm_fusion": "new"}), 2)
    assert Histograms.read(file).n == 2
    told = [record.facts for record in caplog.records]
    assert [(tmp_path / facts["kept_as"]).read_bytes() for facts in told] == put_aside
    assert all(str(file) in facts["why"] for facts in told)
    assert len(list(tmp_path.glob("histograms.unreadable-*.json"))) == 2


def test_counts_put_aside_for_others_that_cannot_be_read_any_more_are_not_deleted(tmp_path):
    file = tmp_path / "histograms.json"
    old, new = (KeptHistograms(file, {"mm_fusion": name}) for name in ("old", "new"))
    counted(old, 7)
    counted(new, 5)
    (waiting,) = tmp_path.glob("histograms.?*.json")
    damaged(waiting)
    rest = waiting.read_bytes()
    counted(old, 2)
    assert Histograms.read(file).n == 2
    assert rest in [kept.read_bytes() for kept in tmp_path.glob("*unreadable-*.json")]
