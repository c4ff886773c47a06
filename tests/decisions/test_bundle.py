import json

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import f1_score

from lib.calibration import fit_temperature, zero_truth_ece
from lib.config import MODELS
from lib.decisions.bundle import DecisionBundle
from lib.decisions.calibration_tables import (
    calibrated,
    calibration_table,
    cross_fitted,
    model_choice,
    print_summary,
    save_curves,
    threshold_curves,
)
from lib.modeling.prediction_table import logits_of, read_predictions, save_predictions


@pytest.fixture
def val(logits_frame):
    return logits_frame(200)


@pytest.fixture
def bundle(val, model_folders):
    return DecisionBundle.fit(val, model_folders, n_resamples=30)


def test_the_temperature_is_the_likeliest_and_the_threshold_the_best_of_all_cuts(val, bundle):
    prob = calibrated(val, bundle.temperatures)
    for model in MODELS:
        assert bundle.temperatures[model] == pytest.approx(
            fit_temperature(logits_of(val, model), val["label"]).temperature, abs=1e-6
        )
        assert bundle.temperatures[model] > 1.5
        chosen = f1_score(val["label"], prob[model] >= bundle.thresholds[model])
        best = max(f1_score(val["label"], prob[model] >= cut) for cut in prob[model])
        assert chosen == pytest.approx(best)


def test_calibration_mends_an_overconfident_model(val, bundle):
    table = calibration_table(val, bundle.temperatures)
    for name in ("nll", "brier", "ece"):
        assert (table[f"{name} after"] < table[f"{name} before"]).all()


def test_the_calibration_table_has_the_ece_of_perfect_scores(val, bundle):
    table = calibration_table(val, bundle.temperatures)
    expected = calibrated(val, bundle.temperatures).apply(zero_truth_ece)
    pd.testing.assert_series_equal(table["ece zero-truth"], expected, check_names=False)


@pytest.mark.parametrize("other", ["test", "train"])
def test_rows_of_another_split_are_refused(val, logits_frame, model_folders, other):
    with pytest.raises(ValueError, match=f"fitted on split 'val' alone, got rows of {other}"):
        DecisionBundle.fit(pd.concat([val, logits_frame(10, other)]), model_folders)


def test_a_pilot_fits_on_train(logits_frame, model_folders):
    pilot = model_folders.model_copy(update={"mode": "pilot"})
    pilot.artifact(6, "predictions.parquet").write_bytes(b"predictions")
    assert DecisionBundle.fit(logits_frame(40, "train"), pilot, 5).fit_split == "train"


@pytest.mark.parametrize("change", ["flipped", "deleted"])
def test_test_rows_touch_neither_temperature_nor_threshold(
    val, logits_frame, model_folders, change
):
    test = logits_frame(50, "test", seed=5)
    fitted = []
    for rows in (test, test.assign(label=1 - test["label"]) if change == "flipped" else test[:0]):
        save_predictions(pd.concat([val, rows]), model_folders.artifact(6, "predictions.parquet"))
        bundle = DecisionBundle.fit(read_predictions(model_folders, "val"), model_folders, 10)
        fitted.append((bundle.temperatures, bundle.thresholds, bundle.intervals))
    assert fitted[0] == fitted[1]


def test_the_three_files_have_the_documented_shape(bundle, model_folders):
    bundle.save(model_folders)
    step7 = model_folders.root / "Step_7"
    calibration = json.loads((step7 / "calibration_full.json").read_text())
    thresholds = json.loads((step7 / "thresholds_full.json").read_text())
    decision = json.loads((step7 / "decision_full.json").read_text())
    assert calibration == {m: pytest.approx(bundle.temperatures[m], abs=1e-6) for m in MODELS}
    assert thresholds == {
        m: {"abuse_hate": pytest.approx(bundle.thresholds[m], abs=1e-6)} for m in MODELS
    }
    assert decision["fit_split"] == "val"
    assert set(decision["fingerprints"]) == {*MODELS, "predictions"}
    assert decision["versions"].keys() >= {"torch", "transformers"}
    text = (step7 / "decision_full.json").read_text()
    assert str(model_folders.root) not in text


def test_a_second_save_writes_the_same_bytes(val, model_folders):
    contents = []
    for _ in range(2):
        DecisionBundle.fit(val, model_folders, n_resamples=20).save(model_folders)
        contents.append([f.read_bytes() for f in sorted((model_folders.root / "Step_7").iterdir())])
    assert contents[0] == contents[1]


def test_loading_gives_back_what_was_saved(bundle, model_folders):
    bundle.save(model_folders)
    back = DecisionBundle.load(model_folders)
    back.verify(model_folders.models)
    assert back.temperatures == bundle.temperatures
    assert back.thresholds == bundle.thresholds
    assert back.review_band == pytest.approx(bundle.review_band, abs=1e-6)
    assert list(back.summary().index) == list(MODELS)


def test_the_saved_threshold_decides_as_the_fitted_one(logits_frame, model_folders):
    for seed in range(5):
        val = logits_frame(300, seed=seed)
        bundle = DecisionBundle.fit(val, model_folders, n_resamples=5)
        bundle.save(model_folders)
        back = DecisionBundle.load(model_folders)
        for model in MODELS:
            ours, theirs = (
                calibrated(val, b.temperatures)[model] >= b.thresholds[model]
                for b in (bundle, back)
            )
            assert np.array_equal(ours, theirs), (seed, model)


def edited(settings, name, change):
    file = settings.artifact(7, name)
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


def test_an_edited_threshold_counts(bundle, model_folders):
    bundle.save(model_folders)
    edited(model_folders, "thresholds.json", lambda c: c["mm_fusion"].update(abuse_hate=0.123))
    assert DecisionBundle.load(model_folders).thresholds["mm_fusion"] == 0.123


@pytest.mark.parametrize("value", [-0.01, 1.01, "high", None, True, float("nan"), [0.5]])
def test_an_impossible_threshold_is_named_with_file_and_field(bundle, model_folders, value):
    bundle.save(model_folders)
    edited(model_folders, "thresholds.json", lambda c: c["mm_fusion"].update(abuse_hate=value))
    with pytest.raises(ValueError, match=r"thresholds_full\.json: mm_fusion\.abuse_hate is "):
        DecisionBundle.load(model_folders)


@pytest.mark.parametrize("value", [0, -2.0, "hot", None, True, float("nan"), float("inf")])
def test_an_impossible_temperature_is_named_with_file_and_field(bundle, model_folders, value):
    bundle.save(model_folders)
    edited(model_folders, "calibration.json", lambda c: c.update(text_expert=value))
    with pytest.raises(ValueError, match=r"calibration_full\.json: text_expert is "):
        DecisionBundle.load(model_folders)


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("thresholds.json", lambda c: c.pop("mm_fusion"), r"thresholds_full\.json.*mm_fusion"),
        ("calibration.json", lambda c: c.pop("mm_fusion"), r"calibration_full\.json.*mm_fusion"),
        ("thresholds.json", lambda c: c["mm_fusion"].clear(), r"mm_fusion\.abuse_hate is None"),
        ("thresholds.json", lambda c: c.update(mm_fusion=0.5), r"thresholds_full\.json.*mm_fusion"),
        ("decision.json", lambda c: c.pop("review_band"), r"decision_full\.json.*review_band"),
    ],
)
def test_a_mangled_file_is_named_with_its_field(bundle, model_folders, name, change, said):
    bundle.save(model_folders)
    edited(model_folders, name, change)
    with pytest.raises(ValueError, match=said):
        DecisionBundle.load(model_folders)


@pytest.mark.parametrize("name", ["calibration.json", "thresholds.json", "decision.json"])
def test_a_missing_file_names_its_step(bundle, model_folders, name):
    bundle.save(model_folders)
    file = model_folders.artifact(7, name)
    file.unlink()
    with pytest.raises(FileNotFoundError, match=rf"{file.name} does not exist.*--from 7"):
        DecisionBundle.load(model_folders)


@pytest.mark.parametrize("model", MODELS)
def test_thresholds_of_other_models_are_refused(bundle, model_folders, model):
    (model_folders.model_folder(model) / "model.safetensors").write_bytes(b"retrained")
    with pytest.raises(ValueError, match=rf"{model} is not the model.*--mode full --from 6"):
        bundle.verify(model_folders.models)


@pytest.mark.parametrize("kind", ["separable", "constant"])
def test_hopeless_logits_still_give_a_decision(logits_frame, model_folders, kind, capsys):
    frame = logits_frame(40)
    for model in MODELS:
        margin = 2.0 * frame["label"] - 1 if kind == "separable" else 0.0
        frame[f"{model}_logit_0"], frame[f"{model}_logit_1"] = 0.0, margin
    bundle = DecisionBundle.fit(frame, model_folders, n_resamples=10)
    assert set(bundle.temperatures.values()) == {1.0}
    assert "ok" not in {fit["status"] for fit in bundle.fits.values()}
    assert 0 <= bundle.review_band[0] <= bundle.review_band[1] <= 1
    bundle.save(model_folders)
    DecisionBundle.load(model_folders).summary()
    print_summary(frame, bundle, pd.Series({"TP": 1}))
    assert next(iter(bundle.fits.values()))["status"] in capsys.readouterr().out


@pytest.mark.parametrize("positives", [1, 2, 49])
def test_a_rare_class_still_gives_finite_decisions(logits_frame, model_folders, positives):
    frame = logits_frame(50).assign(label=(np.arange(50) < positives).astype(int))
    bundle = DecisionBundle.fit(frame, model_folders, n_resamples=50)
    assert all(0 <= cut <= 1 for cut in bundle.thresholds.values())
    for interval in bundle.intervals.values():
        assert all(0 <= side <= 1 for side in interval["threshold"])
    bundle.save(model_folders)
    assert DecisionBundle.load(model_folders).thresholds == bundle.thresholds


def test_a_model_that_knows_nothing_may_call_everything_hate(logits_frame, model_folders):
    frame = logits_frame(40)
    for model in MODELS:
        frame[f"{model}_logit_1"] = np.where(frame["label"] == 1, -1.0, 1.0)
        frame[f"{model}_logit_0"] = 0.0
    bundle = DecisionBundle.fit(frame, model_folders, n_resamples=10)
    bundle.save(model_folders)
    back = DecisionBundle.load(model_folders)
    prob = calibrated(frame, back.temperatures)
    assert all((prob[model] >= back.thresholds[model]).all() for model in MODELS)


def test_curves_have_the_documented_grid_and_columns(val, bundle, model_folders):
    curves = threshold_curves(val, bundle.temperatures)
    save_curves(curves, model_folders)
    for model in MODELS:
        file = model_folders.root / "Step_7" / f"thresholds_curve_{model}_full.csv"
        table = pd.read_csv(file)
        assert list(table) == ["threshold", "precision", "recall", "f1", "tp", "fp", "tn", "fn"]
        assert table["threshold"].tolist() == pytest.approx(np.linspace(0.1, 0.9, 17))
        assert (table[["tp", "fp", "tn", "fn"]].sum(axis=1) == len(val)).all()


def test_the_cross_fitted_estimate_stands_beside_the_in_sample_one(val, bundle, model_folders):
    table = cross_fitted(val, bundle, model_folders, n_resamples=30)
    assert table["estimate"].tolist() == ["in-sample", "cross-fitted"] * 3
    wide = table.pivot(index="model", columns="estimate", values="f1")
    assert (wide["cross-fitted"] <= wide["in-sample"] + 1e-9).all()
    assert (table["f1_low"] <= table["f1"]).all()
    assert (table["f1"] <= table["f1_high"]).all()


def test_the_model_is_chosen_with_its_evidence(val, bundle, model_folders):
    table = model_choice(val, bundle, model_folders, n_resamples=50)
    assert table["model"].iloc[0] == "mm_fusion"
    assert table["macro_f1"].is_monotonic_decreasing
    assert table["best_minus_this"].iloc[0] == 0
    assert (table["gap_low"].iloc[1:] > 0).all()
