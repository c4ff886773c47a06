import json
import re
import warnings
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit, logit

from lib.calibration import fit_temperature
from lib.decisions.bundle import DecisionBundle
from lib.serving import drift as program
from lib.serving import fresh_labels
from lib.serving.drift import Reference, drift_report, drift_table, reference_of, watch
from lib.serving.fresh_labels import judge_labels, label_tables, read_labels, reliability
from lib.serving.histograms import Histograms
from lib.serving.score import score


@pytest.fixture(scope="module")
def decision(full_root):
    return DecisionBundle.load(full_root)


def memes(rng, n, moved=0.0, slope=1.0, intercept=0.0):
    """Probabilities, labels after the given line, and text lengths."""
    margin = rng.normal(moved, 2, n)
    labels = (rng.random(n) < expit(intercept + slope * margin)).astype(int)
    return expit(margin), labels, rng.poisson(60, n)


def reference(rng, decision, n=400):
    prob, labels, lengths = memes(rng, n)
    return Reference("val", prob, labels, lengths, decision.policy.decide(prob), decision)


def histograms(prob, lengths, decision):
    found = Histograms({name: decision.fingerprints[name] for name in ("mm_fusion",)})
    words = {
        "decision": decision.policy.decide(prob),
        "label": (prob > 0.5).astype(int).astype(str),
    }
    found.add_columns(prob, lengths, words | {"text_from": ["given"] * len(prob)})
    return found


def promising(decision, precision, miss, allow=0.2, block=0.8):
    """The decisions with a policy that promises this and cuts here."""
    from dataclasses import replace

    policy = replace(
        decision.policy,
        kind="targets",
        targets={"precision": precision, "miss": miss},
        confidence=0.9,
        allow=allow,
        block=block,
    )
    return replace(decision, policy=policy)


def test_without_drift_alarms_are_rare(decision):
    rng, alarms = np.random.default_rng(0), 0
    for _ in range(80):
        known = reference(rng, decision)
        prob, _, lengths = memes(rng, 800)
        report = drift_report(histograms(prob, lengths, decision), known)
        alarms += not report["verdict"].startswith("no drift found")
    # 80 worlds at 5% at most: more than these in less than one of a thousand
    assert alarms <= 12


@pytest.mark.parametrize(("moved", "longer"), [(1.0, 0), (0.0, 15)])
def test_a_shift_of_scores_or_lengths_is_found(decision, moved, longer):
    rng, found = np.random.default_rng(1), 0
    for _ in range(20):
        known = reference(rng, decision)
        prob, _, lengths = memes(rng, 800, moved)
        report = drift_report(histograms(prob, lengths + longer, decision), known)
        found += report["verdict"] in ("moderate drift", "large drift")
        assert "label 300" in report["advice"] or "300 memes" in report["advice"]
    assert found == 20
    drifted = "scores" if moved else "text_length"
    assert [name for name, one in report["drift"].items() if one["verdict"][-5:] == "drift"] == [
        drifted
    ]


@pytest.mark.parametrize(("then", "now"), [(40, 40), (100, 60), (20, 5000)])
def test_without_drift_no_decision_is_called_untrustworthy(decision, then, now):
    rng, said = np.random.default_rng(12), []
    for _ in range(300):
        prob, _, lengths = memes(rng, now)
        found = drift_report(histograms(prob, lengths, decision), reference(rng, decision, then))
        said.append(found["verdict"])
    assert sum(word.endswith("drift") for word in said) >= 1
    assert "large drift" not in said


def test_a_large_drift_is_called_one_where_the_interval_says_so(decision):
    rng = np.random.default_rng(13)
    prob, _, lengths = memes(rng, 2000, moved=2.5)
    report = drift_report(histograms(prob, lengths, decision), reference(rng, decision))
    assert report["verdict"] == "large drift"
    assert report["drift"]["scores"]["psi"]["low"] >= 0.25


def test_a_slight_drift_of_few_memes_is_not_made_larger_by_chance(decision):
    rng, said = np.random.default_rng(14), []
    for _ in range(200):
        prob, _, lengths = memes(rng, 100, moved=0.4)
        report = drift_report(histograms(prob, lengths, decision), reference(rng, decision, 100))
        # The true index is 0.04.
        said.append(report["drift"]["scores"]["verdict"])
    assert sum(word.endswith("drift") for word in said) >= 5
    assert "large drift" not in said


def test_too_few_answers_are_said_to_be(decision):
    rng = np.random.default_rng(2)
    prob, _, lengths = memes(rng, 9)
    report = drift_report(histograms(prob, lengths, decision), reference(rng, decision))
    assert report["verdict"] == "too few"
    prob, _, lengths = memes(rng, 60)
    few = drift_report(histograms(prob, lengths, decision), reference(rng, decision, 60))
    assert few["verdict"] == "no drift found, nor excluded"


@pytest.mark.parametrize(
    ("memes_then", "answers", "said"),
    [
        (15, 2000, r"the reference, val, has 15 memes and 20 are needed: .*full run or more data"),
        (
            15,
            9,
            r"the reference, val, has 15 memes .*; there are 9 answers and 20 are needed: count",
        ),
        (60, 9, r"there are 9 answers and 20 are needed: count more first"),
    ],
)
def test_the_side_that_is_too_small_is_named_without_an_empty_table(
    decision, monkeypatch, capsys, memes_then, answers, said
):
    rng = np.random.default_rng(2)
    prob, _, lengths = memes(rng, answers)
    known = reference(rng, decision, memes_then)
    report = drift_report(histograms(prob, lengths, decision), known)
    monkeypatch.setattr(program, "watch", lambda *_, **__: report)
    program.main(["h.json"])
    first, last = capsys.readouterr().out.splitlines()
    assert first == f"{answers:,} answers against {memes_then} memes of val"
    assert re.fullmatch(f"too few: {said}.*", last)


def test_a_reference_of_one_score_needs_other_memes_and_not_more_answers(decision):
    prob, lengths = np.full(100, 0.3), np.full(100, 9)
    decided = decision.policy.decide(prob)
    known = Reference("val", prob, np.arange(100) % 2, lengths, decided, decision)
    report = drift_report(histograms(prob, lengths, decision), known)
    assert report["verdict"] == "too few"
    assert "fall into one bin" in report["advice"]
    assert "answers" not in report["advice"]


def test_texts_that_all_were_empty_and_are_none_any_more_have_drifted(decision):
    rng = np.random.default_rng(15)
    known = reference(rng, decision, 1000)._replace(lengths=np.zeros(1000))
    prob = memes(rng, 1000)[0]
    report = drift_report(histograms(prob, np.full(1000, 40), decision), known)
    assert report["verdict"] == report["drift"]["text_length"]["verdict"] == "large drift"
    shares = report["drift"]["text_length"]["bins"]
    assert [row["now"] for row in shares] == [0, 1]
    assert [row["reference"] for row in shares] == [1, 0]


def test_scores_that_all_were_one_and_are_another_have_drifted(decision):
    prob, lengths = np.full(1000, 0.3), np.full(1000, 9)
    known = Reference("val", prob, np.arange(1000) % 2, lengths, np.full(1000, "review"), decision)
    report = drift_report(histograms(np.full(1000, 0.9), lengths, decision), known)
    assert report["verdict"] == "large drift; text_length not compared"
    assert [row["reference"] for row in report["drift"]["scores"]["bins"]] == [0, 1, 0]
    few = drift_report(histograms(np.r_[prob[1:], 0.9], lengths, decision), known)
    assert few["drift"]["scores"]["verdict"] == "no drift found"


def test_a_rest_outside_of_the_one_bin_is_an_alarm_as_rarely_as_stated(decision):
    rng, alarms = np.random.default_rng(16), 0
    for _ in range(300):
        then, now = (np.where(rng.random(n) < 0.03, 0.9, 0.3) for n in (60, 2000))
        lengths = np.full(60, 9)
        known = Reference("val", then, then > 0.5, lengths, np.full(60, "review"), decision)
        report = drift_report(histograms(now, np.full(2000, 9), decision), known)
        alarms += report["drift"]["scores"]["verdict"].endswith("drift")
    # 300 worlds at 2.5%: more than these in less than one of a thousand
    assert alarms <= 18


def test_what_was_not_compared_is_named_instead_of_nothing_to_do(decision):
    rng = np.random.default_rng(17)
    known = reference(rng, decision, 1000)
    prob = memes(rng, 1000)[0]
    empty = np.zeros(1000)
    report = drift_report(histograms(prob, empty, decision), known._replace(lengths=empty))
    assert report["verdict"] == "no drift found; text_length not compared"
    assert "nothing to do" not in report["advice"]
    assert "all fall into one bin" in report["advice"]
    gone = drift_report(histograms(prob, empty, decision), known._replace(lengths=None))
    assert gone["verdict"] == "no drift found; text_length not compared"
    assert "the shards of val are gone" in gone["advice"]
    assert "--from 3" in gone["advice"]


def test_histograms_of_other_models_are_refused(decision):
    rng = np.random.default_rng(3)
    with pytest.raises(ValueError, match="other models"):
        drift_report(Histograms({"mm_fusion": "0" * 16}), reference(rng, decision))


def test_answers_under_another_temperature_are_no_drift_but_refused(decision):
    rng = np.random.default_rng(4)
    prob, _, lengths = memes(rng, 300)
    known = reference(rng, decision)
    now = Histograms(decision.judged_by)
    now.add_columns(prob, lengths)
    assert drift_report(now, known)["verdict"] != "large drift"
    edited = replace(decision, temperatures=decision.temperatures | {"mm_fusion": 7.0})
    with pytest.raises(ValueError, match=r"other models, temperatures or thresholds"):
        drift_report(now, known._replace(decision=edited))
    with pytest.raises(ValueError, match="different models"):
        now + Histograms(edited.judged_by)


def labels_said(decision, rng, n=400, **line):
    prob, labels, lengths = memes(rng, n, **line)
    frame = pd.DataFrame({"prob_hate": prob, "label": labels})
    report = drift_report(histograms(prob, lengths, decision), reference(rng, decision), frame)
    return report["labels"]


def test_calibration_that_holds_is_doubted_as_rarely_as_stated(decision):
    kept = promising(decision, 0.8, 0.2)
    rng = np.random.default_rng(4)
    said = [labels_said(kept, rng, 300) for _ in range(50)]
    off = sum(one["calibration"]["p_value"] <= 0.05 for one in said)
    broken = sum("broken" in one["verdict"] for one in said)
    # 50 worlds at 5%: outside of these counts in less than one of a thousand
    assert off <= 9
    assert broken <= 9
    assert sum("holds" in one["verdict"] for one in said) >= 50 - off - broken


def recalibrated(rng, n_then, n_now, slope=1.0, intercept=0.0):
    """Both samples, the first at its own best temperature, and that applied to the second."""
    (then, labels, _), (now, fresh, _) = (memes(rng, n) for n in (n_then, n_now))
    temperature = float(fit_temperature(logit(then), labels).temperature)
    moved = (logit(now) * slope + intercept) / temperature
    frame = pd.DataFrame({"prob_hate": expit(moved), "label": fresh})
    return frame, expit(logit(then) / temperature), labels


@pytest.mark.parametrize(("n_then", "n_now"), [(100, 1000), (300, 3000)])
def test_a_temperature_of_few_memes_is_no_lost_calibration(decision, monkeypatch, n_then, n_now):
    monkeypatch.setattr(fresh_labels, "_refit", lambda *_: None)
    rng, said = np.random.default_rng(9), []
    for _ in range(100):
        frame, *then = recalibrated(rng, n_then, n_now)
        said.append(judge_labels(frame, decision, *then))
    lost = [one for one in said if "no longer holds" in one["verdict"]]
    inexact = [one for one in said if "does not hold exactly, as at" in one["verdict"]]
    # 100 worlds at 5%: more than these in less than one of a thousand
    assert len(lost) <= 13
    # Exactly right no such temperature is, and that is said.
    assert len(inexact) >= 10
    assert all("no drift" in o["advice"] or "no change" in o["advice"] for o in inexact)
    assert all("--from 3" in one["advice"] for one in inexact)


@pytest.mark.parametrize("change", [{"slope": 2.0}, {"slope": 0.5}, {"intercept": 1.0}])
def test_a_change_is_told_from_a_temperature_of_few_memes(decision, monkeypatch, change):
    monkeypatch.setattr(fresh_labels, "_refit", lambda *_: None)
    rng, found = np.random.default_rng(10), 0
    for _ in range(30):
        frame, *then = recalibrated(rng, 300, 1000, **change)
        found += "no longer holds" in judge_labels(frame, decision, *then)["verdict"]
    assert found >= 27


def test_a_fault_that_the_calibration_split_had_is_no_drift(decision):
    rng = np.random.default_rng(11)
    prob, labels, _ = memes(rng, 800, intercept=1.0)
    now, fresh, _ = memes(rng, 800, intercept=1.0)
    frame = pd.DataFrame({"prob_hate": now, "label": fresh})
    said = judge_labels(frame, decision, prob, labels)
    assert said["verdict"] == "calibration does not hold exactly, as at calibration"
    assert "off on the calibration split already, so this is no drift;" in said["advice"]


@pytest.mark.parametrize("line", [{"slope": 0.4}, {"intercept": -1.5}])
def test_calibration_that_is_lost_is_found_with_what_to_do(decision, line):
    rng = np.random.default_rng(5)
    said = labels_said(decision, rng, **line)
    assert "calibration no longer holds" in said["verdict"]
    assert "--from 3" in said["advice"]
    assert said["calibration"]["on_calibration_split"] > 0.001
    assert any(not row["within"] for row in said["reliability"])
    if "slope" in line:
        old = decision.temperatures["mm_fusion"]
        low, high = said["refit"]["interval"]
        assert low <= old / 0.4 <= high
    else:
        assert said["prevalence"]["p_value"] < 0.05
        assert "share of hate has changed" in said["advice"]


def test_a_broken_promise_is_named_and_a_kept_one_certified(decision):
    rng = np.random.default_rng(6)
    rows = labels_said(promising(decision, 0.99, 0.5), rng, 600)["policy"]
    sides = {row["side"]: row for row in rows}
    assert sides["block"]["verdict"] == "broken"
    assert sides["block"]["high"] < 0.99
    assert sides["allow"]["verdict"] == "kept, certified"
    assert sides["review"]["verdict"] == "no promise"
    # Between both: of that many labels the promise would be certified at the observed rate.
    barely = labels_said(promising(decision, 0.92, 0.5), rng, 200)["policy"][0]
    if barely["verdict"] == "not refuted" and barely["observed"] > 0.92:
        assert barely["labels_wanted"] > 200


def test_few_labels_or_one_class_are_said_to_be_too_few(decision):
    rng = np.random.default_rng(7)
    assert labels_said(decision, rng, 30)["verdict"] == "too few labels"
    lonely = labels_said(decision, rng, 60, moved=-9)
    assert lonely["verdict"] == "too few labels"
    assert lonely["calibration"]["slope"] is None
    assert json.dumps(lonely, allow_nan=False)


@pytest.mark.parametrize(("prob", "label", "n"), [(0.3, 0, 1000), (0.3, 0, 50), (0.7, 1, 1000)])
def test_labels_of_one_class_can_refute_calibration(decision, prob, label, n):
    rng = np.random.default_rng(7)
    frame = pd.DataFrame({"prob_hate": np.full(n, prob), "label": np.full(n, label)})
    said = judge_labels(frame, decision, *memes(rng, 400)[:2])
    # The chance of these labels, were the probabilities right
    assert said["calibration"]["p_value"] == pytest.approx(0.7**n, rel=0.01, abs=0)
    assert "calibration no longer holds" in said["verdict"]
    assert "--from 3" in said["advice"]
    assert json.dumps(said, allow_nan=False)


def test_a_promise_that_labels_of_one_class_refute_is_broken(decision):
    frame = pd.DataFrame({"prob_hate": np.full(60, 0.81), "label": np.zeros(60, int)})
    then = memes(np.random.default_rng(7), 400)[:2]
    said = judge_labels(frame, promising(decision, 0.8, 0.2), *then)
    assert "the promise of block is broken" in said["verdict"]


def test_labels_of_one_class_never_say_that_calibration_holds(decision):
    frame = pd.DataFrame({"prob_hate": np.full(2000, 1e-5), "label": np.zeros(2000, int)})
    said = judge_labels(frame, decision, *memes(np.random.default_rng(7), 400)[:2])
    assert said["verdict"] == "too few labels"
    assert said["advice"] == "label more memes, of both classes"


def test_reliability_holds_each_meme_once_and_exact_intervals():
    prob = np.linspace(0, 1, 100)
    rows = reliability(prob, (prob > 0.5).astype(int))
    assert [row["n"] for row in rows] == [34, 33, 33]
    assert rows[0]["share_of_hate"] == 0
    # Nobody of n: 1 - 0.025^(1/n)
    assert rows[0]["high"] == pytest.approx(1 - 0.025 ** (1 / 34))


@pytest.fixture(scope="module")
def run(full_root, tmp_path_factory):
    """A finished scoring of the run's own test split, and the folder it is in."""
    folder = tmp_path_factory.mktemp("scored")
    options = {"root": full_root.root, "mode": "full", "workers": 1, "device": "cpu"}
    score(full_root.shards / "test", folder / "s.parquet", **options)
    return folder


def test_the_program_compares_and_joins_labels_by_id(full_root, run, capsys):
    table = pd.read_parquet(run / "s.parquet")
    labels = pd.DataFrame({"id": table["id"], "label": np.arange(len(table)) % 2})
    labels.to_csv(run / "labels.csv", index=False)
    options = ["--root", full_root.root, "--mode", "full", "--labels", run / "labels.csv"]
    program.main([str(word) for word in (run / "s.histograms.json", *options)])
    said = capsys.readouterr().out
    written = json.loads(full_root.artifact(8, "drift.json").read_text())
    assert written["answers"] == len(table)
    assert written["labels"]["n"] == len(table)
    assert f"{written['verdict']}: {written['advice']}" in said
    assert "Spiegelhalter" in said


def test_ids_are_taken_as_they_are_written(tmp_path, decision):
    scores = pd.DataFrame({"id": ["007", "7"], "prob_hate": [0.9, 0.1]})
    scores.to_parquet(tmp_path / "s.parquet")
    (tmp_path / "labels.csv").write_text("id,label\n007,1\n")
    found = read_labels(tmp_path / "labels.csv", tmp_path / "s.parquet", decision.fingerprints)
    assert found["prob_hate"].tolist() == [0.9]


@pytest.mark.parametrize("word", ["NA", "null", "nan", "None"])
def test_an_id_that_spells_a_missing_value_is_a_word(tmp_path, decision, word):
    pd.DataFrame({"id": [word, "b"], "prob_hate": [0.9, 0.1]}).to_parquet(tmp_path / "s.parquet")
    (tmp_path / "labels.csv").write_text(f"id,label\nb,0\n{word},1\n")
    found = read_labels(tmp_path / "labels.csv", tmp_path / "s.parquet", decision.fingerprints)
    assert found["prob_hate"].tolist() == [0.1, 0.9]


@pytest.mark.parametrize("empty", ["", "  ", None])
@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_an_empty_id_is_named_with_file_column_and_row(run, decision, empty, suffix):
    file = (run / "empty").with_suffix(suffix)
    labels = pd.DataFrame({"id": ["a", empty, "b"], "label": [0, 1, 0]})
    write = labels.to_csv if suffix == ".csv" else labels.to_parquet
    write(file, index=False)
    with pytest.raises(ValueError, match=rf"empty\{suffix}: column id is empty in row 2 of 3"):
        read_labels(file, run / "s.parquet", decision.fingerprints)


def test_the_program_says_errors_in_one_line(tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        program.main([str(tmp_path / "gone.json"), "--root", str(tmp_path)])
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith("error: ")


def test_the_reference_is_one_meme_of_each_group_that_was_fitted_on(full_root, decision):
    found = reference_of(full_root)
    assert found.name == "val, part calibrate"
    assert len(found.prob) == len(found.labels) == len(found.lengths) <= decision.n
    assert logit(found.prob).std() > 0


def test_the_table_has_a_row_for_each_measure(full_root, run):
    report = watch(run / "s.histograms.json", root=full_root.root, mode="full")
    table = drift_table(report)
    assert len(table) in (0, 2, 4)
    assert sum(found["now"] for found in report["decisions"].values()) == pytest.approx(1)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("id,label\nunknown,1\n", "'unknown' is not in"),
        ("id\na\n", "no column 'label'"),
        ("label\n1\n", "needs a column prob_hate, row or id"),
        ("prob_hate,label\n0.5,2\n", "label holds 2"),
        ("prob_hate,label\n1.5,1\n", "numbers from 0 to 1"),
        ("prob_hate,label\n", "has no rows"),
        ("id,label\na,1\na,0\n", "'a' occurs twice"),
        ("row,label\na,1\n2,0\n", "bad.csv: column row holds a, expected the number"),
        ("row,label\n1.5,1\n", "column row holds 1.5"),
        ("row,label\n0,1\n99999,0\n", "row 99999 is not in .*rejected"),
    ],
)
def test_labels_that_are_none_are_named(run, decision, content, said):
    (run / "bad.csv").write_text(content)
    with pytest.raises(ValueError, match=said):
        read_labels(run / "bad.csv", run / "s.parquet", decision.fingerprints)


def test_labels_and_rows_may_be_words_that_are_numbers(tmp_path, decision):
    pd.DataFrame({"row": [0, 1], "prob_hate": [0.9, 0.1]}).to_parquet(tmp_path / "s.parquet")
    words = pd.DataFrame({"row": ["1", "0"], "label": ["0", "1"]})
    words.to_parquet(tmp_path / "labels.parquet")
    found = read_labels(tmp_path / "labels.parquet", tmp_path / "s.parquet", decision.fingerprints)
    assert found.to_dict("list") == {"prob_hate": [0.1, 0.9], "label": [0, 1]}


def test_scores_without_the_column_to_join_by_are_named(tmp_path, decision):
    pd.DataFrame({"id": ["a"], "prob_hate": [0.9]}).to_parquet(tmp_path / "s.parquet")
    (tmp_path / "labels.csv").write_text("row,label\n0,1\n")
    with pytest.raises(ValueError, match=r"s\.parquet has no column 'row'; it has id, prob_hate"):
        read_labels(tmp_path / "labels.csv", tmp_path / "s.parquet", decision.fingerprints)


def test_scores_of_other_models_are_refused(run):
    (run / "l.csv").write_text("row,label\n0,1\n")
    with pytest.raises(ValueError, match="other models"):
        read_labels(run / "l.csv", run / "s.parquet", {"mm_fusion": "0"})


def test_labels_are_printed_as_three_tables(decision):
    said = labels_said(decision, np.random.default_rng(8))
    assert [len(table) for table in label_tables(said)] == [len(said["reliability"]), 3, 4]


def test_scores_that_do_not_say_their_models_are_taken_with_a_warning(run, decision):
    pd.read_parquet(run / "s.parquet").to_parquet(run / "anew.parquet")
    (run / "l.csv").write_text("row,label\n0,1\n")
    with pytest.warns(UserWarning, match=r"anew\.parquet does not say which models"):
        anew = read_labels(run / "l.csv", run / "anew.parquet", decision.judged_by)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        told = read_labels(run / "l.csv", run / "s.parquet", decision.judged_by)
    pd.testing.assert_frame_equal(anew, told)


def test_scores_whose_ids_another_program_made_numbers_are_refused(run, decision):
    scores = pd.read_parquet(run / "s.parquet")
    scores.assign(id=range(len(scores))).to_parquet(run / "numbers.parquet")
    (run / "l.csv").write_text("id,label\n0,1\n")
    with (
        pytest.warns(UserWarning, match="does not say which models"),
        pytest.raises(ValueError, match=r"numbers\.parquet: column id holds int64 and no words"),
    ):
        read_labels(run / "l.csv", run / "numbers.parquet", decision.judged_by)


def test_a_folder_in_place_of_labels_or_scores_is_called_one(tmp_path, decision):
    with pytest.raises(FileNotFoundError, match="is a folder; give a CSV"):
        read_labels(tmp_path, tmp_path / "s.parquet", decision.fingerprints)
    (tmp_path / "l.csv").write_text("row,label\n0,1\n")
    with pytest.raises(FileNotFoundError, match="is a folder; say where the scores"):
        read_labels(tmp_path / "l.csv", tmp_path, decision.fingerprints)
