"""Judging whole shards."""

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import torch

from lib.artifacts import append_csv, atomic_path, fingerprint
from lib.commands import again
from lib.config import MODELS, Settings
from lib.data.datasets import MemeShards, shard_paths, stream
from lib.data.shard_index import shards_fingerprint
from lib.data.text import words_of
from lib.decisions.spreadsheets import for_spreadsheets
from lib.modeling.prediction_table import logits_of, prediction_chunks
from lib.serving.classifier import MemeClassifier
from lib.serving.histograms import Histograms
from lib.serving.memes import Meme

CHUNK = 65_536


class Scores(NamedTuple):
    """How many memes were judged, the first of them, and all of them counted."""

    n: int
    first: pd.DataFrame
    histograms: Histograms


def write_scores(classifier: MemeClassifier, settings: Settings, rows: int = CHUNK) -> Scores:
    """Write `predictions_<m>.csv` of Step 8 for the reported split, `rows` memes at a time.

    The logits that Step 6 has of these models and memes are taken from its file; without them, or
    where another engine than Step 6's runs an encoder, the memes are encoded. Words are written as
    in the error table, safe in a spreadsheet.
    Raises FileNotFoundError where shards are missing, and ValueError where that file is another
    than the one that the decisions were fitted on.
    """
    _refuse_other_predictions(classifier, settings)
    shards = shard_paths(settings.shards, settings.report_split)
    known = _known(classifier, settings, shards)
    frames = (
        _from_logits(classifier, settings, shards, rows) if known else _judged(classifier, shards)
    )
    n, first = 0, pd.DataFrame()
    counted = Histograms(classifier.decision.judged_by)
    with (
        atomic_path(settings.artifact(8, "predictions.csv")) as new,
        new.open("w", encoding="utf-8", newline="") as file,
    ):
        for frame in frames:
            append_csv(file, for_spreadsheets(frame), header=n == 0)
            first = first if n else frame.head(10)
            n += len(frame)
            lengths = frame["text"].map(words_of).str.len()
            counted.add_columns(frame["prob_hate"], lengths, _words(frame))
    return Scores(n, first, counted)


def _judged(classifier: MemeClassifier, shards: Sequence[str | Path]) -> Iterator[pd.DataFrame]:
    """The packed memes judged as they are: what limits the texts that people type is not theirs."""
    for batch in stream(shards).batched(16, collation_fn=None):
        memes = [Meme(s["text"], s["image"], "given") for s in batch]
        texts = [meme.text for meme in memes]
        yield _named([s["id"] for s in batch], texts, classifier.judge_frame(memes))


def _refuse_other_predictions(classifier: MemeClassifier, settings: Settings) -> None:
    file = settings.artifact(6, "predictions.parquet")
    fitted_on = classifier.decision.fingerprints.get("predictions")
    if file.exists() and fitted_on is not None and fingerprint(file) != fitted_on:
        raise ValueError(
            f"{file} is not the file that the temperatures and thresholds in "
            f"{settings.artifact(7, 'decision.json')} were fitted on; decide again: {again(7)}"
        )


def _words(frame: pd.DataFrame) -> dict[str, list[str]]:
    """What is counted of answers in words; packed memes have their texts."""
    found = {name: frame[name].astype(str).tolist() for name in ("decision", "label")}
    return found | {"text_from": ["given"] * len(frame)}


def _from_logits(
    classifier: MemeClassifier, settings: Settings, shards: Sequence[Path], rows: int
) -> Iterator[pd.DataFrame]:
    texts = _texts(shards)
    for chunk in prediction_chunks(settings, settings.report_split, rows):
        logits = {m: torch.from_numpy(logits_of(chunk, m).to_numpy(copy=True)) for m in MODELS}
        of_chunk = list(islice(texts, len(chunk)))
        yield _named(chunk["id"].tolist(), of_chunk, classifier.frame_of(logits))


def _texts(shards: Sequence[Path]) -> Iterator[str]:
    """The text of each meme, a shard's in memory at a time."""
    for shard in shards:
        yield from MemeShards([shard], pictures=False).texts


def _known(classifier: MemeClassifier, settings: Settings, shards: Sequence[Path]) -> bool:
    """Whether Step 6's file has the logits of these models on these memes, in their order.

    Another engine or precision has others, though all but equal ones: every door shall say the
    same. On an accelerator Step 6 reads in bfloat16 what the doors read in float32.
    """
    if set(classifier.engine.values()) - {"float32"}:
        return False
    file = settings.artifact(6, "predictions.parquet")
    if not file.exists():
        return False
    origin = pd.read_parquet(file, columns=["split"], filters=[("split", "==", "")]).attrs
    same_models = origin.get("models") == {m: classifier.decision.fingerprints[m] for m in MODELS}
    of_split = origin.get("shards", {}).get(settings.report_split)
    same_precision = origin.get("bf16", False) == classifier.model.encoders.autocast
    return same_models and same_precision and of_split == shards_fingerprint(shards)


def _named(ids: Sequence[str], texts: Sequence[str], frame: pd.DataFrame) -> pd.DataFrame:
    frame.insert(0, "text", list(texts))
    frame.insert(0, "id", list(ids))
    return frame
