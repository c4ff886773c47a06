import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy.stats import binomtest
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    brier_score_loss,
    f1_score,
    log_loss,
    precision_score,
    recall_score,
    roc_auc_score,
)

from lib.calibration import bootstrap_difference, fit_temperature, prob_hate
from lib.config import MODELS, Settings
from lib.data.datasets import MemeShards, shard_paths
from lib.decisions.bundle import DecisionBundle
from lib.decisions.compare import Comparison, compare, faults, main
from lib.decisions.compared_runs import default_modes, memes_of, paired, read_run
from lib.decisions.error_analysis import error_table
from lib.decisions.run_differences import (
    METRICS,
    Pair,
    calibration_of,
    metrics_of,
    sign_flips,
    slices_of,
    values_of,
)
from lib.decisions.slices import SLICES, slice_columns, slice_counts
from lib.decisions.spreadsheets import as_met
from lib.modeling.prediction_table import predictions_to_fit, save_predictions

N_TEST = 300


@pytest.fixture
def predictions(logits_frame):
    """Val to fit on and test to report, as Step 6 of a full run leaves them."""
    parts = [logits_frame(200, "val"), logits_frame(N_TEST, "test", seed=1)]
    found = pd.concat(parts, ignore_index=True)
    found.attrs = parts[0].attrs
    return found


@pytest.fixture
def root(model_folders, tmp_path):
    """Call it with a name and predictions: a root in which Steps 6 and 7 have run on them."""

    def made(name, frame, mode="full"):
        place = tmp_path / name
        if not place.exists():
            shutil.copytree(model_folders.root, place)
            (place / "Step_6" / "predictions_full.parquet").unlink()
        settings = Settings(mode=mode, root=place)
        if mode == "pilot":
            shutil.copytree(place / "models" / "full", place / "models", dirs_exist_ok=True)
        save_predictions(frame, settings.artifact(6, "predictions.parquet"))
        DecisionBundle.fit(predictions_to_fit(settings), settings, n_resamples=5).save(settings)
        return place

    return made


def noisier(frame, by=8.0, seed=5):
    """The same memes with noise on fusion's logits."""
    noise = np.random.default_rng(seed).normal(size=len(frame)) * by
    found = frame.assign(mm_fusion_logit_1=frame["mm_fusion_logit_1"] + noise)
    found.attrs = frame.attrs
    return found


def of_roots(a, b, mode="full", **options):
    runs = paired(read_run(a, mode), read_run(b, mode))
    return compare(*runs, **{"n_resamples": 200} | options)


def test_a_run_against_itself_differs_in_nothing(root, predictions, capsys):
    place = root("a", predictions)
    found = of_roots(place, place)
    assert found.flips.empty
    for table in (found.metrics, found.slices):
        judged = table[table["verdict"] != "insufficient"]
        assert (judged[["worse_by", "low", "high"]] == 0).all(axis=None)
        assert (judged["verdict"] == "not told apart").all()
    assert found.summary["calibration"]["verdict"] == "kept"
    margins = ["--no-slice-worse-by", "0", "--no-metric-worse-by", "0"]
    assert main([str(place), str(place), *margins]) == 0
    assert "Flipped decisions: 0" in capsys.readouterr().out


def test_flips_are_the_decisions_at_each_runs_own_temperature_and_threshold(root, predictions):
    a, b = root("a", predictions), root("b", noisier(predictions))
    found = of_roots(a, b)
    test = predictions[predictions["split"] == "test"].set_index("id")
    decided = {}
    for place, frame in ((a, predictions), (b, noisier(predictions))):
        rows = frame[frame["split"] == "test"].set_index("id")
        margin = rows["mm_fusion_logit_1"] - rows["mm_fusion_logit_0"]
        temperature = json.loads((place / "Step_7/calibration_full.json").read_text())["mm_fusion"]
        cut = json.loads((place / "Step_7/thresholds_full.json").read_text())["mm_fusion"]
        decided[place] = 1 / (1 + np.exp(-margin / temperature)) >= cut["abuse_hate"]
    flipped = test.index[decided[a] != decided[b]]
    assert len(flipped) > 10
    assert set(found.flips["id"]) == set(flipped)
    flips = found.flips.set_index("id")
    assert (flips["pred_b"] == decided[b][flips.index]).all()
    fixed = flips.index[flips["change"] == "fixed"]
    assert (decided[b][fixed] == test.loc[fixed, "label"]).all()
    assert found.summary["flips"] == {
        "all": len(flips),
        "fixed": len(fixed),
        "broken": len(flips) - len(fixed),
    }
    shift = (flips["prob_b"] - flips["prob_a"]).abs()
    assert flips["change"].is_monotonic_increasing
    assert shift[flips["change"] == "broken"].is_monotonic_decreasing
    assert shift[fixed].is_monotonic_decreasing


def test_a_probability_at_the_threshold_counts_as_hate_in_both_runs(root, predictions):
    place = root("a", predictions)
    for file, of_model in (("calibration", 2.0), ("thresholds", {"abuse_hate": 0.5})):
        content = dict.fromkeys(MODELS, of_model)
        (place / f"Step_7/{file}_full.json").write_text(json.dumps(content))
    run = read_run(place, "full")
    ties = run.frame.assign(mm_fusion_logit_0=0.0, mm_fusion_logit_1=0.0)
    below = ties.assign(mm_fusion_logit_1=-1e-6)
    found = compare(run._replace(frame=ties), run._replace(frame=below), n_resamples=5)
    assert (found.flips["pred_a"] == 1).all()
    assert (found.flips["pred_b"] == 0).all()
    assert len(found.flips) == N_TEST


def test_metrics_are_those_of_scikit_learn_and_worse_is_positive(root, predictions):
    a, b = root("a", predictions), root("b", noisier(predictions))
    found = of_roots(a, b)
    table = found.metrics.set_index("metric")
    assert list(table.index) == list(METRICS)
    for column, place in (("a", a), ("b", b)):
        run = read_run(place, "full")
        rows = error_table(run.frame, [""] * N_TEST, [{}] * N_TEST, run.decision)
        prob, pred, label = rows["mm_fusion_prob"], rows["mm_fusion_pred"], rows["label"]
        expected = {
            "accuracy": accuracy_score(label, pred),
            "macro_f1": f1_score(label, pred, average="macro"),
            "precision": precision_score(label, pred),
            "recall": recall_score(label, pred),
            "f1": f1_score(label, pred),
            "auroc": roc_auc_score(label, prob),
            "average_precision": average_precision_score(label, prob),
            "brier": brier_score_loss(label, prob),
            "nll": log_loss(label, prob),
        }
        assert table[column].drop("ece").to_dict() == pytest.approx(expected)
    gains = np.where([METRICS[name] for name in table.index], 1, -1)
    np.testing.assert_allclose(table["worse_by"], gains * (table["a"] - table["b"]), atol=1e-12)
    assert (table.loc[["auroc", "brier", "nll"], "verdict"] == "worse").all()
    back = of_roots(b, a).metrics.set_index("metric")
    np.testing.assert_allclose(back["worse_by"], -table["worse_by"], atol=1e-12)
    assert (back.loc[["auroc", "brier", "nll"], "verdict"] == "better").all()


def test_another_model_is_compared_by_its_own_decisions(root, predictions):
    a, b = root("a", predictions), root("b", noisier(predictions))
    assert len(of_roots(a, b).flips) > 0
    assert of_roots(a, b, model="text_expert").flips.empty


def test_groups_are_resampled_whole(root, predictions):
    copies = pd.concat([predictions] * 4, ignore_index=True)
    copies["id"] = [f"{id_}-{i}" for i, id_ in enumerate(copies["id"])]
    copies.attrs = predictions.attrs
    alone = of_roots(root("a", predictions), root("b", noisier(predictions)))
    # The copies of a meme get the same noise.
    noise = noisier(predictions)["mm_fusion_logit_1"]
    changed = copies.assign(mm_fusion_logit_1=np.tile(noise, 4))
    changed.attrs = copies.attrs
    together = of_roots(root("c", copies), root("d", changed))
    assert (alone.summary["resampled"], together.summary["resampled"]) == ("memes", "groups")

    def width(found, name="auroc"):
        row = found.metrics.set_index("metric").loc[name]
        return row["high"] - row["low"]

    assert width(together) == pytest.approx(width(alone), rel=0.35)


def test_calibration_is_lost_where_the_temperature_is(root, predictions):
    a, b = root("a", predictions), root("b", predictions)
    file = b / "Step_7" / "calibration_full.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"mm_fusion": 0.3}))
    assert of_roots(a, b).summary["calibration"]["verdict"] == "lost"
    assert of_roots(b, a).summary["calibration"]["verdict"] == "improved"


def test_a_file_alone_is_decided_as_step_7_decides(root, predictions, tmp_path):
    place = root("a", predictions)
    file = tmp_path / "alone.parquet"
    save_predictions(predictions, file)
    of_root, of_file = read_run(place, "full").decision, read_run(file, "full").decision
    assert of_file.temperatures == of_root.temperatures
    assert of_file.thresholds == of_root.thresholds
    found = compare(*paired(read_run(place, "full"), read_run(file, "full")), n_resamples=5)
    assert found.flips.empty


def test_what_selected_is_not_fitted_on(predictions, tmp_path):
    half = predictions.copy()
    half.loc[:99, "part"] = "select"
    save_predictions(half, tmp_path / "a.parquet")
    save_predictions(half.drop(index=range(100)), tmp_path / "b.parquet")
    a, b = (read_run(tmp_path / f"{name}.parquet", "full").decision for name in "ab")
    assert (a.n, a.temperatures, a.thresholds) == (100, b.temperatures, b.thresholds)


@pytest.fixture
def packed_roots(root, logits_frame, packed):
    """Two roots with shards, whose predictions are of the packed memes."""

    def frame(bad):
        parts = []
        for split in ("val", "test"):
            memes = MemeShards(shard_paths(packed / "full" / "shards", split), pictures=False)
            found = logits_frame(len(memes), split, seed=2)
            parts.append(found.assign(id=memes.ids, group=memes.groups, label=memes.labels))
        whole = pd.concat(parts, ignore_index=True)
        whole["mm_fusion_logit_1"] = whole["mm_fusion_logit_0"] + 6.0 * whole["label"] - 3
        if bad:
            whole.loc[whole["split"] == "test", "mm_fusion_logit_1"] *= -1
        whole.attrs = found.attrs
        return whole

    places = root("a", frame(False)), root("b", frame(True))
    for place in places:
        (place / "Step_3").symlink_to(packed)
    return places


def test_slices_come_from_the_shards_and_are_those_of_the_error_table(packed_roots, monkeypatch):
    monkeypatch.setattr("lib.decisions.slices.SLICE_MINIMUM", 3)
    found = of_roots(*packed_roots)
    run = read_run(packed_roots[0], "full")
    texts, metas = memes_of(run)
    table = error_table(run.frame, texts, metas, run.decision)
    counted = slice_counts(table, metas)
    values = slice_columns(table, metas)
    assert list(values) == list(SLICES)
    for name, value, n in zip(counted["slice"], counted["value"], counted["n"], strict=True):
        assert (values[name] == value).sum() == n
    judged = found.slices[found.slices["verdict"] != "insufficient"]
    assert len(judged)
    np.testing.assert_allclose(judged["worse_by"], judged["b"] - judged["a"])
    assert found.slices["worse_by"].dropna().is_monotonic_decreasing
    assert found.flips["text"].str.len().gt(0).all()


@pytest.fixture
def grouped(predictions):
    """The predictions, their memes in four groups, too few to be resampled."""
    found = predictions.assign(group=[f"g{row // 2 % 4}" for row in range(len(predictions))])
    found.attrs = predictions.attrs
    return found


def test_a_candidate_as_good_fails_no_slice(root, grouped):
    """Exchangeable runs of one decision: a slice made of A's own scores would flatter A."""
    place, failed = root("a", grouped), 0
    sliced_by(place, "group", "agreement", "fusion_only_correct", "decision")
    run = read_run(place, "full")
    for world in range(20):
        a, b = (run._replace(frame=noisier(run.frame, 4.0, 2 * world + k)) for k in (0, 1))
        found = compare(*paired(a, b), n_resamples=200)
        assert set(found.slices["slice"]) == {"group"}
        failed += bool(faults(found, slice_worse_by=0.0))
    # At most 5% for all slices together: more than four of 20 has a probability of 0.003.
    assert failed <= 4


def test_the_intervals_of_slices_hold_for_all_of_them_together(root, grouped):
    a, b = root("a", grouped), root("b", noisier(grouped))
    sliced_by(a, "group")
    found = of_roots(a, b)
    runs = [read_run(place, "full") for place in (a, b)]
    tables = [error_table(run.frame, [""] * N_TEST, [{}] * N_TEST, run.decision) for run in runs]
    judged = found.slices[found.slices["verdict"] != "insufficient"]
    assert len(judged) > 1
    for row in judged.to_dict("records"):
        members = tables[0][row["slice"]].astype(str) == row["value"]
        wrong = [table["mm_fusion_pred"][members] != table["label"][members] for table in tables]
        assert row["n"] == members.sum()
        assert (row["a"], row["b"]) == pytest.approx((wrong[0].mean(), wrong[1].mean()))
        together = bootstrap_difference(
            *(table["mm_fusion_prob"][members] for table in tables),
            tables[0]["label"][members],
            "accuracy",
            n_resamples=200,
            level=1 - 0.05 / len(judged),
            thresholds=tuple(run.decision.thresholds["mm_fusion"] for run in runs),
        )
        found_here = (row["worse_by"], row["low"], row["high"])
        assert found_here == pytest.approx((together.point, together.low, together.high))


def sliced_by(place, *fields):
    """Let the run under this root have been sliced by these fields."""
    (place / "runs" / "full").mkdir(parents=True)
    content = json.dumps({"slice_by": list(fields)})
    (place / "runs" / "full" / "settings.json").write_text(content)


def test_errors_are_sliced_by_the_fields_of_the_run_in_use(packed_roots):
    sliced_by(packed_roots[0], "phrasing", "offensive")
    found = of_roots(*packed_roots).slices
    _, metas = memes_of(read_run(packed_roots[0], "full"))
    phrasing = pd.Series([meta["phrasing"] for meta in metas]).value_counts()
    rows = found[found["slice"] == "phrasing"].set_index("value")["n"]
    assert rows.to_dict() == phrasing.to_dict()
    assert set(found.loc[found["slice"] == "offensive", "value"]) == {"0", "1"}
    assert "phrasing" not in set(of_roots(*reversed(packed_roots)).slices["slice"])


def test_fields_that_nobody_knows_here_make_no_slice(root, predictions):
    a = root("a", predictions)
    sliced_by(a, "phrasing")
    with pytest.warns(UserWarning, match=r"\['phrasing'\] is not known here"):
        found = of_roots(a, a)
    assert "phrasing" not in set(found.slices["slice"])


def test_the_rarer_of_many_values_are_compared_together(root, predictions):
    a, b = root("a", predictions), root("b", noisier(predictions, by=30.0))
    runs = paired(read_run(a, "full"), read_run(b, "full"))
    # Four memes of each of 50 groups, one of each of 99 further ones, and one of none: 49 groups
    # are told apart.
    groups = [*np.repeat(np.arange(50), 4).astype(str), *np.arange(50, 149).astype(str), ""]
    runs = [
        run._replace(
            frame=run.frame.assign(group=groups),
            settings=run.settings.model_copy(update={"slice_by": ["group"]}),
        )
        for run in runs
    ]
    found = compare(*runs, n_resamples=50).slices
    rows = found[(found["slice"] == "group") & (found["value"] == "(other values)")]
    assert rows["n"].tolist() == [103]
    tables = [error_table(run.frame, [""] * N_TEST, [{}] * N_TEST, run.decision) for run in runs]
    wrong = [table["mm_fusion_pred"] != table["label"] for table in tables]
    listed = set(found.loc[found["slice"] == "group", "value"])
    others = ~tables[0]["group"].isin(listed) & (tables[0]["group"] != "")
    assert others.sum() == 103
    expected = wrong[1][others].mean() - wrong[0][others].mean()
    assert rows["worse_by"].iloc[0] == pytest.approx(expected)


def test_slices_under_30_memes_are_insufficient_and_fail_nothing(packed_roots):
    found = of_roots(*packed_roots)
    assert len(found.slices)
    assert (found.slices["verdict"] == "insufficient").all()
    assert found.slices[["a", "b", "worse_by", "low", "high"]].isna().all(axis=None)
    assert faults(found, slice_worse_by=0.0) == []


def test_a_margin_that_nothing_can_be_held_to_is_no_pass(root, predictions, packed_roots, capsys):
    for places in ((root("one", predictions), root("two", noisier(predictions))), packed_roots):
        assert main([*map(str, places), "--no-slice-worse-by", "0.5"]) == 2
        assert "--no-slice-worse-by 0.5: no slice can be judged" in capsys.readouterr().err
        assert main([*map(str, places)]) == 0


def test_a_slice_of_too_few_groups_to_be_resampled_is_insufficient(root, predictions):
    """30 groups in all, but one value of the slice is a handful of them."""
    groups = [
        f"{'few' if row % 10 < 4 else 'many'}{row % 3 if row % 10 < 4 else row % 27}"
        for row in range(len(predictions))
    ]
    frame = predictions.assign(group=groups)
    frame.attrs = predictions.attrs
    a = read_run(root("a", frame), "full")
    metas = [{"kind": group[:3]} for group in a.frame["group"]]
    told = error_table(a.frame, [""] * len(metas), metas, a.decision)
    prob = told["mm_fusion_prob"].to_numpy()
    decided = told["mm_fusion_pred"].to_numpy()
    pair = Pair(a.frame, told, (prob, prob), (decided, decided), (0.5, 0.5))
    found = slices_of(pair, metas, ["kind"], {"seed": 0, "n_resamples": 50})
    verdicts = found.set_index("value")["verdict"]
    assert (verdicts["few"], verdicts["man"]) == ("insufficient", "not told apart")


def test_a_slice_of_almost_one_label_is_judged(root, predictions):
    """Accuracy needs no two labels: what breaks must not pass for having one hateful meme."""
    n = len(predictions)
    label = [int(row % 2 == 0 and (row < n - 200 or row == n - 2)) for row in range(n)]
    kinds = [f"{'rare' if row >= n - 200 else 'usual'}{row // 2}" for row in range(n)]
    frame = predictions.assign(label=label, group=kinds)
    frame.attrs = predictions.attrs
    a = read_run(root("a", frame), "full")
    metas = [{"kind": group[:4]} for group in a.frame["group"]]
    told = error_table(a.frame, [""] * len(metas), metas, a.decision)
    right = a.frame["label"].to_numpy() * 0.8 + 0.1
    broken = np.where(a.frame["group"].str.startswith("rare"), 1 - right, right)
    decided = tuple((prob >= 0.5).astype(int) for prob in (right, broken))
    pair = Pair(a.frame, told, (right, broken), decided, (0.5, 0.5))
    found = slices_of(pair, metas, ["kind"], {"seed": 0, "n_resamples": 50})
    assert found.set_index("value")["verdict"].to_dict() == {
        "rare": "worse",
        "usua": "not told apart",
    }


def test_shards_without_the_predicted_memes_are_refused(packed_roots, capsys):
    for place in packed_roots:
        settings = Settings(mode="full", root=place)
        frame = pd.read_parquet(settings.artifact(6, "predictions.parquet"))
        frame["id"] = [f"stranger {i}" for i in range(len(frame))]
        save_predictions(frame, settings.artifact(6, "predictions.parquet"))
        DecisionBundle.fit(predictions_to_fit(settings), settings, 5).save(settings)
    assert main([*map(str, packed_roots)]) == 2
    assert "lacks" in one_line(capsys)


@pytest.fixture
def other_texts(monkeypatch):
    """Both runs have packed the same ids with other texts."""
    texts = iter((["as read before"] * 99, ["as read anew"] * 99))
    monkeypatch.setattr(MemeShards, "texts", property(lambda _: next(texts)))


def test_an_id_that_stands_for_another_meme_is_refused(
    packed_roots, other_texts, monkeypatch, capsys
):
    # Generated memes are numbered alike, whatever they are.
    rng = np.random.default_rng(0)
    monkeypatch.setattr(
        MemeShards,
        "__getitem__",
        lambda *_: {"image": Image.fromarray(rng.integers(0, 255, (40, 40, 3), dtype=np.uint8))},
    )
    assert main([*map(str, packed_roots)]) == 2
    assert "have another picture too, the first is" in one_line(capsys)


def test_another_text_of_the_same_picture_is_the_same_meme(packed_roots, other_texts):
    a, b = paired(*(read_run(place, "full") for place in packed_roots))
    assert a.frame["id"].tolist() == b.frame["id"].tolist()


def test_predictions_of_other_shards_are_refused(packed_roots, capsys):
    settings = Settings(mode="full", root=packed_roots[0])
    frame = pd.read_parquet(settings.artifact(6, "predictions.parquet"))
    for made_of, said in (
        ({"test": "0" * 16}, "other shards than"),
        ([1], "'shards' in its metadata is no object"),
    ):
        frame.attrs["shards"] = made_of
        save_predictions(frame, settings.artifact(6, "predictions.parquet"))
        assert main([*map(str, packed_roots)]) == 2
        assert said in one_line(capsys)


def test_the_cells_of_one_run_are_no_slice_of_both(root, predictions):
    a, b = (read_run(root(name, predictions), "full") for name in "ab")
    a = a._replace(settings=a.settings.model_copy(update={"slice_by": ["error_type", "group"]}))
    found = compare(*paired(a, b), n_resamples=20)
    assert "error_type" not in set(found.slices["slice"])


def one_line(capsys):
    """The only line of standard error."""
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = captured.err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    return lines[0]


@pytest.mark.parametrize(
    ("margin", "code", "said"),
    [
        ([], 0, ""),
        (["--no-metric-worse-by", "0"], 1, "failed: accuracy is worse by "),
        (["--no-metric-worse-by", "0.99"], 0, ""),
        (["--no-slice-worse-by", "0.01"], 1, "failed: group g"),
        (["--no-slice-worse-by", "0.99"], 0, ""),
    ],
)
def test_the_exit_code_says_whether_a_margin_was_exceeded(
    root, grouped, capsys, tmp_path, margin, code, said
):
    places = [str(root("a", grouped)), str(root("b", noisier(grouped, by=30.0)))]
    for place in places:
        sliced_by(Path(place), "group")
    assert main([*places, *margin, "--out", str(tmp_path / "out")]) == code
    errors = capsys.readouterr().err
    assert said in errors
    written = json.loads((tmp_path / "out" / "compare.json").read_text())
    assert len(written["faults"]) == len(errors.splitlines())
    assert main([*reversed(places), *margin]) == 0


def test_a_difference_fails_only_with_its_whole_interval_beyond_the_margin(root, predictions):
    found = of_roots(root("a", predictions), root("b", noisier(predictions)))
    row = found.metrics.set_index("metric").loc["auroc"]
    assert 0 < row["low"] < row["worse_by"]
    between = (row["low"] + row["worse_by"]) / 2
    only = found._replace(metrics=found.metrics[found.metrics["metric"] == "auroc"])
    assert faults(only, metric_worse_by=between) == []
    assert faults(only, metric_worse_by=row["low"]) == []
    assert len(faults(only, metric_worse_by=row["low"] - 1e-6)) == 1


def test_recall_lost_for_precision_fails_nothing(root, predictions):
    a, b = root("a", predictions), root("b", predictions)
    file = b / "Step_7" / "thresholds_full.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"mm_fusion": {"abuse_hate": 0.95}}))
    found = of_roots(a, b)
    table = found.metrics.set_index("metric")["verdict"]
    assert (table["recall"], table["precision"]) == ("worse", "better")
    assert not [line for line in faults(found, metric_worse_by=0.0) if line.startswith("recall")]


def test_what_is_written_is_the_same_again(root, predictions, tmp_path):
    places = [str(root("a", predictions)), str(root("b", noisier(predictions)))]
    for name in ("one", "two"):
        assert main([*places, "--out", str(tmp_path / name)]) == 0
    for file in ("flips.csv", "compare.json"):
        one, two = ((tmp_path / name / file).read_bytes() for name in ("one", "two"))
        assert one == two
    assert list(pd.read_csv(tmp_path / "one" / "flips.csv")) == [
        *("id", "text", "label", "prob_a", "pred_a", "prob_b", "pred_b", "change")
    ]
    assert str(tmp_path) not in (tmp_path / "one" / "compare.json").read_text()


def test_decisions_of_the_two_policies_are_compared(root, predictions, tmp_path, capsys):
    a, b = root("a", predictions), root("b", predictions)
    file = b / "Step_7/decision_full.json"
    content = json.loads(file.read_text())
    content["policy"] |= {"allow": 0.3, "block": 0.3}
    file.write_text(json.dumps(content))
    assert main([str(a), str(b), "--out", str(tmp_path)]) == 0
    prob, moved = (
        pd.read_csv(tmp_path / "decisions.csv"),
        json.loads((tmp_path / "compare.json").read_text())["decisions"],
    )
    assert set(prob["decision_b"]) <= {"allow", "block"}
    assert (prob["decision_a"] != prob["decision_b"]).all()
    counted = sum(n for own, row in moved.items() for other, n in row.items() if own != other)
    assert counted == len(prob) > 0
    assert all(row["review"] == 0 for row in moved.values())
    assert f"Decided otherwise by the policies: {counted}" in capsys.readouterr().out


def test_no_cell_of_the_flips_runs_in_a_spreadsheet(root, predictions, tmp_path):
    hostile = predictions.assign(id="=1+" + predictions["id"])
    hostile.attrs = predictions.attrs
    places = [str(root("a", hostile)), str(root("b", noisier(hostile)))]
    assert main([*places, "--out", str(tmp_path)]) == 0
    flips = pd.read_csv(tmp_path / "flips.csv")
    assert len(flips) and flips["id"].str.startswith("'=1+test").all()
    assert as_met(tmp_path / "flips.csv")["id"].isin(hostile["id"]).all()


def test_one_class_leaves_some_metrics_undefined(root, predictions, tmp_path):
    hate = predictions[(predictions["split"] == "val") | (predictions["label"] == 1)]
    hate.attrs = predictions.attrs
    place = root("a", hate)
    table = of_roots(place, place).metrics.set_index("metric")
    undefined = table.index[table["verdict"] == "undefined"].tolist()
    assert undefined == ["macro_f1", "auroc", "average_precision"]
    assert main([str(place), str(place), "--out", str(tmp_path / "out")]) == 0
    assert json.loads((tmp_path / "out" / "compare.json").read_text())["metrics"][5]["a"] is None


def changed(frame, **columns):
    found = frame.assign(**columns)
    found.attrs = frame.attrs
    return found


@pytest.fixture
def spoilt(predictions, tmp_path):
    """Call it with a change of the predictions: two files, the second changed."""

    def files(change):
        other = change(predictions)
        other.attrs = predictions.attrs
        save_predictions(predictions, tmp_path / "a.parquet")
        save_predictions(other, tmp_path / "b.parquet")
        return [str(tmp_path / "a.parquet"), str(tmp_path / "b.parquet")]

    return files


def other_labels(frame):
    label = frame["label"].where(frame.index < 498, 1 - frame["label"])
    return changed(frame, label=label)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda f: f[:-3], "297 shared, 3 in A alone, 0 in B alone, 0 shared ones"),
        (other_labels, "300 shared, 0 in A alone, 0 in B alone, 2 shared ones with different"),
        (lambda f: changed(f, id="x" + f["id"]), "share no memes: A reports 300 of 'test'"),
        (lambda f: changed(f, id=f["id"].replace("test1", "test0")), "'id' repeats 1 ids"),
        (lambda f: f.drop(columns="group"), "no column 'group'"),
        (lambda f: f[200:], "no rows of split 'val', part 'calibrate', to fit"),
        (
            lambda f: changed(f, group=f["group"].where(f.index > 4)),
            "'group' has 5 values that are",
        ),
        (lambda f: changed(f, label=2), "'label' has values other than 0 and 1"),
        (
            lambda f: changed(f, mm_fusion_logit_1=f["mm_fusion_logit_1"].where(f.index > 4)),
            "column 'mm_fusion_logit_1' has 5 values that are not finite",
        ),
    ],
)
def test_bad_predictions_are_refused_in_one_line(spoilt, capsys, change, said):
    assert main(spoilt(change)) == 2
    assert said in one_line(capsys)


def test_overlap_compares_the_shared_memes(spoilt, capsys):
    assert main([*spoilt(lambda f: f[:-3]), "--overlap"]) == 0
    assert "on 297 memes" in capsys.readouterr().out


def test_places_without_predictions_are_refused(tmp_path, capsys):
    (tmp_path / "text.parquet").write_text("no table")
    for place, said in (
        ("nowhere", "neither a Parquet file nor a root"),
        ("text.parquet", "is not a"),
    ):
        assert main([str(tmp_path / place)] * 2) == 2
        assert said in one_line(capsys)


def test_a_root_must_have_run_step_7_on_these_predictions(root, predictions, capsys):
    place = root("a", predictions)
    save_predictions(noisier(predictions), place / "Step_6" / "predictions_full.parquet")
    assert main([str(place)] * 2) == 2
    assert "was fitted on other predictions" in one_line(capsys)
    (place / "Step_7" / "decision_full.json").unlink()
    assert main([str(place)] * 2) == 2
    assert "decision_full.json does not exist" in one_line(capsys)


@pytest.mark.parametrize(
    "options", [["--no-metric-worse-by", "-1"], ["--no-slice-worse-by", "nan"], ["--mode", "best"]]
)
def test_options_out_of_range_are_refused(options, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["a", "b", *options])
    assert "expected" in capsys.readouterr().err


def test_full_is_compared_where_both_have_it(root, predictions, logits_frame):
    pilot = logits_frame(60, "train")
    a, b = root("a", predictions), root("b", pilot, "pilot")
    assert default_modes(a, a) == ("full", "full")
    assert default_modes(a, b) == ("full", "pilot")
    root("a", pilot, "pilot")
    assert default_modes(a, a) == ("full", "full")
    assert default_modes(a, b) == ("pilot", "pilot")


def test_a_pilot_is_compared_with_a_full_run_on_the_memes_they_share(
    root, predictions, logits_frame, capsys
):
    pilot = logits_frame(60, "train")
    a, b = root("a", pilot, "pilot"), root("b", predictions)
    assert main([str(a), str(b)]) == 2
    assert "share no memes: A reports 60 of 'train', B 300 of 'test'" in one_line(capsys)
    renamed = changed(pilot, id=pilot["id"].str.replace("train", "test"))
    assert main([str(root("c", renamed, "pilot")), str(b), "--mode", "pilot,full"]) == 0
    assert "on 60 memes" in capsys.readouterr().out


def flipped(kinds, change, groups=None):
    """A pair whose B broke the memes where `change` (N,) is 1 and fixed those where it is -1."""
    n = len(kinds)
    label = np.arange(n) % 2
    frame = pd.DataFrame({"label": label, "group": np.arange(n) if groups is None else groups})
    constant = {"text_words": 5, "ocr_missing": False, "language": "en", "dataset": "x"}
    table = frame.assign(target_type="none", **constant, kind=kinds)
    decided = tuple(np.where(change == sign, 1 - label, label) for sign in (-1, 1))
    return Pair(frame, table, tuple(pred * 0.8 + 0.1 for pred in decided), decided, (0.5, 0.5))


def changes(pair):
    options = {"seed": 0, "n_resamples": 1000}
    return slices_of(pair, [{}] * len(pair.frame), ["kind"], options)


def test_a_handful_of_flips_is_not_worse_where_many_slices_are_judged():
    kinds = np.repeat(np.arange(20), 60).astype(str)
    change = np.zeros(1200, int)
    change[:8], change[60:76] = 1, 1
    rows = changes(flipped(kinds, change)).set_index("value")
    assert rows.loc["0", "low"] > 0
    assert rows.loc["0", "p_value"] == pytest.approx(binomtest(8, 8).pvalue)
    assert rows.loc[["0", "1", "2"], "verdict"].tolist() == [
        *("not told apart", "worse", "not told apart")
    ]
    found = Comparison({}, pd.DataFrame(), pd.DataFrame({"metric": []}), rows.reset_index())
    assert [line.split(" is ")[0] for line in faults(found, slice_worse_by=0.0)] == ["kind 1"]


@pytest.mark.parametrize("company", [1, 3])
def test_slices_of_a_candidate_as_good_are_seldom_told_apart(company):
    """20 slices of 60 groups, ten of which flip, as often for the better as for the worse."""
    rng, called = np.random.default_rng(2), 0
    kinds = np.repeat(np.arange(20), 60)
    for _ in range(30):
        change = rng.choice([1, -1, 0], 1200, p=[1 / 12, 1 / 12, 5 / 6])
        memes = [np.repeat(each, company) for each in (kinds.astype(str), change, np.arange(1200))]
        called += changes(flipped(*memes))["verdict"].isin(["worse", "better"]).any()
    assert called <= 3


def test_the_test_of_flips_is_mcnemars_for_memes_and_counts_groups_by_their_sizes():
    for broken, fixed in ((0, 0), (1, 0), (6, 0), (12, 5), (300, 240)):
        sums = np.repeat([1, -1, 0], [broken, fixed, 50])
        expected = binomtest(broken, broken + fixed).pvalue if broken else 1.0
        assert sign_flips(sums) == sign_flips(-sums) == pytest.approx(expected)
    sums = np.array([5, -1, 2, 2, 3, -4])
    signs = np.array(np.meshgrid(*[[-1, 1]] * len(sums))).reshape(len(sums), -1)
    as_far = np.abs(np.abs(sums) @ signs) >= abs(sums.sum())
    assert sign_flips(sums) == pytest.approx(as_far.mean())


@pytest.mark.parametrize("company", [1, 4])
def test_calibration_is_not_lost_by_scores_that_dare_more(company):
    """A knows nothing and B much, and both are calibrated: A's scores share a bin of the ECE."""
    rng, found = np.random.default_rng(0), []
    for _ in range(20):
        z = rng.normal(0, 2, 300)
        label = np.repeat(rng.random(300) < prob_hate(z), company).astype(int)
        fit, noise = rng.normal(0, 2, 300), rng.normal(0, 1, 300)
        of_fit = (rng.random(300) < prob_hate(fit)).astype(int)
        temperature = fit_temperature(fit, of_fit).temperature
        timid, daring = (
            np.repeat(prob_hate(logits, by), company)
            for logits, by in ((noise, 30.0), (z, temperature))
        )
        frame = pd.DataFrame({"label": label, "group": np.repeat(np.arange(300), company)})
        for prob in ((timid, daring), (daring, timid)):
            decided = tuple((each >= 0.5).astype(int) for each in prob)
            pair = Pair(frame, frame, prob, decided, (0.5, 0.5))
            values = values_of(pair)
            table = metrics_of(pair, values, {"seed": 0, "n_resamples": 100})
            found.append(calibration_of(table, values)["verdict"])
            empty = Comparison({}, pd.DataFrame(), table, pd.DataFrame({"low": [], "verdict": []}))
            assert any("ece" in line for line in faults(empty, metric_worse_by=0.0)) == (
                found[-1] == "lost"
            )
    assert found.count("lost") <= 2
    assert found.count("improved") <= 2
