import numpy as np
import pandas as pd
import pytest

from lib.config import MODELS
from lib.decisions.bundle import DecisionBundle
from lib.decisions.error_analysis import (
    SLICE_MINIMUM,
    error_counts,
    error_table,
    slices,
    surest_errors,
)


def bundle(threshold=0.5, band=(0.4, 0.6)) -> DecisionBundle:
    return DecisionBundle(
        mode="full",
        fit_split="val",
        n=4,
        temperatures=dict.fromkeys(MODELS, 2.0),
        thresholds=dict.fromkeys(MODELS, threshold),
        fits={},
        intervals={},
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
    return error_table(found, {f"m{i}": f"text {i}" for i in range(4)}, bundle())


def memes(table, **extra):
    columns = {"id": table["id"], "dataset": "x", "labels": [{"target_type": "none"}] * len(table)}
    return pd.DataFrame(columns | extra)


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
    table = error_table(found, {"m0": ""}, bundle(threshold=0.5))
    assert table["mm_fusion_pred"].tolist() == [1]


def test_surest_errors_come_first(table):
    assert surest_errors(table)["id"].tolist() == ["m3", "m2"]
    assert surest_errors(table, n=1)["id"].tolist() == ["m3"]


def test_small_slices_are_not_ranked():
    n = SLICE_MINIMUM + 10
    margins = np.where(np.arange(n) % 4 == 0, -5, 5)
    found = frame(label=[1] * n, text=margins, vision=margins, mm=margins)
    table = error_table(found, {f"m{i}": "a b" for i in range(n)}, bundle())
    concept = ["large"] * SLICE_MINIMUM + ["small"] * 10
    rows = slices(table, memes(table, concept=concept).sample(frac=1, random_state=0))
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
    table = error_table(found, {"m0": "short", "m1": "w " * 40}, bundle())
    rows = slices(table, memes(table))
    assert rows[rows["slice"] == "text length"]["n"].tolist() == [1, 1]


def test_memes_of_no_value_in_a_field_are_not_lost():
    found = frame(label=[1, 1, 1], text=[5, 5, 5], vision=[5, 5, 5], mm=[5, 5, 5])
    table = error_table(found, dict.fromkeys(found["id"], "text"), bundle())
    labels = [{"target_type": "group"}, {"target_type": None}, {"target_type": "person"}]
    rows = slices(table, memes(table, labels=labels))
    assert rows[rows["slice"] == "target_type"]["n"].sum() == 3
