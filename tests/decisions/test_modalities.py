import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import f1_score, roc_auc_score

from lib.calibration import bootstrap_difference, prob_hate
from lib.config import MODELS
from lib.data.datasets import MemeShards, shard_paths
from lib.data.pictures import blank_picture
from lib.data.text import combined_text
from lib.decisions.bundle import DecisionBundle
from lib.decisions.modalities import CHANGES, COLUMNS, changed, modalities, modality_table, spread
from lib.decisions.nearest import features_of
from lib.modeling.fusion import load_fusion
from lib.modeling.prediction_table import groups_of, read_predictions, save_predictions
from lib.modeling.predictions import feature_logits


@pytest.fixture(scope="module")
def parts(full_root):
    fusion = load_fusion(full_root.models, "cpu")
    shards = shard_paths(full_root.shards, "test")
    features = features_of(full_root, fusion, shards)
    return fusion, features, read_predictions(full_root, "test"), DecisionBundle.load(full_root)


@pytest.fixture(scope="module")
def table(parts):
    return modality_table(*parts, n_resamples=50)


def test_intact_memes_are_judged_as_step_6_judged_them(parts, table):
    _, _, frame, decision = parts
    rows = table[table["change"] == "intact"].set_index("model")
    assert tuple(table) == COLUMNS
    for model in MODELS:
        logits = frame[[f"{model}_logit_0", f"{model}_logit_1"]]
        prob = prob_hate(logits, decision.temperatures[model])
        assert rows.loc[model, "auroc"] == pytest.approx(roc_auc_score(frame["label"], prob))
        pred = prob >= decision.thresholds[model]
        expected = f1_score(frame["label"], pred, average="macro")
        assert rows.loc[model, "macro_f1"] == pytest.approx(expected)


def test_an_expert_of_one_modality_loses_nothing_with_the_other(table):
    for change in CHANGES:
        model = "vision_expert" if change.startswith("text") else "text_expert"
        row = table[(table["change"] == change) & (table["model"] == model)]
        lost = row[[name for name in COLUMNS if "lost" in name]]
        assert (lost == 0).all(axis=None)


def test_what_is_lost_is_the_paired_difference_to_the_intact_memes(parts, table):
    fusion, features, frame, decision = parts
    prob = []
    for found in (features, changed(fusion, features, "texts shuffled")):
        logits = feature_logits(fusion.head, found)["mm_fusion"].double()
        prob.append(prob_hate(logits, decision.temperatures["mm_fusion"]))
    expected = bootstrap_difference(
        *prob, frame["label"], "auroc", n_resamples=50, groups=groups_of(frame)
    )
    rows = table.set_index(["change", "model"])
    row = rows.loc[("texts shuffled", "mm_fusion")]
    found = row[["auroc_lost", "auroc_lost_low", "auroc_lost_high"]].tolist()
    assert found == pytest.approx([expected.point, expected.low, expected.high])
    assert found[0] == pytest.approx(rows.loc[("intact", "mm_fusion"), "auroc"] - row["auroc"])


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_is_what_the_encoders_see_in_changed_memes(parts, full_root, change):
    fusion, features, _, _ = parts
    memes = MemeShards(shard_paths(full_root.shards, "test"))
    order = np.random.default_rng(0).permutation(len(memes))
    texts, images = memes.texts, [memes[i]["image"] for i in range(len(memes))]
    if change == "texts shuffled":
        texts = [texts[i] for i in order]
    elif change == "pictures shuffled":
        images = [images[i] for i in order]
    elif change == "text dropped":
        texts = [combined_text("")] * len(texts)
    else:
        images = [blank_picture()] * len(images)
    with torch.inference_mode():
        expected = fusion(texts, images)
    found = feature_logits(fusion.head, changed(fusion, features, change))
    for model in MODELS:
        torch.testing.assert_close(found[model], expected[model], atol=2e-3, rtol=1e-3)


def test_both_tables_are_written_the_same_again(full_root):
    decision = DecisionBundle.load(full_root)
    written = []
    for _ in range(2):
        found = modalities(full_root, decision)
        files = [full_root.artifact(7, f"{name}.csv") for name in ("pairs", "modalities")]
        written.append([file.read_bytes() for file in files])
    assert written[0] == written[1]
    assert len(pd.read_csv(files[1])) == len(found.effects) == 3 * (1 + len(CHANGES))


def test_one_class_leaves_metrics_empty(parts):
    fusion, features, frame, decision = parts
    rows = np.flatnonzero(frame["label"] == 1)
    found = modality_table(fusion, features.take(rows), frame.iloc[rows], decision, n_resamples=5)
    assert found["auroc"].isna().all()
    assert found["auroc_lost"].isna().all()


def test_predictions_of_other_memes_are_refused(full_root, tmp_path):
    elsewhere = full_root.model_copy(update={"root": tmp_path})
    (tmp_path / "Step_3").symlink_to(full_root.root / "Step_3")
    frame = read_predictions(full_root, "test")
    save_predictions(frame[1:], elsewhere.artifact(6, "predictions.parquet"))
    with pytest.raises(ValueError, match=r"not of the memes packed in 'test'.*--from 6"):
        modalities(elsewhere, DecisionBundle.load(full_root))


def test_of_many_shards_some_are_read_that_lie_all_over_the_split():
    shards = [f"shard-{i}" for i in range(40)]
    assert spread(shards, 256, 5_000) == [f"shard-{i * 40 // 19}" for i in range(19)]
    assert spread(shards[:3], 256, 5_000) == shards[:3]
    assert spread(shards, 100_000, 5_000) == shards[:1]
