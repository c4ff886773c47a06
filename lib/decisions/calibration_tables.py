"""What calibration and thresholds changed: tables of Step 7, and the choice of a model."""

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from lib.artifacts import write_csv
from lib.calibration import (
    bootstrap_difference,
    classification_metrics,
    cross_fit,
    prob_hate,
    sweep_thresholds,
)
from lib.calibration.calibration_error import N_BINS, bin_of
from lib.config import MODELS, Settings
from lib.decisions.bundle import DecisionBundle
from lib.decisions.metric_intervals import beside_all_scores, metric_interval
from lib.modeling.prediction_table import groups_of, logits_of, resampled


def calibrated(frame: pd.DataFrame, temperatures: Mapping[str, float]) -> pd.DataFrame:
    """p(hate) of each model at its temperature, a column a model, shape (N, 3)."""
    return pd.DataFrame(
        {m: prob_hate(logits_of(frame, m), temperatures[m]) for m in MODELS}, index=frame.index
    )


def calibration_table(
    frame: pd.DataFrame,
    temperatures: Mapping[str, float],
    n_resamples: int = 1000,
    seed: int = 0,
) -> pd.DataFrame:
    """NLL, Brier and ECE of each model before and after temperature scaling, a row a model.

    Each has the 95% interval of its change, after less before, "low" and "high": both are judged on
    the same resampled groups, the temperature as given. Below 0 throughout, calibration helped.
    "ece zero-truth" is the ECE to expect on these memes if the scaled probabilities were perfect:
    an "ece after" that does not exceed it says nothing against them.
    """
    after = calibrated(frame, temperatures)
    before = calibrated(frame, dict.fromkeys(MODELS, 1.0))
    rows = {}
    for model in MODELS:
        pairs = [classification_metrics(p[model], frame["label"]) for p in (before, after)]
        rows[model] = {
            f"{name} {when}": pair[name]
            for name in ("nll", "brier", "ece")
            for when, pair in zip(("before", "after"), pairs, strict=True)
        } | {"ece zero-truth": pairs[1]["ece_zero_truth"]}
        for name in ("nll", "brier", "ece"):
            gap = bootstrap_difference(
                *(after[model], before[model], frame["label"], name, n_resamples, seed),
                groups=groups_of(frame),
            )
            rows[model] |= {f"{name} change low": float(gap.low)}
            rows[model] |= {f"{name} change high": float(gap.high)}
    return pd.DataFrame(rows).T


def reliability_bins(prob: ArrayLike, labels: ArrayLike) -> pd.DataFrame:
    """p(hate) (N,) against the share of hate among labels (N,), a row a bin of the ECE.

    Columns: low, high, count, mean_predicted and observed, the latter two NaN in an empty bin. A
    bin holds its lower edge, the last also its upper one; the mean of |mean_predicted - observed|
    weighted by count is the ECE.
    """
    p, edges = np.asarray(prob, np.float64), np.linspace(0, 1, N_BINS + 1)
    memes = pd.DataFrame({"mean_predicted": p, "observed": np.asarray(labels)})
    binned = memes.groupby(bin_of(p, N_BINS, "uniform"))
    count = binned.size().reindex(range(N_BINS), fill_value=0)
    bins = pd.DataFrame({"low": edges[:-1], "high": edges[1:], "count": count})
    return bins.join(binned.mean())


def reliability(
    frame: pd.DataFrame, temperatures: Mapping[str, float]
) -> dict[str, dict[str, pd.DataFrame]]:
    """The `reliability_bins` of each model "before" and "after" its temperature."""
    scales = {"before": dict.fromkeys(MODELS, 1.0), "after": temperatures}
    prob = {when: calibrated(frame, of_models) for when, of_models in scales.items()}
    return {
        model: {when: reliability_bins(p[model], frame["label"]) for when, p in prob.items()}
        for model in MODELS
    }


def threshold_curves(
    frame: pd.DataFrame, temperatures: Mapping[str, float]
) -> dict[str, pd.DataFrame]:
    """Precision, recall, F1 and counts over the documented grid of cuts, a table a model."""
    prob = calibrated(frame, temperatures)
    return {model: sweep_thresholds(prob[model], frame["label"]) for model in MODELS}


def curves_table(curves: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """The curves of all models one below the other, fusion's first, `model` in the first column."""
    ordered = {model: curves[model] for model in reversed(list(curves))}
    return pd.concat(ordered, names=["model"]).reset_index(level=0).reset_index(drop=True)


def save_curves(curves: Mapping[str, pd.DataFrame], settings: Settings) -> None:
    """Write `thresholds_curve_<model>_<m>.csv` of Step 7."""
    for model, curve in curves.items():
        write_csv(settings.artifact(7, f"thresholds_curve_{model}.csv"), curve)


def cross_fitted(
    frame: pd.DataFrame, decision: DecisionBundle, settings: Settings, n_resamples: int = 1000
) -> pd.DataFrame:
    """F1, macro-F1, Brier and ECE in-sample and cross-fitted, two rows a model.

    In-sample judges the memes by the temperature and cut fitted on them; cross-fitted judges each
    by those fitted on the other folds, of whole groups where memes have company. Each figure has a
    95% bootstrap interval over what "resampled" says. Where the models were trained on the same
    memes, as in the pilot, both remain in-sample for the model's weights. A model of which a fold
    cannot reach the threshold's floor, or a class of one meme, has no cross-fitted row, and a
    warning says so.
    """
    labels, rows = frame["label"].to_numpy(), []
    options: dict[str, Any] = {"seed": settings.seed, "groups": groups_of(frame)}
    for model in MODELS:
        logits = logits_of(frame, model)
        prob = prob_hate(logits, decision.temperatures[model])
        judged = {"in-sample": (prob, prob >= decision.thresholds[model])}
        try:
            folds = cross_fit(logits, labels, objective=decision.objective, **options)
            judged["cross-fitted"] = (folds.prob, folds.decision)
        except ValueError as error:
            of_fold = "in a fold " if "floor" in decision.objective else ""
            warnings.warn(f"{model} has no cross-fitted estimate: {of_fold}{error}", stacklevel=2)
        for kind, (p, hate) in judged.items():
            row: dict[str, Any] = {"model": model, "estimate": kind}
            decided = hate.astype(float)
            for metric, x in (("f1", decided), ("macro_f1", decided), ("brier", p), ("ece", p)):
                cut = _cut_of_decisions(decision.thresholds[model]) if kind == "in-sample" else 0.5
                found = metric_interval(x, labels, metric, cut, n_resamples=n_resamples, **options)
                row |= {metric: found.point, f"{metric}_low": found.low}
                row[f"{metric}_high"] = found.high
            rows.append(row | {"resampled": resampled(frame)})
    return pd.DataFrame(rows)


def model_choice(
    frame: pd.DataFrame, decision: DecisionBundle, settings: Settings, n_resamples: int = 1000
) -> pd.DataFrame:
    """The evidence for the final model, a row a model, best first.

    Macro-F1 at the chosen thresholds with its interval, and macro-F1 of the best model minus that
    of each other with the interval of the paired difference (both judged on the same resampled
    groups or memes, as "resampled" says). Where both of these are above 0 throughout, the choice is
    more than luck.
    """
    prob = calibrated(frame, decision.temperatures)
    hate = {m: (prob[m] >= decision.thresholds[m]).to_numpy(float) for m in MODELS}
    labels = frame["label"].to_numpy()
    options: dict[str, Any] = {
        "n_resamples": n_resamples,
        "seed": settings.seed,
        "groups": groups_of(frame),
    }
    found = {
        m: metric_interval(
            hate[m], labels, "macro_f1", _cut_of_decisions(decision.thresholds[m]), **options
        )
        for m in MODELS
    }
    order = sorted(MODELS, key=lambda m: (-found[m].point, -MODELS.index(m)))
    rows = []
    for model in order:
        gap = bootstrap_difference(hate[order[0]], hate[model], labels, "macro_f1", **options)
        row = {"model": model, "macro_f1": found[model].point}
        row |= {"low": found[model].low, "high": found[model].high}
        row |= {"best_minus_this": gap.point, "gap_low": gap.low, "gap_high": gap.high}
        rows.append(row | {"resampled": resampled(frame)})
    return pd.DataFrame(rows)


def _cut_of_decisions(threshold: float) -> float:
    """What tells decisions of 0 and 1 apart, still beside all scores where the threshold is."""
    return threshold if beside_all_scores(threshold) else 0.5
