import numpy as np
import pandas as pd
import pytest

from lib.config import MODELS, Settings
from lib.data.datasets import MemeShards, shard_paths
from lib.decisions import error_analysis
from lib.decisions.bundle import DecisionBundle
from lib.decisions.error_analysis import (
    SLICE_MINIMUM,
    error_counts,
    error_table,
    slice_counts,
    slices,
    surest_errors,
    write_errors,
)
from lib.modeling.prediction_table import read_predictions, save_predictions


def bundle(threshold=0.5, band=(0.4, 0.6)) -> DecisionBundle:
    return DecisionBundle(
        mode="full",
        fit_split="val",
        fit_part="calibrate",
        n=4,
        prevalence=0.5,
        objective={"objective": "f1"},
        temperatures=dict.fromkeys(MODELS, 2.0),
        thresholds=dict.fromkeys(MODELS, threshold),
        fits={},
        intervals={},
        resampled="memes",
        review_band=band,
        fingerprints={},
    )


def frame(label, **margins) -> pd.DataFrame:
    columns = {"id": [f"m{i}" for i in range(len(label))], "label": label}
    for model in MODELS:
        columns[f"{model}_logit_0"] = 0.0
        columns[f"{model}_logit_1"] = np.asarray(margins[model.split("_")[0]], dtype=float)
    return pd.DataFrame(columns)


@pytest.fixture
def table():
    found = frame(
        label=[1, 0, 1, 0],
        text=[9, -9, 9, -9],
        vision=[-9, -9, 9, -9],
        mm=[9, -9, -0.4, 4],
    )
    return error_table(found, [f"text {i}" for i in range(4)], bundle())


def metas(table, labels=None, **extra):
    """The packed fields of the rows of a table."""
    labels = labels or [{"target_type": "none"}] * len(table)
    more = [dict(zip(extra, values, strict=True)) for values in zip(*extra.values(), strict=True)]
    more = more or [{}] * len(table)
    return [
        {"dataset": "x", "labels": of_meme} | fields
        for of_meme, fields in zip(labels, more, strict=True)
    ]


def test_columns_are_the_documented_ones(table):
    assert list(table) == [
        *("index", "id", "text", "label"),
        *(f"{model}_{kind}" for model in MODELS for kind in ("prob", "pred")),
        *("error_type", "models_agree", "fusion_only_correct", "fusion_only_wrong"),
        "in_review_band",
    ]
    assert table["index"].tolist() == [0, 1, 2, 3]
    assert table["text"].tolist() == ["text 0", "text 1", "text 2", "text 3"]


def test_error_types_are_those_of_fusion(table):
    assert table["error_type"].tolist() == ["TP", "TN", "FN", "FP"]
    assert error_counts(table).to_dict() == {"TP": 1, "TN": 1, "FN": 1, "FP": 1}
    assert error_counts(table[:2]).to_dict() == {"TP": 1, "TN": 1, "FN": 0, "FP": 0}


def test_probabilities_are_calibrated(table):
    assert table["mm_fusion_prob"].iloc[3] == pytest.approx(1 / (1 + np.exp(-4 / 2)))


def test_slices_of_the_models_against_each_other(table):
    assert table["models_agree"].tolist() == [False, True, False, False]
    assert table["fusion_only_wrong"].tolist() == [False, False, True, True]
    assert not table["fusion_only_correct"].any()
    assert table["in_review_band"].tolist() == [False, False, True, False]


def test_the_threshold_itself_counts_as_hate():
    found = frame(label=[1], text=[0], vision=[0], mm=[0])
    table = error_table(found, [""], bundle(threshold=0.5))
    assert table["mm_fusion_pred"].tolist() == [1]


def test_surest_errors_come_first(table):
    assert surest_errors(table)["id"].tolist() == ["m3", "m2"]
    assert surest_errors(table, n=1)["id"].tolist() == ["m3"]


def test_small_slices_are_not_ranked():
    n = SLICE_MINIMUM + 10
    margins = np.where(np.arange(n) % 4 == 0, -5, 5)
    found = frame(label=[1] * n, text=margins, vision=margins, mm=margins)
    table = error_table(found, ["a b"] * n, bundle())
    concept = ["large"] * SLICE_MINIMUM + ["small"] * 10
    halves = [slice_counts(table[:20], metas(table[:20], concept=concept[:20]))]
    halves.append(slice_counts(table[20:], metas(table[20:], concept=concept[20:])))
    rows = slices(halves)
    whole = slices([slice_counts(table, metas(table, concept=concept))])
    pd.testing.assert_frame_equal(rows, whole)
    assert set(rows["slice"]) == {"concept"}
    rows = rows.set_index("value")
    assert rows.loc["large", "n"] == SLICE_MINIMUM
    assert rows.loc["large", "error_rate"] == pytest.approx(8 / 30)
    assert rows.loc["large", "verdict"] == ""
    assert rows.loc["small", "verdict"] == "insufficient"
    assert np.isnan(rows.loc["small", "error_rate"])
    assert rows["errors"].sum() == table["error_type"].eq("FN").sum()


def test_text_length_is_sliced_beyond_its_cut():
    found = frame(label=[1, 1], text=[5, 5], vision=[5, 5], mm=[5, 5])
    table = error_table(found, ["short", "w " * 40], bundle())
    rows = slices([slice_counts(table, metas(table))])
    assert rows[rows["slice"] == "text length"]["n"].tolist() == [1, 1]


def test_memes_of_no_value_in_a_field_are_not_lost():
    found = frame(label=[1, 1, 1], text=[5, 5, 5], vision=[5, 5, 5], mm=[5, 5, 5])
    table = error_table(found, ["text"] * 3, bundle())
    labels = [{"target_type": "group"}, {"target_type": None}, {"target_type": "person"}]
    rows = slices([slice_counts(table, metas(table, labels))])
    assert rows[rows["slice"] == "target_type"]["n"].sum() == 3


@pytest.fixture
def predicted(logits_frame, packed, tmp_path):
    """Settings of a root with packed memes and predictions of them, in random logits."""
    settings = Settings(mode="full", root=tmp_path)
    (settings.root / "Step_3").symlink_to(packed)
    frames = []
    for split in ("train", "test"):
        memes = MemeShards(shard_paths(settings.shards, split), pictures=False)
        found = logits_frame(len(memes), split)
        frames.append(found.assign(id=memes.ids, group=memes.groups, label=memes.labels))
    save_predictions(
        pd.concat(frames, ignore_index=True), settings.artifact(6, "predictions.parquet")
    )
    return settings


@pytest.mark.parametrize("chunk", [1, 5, 1000])
def test_the_streamed_table_is_the_table_whatever_the_chunks(predicted, chunk):
    errors = write_errors(predicted, bundle(), n_surest=3, chunk=chunk)
    memes = MemeShards(shard_paths(predicted.shards, "test"), pictures=False)
    whole = error_table(read_predictions(predicted, "test"), memes.texts, bundle())
    written = pd.read_csv(predicted.artifact(7, "errors.csv"))
    pd.testing.assert_frame_equal(written, whole, check_dtype=False, rtol=1e-8)
    assert errors.counts.to_dict() == error_counts(whole).to_dict()
    assert errors.surest["id"].tolist() == surest_errors(whole, 3)["id"].tolist()
    expected = slices([slice_counts(whole, memes.metas)])
    pd.testing.assert_frame_equal(errors.slices, expected)


def test_a_long_table_is_never_held_whole(predicted, monkeypatch):
    held = []

    def counted(frame, texts, *arguments):
        held.append(len(texts))
        return error_table(frame, texts, *arguments)

    monkeypatch.setattr(error_analysis, "error_table", counted)
    write_errors(predicted, bundle(), chunk=4)
    assert max(held) == 4


@pytest.mark.parametrize("change", ["renamed", "fewer", "more"])
def test_predictions_of_other_memes_are_refused_and_the_old_table_stays(predicted, change):
    write_errors(predicted, bundle())
    file = predicted.artifact(7, "errors.csv")
    before = file.read_bytes()
    frame = read_predictions(predicted, "test")
    if change == "renamed":
        frame.loc[1, "id"] = "stranger"
    frame = pd.concat([frame, frame[:1]]) if change == "more" else frame
    frame = frame[:-1] if change == "fewer" else frame
    save_predictions(frame, predicted.artifact(6, "predictions.parquet"))
    with pytest.raises(ValueError, match=r"not of the memes packed in 'test'.*--from 6"):
        write_errors(predicted, bundle(), chunk=3)
    assert file.read_bytes() == before
