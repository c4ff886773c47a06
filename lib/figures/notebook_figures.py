"""The notebooks' whole figures, composed of single plots."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from lib.calibration import Interval, sweep_thresholds
from lib.config import MODELS
from lib.decisions.bundle import DecisionBundle
from lib.decisions.calibration_tables import calibrated
from lib.decisions.evaluation import results_table
from lib.figures.single_plots import (
    contact_sheet,
    reliability_diagram,
    threshold_curve,
    training_curve,
)

GREYS = ("0.75", "0.5", "0")
CUTS = np.linspace(0, 1, 201)


def meme_sheet(samples: Sequence[Mapping[str, Any]], columns: int = 5) -> Figure:
    """Packed memes side by side, each under its label."""
    rows = -(-len(samples) // columns)
    figure = plt.figure(figsize=(2.1 * columns, 2.4 * rows), layout="constrained")
    names = {0: "non-hate", 1: "hate"}
    contact_sheet(figure, [s["image"] for s in samples], [names[s["label"]] for s in samples])
    return figure


def training_figure(histories: Mapping[str, list[dict[str, float]]]) -> Figure:
    """Training curves side by side, one panel a model."""
    figure, axes = _panels(len(histories))
    for ax, (name, history) in zip(axes, histories.items(), strict=True):
        training_curve(ax, history)
        ax.set_title(name)
    return figure


def results_figure(report: Mapping[str, Any], split: str, metric: str = "macro_f1") -> Figure:
    """One metric of a split: the models as points with 95% intervals, baselines as lines."""
    table = results_table(report, split)
    figure, ax = plt.subplots(figsize=(7, 3), layout="constrained")
    for place, model in enumerate(MODELS):
        low, high = report[model][split]["intervals"][metric]
        ax.plot([low, high], [place, place], color="0.5", linewidth=3)
        ax.plot(table.loc[model, metric], place, "o", color="black")
    for style, name in zip((":", "--", "-."), report["baselines"][split], strict=False):
        ax.axvline(table.loc[name, metric], color="0.4", linestyle=style, label=name)
    ax.set_yticks(range(len(MODELS)), MODELS)
    ax.invert_yaxis()
    ax.set_xlabel(f"{metric} on {split}, n = {report[MODELS[0]][split]['n']}")
    ax.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    return figure


def reliability_figure(frame: pd.DataFrame, decision: DecisionBundle) -> Figure:
    """Reliability diagrams: a column a model, before temperature scaling above, after below."""
    figure, axes = plt.subplots(2, 3, figsize=(12, 8), layout="constrained")
    stages = {"before": dict.fromkeys(MODELS, 1.0), "after": decision.temperatures}
    for row, (stage, temperatures) in zip(axes, stages.items(), strict=True):
        prob = calibrated(frame, temperatures)
        for ax, model in zip(row, MODELS, strict=True):
            reliability_diagram(ax, prob[model], frame["label"])
            ax.set_title(f"{model}, {stage}: T = {temperatures[model]:.2f}")
    return figure


def threshold_figure(frame: pd.DataFrame, decision: DecisionBundle) -> Figure:
    """Precision, recall and F1 over the threshold, one panel a model, the chosen cut marked."""
    figure, axes = _panels(len(MODELS))
    prob = calibrated(frame, decision.temperatures)
    for ax, model in zip(axes, MODELS, strict=True):
        chosen = decision.thresholds[model]
        # The chosen cut is a point of its curve, so that its mark shows the F1 it has.
        curve = sweep_thresholds(prob[model], frame["label"], np.union1d(CUTS, [chosen]))
        interval = Interval(chosen, *decision.intervals[model]["threshold"])
        threshold_curve(ax, curve, chosen, interval)
        ax.set_title(model)
    return figure


def robustness_figure(table: pd.DataFrame) -> Figure:
    """Change of macro-F1 under each perturbation, one bar a model."""
    wide = table.pivot(index="perturbation", columns="model", values="macro_f1_change")
    wide = wide.loc[table["perturbation"].unique()[1:], list(MODELS)]
    figure, ax = plt.subplots(figsize=(9, 5), layout="constrained")
    places = np.arange(len(wide))
    for offset, (model, grey) in zip(
        (-0.27, 0, 0.27), zip(MODELS, GREYS, strict=True), strict=True
    ):
        ax.barh(places + offset, wide[model], height=0.25, color=grey, label=model)
    ax.set_yticks(places, wide.index)
    ax.invert_yaxis()
    ax.axvline(0, color="black", linewidth=0.8)
    ax.set_xlabel("change of macro-F1")
    ax.legend()
    return figure


def predictions_figure(
    images: Sequence[Any], predictions: pd.DataFrame, columns: int = 3
) -> Figure:
    """Pictures with the classifier's answer under each."""
    rows = -(-len(images) // columns)
    figure = plt.figure(figsize=(3.2 * columns, 3.6 * rows), layout="constrained")
    titles = [
        f"p(hate) = {row.prob_hate:.2f}: {'hate' if row.label else 'non-hate'}"
        + (" (review)" if row.review else "")
        for row in predictions.itertuples()
    ]
    contact_sheet(figure, list(images), titles)
    return figure


def _panels(n: int) -> tuple[Figure, np.ndarray]:
    figure, axes = plt.subplots(1, n, figsize=(4 * n, 3.6), layout="constrained", squeeze=False)
    return figure, axes[0]
