import json

import pandas as pd
import pytest
from sklearn.metrics import accuracy_score, brier_score_loss, f1_score, log_loss, roc_auc_score

from lib.artifacts import write_json
from lib.calibration import prob_hate
from lib.config import MODELS
from lib.decisions.bundle import DecisionBundle
from lib.decisions.evaluation import (
    WITH_INTERVAL,
    evaluate,
    evaluate_experts,
    held_out_concepts,
    results_table,
    single_modality_bounds,
)
from lib.modeling.prediction_table import logits_of

NUMBERS = ("accuracy", "macro_f1", "precision", "recall", "f1", "auroc", "brier", "ece", "nll", "n")


@pytest.fixture
def frame(logits_frame):
    return pd.concat([logits_frame(60, "val"), logits_frame(40, "test", seed=1)])


def test_each_model_and_split_agrees_with_scikit_learn(frame):
    report = evaluate(frame, n_resamples=20)
    for split, rows in frame.groupby("split"):
        for model in MODELS:
            found = report[model][split]
            prob, label = prob_hate(logits_of(rows, model)), rows["label"]
            expected = {
                "accuracy": accuracy_score(label, prob >= 0.5),
                "macro_f1": f1_score(label, prob >= 0.5, average="macro"),
                "auroc": roc_auc_score(label, prob),
                "brier": brier_score_loss(label, prob),
                "nll": log_loss(label, prob),
                "n": len(rows),
            }
            assert {name: found[name] for name in expected} == pytest.approx(expected)


def test_every_number_is_there_with_interval_and_baselines(frame):
    report = evaluate(frame, n_resamples=50)
    assert set(report) == {*MODELS, "baselines"}
    for model in MODELS:
        for split in ("val", "test"):
            found = report[model][split]
            assert found.keys() >= set(NUMBERS)
            assert set(found["intervals"]) == set(WITH_INTERVAL)
            low, high = found["intervals"]["accuracy"]
            assert low <= found["accuracy"] <= high
    assert len(report["baselines"]["val"]) == 3
    table = results_table(report, "test")
    assert len(table) == 6
    assert table.loc["mm_fusion", "n"] == 40


def test_the_halves_of_val_are_reported_apart(frame):
    frame.loc[(frame["split"] == "val") & (frame.index < 20), "part"] = "select"
    report = evaluate(frame, n_resamples=10)
    sizes = {split: found["n"] for split, found in report["mm_fusion"].items()}
    assert sizes == {"val": 60, "val select": 20, "val calibrate": 40, "test": 40}


def test_intervals_resample_groups_and_say_so(frame):
    alone = evaluate(frame, n_resamples=200)
    copies = evaluate(pd.concat([frame] * 4), n_resamples=200)
    for split in ("val", "test"):
        found, more = (report["mm_fusion"][split] for report in (alone, copies))
        assert (found["resampled"], more["resampled"]) == ("memes", "groups")
        widths = [high - low for low, high in (r["intervals"]["accuracy"] for r in (found, more))]
        # Copies tell nothing new: the interval must not narrow by them.
        assert widths[1] == pytest.approx(widths[0], rel=0.3)


def test_a_decision_is_judged_at_its_temperature_and_threshold(frame, model_folders):
    decision = DecisionBundle.fit(frame[frame["split"] == "val"], model_folders, 5)
    report = evaluate(frame, n_resamples=20, decision=decision)
    test = frame[frame["split"] == "test"]
    for model in MODELS:
        prob = prob_hate(logits_of(test, model), decision.temperatures[model])
        hate, found = prob >= decision.thresholds[model], report[model]["test"]
        assert found["macro_f1"] == pytest.approx(f1_score(test["label"], hate, average="macro"))
        assert found["brier"] == pytest.approx(brier_score_loss(test["label"], prob))
        assert found["threshold"] == decision.thresholds[model]
        low, high = found["intervals"]["macro_f1"]
        assert low <= found["macro_f1"] <= high


def test_a_held_out_split_is_reported_whole_and_by_concept(logits_frame):
    frame = pd.concat([logits_frame(40, "test"), logits_frame(60, "heldout")])
    ids = logits_frame(60, "heldout")["id"]
    concepts = dict(zip(ids, ["unseen_pictogram"] * 20 + ["unseen_phrasing"] * 40, strict=True))
    sizes = {
        split: found["n"] for split, found in evaluate(frame, concepts, 10)["mm_fusion"].items()
    }
    assert sizes == {
        "test": 40,
        "heldout": 60,
        "heldout unseen_pictogram": 20,
        "heldout unseen_phrasing": 40,
    }


def test_what_does_not_exist_is_null_and_the_report_is_json(logits_frame, tmp_path):
    frame = logits_frame(30)
    report = evaluate(frame[frame["label"] == 1], n_resamples=10)
    assert report["mm_fusion"]["val"]["auroc"] is None
    write_json(tmp_path / "results.json", report)
    assert json.loads((tmp_path / "results.json").read_text())["mm_fusion"]["val"]["n"] == 15


def test_the_same_seed_gives_the_same_report(frame):
    assert evaluate(frame, n_resamples=30, seed=3) == evaluate(frame, n_resamples=30, seed=3)
    assert evaluate(frame, n_resamples=30, seed=3) != evaluate(frame, n_resamples=30, seed=4)


def test_experts_are_scored_on_val_in_a_full_run(full_root):
    table = evaluate_experts(full_root)
    assert set(table["scored_on"]) == {"val, calibrate half"}
    report = json.loads(full_root.artifact(6, "results.json").read_text())
    for name in ("text_expert", "vision_expert"):
        assert table.loc[name, "accuracy"] == pytest.approx(
            report[name]["val calibrate"]["accuracy"], abs=1e-3
        )


def test_bounds_stand_beside_generated_memes_and_not_beside_others(full_root):
    bounds = single_modality_bounds(full_root)
    assert {"train", "val", "test"} <= set(bounds.index)
    assert (bounds["both"] >= bounds[["text", "image"]].max(axis=1)).all()
    assert bounds.loc["train", "text"] < 1
    other = full_root.model_copy(update={"root": full_root.root / "other"})
    write_json(other.artifact(3, "stats.json"), {"datasets": ["mine"]})
    assert single_modality_bounds(other).empty


def test_held_out_concepts_are_those_of_the_extra_split(full_root):
    concepts = held_out_concepts(full_root)
    report = json.loads(full_root.artifact(6, "results.json").read_text())
    parts = {split for split in report["mm_fusion"] if split.startswith("heldout ")}
    assert parts == {f"heldout {concept}" for concept in concepts.values()}
    assert sum(report["mm_fusion"][part]["n"] for part in parts) == len(concepts)


def test_missing_stats_name_the_command(full_root, tmp_path):
    settings = full_root.model_copy(update={"root": tmp_path})
    with pytest.raises(FileNotFoundError, match=r"stats_full\.json.*--from 3"):
        single_modality_bounds(settings)
