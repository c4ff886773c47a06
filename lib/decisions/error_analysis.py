"""The error table: what each model said of each meme, and where fusion went wrong."""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from lib.calibration import prob_hate
from lib.config import MODELS
from lib.decisions.bundle import DecisionBundle
from lib.modeling.prediction_table import logits_of

# Below this a slice's error rate says too little to be ranked.
SLICE_MINIMUM = 30

# The packed markers count as words, five of them.
LONG_TEXT = 15


def error_table(
    frame: pd.DataFrame,
    texts: Mapping[str, str],
    decision: DecisionBundle,
) -> pd.DataFrame:
    """One row a meme with the calibrated probability and prediction of each model.

    Columns: index, id, text, label, `<model>_prob` and `<model>_pred` of the three models,
    `error_type` of fusion (TP, TN, FP, FN), and the slices `models_agree`, `fusion_only_correct`
    (fusion right, both experts wrong), `fusion_only_wrong` and `in_review_band`.
    """
    table = pd.DataFrame(
        {
            "index": np.arange(len(frame)),
            "id": frame["id"].to_numpy(),
            "text": [texts[meme] for meme in frame["id"]],
            "label": frame["label"].to_numpy(),
        }
    )
    for model in MODELS:
        prob = prob_hate(logits_of(frame, model), decision.temperatures[model])
        table[f"{model}_prob"] = prob
        table[f"{model}_pred"] = (prob >= decision.thresholds[model]).astype(int)
    right = {model: table[f"{model}_pred"] == table["label"] for model in MODELS}
    text, vision, fusion = (right[model] for model in MODELS)
    positive = table["mm_fusion_pred"] == 1
    table["error_type"] = np.where(fusion, "T", "F") + np.where(positive, "P", "N").astype(object)
    table["models_agree"] = (text == vision) & (vision == fusion)
    table["fusion_only_correct"] = fusion & ~text & ~vision
    table["fusion_only_wrong"] = ~fusion & text & vision
    table["in_review_band"] = table["mm_fusion_prob"].between(*decision.review_band)
    return table


def slices(table: pd.DataFrame, memes: pd.DataFrame) -> pd.DataFrame:
    """Fusion's error rate by slice: slice, value, n, errors, error_rate, verdict.

    `memes` is `MemeShards.frame()`; its data set, target type and (for generated memes) concept
    are sliced by where they take more than one value. Slices under 30 memes are marked
    "insufficient" and have no rate.
    """
    columns = _slice_columns(table, memes.set_index("id").loc[table["id"]].reset_index())
    wrong = table["error_type"].isin(["FP", "FN"])
    rows = []
    for name in columns:
        for value, members in wrong.groupby(columns[name]):
            enough = len(members) >= SLICE_MINIMUM
            rate = members.mean() if enough else np.nan
            verdict = "" if enough else "insufficient"
            rows.append((name, str(value), len(members), int(members.sum()), rate, verdict))
    return pd.DataFrame(rows, columns=["slice", "value", "n", "errors", "error_rate", "verdict"])


def _slice_columns(table: pd.DataFrame, memes: pd.DataFrame) -> pd.DataFrame:
    columns = table[["models_agree", "in_review_band"]].copy()
    long = table["text"].str.split().map(len) > LONG_TEXT
    columns["text length"] = np.where(long, f"over {LONG_TEXT} words", f"up to {LONG_TEXT} words")
    columns["dataset"] = memes["dataset"]
    targets = [labels.get("target_type") for labels in memes["labels"]]
    columns["target_type"] = [target or "unlabelled" for target in targets]
    if "concept" in memes:
        columns["concept"] = memes["concept"]
    return columns.loc[:, columns.nunique() > 1]


def surest_errors(table: pd.DataFrame, n: int = 10) -> pd.DataFrame:
    """The n wrong decisions of fusion whose probability was farthest from the other side."""
    wrong = table[table["error_type"].isin(["FP", "FN"])]
    distance = (wrong["mm_fusion_prob"] - wrong["label"]).abs()
    order = distance.sort_values(ascending=False, kind="stable").index[:n]
    return wrong.loc[order, ["id", "text", "label", "mm_fusion_prob", "error_type"]]


def error_counts(table: pd.DataFrame) -> pd.Series:
    """How many memes fusion got right and wrong: TP, TN, FP, FN, in this order."""
    return table["error_type"].value_counts().reindex(["TP", "TN", "FP", "FN"], fill_value=0)
