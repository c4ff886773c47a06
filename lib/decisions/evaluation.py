"""The reports of Steps 6 and 7: every metric of every model on every split, with its interval."""

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd

from lib.artifacts import read_json
from lib.calibration import classification_metrics, constant_baselines, prob_hate
from lib.commands import again
from lib.config import MODELS, Settings
from lib.data.confounders.design import bounds
from lib.data.datasets import MemeShards, shard_paths
from lib.data.example import Example
from lib.data.sources import examples_for
from lib.data.val_parts import CALIBRATE, val_parts
from lib.decisions.bundle import DecisionBundle
from lib.decisions.metric_intervals import metric_interval
from lib.modeling.encoders import Encoders
from lib.modeling.features import encode_splits
from lib.modeling.prediction_table import groups_of, logits_of, resampled
from lib.modeling.predictions import packed_splits

ORDINARY = ("train", "val", "test")

WITH_INTERVAL = (
    *("accuracy", "macro_f1", "precision", "recall", "f1", "auroc", "average_precision"),
    *("brier", "ece", "nll"),
)


def evaluate(
    frame: pd.DataFrame,
    concepts: Mapping[str, str] | None = None,
    n_resamples: int = 1000,
    seed: int = 0,
    decision: DecisionBundle | None = None,
) -> dict[str, Any]:
    """Metrics of `predict_shards`' frame, uncalibrated and at p(hate) >= 0.5.

    With a `decision` they are those of its temperatures and thresholds, which stand beside them.

    `{model: {split: metrics}}` for the three models, where metrics holds each number of
    `classification_metrics`, `intervals`, `{name: [low, high]}` at 95%, and `resampled`, whether
    these resample whole "groups" or "memes"; and under "baselines" the constant predictions of
    each split. The parts of val are reported apart as well, as "val select" and "val calibrate".
    `concepts` names the part of a held-out split that a meme's id belongs to; each is reported
    apart as "<split> <concept>".
    A number that does not exist (one class only) is None.
    """
    report: dict[str, Any] = {name: {} for name in (*MODELS, "baselines")}
    for split, rows in _sections(frame, concepts or {}):
        for model in MODELS:
            report[model][split] = _evaluate(rows, model, n_resamples, seed, decision)
        report["baselines"][split] = constant_baselines(rows["label"])
    return without_nan(report)


def results_table(report: dict[str, Any], split: str) -> pd.DataFrame:
    """The report of one split as a table to look at: a row a model or baseline."""
    rows = {model: report[model][split] for model in MODELS} | report["baselines"][split]
    names = ("n", "accuracy", "macro_f1", "precision", "recall", "f1", "auroc", "brier", "ece")
    return pd.DataFrame(
        {name: {key: row.get(name) for key, row in rows.items()} for name in (*names, "nll")}
    )


def evaluate_experts(settings: Settings) -> pd.DataFrame:
    """Both experts' accuracy and macro-F1, a row each, the constant predictions beside them.

    On the half of val that chose no epoch, in the pilot in-sample on train.
    """
    train, val = encode_splits(settings, Encoders.load(settings.models, settings.bf16))
    scored, name = (train, "train (in-sample)") if val is None else (val, "val, calibrate half")
    rows = np.arange(len(scored))
    if val is not None:
        memes = MemeShards(shard_paths(settings.shards, "val"), pictures=False)
        rows = np.flatnonzero(val_parts(memes.labels, memes.groups) == CALIBRATE)
    labels = scored.labels.numpy()[rows]
    table = {
        expert: classification_metrics(prob_hate(scored.arrays[f"{kind}_logits"][rows]), labels)
        for expert, kind in (("text_expert", "text"), ("vision_expert", "vision"))
    }
    found = pd.DataFrame(table | constant_baselines(labels)).T
    return found[["accuracy", "macro_f1", "auroc"]].assign(scored_on=name).round(3)


def held_out_concepts(settings: Settings) -> dict[str, str]:
    """Id to concept ("unseen_pictogram", …) of generated memes held out of train, val and test."""
    extra = [shards for split, shards in packed_splits(settings).items() if split not in ORDINARY]
    memes = MemeShards([shard for shards in extra for shard in shards], pictures=False)
    return {meta["id"]: meta["concept"] for meta in memes.metas if "concept" in meta}


def single_modality_bounds(settings: Settings) -> pd.DataFrame:
    """The best accuracy that text alone, image alone and both allow, a row a split.

    Known for generated memes only; for other data the table is empty.
    """
    stats = read_json(settings.artifact(3, "stats.json"), again(3))
    if stats["datasets"] != ["confounders"]:
        return pd.DataFrame(columns=["text", "image", "both"])
    by_split = defaultdict(list)
    for example in examples_for(settings):
        if isinstance(example, Example):
            by_split[example.split].append(example)
    return pd.DataFrame({split: bounds(memes) for split, memes in by_split.items()}).T.round(3)


def _sections(
    frame: pd.DataFrame, concepts: Mapping[str, str]
) -> Iterator[tuple[str, pd.DataFrame]]:
    """Each split, then its parts, in the order of the rows."""
    pairs = zip(frame["id"], frame["part"], strict=True)
    named = frame.assign(part=[concepts.get(id_, part) for id_, part in pairs])
    for split, rows in named.groupby("split", sort=False):
        yield str(split), rows
        for part, members in rows.groupby("part", sort=False):
            if part:
                yield f"{split!s} {part!s}", members


def _evaluate(
    rows: pd.DataFrame, model: str, n_resamples: int, seed: int, decision: DecisionBundle | None
) -> dict[str, Any]:
    temperature = decision.temperatures[model] if decision else 1.0
    threshold = decision.thresholds[model] if decision else 0.5
    prob, labels = prob_hate(logits_of(rows, model), temperature), rows["label"]
    options = (threshold, groups_of(rows), n_resamples, seed)
    intervals = {name: metric_interval(prob, labels, name, *options) for name in WITH_INTERVAL}
    fixed = {"temperature": temperature, "threshold": threshold} if decision else {}
    return (
        classification_metrics(prob, labels, threshold)
        | {"intervals": {name: [found.low, found.high] for name, found in intervals.items()}}
        | {"resampled": resampled(rows)}
        | fixed
    )


def without_nan(value: Any) -> Any:
    """The same with None for every float that is not finite, which JSON has no word for."""
    if isinstance(value, dict):
        return {key: without_nan(item) for key, item in value.items()}
    if isinstance(value, list):
        return [without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
