"""The error table: what each model said of each meme, and where fusion went wrong.

It is written as it is read, `CHUNK` memes at a time: a chunk's predictions and texts, the errors
shown and the slices' counts are held, whatever the number of memes; and of those that share a group
some numbers a slice.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from lib.artifacts import append_csv, atomic_path, write_csv
from lib.calibration import prob_hate
from lib.commands import again
from lib.config import MODELS, Settings
from lib.data.datasets import MemeShards, shard_paths
from lib.data.shard_index import open_index
from lib.data.text import words_of
from lib.decisions.bundle import DecisionBundle
from lib.decisions.fairness import fairness
from lib.decisions.nearest import COLUMNS as NEAREST_COLUMNS
from lib.decisions.nearest import nearest_memes
from lib.decisions.slices import (
    MADE_BY_MODELS,
    SLICES,
    joined_counts,
    joined_shared,
    shared_counts,
    slice_columns,
    slice_counts,
    slices,
)
from lib.decisions.spreadsheets import for_spreadsheets
from lib.modeling.prediction_table import logits_of, prediction_chunks, shared_groups

# The columns of the error table, in their order.
COLUMNS = (
    *("index", "id", "text", "label", *MADE_BY_MODELS),
    *("group", "dataset", "language", "target_type", "text_words", "ocr_missing"),
)

# Predictions, texts and labels of so many memes are some 50 MB.
CHUNK = 16_384

SHOWN = ["id", "text", "label", "mm_fusion_prob", "error_type"]

_NO_OCR = re.compile(r"\s*(\[OCR\]\s*\[/OCR\]|$)")


class Errors(NamedTuple):
    """What is kept of the error table: fusion's counts, its surest errors, slices, fairness."""

    counts: pd.Series
    surest: pd.DataFrame
    slices: pd.DataFrame
    fairness: pd.DataFrame


def write_errors(
    settings: Settings, decision: DecisionBundle, n_surest: int = 10, chunk: int = CHUNK
) -> Errors:
    """Write `errors_<m>.csv` of Step 7 for the report split, and return what is kept of it.

    Its columns are those of `error_table`, the nearest training memes, and the slices that are not
    columns yet. Beside it go `slices_<m>.csv` and `fairness_<m>.csv`.
    Raises FileNotFoundError naming the step, and ValueError where the predictions are not of the
    packed memes, or no meme has a field of `slice_by`.
    """
    counts: pd.Series = error_counts(pd.DataFrame({"error_type": []}))
    surest, sliced, known, start = pd.DataFrame(), [], set[str](), 0
    together, company = [], shared_groups(settings, settings.report_split)
    memes = _memes(shard_paths(settings.shards, settings.report_split))
    chunks = prediction_chunks(settings, settings.report_split, chunk)
    near = nearest_memes(settings)
    with (
        atomic_path(settings.artifact(7, "errors.csv")) as new,
        new.open("w", encoding="utf-8", newline="") as file,
    ):
        for frame in chunks:
            table, metas = _joined(frame, memes, decision, start)
            columns = near.frame(table["id"].tolist(), start) if near else None
            told = pd.concat([table, _columns(columns, len(table))], axis=1)
            sides = slice_columns(told, metas, settings.slice_by)
            beside = sides[[name for name in sides if name not in told]]
            whole = pd.concat([told, beside], axis=1)
            append_csv(file, for_spreadsheets(whole), header=start == 0)
            start += len(table)
            counts = counts + error_counts(table)
            surest = surest_errors(pd.concat([surest, table[SHOWN]]), n_surest)
            sliced.append(slice_counts(told, metas, settings.slice_by, sides))
            together.append(shared_counts(told, sides, company))
            known |= _fields(told, metas)
        if next(memes, None) is not None or not sliced:
            raise ValueError(_other_memes(settings.report_split))
        _refuse_unknown(settings.slice_by, known)
    joined, shared = joined_counts(sliced), joined_shared(together)
    by_slice = slices([joined], shared, settings.seed)
    by_target = fairness(joined, settings.slice_by, shared)
    write_csv(settings.artifact(7, "slices.csv"), for_spreadsheets(by_slice))
    write_csv(settings.artifact(7, "fairness.csv"), for_spreadsheets(by_target))
    return Errors(counts, surest, by_slice, by_target)


def check_slice_by(settings: Settings) -> None:
    """Raise ValueError where `write_errors` would, of the memes packed, for a field of `slice_by`.

    Raises FileNotFoundError where nothing is packed.
    """
    if not settings.slice_by:
        return
    known = _fields((*COLUMNS, *NEAREST_COLUMNS), ())
    for meta, _ in _memes(shard_paths(settings.shards, settings.report_split)):
        known |= _fields((), (meta,))
    _refuse_unknown(settings.slice_by, known)


def error_table(
    frame: pd.DataFrame,
    texts: Sequence[str],
    metas: Sequence[Mapping[str, Any]],
    decision: DecisionBundle,
    start: int = 0,
) -> pd.DataFrame:
    """One row a meme with the calibrated probability and prediction of each model.

    `texts` and `metas` (N,) are those of the rows of `frame`, and `start` is the first row's index.
    Columns, as Step_7.md says: index, id, text, label, `<model>_prob` and `<model>_pred` of the
    three models, `error_type` of fusion, the slices `models_agree`, `fusion_only_correct`,
    `fusion_only_wrong` and `in_review_band`; then `decision`, `confidence`, `agreement`, `group`,
    `dataset`, `language`, `target_type`, `text_words` and `ocr_missing`.
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
    decided = decision.policy.decide(table["mm_fusion_prob"])
    table["in_review_band"] = decided == "review"
    table["decision"] = decided.astype(object)
    table["confidence"] = confidence(table["mm_fusion_prob"], decision.thresholds["mm_fusion"])
    table["agreement"] = 1 + (text == fusion).astype(int) + (vision == fusion).astype(int)
    table["group"] = frame["group"].to_numpy()
    table["dataset"] = [meta.get("dataset") or "" for meta in metas]
    table["language"] = [meta.get("lang") or "" for meta in metas]
    targets = ((meta.get("labels") or {}).get("target_type") for meta in metas)
    table["target_type"] = [target or "unlabelled" for target in targets]
    table["text_words"] = [len(words_of(words).split()) for words in texts]
    table["ocr_missing"] = [_NO_OCR.match(words) is not None for words in texts]
    return table


def confidence(prob: pd.Series | np.ndarray, threshold: float) -> np.ndarray:
    """How far each p(hate) (N,) is from the threshold, of the way to certainty on its side.

    (p - t) / (1 - t) where p >= t, else (t - p) / t: 0 at the threshold, 1 at p = 0 or 1.
    """
    p = np.asarray(prob, dtype=float)
    whole = np.where(p >= threshold, 1 - threshold, threshold)
    return np.divide(np.abs(p - threshold), whole, out=np.zeros_like(p), where=whole > 0)


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
    return error_table(frame, [text for _, text in found], metas, decision, start), metas


def _columns(near: pd.DataFrame | None, n: int) -> pd.DataFrame:
    """The columns of the nearest training memes, empty where these are not known."""
    return pd.DataFrame(index=range(n), columns=list(NEAREST_COLUMNS)) if near is None else near


def _fields(columns: Iterable[Any], metas: Sequence[Mapping[str, Any]]) -> set[str]:
    """What `slice_by` may name: columns of the table, packed fields and labels."""
    labels = (meta.get("labels") or {} for meta in metas)
    return set(SLICES).union(map(str, columns), *metas, *labels)


def _refuse_unknown(slice_by: Sequence[str], known: set[str]) -> None:
    if unknown := [name for name in slice_by if name not in known]:
        raise ValueError(
            f"slice_by: no meme has a field '{unknown[0]}'; known: {', '.join(sorted(known))}"
        )


def _other_memes(split: str) -> str:
    return f"the predictions are not of the memes packed in '{split}'; evaluate again: {again(6)}"
