"""Step 6's report: every metric of every model on every split, beside interval and baselines."""

import math
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import pandas as pd

from lib.artifacts import read_json
from lib.calibration import bootstrap_ci, classification_metrics, constant_baselines, prob_hate
from lib.config import MODELS, Settings
from lib.data.confounders.design import bounds
from lib.data.datasets import PACK, MemeShards
from lib.data.example import Example
from lib.data.sources import examples_for
from lib.modeling.encoders import Encoders
from lib.modeling.features import encode_splits
from lib.modeling.prediction_table import logits_of
from lib.modeling.predictions import packed_splits

ORDINARY = ("train", "val", "test")

WITH_INTERVAL = ("accuracy", "macro_f1", "f1", "auroc", "brier", "ece", "nll")


def evaluate(
    frame: pd.DataFrame,
    concepts: Mapping[str, str] | None = None,
    n_resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """Metrics at p(hate) >= 0.5, uncalibrated, of `predict_shards`' frame.

    `{model: {split: metrics}}` for the three models, where metrics holds each number of
    `classification_metrics` and `intervals`, `{name: [low, high]}` at 95%; and under "baselines"
    the constant predictions of each split. `concepts` names the part of a held-out split that a
    meme's id belongs to; each part is reported apart as well, as "<split> <concept>".
    A number that does not exist (one class only) is None.
    """
    report: dict[str, Any] = {name: {} for name in (*MODELS, "baselines")}
    concepts = concepts or {}
    apart = frame[frame["id"].isin(concepts)]
    names = [f"{s} {concepts[id_]}" for s, id_ in zip(apart["split"], apart["id"], strict=True)]
    groups = pd.concat([frame, apart.assign(split=names)])
    for split, rows in groups.groupby("split", sort=False):
        for model in MODELS:
            report[model][split] = _evaluate(rows, model, n_resamples, seed)
        report["baselines"][split] = constant_baselines(rows["label"])
    return _without_nan(report)


def results_table(report: dict[str, Any], split: str) -> pd.DataFrame:
    """The report of one split as a table to look at: a row a model or baseline."""
    rows = {model: report[model][split] for model in MODELS} | report["baselines"][split]
    names = ("n", "accuracy", "macro_f1", "precision", "recall", "f1", "auroc", "brier", "ece")
    return pd.DataFrame(
        {name: {key: row.get(name) for key, row in rows.items()} for name in (*names, "nll")}
    )


def evaluate_experts(settings: Settings) -> pd.DataFrame:
    """Both experts' accuracy and macro-F1 on val, in the pilot in-sample on train, a row each.

    The constant predictions stand beside them.
    """
    train, val = encode_splits(settings, Encoders.load(settings.models, settings.autocast))
    scored = train if val is None else val
    labels = scored.labels.numpy()
    rows = {
        name: classification_metrics(prob_hate(scored.arrays[f"{kind}_logits"]), labels)
        for name, kind in (("text_expert", "text"), ("vision_expert", "vision"))
    }
    table = pd.DataFrame(rows | constant_baselines(labels)).T[["accuracy", "macro_f1", "auroc"]]
    return table.assign(scored_on="train (in-sample)" if val is None else "val").round(3)


def held_out_concepts(settings: Settings) -> dict[str, str]:
    """Id to concept ("unseen_pictogram", …) of generated memes held out of train, val and test."""
    extra = [shards for split, shards in packed_splits(settings).items() if split not in ORDINARY]
    memes = MemeShards([shard for shards in extra for shard in shards], pictures=False)
    return {meta["id"]: meta["concept"] for meta in memes.metas if "concept" in meta}


def single_modality_bounds(settings: Settings) -> pd.DataFrame:
    """The best accuracy that text alone, image alone and both allow, a row a split.

    Known for generated memes only; for other data the table is empty.
    """
    stats = read_json(settings.artifact(3, "stats.json"), PACK)
    if stats["datasets"] != ["confounders"]:
        return pd.DataFrame(columns=["text", "image", "both"])
    by_split = defaultdict(list)
    for example in examples_for(settings):
        if isinstance(example, Example):
            by_split[example.split].append(example)
    return pd.DataFrame({split: bounds(memes) for split, memes in by_split.items()}).T.round(3)


def _evaluate(rows: pd.DataFrame, model: str, n_resamples: int, seed: int) -> dict[str, Any]:
    prob, labels = prob_hate(logits_of(rows, model)), rows["label"]
    intervals = {
        name: bootstrap_ci(prob, labels, name, n_resamples=n_resamples, seed=seed)
        for name in WITH_INTERVAL
    }
    return classification_metrics(prob, labels) | {
        "intervals": {name: [found.low, found.high] for name, found in intervals.items()}
    }


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
