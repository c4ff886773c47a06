"""Step 6's report: every metric of every model on every split, beside interval and baselines."""

import math
from typing import Any

import pandas as pd

from lib.config import MODELS
from lib.metrics import bootstrap_ci, classification_metrics, constant_baselines
from lib.predictions import logits_of
from lib.temperature import prob_hate

WITH_INTERVAL = ("accuracy", "macro_f1", "f1", "auroc", "brier", "ece", "nll")


def evaluate(frame: pd.DataFrame, n_resamples: int = 1000, seed: int = 0) -> dict[str, Any]:
    """Metrics at p(hate) >= 0.5, uncalibrated, of `predict_shards`' frame.

    `{model: {split: metrics}}` for the three models, where metrics holds each number of
    `classification_metrics` and `intervals`, `{name: [low, high]}` at 95%; and under "baselines"
    the constant predictions of each split. A number that does not exist (one class only) is None.
    """
    report: dict[str, Any] = {name: {} for name in (*MODELS, "baselines")}
    for split, rows in frame.groupby("split", sort=False):
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
