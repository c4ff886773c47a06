"""The error table: what each model said of each meme, and where fusion went wrong.

It is written as it is read, `CHUNK` memes at a time: a chunk's predictions and texts, the errors
shown and the slices' counts are all that is held, whatever the number of memes.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from lib.artifacts import append_csv, atomic_path
from lib.calibration import prob_hate
from lib.commands import again
from lib.config import MODELS, Settings
from lib.data.datasets import MemeShards, shard_paths
from lib.data.shard_index import open_index
from lib.decisions.bundle import DecisionBundle
from lib.modeling.prediction_table import logits_of, prediction_chunks

# Predictions, texts and labels of so many memes are some 50 MB.
CHUNK = 16_384

# Below this a slice's error rate says too little to be ranked.
SLICE_MINIMUM = 30

# The packed markers count as words, five of them.
LONG_TEXT = 15

SLICES = ("models_agree", "in_review_band", "text length", "dataset", "target_type", "concept")


SHOWN = ["id", "text", "label", "mm_fusion_prob", "error_type"]


class Errors(NamedTuple):
    """What is kept of the error table: fusion's counts, its surest errors, and its slices."""

    counts: pd.Series
    surest: pd.DataFrame
    slices: pd.DataFrame


def write_errors(
    settings: Settings, decision: DecisionBundle, n_surest: int = 10, chunk: int = CHUNK
) -> Errors:
    """Write `errors_<m>.csv` of Step 7 for the report split, and return what is kept of it.

    Raises FileNotFoundError naming the step, and ValueError where the predictions are not of the
    packed memes.
    """
    counts: pd.Series = error_counts(pd.DataFrame({"error_type": []}))
    surest, sliced, start = pd.DataFrame(), [], 0
    memes = _memes(shard_paths(settings.shards, settings.report_split))
    chunks = prediction_chunks(settings, settings.report_split, chunk)
    with (
        atomic_path(settings.artifact(7, "errors.csv")) as new,
        new.open("w", encoding="utf-8", newline="") as file,
    ):
        for frame in chunks:
            table, metas = _joined(frame, memes, decision, start)
            append_csv(file, table, header=start == 0)
            start += len(table)
            counts = counts + error_counts(table)
            surest = surest_errors(pd.concat([surest, table[SHOWN]]), n_surest)
            sliced.append(slice_counts(table, metas))
        if next(memes, None) is not None:
            raise ValueError(_other_memes(settings.report_split))
    return Errors(counts, surest, slices(sliced))


def error_table(
    frame: pd.DataFrame, texts: Sequence[str], decision: DecisionBundle, start: int = 0
) -> pd.DataFrame:
    """One row a meme with the calibrated probability and prediction of each model.

    `texts` (N,) are those of the rows of `frame`, and `start` is the first row's index. Columns:
    index, id, text, label, `<model>_prob` and `<model>_pred` of the three models, `error_type` of
    fusion (TP, TN, FP, FN), and the slices `models_agree`, `fusion_only_correct` (fusion right,
    both experts wrong), `fusion_only_wrong` and `in_review_band`.
    """
    table = pd.DataFrame(
        {
            "index": np.arange(start, start + len(frame)),
            "id": frame["id"].to_numpy(),
            "text": list(texts),
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


def slice_columns(table: pd.DataFrame, metas: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """What each meme is in each of `SLICES`, strings; None where a slice is not of it.

    `metas` (N,) are the packed fields of the rows of `table`; data set, target type and (for
    generated memes) concept are taken from them.
    """
    columns = table[["models_agree", "in_review_band"]].astype(str)
    long = table["text"].str.split().map(len) > LONG_TEXT
    columns["text length"] = np.where(long, f"over {LONG_TEXT} words", f"up to {LONG_TEXT} words")
    columns["dataset"] = [meta["dataset"] for meta in metas]
    targets = [meta["labels"].get("target_type") for meta in metas]
    columns["target_type"] = [target or "unlabelled" for target in targets]
    columns["concept"] = [meta.get("concept") for meta in metas]
    return columns


def slice_counts(table: pd.DataFrame, metas: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """How many memes of each slice there are and how many are errors: slice, value, n, errors.

    `metas` are those of `slice_columns`.
    """
    columns = slice_columns(table, metas)
    wrong = table["error_type"].isin(["FP", "FN"])
    parts = []
    for name in SLICES:
        found = wrong.groupby(columns[name]).agg(n="size", errors="sum").rename_axis("value")
        parts.append(found.reset_index().assign(slice=name, value=lambda f: f["value"].astype(str)))
    return pd.concat(parts, ignore_index=True)[["slice", "value", "n", "errors"]]


def slices(counts: Iterable[pd.DataFrame]) -> pd.DataFrame:
    """Fusion's error rate by slice from `slice_counts`: those, error_rate and verdict.

    Left out is what takes one value only. Slices under 30 memes are marked "insufficient" and have
    no rate.
    """
    all_counts = pd.concat(counts)
    table = all_counts.groupby(["slice", "value"], as_index=False)[["n", "errors"]].sum()
    place = {name: rank for rank, name in enumerate(SLICES)}
    table = table[table.groupby("slice")["value"].transform("size") > 1]
    table = table.sort_values("slice", key=lambda s: s.map(place), kind="stable", ignore_index=True)
    enough = table["n"] >= SLICE_MINIMUM
    table["error_rate"] = (table["errors"] / table["n"]).where(enough)
    table["verdict"] = np.where(enough, "", "insufficient")
    return table


def surest_errors(table: pd.DataFrame, n: int = 10) -> pd.DataFrame:
    """The n wrong decisions of fusion whose probability was farthest from the other side."""
    wrong = table[table["error_type"].isin(["FP", "FN"])]
    distance = (wrong["mm_fusion_prob"] - wrong["label"]).abs()
    order = np.argsort(-distance.to_numpy(), kind="stable")[:n]
    return wrong.iloc[order][SHOWN]


def error_counts(table: pd.DataFrame) -> pd.Series:
    """How many memes fusion got right and wrong: TP, TN, FP, FN, in this order."""
    return table["error_type"].value_counts().reindex(["TP", "TN", "FP", "FN"], fill_value=0)


def _memes(shards: Sequence[Path]) -> Iterator[tuple[Mapping[str, Any], str]]:
    """Packed fields and text of each meme, a shard in memory at a time."""
    # All at once, since an index that grows by a shard at a time is written as often.
    open_index(shards)
    for shard in shards:
        memes = MemeShards([shard], pictures=False)
        yield from zip(memes.metas, memes.texts, strict=True)


def _joined(
    frame: pd.DataFrame,
    memes: Iterator[tuple[Mapping[str, Any], str]],
    decision: DecisionBundle,
    start: int,
) -> tuple[pd.DataFrame, list[Mapping[str, Any]]]:
    """The error table of the next memes, with their packed fields."""
    found = list(islice(memes, len(frame)))
    metas = [meta for meta, _ in found]
    if [meta["id"] for meta in metas] != frame["id"].tolist():
        raise ValueError(_other_memes(frame["split"].iloc[0]))
    return error_table(frame, [text for _, text in found], decision, start), metas


def _other_memes(split: str) -> str:
    return f"the predictions are not of the memes packed in '{split}'; evaluate again: {again(6)}"
