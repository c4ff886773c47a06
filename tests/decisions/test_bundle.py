import json
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import brier_score_loss, f1_score, precision_score, recall_score

import lib.decisions.bundle as bundle_module
from lib.calibration import (
    best_threshold,
    expected_calibration_error,
    fit_temperature,
    prob_hate,
    zero_truth_ece,
)
from lib.calibration.ranking import ABOVE_ALL
from lib.config import MODELS
from lib.data.datasets import shard_paths
from lib.data.shard_index import shards_fingerprint
from lib.decisions.bundle import DecisionBundle
from lib.decisions.calibration_tables import (
    calibrated,
    calibration_table,
    cross_fitted,
    curves_table,
    model_choice,
    reliability,
    reliability_bins,
    save_curves,
    threshold_curves,
)
from lib.modeling.prediction_table import (
    groups_of,
    logits_of,
    prediction_chunks,
    predictions_to_fit,
    read_predictions,
    resampled,
    save_predictions,
)


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
        change = table[f"{name} after"] - table[f"{name} before"]
        assert (table[f"{name} change low"] <= change).all()
        assert (change <= table[f"{name} change high"]).all()
    assert (table["nll change high"][["text_expert", "vision_expert"]] < 0).all()


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
    for model in MODELS:
        shutil.copytree(
            model_folders.model_folder(model), pilot.model_folder(model), dirs_exist_ok=True
        )
    fitted = DecisionBundle.fit(logits_frame(40, "train"), pilot, 5)
    assert (fitted.fit_split, fitted.fit_part) == ("train", "")


@pytest.mark.parametrize("models", [{}, {"text_expert": "0" * 16}])
def test_predictions_that_do_not_name_their_models_are_refused(val, model_folders, models):
    val.attrs = {"models": models} if models else {}
    with pytest.raises(ValueError, match=r"do not say which models.*evaluate again: .*--from 6"):
        DecisionBundle.fit(val, model_folders, 5)
    with pytest.raises(ValueError, match=r"do not say which models"):
        save_predictions(val, model_folders.artifact(6, "predictions.parquet"))


@pytest.mark.parametrize("model", MODELS)
def test_a_model_replaced_after_predicting_gets_no_thresholds(val, model_folders, model):
    save_predictions(val, model_folders.artifact(6, "predictions.parquet"))
    (model_folders.model_folder(model) / "model.safetensors").write_bytes(b"retrained")
    frame = predictions_to_fit(model_folders)
    named = rf"{model} is not the model whose logits \S+predictions_full.parquet holds.*--from 6"
    with pytest.raises(ValueError, match=named):
        DecisionBundle.fit(frame, model_folders, 5)


def test_a_model_replaced_while_fitting_is_not_the_one_in_the_decision(
    val, model_folders, monkeypatch
):
    def replaced(*arguments):
        (model_folders.model_folder("mm_fusion") / "model.safetensors").write_bytes(b"new")
        return fit_temperature(*arguments)

    monkeypatch.setattr(bundle_module, "fit_temperature", replaced)
    fitted = DecisionBundle.fit(val, model_folders, 5)
    with pytest.raises(ValueError, match="mm_fusion is not the model"):
        fitted.verify(model_folders.models)


@pytest.fixture
def packed_run(model_folders, packed, val):
    """Settings of a root with shards, and predictions on val and test that name these."""
    (model_folders.root / "Step_3").symlink_to(packed)
    frames = [val, val.assign(split="test", part="")]
    frame = pd.concat(frames, ignore_index=True)
    named = {
        split: shards_fingerprint(shard_paths(model_folders.shards, split))
        for split in ("val", "test")
    }
    frame.attrs = val.attrs | {"shards": named}
    save_predictions(frame, model_folders.artifact(6, "predictions.parquet"))
    return model_folders


def of_other_shards(settings, split):
    """Let the predictions name other shards of a split."""
    file = settings.artifact(6, "predictions.parquet")
    frame = pd.read_parquet(file)
    frame.attrs["shards"][split] = "0" * 16
    save_predictions(frame, file)


def test_predictions_of_other_shards_are_refused_where_they_are_read(packed_run):
    assert len(predictions_to_fit(packed_run)) == 200
    of_other_shards(packed_run, "test")
    DecisionBundle.fit(predictions_to_fit(packed_run), packed_run, 5)
    said = r"predictions_full\.parquet: .*'test' are of other shards than .*shards/test.*--from 6"
    with pytest.raises(ValueError, match=said):
        read_predictions(packed_run, "test")
    with pytest.raises(ValueError, match=said):
        next(prediction_chunks(packed_run, "test", 10))


def test_a_frame_of_other_shards_gets_no_decision(packed_run):
    frame = predictions_to_fit(packed_run)
    frame.attrs["shards"]["val"] = "0" * 16
    with pytest.raises(ValueError, match=r"'val' are of other shards than .*--from 6"):
        DecisionBundle.fit(frame, packed_run, 5)
    (packed_run.root / "Step_3").unlink()
    of_other_shards(packed_run, "val")
    DecisionBundle.fit(predictions_to_fit(packed_run), packed_run, 5)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_logit_that_is_not_finite_is_named_with_file_column_and_split(val, model_folders, value):
    bad = val.assign(mm_fusion_logit_1=val["mm_fusion_logit_1"].where(val.index > 2, value))
    bad.attrs = val.attrs
    save_predictions(bad, model_folders.artifact(6, "predictions.parquet"))
    said = r"predictions_full\.parquet, split 'val': column 'mm_fusion_logit_1' has 3 .*--from 6"
    with pytest.raises(ValueError, match=said):
        predictions_to_fit(model_folders)
    with pytest.raises(ValueError, match=said):
        list(prediction_chunks(model_folders, "val", 50))
    with pytest.raises(ValueError, match=r"split 'val', half 'calibrate': .*logit_1' has 3 .*6"):
        DecisionBundle.fit(bad, model_folders, 5)


def test_a_select_half_that_is_not_finite_is_no_missing_one(val, model_folders):
    half = val.assign(part="select", mm_fusion_logit_1=np.nan)
    both = pd.concat([val, half], ignore_index=True)
    both.attrs = val.attrs
    save_predictions(both, model_folders.artifact(6, "predictions.parquet"))
    with pytest.raises(ValueError, match=r"column 'mm_fusion_logit_1' has 200 values"):
        DecisionBundle.fit(predictions_to_fit(model_folders), model_folders, 5)


@pytest.mark.parametrize("label", [0, 1])
def test_one_label_alone_is_named_with_split_half_and_what_to_do(val, model_folders, label):
    alone = val[val["label"] == label]
    said = rf"split 'val', half 'calibrate': none of its 100 memes has label {1 - label}.*--from 3"
    with pytest.raises(ValueError, match=said):
        DecisionBundle.fit(alone, model_folders, 5)


def test_memes_that_chose_epochs_and_heads_are_refused(val, model_folders):
    val.loc[:99, "part"] = "select"
    with pytest.raises(ValueError, match="fitted on the part 'calibrate' of val alone"):
        DecisionBundle.fit(val, model_folders, 5)
    save_predictions(val, model_folders.artifact(6, "predictions.parquet"))
    fitted = DecisionBundle.fit(predictions_to_fit(model_folders), model_folders, 5)
    assert (fitted.n, fitted.fit_part) == (100, "calibrate")


def test_intervals_resample_groups_where_memes_have_company(val, model_folders):
    alone = DecisionBundle.fit(val, model_folders, 200)
    assert alone.resampled == "memes"
    copies = pd.concat([val] * 4, ignore_index=True)
    together = DecisionBundle.fit(copies, model_folders, 200)
    assert together.resampled == "groups"
    strangers = copies.assign(group=[str(i) for i in range(len(copies))])
    apart = DecisionBundle.fit(strangers, model_folders, 200)

    def width(bundle, name):
        low, high = bundle.intervals["mm_fusion"][name]
        return high - low

    # Copies tell nothing new: the intervals must not narrow by them.
    assert width(together, "temperature") == pytest.approx(width(alone, "temperature"), rel=0.25)
    assert width(apart, "temperature") < 0.7 * width(alone, "temperature")


def test_the_threshold_interval_is_that_of_the_cut_and_not_of_the_temperature(val, model_folders):
    # Whatever T, the best cut lies between the margins 1 and 3; T itself is far from sure.
    rng = np.random.default_rng(0)
    label = np.repeat([0, 1], 100)
    margin = np.where(label == 1, 3.0, rng.choice([-1.0, 1.0], 200, p=[0.7, 0.3]))
    for model in MODELS:
        val[f"{model}_logit_0"], val[f"{model}_logit_1"] = 0.0, margin
    val["label"] = label
    val.loc[[0, 1, 2, 3], [f"{m}_logit_1" for m in MODELS]] = 3.0
    bundle = DecisionBundle.fit(val, model_folders, 200)
    low, high = bundle.intervals["mm_fusion"]["temperature"]
    assert high > 1.3 * low
    cut = bundle.thresholds["mm_fusion"]
    assert bundle.intervals["mm_fusion"]["threshold"] == pytest.approx([cut, cut], abs=1e-6)


@pytest.mark.parametrize(
    "objective",
    [
        {"threshold_objective": "macro_f1"},
        {"threshold_objective": "cost", "threshold_costs": (5.0, 1.0)},
        {"threshold_objective": "recall_at_precision", "threshold_floor": 0.95},
        {"threshold_objective": "precision_at_recall", "threshold_floor": 0.9},
    ],
)
def test_the_threshold_maximises_what_the_settings_say(val, model_folders, objective):
    for model in ("text_expert", "vision_expert"):  # as good as fusion, for every floor
        for k in (0, 1):
            val[f"{model}_logit_{k}"] = val[f"mm_fusion_logit_{k}"]
    settings = model_folders.model_copy(update=objective)
    bundle = DecisionBundle.fit(val, settings, 20)
    prob = calibrated(val, bundle.temperatures)["mm_fusion"]
    expected = best_threshold(prob, val["label"], **bundle.objective)
    hate = prob >= bundle.thresholds["mm_fusion"]
    assert precision_score(val["label"], hate) == pytest.approx(expected.precision)
    assert recall_score(val["label"], hate) == pytest.approx(expected.recall)
    bundle.save(settings)
    assert DecisionBundle.load(settings).objective["objective"] == objective["threshold_objective"]


def test_a_floor_that_no_threshold_reaches_is_one_error(val, model_folders):
    val.loc[val["label"] == 1, "text_expert_logit_1"] -= 100
    floor = {"threshold_objective": "recall_at_precision", "threshold_floor": 0.999}
    settings = model_folders.model_copy(update=floor)
    with pytest.raises(ValueError, match=r"text_expert: no threshold.*lower threshold_floor"):
        DecisionBundle.fit(val, settings, 5)


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
    assert back.policy.ends == bundle.policy.ends
    assert back.policy.targets == bundle.policy.targets
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


def test_a_threshold_above_every_score_comes_back(bundle, model_folders):
    bundle.save(model_folders)
    found = best_threshold([0.2, 1, 1, 1], [0, 0, 0, 1], "cost", costs=(3, 1)).threshold
    assert found == ABOVE_ALL
    edited(model_folders, "thresholds.json", lambda c: c["mm_fusion"].update(abuse_hate=found))
    assert DecisionBundle.load(model_folders).thresholds["mm_fusion"] == ABOVE_ALL


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
        ("decision.json", lambda c: c.pop("policy"), r"decision_full\.json.*'policy'.*--from 7"),
        ("decision.json", lambda c: c.update(policy=None), r"decision_full\.json: policy: field"),
        ("decision.json", lambda c: c["policy"].pop("allow"), r"decision_full\.json.*'allow'.*7"),
        ("decision.json", lambda c: c["policy"].update(block=-1), r"json: policy\.block is -1"),
        ("decision.json", lambda c: c.update(temperatures=[]), r"temperatures\.mm_fusion is None"),
        *(
            (
                "decision.json",
                lambda c, value=value: c.update(fingerprints=value),
                r"decision_full\.json: fingerprints\.text_expert is .*--from 7",
            )
            for value in (None, 7, ["f"], "f", {}, {"text_expert": None})
        ),
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
    with pytest.raises(ValueError, match=rf"{model} is not the model.*--from 6"):
        bundle.verify(model_folders.models)


@pytest.mark.parametrize("kind", ["separable", "constant"])
def test_hopeless_logits_still_give_a_decision(logits_frame, model_folders, kind):
    frame = logits_frame(40)
    for model in MODELS:
        margin = 2.0 * frame["label"] - 1 if kind == "separable" else 0.0
        frame[f"{model}_logit_0"], frame[f"{model}_logit_1"] = 0.0, margin
    bundle = DecisionBundle.fit(frame, model_folders, n_resamples=10)
    assert set(bundle.temperatures.values()) == {1.0}
    assert "ok" not in {fit["status"] for fit in bundle.fits.values()}
    assert set(bundle.policy.decide([0.0, 0.5, 1.0])) <= {"allow", "review", "block"}
    bundle.save(model_folders)
    DecisionBundle.load(model_folders).summary()


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
    together = curves_table(curves)
    assert together["model"].unique().tolist() == list(reversed(MODELS))
    for model, rows in together.groupby("model"):
        pd.testing.assert_frame_equal(
            rows.drop(columns="model").reset_index(drop=True), curves[model]
        )
    for model in MODELS:
        file = model_folders.root / "Step_7" / f"thresholds_curve_{model}_full.csv"
        table = pd.read_csv(file)
        assert list(table) == ["threshold", "precision", "recall", "f1", "tp", "fp", "tn", "fn"]
        assert table["threshold"].tolist() == pytest.approx(np.linspace(0.1, 0.9, 17))
        assert (table[["tp", "fp", "tn", "fn"]].sum(axis=1) == len(val)).all()


def test_reliability_bins_are_those_of_the_ece(val, bundle):
    found = reliability(val, bundle.temperatures)
    for model in MODELS:
        for when, temperature in (("before", 1.0), ("after", bundle.temperatures[model])):
            bins, prob = found[model][when], prob_hate(logits_of(val, model), temperature)
            assert list(bins) == ["low", "high", "count", "mean_predicted", "observed"]
            assert len(bins) == 15 and bins["count"].sum() == len(val)
            apart = (bins["mean_predicted"] - bins["observed"]).abs() * bins["count"] / len(val)
            assert apart.sum() == pytest.approx(expected_calibration_error(prob, val["label"]))
            fullest = bins.loc[bins["count"].idxmax()]
            inside = (prob >= fullest["low"]) & (prob < fullest["high"])
            assert fullest["observed"] == pytest.approx(val["label"][inside].mean())
    edges = reliability_bins([0.0, 1.0], [0, 1])
    assert edges["count"].tolist() == [1, *[0] * 13, 1]
    assert edges["observed"][1:14].isna().all()


def test_the_cross_fitted_estimate_stands_beside_the_in_sample_one(val, bundle, model_folders):
    table = cross_fitted(val, bundle, model_folders, n_resamples=30)
    assert table["estimate"].tolist() == ["in-sample", "cross-fitted"] * 3
    wide = table.pivot(index="model", columns="estimate", values="f1")
    assert (wide["cross-fitted"] <= wide["in-sample"] + 1e-9).all()
    assert (table["f1_low"] <= table["f1"]).all()
    assert (table["f1"] <= table["f1_high"]).all()
    assert set(table["resampled"]) == {"memes"}
    for metric in ("macro_f1", "brier", "ece"):
        assert table[metric].between(0, 1).all()
        assert (table[f"{metric}_low"] < table[f"{metric}_high"]).all()
    prob = prob_hate(logits_of(val, "mm_fusion"), bundle.temperatures["mm_fusion"])
    rows = table.set_index(["model", "estimate"]).loc[("mm_fusion", "in-sample")]
    hate = prob >= bundle.thresholds["mm_fusion"]
    assert rows["macro_f1"] == pytest.approx(f1_score(val["label"], hate, average="macro"))
    assert rows["brier"] == pytest.approx(brier_score_loss(val["label"], prob))
    assert rows["brier_low"] < rows["brier"] < rows["brier_high"]


def test_a_threshold_above_all_scores_decides_for_certain_in_every_table(
    val, bundle, model_folders
):
    never = replace(bundle, thresholds=dict.fromkeys(MODELS, 2.0))
    choice = model_choice(val, never, model_folders, n_resamples=50)
    rows = cross_fitted(val, never, model_folders, n_resamples=50)
    in_sample = rows[rows["estimate"] == "in-sample"]
    assert (in_sample["f1_high"] == 0).all()
    assert set(choice["high"]) == set(in_sample["macro_f1_high"])


def test_the_cross_fitted_estimate_keeps_groups_together(val, bundle, model_folders):
    copies = pd.concat([val] * 4, ignore_index=True)
    table = cross_fitted(copies, bundle, model_folders, n_resamples=100)
    assert set(table["resampled"]) == {"groups"}
    strangers = copies.assign(group=[str(i) for i in range(len(copies))])
    leaked = cross_fitted(strangers, bundle, model_folders, n_resamples=100)

    def cross_fitted_row(found):
        return found[(found["model"] == "mm_fusion") & (found["estimate"] == "cross-fitted")].iloc[
            0
        ]

    together, apart = cross_fitted_row(table), cross_fitted_row(leaked)
    assert together["f1_high"] - together["f1_low"] > 1.3 * (apart["f1_high"] - apart["f1_low"])
    assert together["brier"] > apart["brier"]


def test_a_floor_that_a_fold_cannot_reach_leaves_the_in_sample_row(val, bundle, model_folders):
    objective = {"objective": "recall_at_precision", "floor": 1.0}
    strict = replace(bundle, objective=objective)
    # Hate scored lowest of all: no cut of a fold has a precision of 1.
    worst = val.assign(
        **{
            f"{model}_logit_{k}": np.where(val["label"] == k, -1.0, 1.0)
            for model in MODELS
            for k in (0, 1)
        }
    )
    with pytest.warns(UserWarning, match="has no cross-fitted estimate: in a fold"):
        table = cross_fitted(worst, strict, model_folders, n_resamples=5)
    assert table["estimate"].tolist() == ["in-sample"] * 3


def test_a_class_of_one_meme_leaves_the_in_sample_row(val, bundle, model_folders):
    lone = val.assign(label=[1] + [0] * (len(val) - 1))
    with pytest.warns(UserWarning, match="no cross-fitted estimate: .* two .* of each class"):
        table = cross_fitted(lone, bundle, model_folders, n_resamples=5)
    assert table["estimate"].tolist() == ["in-sample"] * 3


@pytest.mark.parametrize("groups", [1, 9])
def test_too_few_groups_are_not_resampled(val, groups):
    few = val.assign(group=[f"g{i % groups}" for i in range(len(val))])
    assert (groups_of(few), resampled(few)) == (None, "memes")


def test_the_model_is_chosen_with_its_evidence(val, bundle, model_folders):
    table = model_choice(val, bundle, model_folders, n_resamples=50)
    assert table["model"].iloc[0] == "mm_fusion"
    assert table["macro_f1"].is_monotonic_decreasing
    assert table["best_minus_this"].iloc[0] == 0
    assert (table["gap_low"].iloc[1:] > 0).all()
    copies = pd.concat([val] * 4, ignore_index=True)
    again = model_choice(copies, bundle, model_folders, n_resamples=200)
    assert set(again["resampled"]) == {"groups"}
    widths = [(found["gap_high"] - found["gap_low"]).iloc[2] for found in (table, again)]
    # Copies tell nothing new: the interval must not narrow by them.
    assert widths[1] == pytest.approx(widths[0], rel=0.35)


def test_a_tiny_temperature_survives_its_file(val, model_folders):
    logits = {name: val[name] * 1e-8 for name in val if "_logit_" in name}
    fitted = DecisionBundle.fit(val.assign(**logits), model_folders, 2)
    fitted.save(model_folders)
    back = DecisionBundle.load(model_folders)
    assert back.temperatures == fitted.temperatures
    assert all(0 < temperature < 1e-6 for temperature in back.temperatures.values())
