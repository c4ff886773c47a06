from dataclasses import replace

import nbformat
import numpy as np
import pandas as pd
import pytest

from lib.config import MODELS, ROOT, Settings
from lib.data.datasets import MemeShards, shard_paths
from lib.decisions import error_analysis
from lib.decisions.bundle import DecisionBundle
from lib.decisions.error_analysis import (
    confidence,
    error_counts,
    error_table,
    surest_errors,
    write_errors,
)
from lib.decisions.fairness import fairness
from lib.decisions.nearest import COLUMNS as NEAREST
from lib.decisions.policy import Policy
from lib.decisions.slices import joined_counts, slice_counts, slices
from lib.decisions.spreadsheets import as_met
from lib.modeling.prediction_table import read_predictions, save_predictions

UNCACHED = pytest.mark.filterwarnings("ignore:the nearest training memes are left out")


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
        policy=replace(Policy.at_threshold(threshold), allow=band[0], block=band[1]),
        fingerprints={},
    )


def frame(label, **margins) -> pd.DataFrame:
    ids = [f"m{i}" for i in range(len(label))]
    columns = {"id": ids, "group": ids, "label": label}
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
    texts = [f"text {i}" for i in range(4)]
    return error_table(found, texts, metas(found), bundle())


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
        *("decision", "confidence", "agreement", "group", "dataset", "language", "target_type"),
        *("text_words", "ocr_missing"),
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
    table = error_table(found, [""], metas(found), bundle(threshold=0.5))
    assert table["mm_fusion_pred"].tolist() == [1]


def test_surest_errors_come_first(table):
    assert surest_errors(table)["id"].tolist() == ["m3", "m2"]
    assert surest_errors(table, n=1)["id"].tolist() == ["m3"]


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


@UNCACHED
@pytest.mark.parametrize("chunk", [1, 5, 1000])
def test_the_streamed_table_is_the_table_whatever_the_chunks(predicted, chunk):
    errors = write_errors(predicted, bundle(), n_surest=3, chunk=chunk)
    memes = MemeShards(shard_paths(predicted.shards, "test"), pictures=False)
    found = read_predictions(predicted, "test")
    whole = error_table(found, memes.texts, memes.metas, bundle())
    written = pd.read_csv(predicted.artifact(7, "errors.csv"), keep_default_na=False)
    pd.testing.assert_frame_equal(written[list(whole)], whole, check_dtype=False, rtol=1e-8)
    assert list(written) == [*whole, *NEAREST, "text length", "concept"]
    assert errors.counts.to_dict() == error_counts(whole).to_dict()
    assert errors.surest["id"].tolist() == surest_errors(whole, 3)["id"].tolist()
    counts = joined_counts([slice_counts(whole, memes.metas)])
    pd.testing.assert_frame_equal(errors.slices, slices([counts]))
    pd.testing.assert_frame_equal(errors.fairness, fairness(counts))
    for name in ("slices", "fairness"):
        stored = as_met(predicted.artifact(7, f"{name}.csv"))
        assert list(stored["value"]) == list(getattr(errors, name)["value"])


def test_confidence_is_the_share_of_the_way_from_the_threshold_to_certainty():
    found = confidence(np.array([0.0, 0.1, 0.2, 0.6, 1.0]), 0.2)
    np.testing.assert_allclose(found, [1.0, 0.5, 0.0, 0.5, 1.0])
    assert confidence(np.array([1.0]), 1.0).tolist() == [0.0]


def test_agreement_counts_the_models_that_decide_as_fusion_does(table):
    assert table["agreement"].tolist() == [2, 3, 1, 1]
    assert (table["agreement"] == 3).tolist() == table["models_agree"].tolist()


def test_a_text_is_described_without_its_markers():
    found = frame(label=[1, 0, 1], text=[0] * 3, vision=[0] * 3, mm=[0] * 3)
    texts = [
        "[OCR] two words [/OCR] [CAP] [/CAP] <lang=de>",
        "[OCR] [/OCR] [CAP] a grey clock [/CAP] <lang=en>",
        "",
    ]
    table = error_table(found, texts, metas(found, lang=["de", "en", "en"]), bundle())
    assert table["text_words"].tolist() == [2, 3, 0]
    assert table["ocr_missing"].tolist() == [False, True, True]
    assert table["language"].tolist() == ["de", "en", "en"]


@UNCACHED
def test_errors_are_sliced_by_fields_that_are_named_and_unknown_ones_are_refused(predicted):
    named = predicted.model_copy(update={"slice_by": ["phrasing", "offensive"]})
    found = write_errors(named, bundle()).slices
    memes = MemeShards(shard_paths(predicted.shards, "test"), pictures=False)
    phrasing = pd.Series([meta["phrasing"] for meta in memes.metas])
    rows = found[found["slice"] == "phrasing"].set_index("value")["n"]
    assert rows.to_dict() == phrasing.value_counts().to_dict()
    assert set(found.loc[found["slice"] == "offensive", "value"]) == {"0", "1"}
    table = pd.read_csv(named.artifact(7, "errors.csv"), keep_default_na=False, dtype=str)
    assert list(table)[-4:] == ["text length", "concept", "phrasing", "offensive"]
    assert table["phrasing"].tolist() == phrasing.astype(str).tolist()
    medium = table.loc[table["text_words"].astype(int).between(11, 20), "text length"]
    assert len(medium) and set(medium) == {"11 to 20 words"}
    of_table = {"slice_by": ["text length", "nearest_1_label"]}
    write_errors(predicted.model_copy(update=of_table), bundle())
    named.artifact(7, "errors.csv").unlink()
    write_errors(named, bundle())
    before = named.artifact(7, "errors.csv").read_bytes()
    wrong = predicted.model_copy(update={"slice_by": ["colour"]})
    with pytest.raises(ValueError, match=r"slice_by: no meme has a field 'colour'; known: .*lang"):
        write_errors(wrong, bundle())
    assert named.artifact(7, "errors.csv").read_bytes() == before


def test_a_field_that_no_packed_meme_has_is_refused_before_there_are_predictions(packed):
    settings = Settings(mode="full", root=packed.parent)
    fields = ["phrasing", "offensive", "text length", "concept", "text_words", "nearest_1_label"]
    error_analysis.check_slice_by(settings.model_copy(update={"slice_by": fields}))
    wrong = settings.model_copy(update={"slice_by": ["phrasing", "phrasng"]})
    with pytest.raises(ValueError, match=r"no meme has a field 'phrasng'; known: .*phrasing"):
        error_analysis.check_slice_by(wrong)


def test_step_7_refuses_a_misspelt_field_before_it_reads_predictions(packed):
    notebook = nbformat.read(ROOT / "Step_7/step7_analysis.ipynb", as_version=4)
    _, checks, *_ = (cell.source for cell in notebook.cells if cell.cell_type == "code")
    given = {"mode": "full", "root": str(packed.parent), "slice_by": ["phrasng"]}
    with pytest.raises(ValueError, match=r"no meme has a field 'phrasng'; known: .*phrasing"):
        exec(checks, given)


def test_the_columns_that_slices_may_name_are_those_of_the_table(table):
    assert list(table) == list(error_analysis.COLUMNS)


def test_without_models_or_features_the_nearest_memes_are_empty_and_it_says_so(predicted):
    with pytest.warns(UserWarning, match="nearest training memes are left out: .*config.json"):
        write_errors(predicted, bundle())
    assert pd.read_csv(predicted.artifact(7, "errors.csv"))[list(NEAREST)].isna().all(axis=None)


@UNCACHED
def test_a_long_table_is_never_held_whole(predicted, monkeypatch):
    held = []

    def counted(frame, texts, *arguments):
        held.append(len(texts))
        return error_table(frame, texts, *arguments)

    monkeypatch.setattr(error_analysis, "error_table", counted)
    write_errors(predicted, bundle(), chunk=4)
    assert max(held) == 4


@UNCACHED
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
