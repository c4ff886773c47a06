import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import f1_score

from lib.calibration import classification_metrics
from lib.config import MODELS
from lib.decisions.bundle import DecisionBundle
from lib.decisions.calibration_tables import calibrated, threshold_curves
from lib.decisions.metric_intervals import metric_interval
from lib.decisions.report import (
    choice_table,
    decision_report,
    described,
    prevalence_table,
    print_summary,
    save_report,
    section_of,
    target_table,
)
from lib.decisions.rivals import rivals


@pytest.fixture
def val(logits_frame):
    return logits_frame(120)


@pytest.fixture
def test_split(logits_frame):
    return logits_frame(100, "test", seed=1)


@pytest.fixture
def decision(val, model_folders):
    return DecisionBundle.fit(val, model_folders, n_resamples=20)


@pytest.fixture
def report(val, test_split, decision, model_folders):
    return decision_report(val, test_split, decision, model_folders, n_resamples=50)


def test_val_and_test_stand_apart_at_the_frozen_decision(report, val, test_split, decision):
    assert (report["fitted_on"], report["reported_on"]) == ("val calibrate", "test")
    for section, frame in (("val calibrate", val), ("test", test_split)):
        prob = calibrated(frame, decision.temperatures)
        for model in MODELS:
            found = report[model][section]
            hate = prob[model] >= decision.thresholds[model]
            assert found["macro_f1"] == pytest.approx(
                f1_score(frame["label"], hate, average="macro")
            )
            assert found["n"] == len(frame)
            low, high = found["intervals"]["macro_f1"]
            assert low <= found["macro_f1"] <= high
            after = report["calibration"][section][model]["brier after"]
            assert after == pytest.approx(found["brier"])
    assert choice_table(report)["model"].iloc[0] == "mm_fusion"
    assert {row["resampled"] for row in report["choice"]["test"]} == {"memes"}


def test_models_that_may_have_seen_the_reported_memes_are_named(
    val, test_split, decision, model_folders, report
):
    assert report["trained_on_other_shards"] == []
    seen = {"trained_on_other_shards": ["text_expert", "mm_fusion"]}
    test_split.attrs = test_split.attrs | seen
    found = decision_report(val, test_split, decision, model_folders, n_resamples=2)
    assert found["trained_on_other_shards"] == ["text_expert", "mm_fusion"]
    val.attrs = val.attrs | seen
    with pytest.warns(UserWarning, match=r"^text_expert, mm_fusion learned from .* --from 4$"):
        DecisionBundle.fit(val, model_folders, n_resamples=2)


def test_a_pilot_has_one_section_and_says_that_it_is_in_sample(
    logits_frame, decision, model_folders, capsys
):
    train = logits_frame(60, "train")
    found = decision_report(train, train, decision, model_folders, 10)
    assert list(found["mm_fusion"]) == ["train"]
    print_summary(found, decision, pd.Series({"TP": 1}))
    said = capsys.readouterr().out
    assert said.startswith("train (in-sample), n = 60 (fitted and reported on)")


def test_the_report_is_written_as_json_with_the_rivals(report, val, model_folders):
    save_report(report, rivals(val, model_folders, 10), model_folders)
    written = json.loads(model_folders.artifact(7, "report.json").read_text())
    assert written["mm_fusion"]["test"]["n"] == 100
    assert written["mm_fusion"]["test"]["resampled"] == "memes"
    assert {row["calibrator"] for row in written["rivals"]} >= {"temperature", "isotonic"}
    assert written["at_prevalence"] is None


def test_curves_and_reliability_of_both_splits_are_written(
    report, val, test_split, decision, model_folders
):
    save_report(report, pd.DataFrame(), model_folders)
    written = json.loads(model_folders.artifact(7, "report.json").read_text())
    for section, frame in (("val calibrate", val), ("test", test_split)):
        curves = threshold_curves(frame, decision.temperatures)
        for model in MODELS:
            rows = pd.DataFrame(written["curves"][section][model])
            pd.testing.assert_frame_equal(rows[list(curves[model])], curves[model], rtol=1e-8)
            for when in ("before", "after"):
                bins = pd.DataFrame(written["reliability"][section][model][when])
                apart = (bins["mean_predicted"] - bins["observed"]).abs().astype(float)
                ece = written["calibration"][section][model][f"ece {when}"]
                assert (apart * bins["count"]).sum() / len(frame) == pytest.approx(ece, abs=1e-7)


def test_precision_recall_and_average_precision_have_intervals(report):
    found = report["mm_fusion"]["test"]
    for name in ("precision", "recall", "average_precision"):
        low, high = found["intervals"][name]
        assert 0 < low < found[name] < high <= 1


def test_one_class_in_the_report_is_no_crash(val, test_split, decision, model_folders, capsys):
    hate = test_split[test_split["label"] == 1]
    settings = model_folders.model_copy(update={"prevalence": 0.02, "target_macro_f1": 0.5})
    found = decision_report(val, hate, decision, settings, 10)
    save_report(found, pd.DataFrame(), settings)
    assert target_table(found, settings).set_index("section").loc["test", "met"] == "does not exist"
    assert prevalence_table(found).empty
    print_summary(found, decision, pd.Series({"TP": len(hate)}))
    said = [line for line in capsys.readouterr().out.splitlines() if "0.02 of all" in line]
    assert len(said) == 1 and "no figures, as memes of one class" in said[0]


@pytest.mark.parametrize(
    ("target", "met"), [(0.05, "yes"), (0.999, "no"), (None, "within the interval")]
)
def test_a_target_is_met_missed_or_undecided_on_each_split(report, model_folders, target, met):
    target = report["mm_fusion"]["test"]["macro_f1"] if target is None else target
    settings = model_folders.model_copy(update={"target_macro_f1": target})
    table = target_table(report, settings).set_index("section")
    assert list(table.index) == ["val calibrate", "test"]
    assert table.loc["test", "met"] == met
    assert table.loc["test", "value"] == report["mm_fusion"]["test"]["macro_f1"]


@pytest.mark.parametrize(("target", "met"), [(0.9, "yes"), (0.001, "within the interval")])
def test_an_ece_meets_its_target_from_below(report, model_folders, target, met):
    settings = model_folders.model_copy(update={"target_ece": target})
    assert set(target_table(report, settings)["met"]) == {met}


@pytest.mark.parametrize(("noise", "met"), [(0.02, "no"), (0.12, "within the interval")])
def test_an_ece_misses_its_target_only_by_more_than_perfect_probabilities_show(
    model_folders, noise, met
):
    found = {"ece": 0.2, "ece_zero_truth": noise, "intervals": {"ece": [0.15, 0.25]}}
    settings = model_folders.model_copy(update={"target_ece": 0.05})
    assert target_table({"mm_fusion": {"test": found}}, settings)["met"].tolist() == [met]


def test_perfect_probabilities_hardly_ever_miss_a_target_of_their_ece(model_folders):
    rng, settings = np.random.default_rng(0), model_folders.model_copy(update={"target_ece": 0.05})
    missed = 0
    for _ in range(40):
        prob = rng.random(200)
        labels = (rng.random(200) < prob).astype(int)
        found = classification_metrics(prob, labels)
        ends = metric_interval(prob, labels, "ece", n_resamples=200)
        found |= {"intervals": {"ece": [ends.low, ends.high]}}
        table = target_table({"mm_fusion": {"test": found}}, settings)
        missed += table["met"].tolist() == ["no"]
    assert missed <= 2


def test_without_targets_the_table_is_empty(report, model_folders):
    assert target_table(report, model_folders).empty


def test_the_frozen_policy_is_judged_on_both_splits(report, test_split, decision, model_folders):
    assert list(report["policy"]) == ["val calibrate", "test"]
    sides = {row["side"]: row for row in report["policy"]["test"]["sides"]}
    assert [sides[side]["target"] for side in ("block", "allow")] == [0.9, 0.1]
    prob = calibrated(test_split, decision.temperatures)["mm_fusion"]
    reviewed = decision.policy.decide(prob) == "review"
    assert sides["review"]["observed"] == pytest.approx(reviewed.mean())
    save_report(report, pd.DataFrame(), model_folders)
    written = json.loads(model_folders.artifact(7, "report.json").read_text())
    assert sum(row["memes"] for row in written["policy"]["test"]["workload"]) == pytest.approx(1e4)


def test_the_summary_does_not_mix_the_splits(report, decision, capsys):
    counts = pd.Series({"TP": 40, "TN": 45, "FP": 5, "FN": 10})
    print_summary(report, decision, counts)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "val, calibrate half, n = 120 (fitted on)"
    assert lines[4] == "test, n = 100 (reported on, nothing fitted)"
    for section, block in (("val calibrate", lines[1:4]), ("test", lines[5:8])):
        for model, line in zip(MODELS, block, strict=True):
            row = report["calibration"][section][model]
            assert f"Brier {row['brier before']:.3f} -> {row['brier after']:.3f}" in line
    assert lines[8] == "fusion's decisions on test: TP 40, TN 45, FP 5, FN 10"
    assert lines[9] == "no target is set (target_macro_f1, target_ece)"


def test_the_summary_says_at_which_share_of_hate(val, test_split, decision, model_folders, capsys):
    settings = model_folders.model_copy(update={"prevalence": 0.02})
    found = decision_report(val, test_split, decision, settings, 10)
    print_summary(found, decision, pd.Series({"TP": 1}))
    frozen, retuned = capsys.readouterr().out.splitlines()[-2:]
    assert frozen.startswith("fusion on test if 0.02 of all were hate, threshold frozen: precision")
    assert "threshold retuned: precision" in retuned
    row = found["at_prevalence"]["test"]["mm_fusion"]["frozen"]
    assert f"precision {row['precision']:.3f}" in frozen
    assert row["precision"] < found["mm_fusion"]["test"]["precision"]


def test_the_summary_says_where_a_floor_is_not_reached(
    val, test_split, decision, model_folders, capsys
):
    val.loc[val["label"].idxmin(), "mm_fusion_logit_1"] = 100.0
    settings = model_folders.model_copy(update={"prevalence": 0.02})
    strict = replace(decision, objective={"objective": "recall_at_precision", "floor": 0.9})
    found = decision_report(val, test_split, strict, settings, 10)
    print_summary(found, strict, pd.Series({"TP": 1}))
    frozen, retuned = capsys.readouterr().out.splitlines()[-2:]
    assert "threshold frozen: precision" in frozen
    assert retuned.endswith("threshold retuned: floor not reached at this prevalence")
    rows = prevalence_table(found).set_index(["model", "threshold is"]).loc["mm_fusion"]
    assert rows["note"].isna().tolist() == [True, False]
    assert np.isnan(rows.loc["retuned", "threshold"])
    save_report(found, pd.DataFrame(), settings)
    written = json.loads(settings.artifact(7, "report.json").read_text())
    written = written["at_prevalence"]["test"]["mm_fusion"]
    assert (written["retuned"], written["note"]) == (None, rows.loc["retuned", "note"])


def test_groups_are_resampled_throughout_where_memes_have_company(
    val, test_split, decision, model_folders
):
    frames = [pd.concat([frame] * 3, ignore_index=True) for frame in (val, test_split)]
    found = decision_report(*frames, decision, model_folders, 20)
    for model in MODELS:
        assert {found[model][s]["resampled"] for s in found[model]} == {"groups"}
    assert {row["resampled"] for rows in found["choice"].values() for row in rows} == {"groups"}


def test_sections_in_words(val, test_split):
    assert section_of(val) == "val calibrate"
    assert section_of(pd.concat([val, test_split])) == "val calibrate and test"
    words = {
        "val calibrate": "val, calibrate half",
        "test": "test",
        "train": "train (in-sample)",
        "heldout unseen_both": "heldout unseen_both",
    }
    assert {section: described(section) for section in words} == words


def test_the_same_seed_gives_the_same_report(val, test_split, decision, model_folders):
    twice = [decision_report(val, test_split, decision, model_folders, 20) for _ in range(2)]
    assert json.dumps(twice[0]) == json.dumps(twice[1])
    assert np.isfinite(twice[0]["mm_fusion"]["test"]["ece"])
