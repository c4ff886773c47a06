"""The notebooks' whole figures, composed of single plots."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lib.calibration import Interval, sweep_thresholds
from lib.config import MODELS
from lib.decisions.bundle import DecisionBundle
from lib.decisions.calibration_tables import calibrated
from lib.decisions.report import described, section_of
from lib.figures.single_plots import (
    contact_sheet,
    grid_of,
    reliability_diagram,
    threshold_curve,
    training_curve,
)
from lib.figures.style import MODEL_STYLES, PLAIN, ROLES, style_of

CUTS = np.linspace(0, 1, 201)
STYLES = [MODEL_STYLES[model] for model in MODELS]
METRIC_NAMES = {
    **{"macro_f1": "macro-F1", "f1": "F1", "auroc": "AUROC"},
    **{"nll": "NLL", "brier": "Brier score", "ece": "ECE"},
}


def meme_sheet(
    samples: Sequence[Mapping[str, Any]], columns: int | None = None, most: int | None = None
) -> Figure:
    """Packed memes side by side, each under its label; the first `most` of them."""
    samples = [samples[k] for k in range(min(len(samples), most or len(samples)))]
    rows, columns = grid_of(len(samples), columns)
    figure = plt.figure(figsize=(2.1 * columns, 2.4 * rows), layout="constrained")
    names = {0: "non-hate", 1: "hate"}
    titles = [names[sample["label"]] for sample in samples]
    return contact_sheet(figure, [sample["image"] for sample in samples], titles, columns)


def training_figure(
    histories: Mapping[str, list[dict[str, float]]], n_train: int | None = None
) -> Figure:
    """Training curves, a column a model: losses beside that of answering one half, then macro-F1.

    `histories` are by the model's name, as in the tables or in words. The number of optimiser
    steps stands in the title where it was logged, and there are panels of macro-F1 where it was.
    """
    entries = [entry for history in histories.values() for entry in history]
    ratios = (2, 1) if any("eval_macro_f1" in entry for entry in entries) else (1,)
    figure, axes = _panels(len(histories), height=3.7 + len(ratios) // 2, ratios=ratios)
    for column, (name, history) in zip(axes.T, histories.items(), strict=True):
        ax, style = column[0], style_of(name)
        ax.axhline(math.log(2), **ROLES["reference"], label="always answering one half: ln 2")
        training_curve(ax, history, style, f1_ax=column[-1] if len(column) > 1 else None)
        steps = max((int(entry["step"]) for entry in history if "step" in entry), default=None)
        title = name if style is PLAIN else style.label
        ax.set_title(title if steps is None else f"{title}, {steps} optimiser steps")
    _only_outer_labels(axes)
    if n_train is not None:
        figure.suptitle(f"Loss while training on train, n = {n_train}")
    return figure


def results_figure(
    report: Mapping[str, Any], split: str, metrics: Sequence[str] = ("macro_f1", "auroc")
) -> Figure:
    """A panel a metric: each model a point with its 95% interval, spelt out at the right.

    `report` is what `evaluate` or `decision_report` returns, `split` one of its splits or sections.
    Baselines are dashed lines; equal ones share a line, and
    each line has its name above.
    """
    figure, axes = _panels(len(metrics), width=5, height=3)
    for ax, metric in zip(axes[0], metrics, strict=True):
        found = {model: report[model][split] for model in MODELS}
        _metric_rows(ax, [(m[metric], *m["intervals"][metric]) for m in found.values()])
        baselines = {name: row[metric] for name, row in report["baselines"][split].items()}
        _baseline_lines(ax, baselines)
        ax.set_xlabel(METRIC_NAMES.get(metric, metric))
    over = found[MODELS[0]]["resampled"]
    figure.suptitle(
        f"{_described(split, found[MODELS[0]]['n'])}, with 95% intervals over resampled {over}"
    )
    return figure


def reliability_figure(frame: pd.DataFrame, decision: DecisionBundle) -> Figure:
    """Reliability diagrams: a column a model, before temperature scaling above, after below.

    The title says what `frame` is of, and where it is not what the temperatures were fitted on,
    of what they are.
    """
    figure, axes = _panels(len(MODELS), height=8.5, ratios=(3, 1, 3, 1))
    axes[3, 0].sharey(axes[1, 0])
    stages = {"before": dict.fromkeys(MODELS, 1.0), "after": decision.temperatures}
    for rows, (stage, temperatures) in zip((axes[:2], axes[2:]), stages.items(), strict=True):
        prob = calibrated(frame, temperatures)
        for (ax, share_ax), (model, style) in zip(rows.T, MODEL_STYLES.items(), strict=True):
            reliability_diagram(ax, prob[model], frame["label"], style=style, share_ax=share_ax)
            ax.set_title(f"{style.label}, {stage}: T = {temperatures[model]:.2f}")
    _only_outer_labels(axes)
    figure.suptitle(
        f"{_described_frame(frame)}, before and after temperature scaling"
        f"{_fitted_elsewhere(frame, decision, 'T')}"
    )
    return figure


def figure_of_reported(
    report: Mapping[str, Any], draw: Callable[..., Figure], *shown: Any
) -> Figure | None:
    """`draw(*shown)`, a figure of the reported split that was drawn of what was fitted on already.

    Where both are the same memes, as in a pilot, it would be the same again: a sentence says so.
    """
    if report["reported_on"] != report["fitted_on"]:
        return draw(*shown)
    print(f"{report['reported_on']} is what was fitted on: this figure stands above.")
    return None


def threshold_figure(frame: pd.DataFrame, decision: DecisionBundle) -> Figure:
    """Precision, recall and F1 over the threshold, one panel a model, the chosen cut marked.

    The cut and its interval are those of `decision`, whatever `frame` is of; the title says so.
    """
    figure, axes = _panels(len(MODELS))
    for ax, model in zip(axes[0], MODELS, strict=True):
        threshold_panel(ax, frame, decision, model)
    _only_outer_labels(axes)
    figure.suptitle(
        f"{_described_frame(frame)}, after temperature scaling"
        f"{_fitted_elsewhere(frame, decision, 'threshold and interval')}"
    )
    return figure


def threshold_panel(ax: Axes, frame: pd.DataFrame, decision: DecisionBundle, model: str) -> None:
    """Precision, recall and F1 of one model over the threshold, its chosen cut marked."""
    style, chosen = MODEL_STYLES[model], decision.thresholds[model]
    prob = calibrated(frame, decision.temperatures)[model]
    # The chosen cut is a point of its curve, so that its mark shows the F1 it has.
    curve = sweep_thresholds(prob, frame["label"], np.union1d(CUTS, [chosen]))
    low, high = decision.intervals[model]["threshold"]
    interval = Interval(chosen, 0 if low is None else low, 1 if high is None else high)
    threshold_curve(ax, curve, chosen, interval, style)
    ax.set_title(f"{style.label}\n{ax.get_title()}")


def predictions_figure(
    images: Sequence[Any],
    predictions: pd.DataFrame,
    split: str | None = None,
    columns: int | None = None,
) -> Figure:
    """Pictures with the classifier's answer above each; `split` says where they are from."""
    rows, columns = grid_of(len(images), columns)
    figure = plt.figure(figsize=(2.8 * columns, 3.1 * rows), layout="constrained")
    titles = [
        f"p(hate) = {row.prob_hate:.2f}: {'hate' if row.label else 'non-hate'}, {row.decision}"
        for row in predictions.itertuples()
    ]
    contact_sheet(figure, list(images), titles, columns)
    if split is not None:
        figure.suptitle(_described(split, len(images)))
    return figure


def _metric_rows(ax: Axes, rows: Iterable[tuple[float | None, ...]]) -> None:
    """A row a model: (value, low, high) as a mark on its interval, and in numbers at the right."""
    spelt = []
    for place, (style, (value, low, high)) in enumerate(zip(STYLES, rows, strict=True)):
        if value is None:
            spelt.append("does not exist")
            continue
        ends = [value if end is None else end for end in (low, high)]
        ax.plot(ends, [place] * 2, "|-", color=style.color, linewidth=2.5, markersize=10)
        ax.plot(value, place, style.marker, color=style.color, markersize=9)
        spelt.append(f"{value:.3f} ({ends[0]:.3f} to {ends[1]:.3f})")
    ax.set_yticks(range(len(STYLES)), [style.label for style in STYLES])
    right = ax.secondary_yaxis("right")
    right.set_yticks(range(len(STYLES)), spelt)
    for axis in (ax, right):
        axis.tick_params(axis="y", length=0)
    ax.set_ylim(len(STYLES) - 0.5, -0.5)
    ax.margins(x=0.08)


def _baseline_lines(ax: Axes, baselines: Mapping[str, float | None]) -> None:
    """A dashed line for each distinct value, the names of its baselines above it."""
    names: dict[float, list[str]] = {}
    for name, value in baselines.items():
        if value is not None:
            names.setdefault(round(value, 6), []).append(name)
    for value in names:
        ax.axvline(value, **ROLES["reference"], zorder=1)
    middle = sum(ax.get_xlim()) / 2
    for level, (value, same) in enumerate(sorted(names.items())):
        ax.annotate(
            f"{' = '.join(same)}: {value:.3f}",
            (value, 1),
            xycoords=ax.get_xaxis_transform(),
            xytext=(0, 4 + 12 * level),
            textcoords="offset points",
            ha="left" if value < middle else "right",
            fontsize=8,
        )


def _only_outer_labels(axes: np.ndarray) -> None:
    """Keep the labels of the y axis at the left and those of the x axis at the foot of a grid."""
    for ax in axes[:, 1:].flat:
        ax.set_ylabel("")
    for ax in axes[:-1].flat:
        ax.set_xlabel("")


def _described_frame(frame: pd.DataFrame) -> str:
    return _described(section_of(frame), len(frame))


def _fitted_elsewhere(frame: pd.DataFrame, decision: DecisionBundle, what: str) -> str:
    fitted = f"{decision.fit_split} {decision.fit_part}".strip()
    return "" if section_of(frame) == fitted else f" ({what} from {described(fitted)})"


def _described(section: str, n: int) -> str:
    """A section and its size; on train the models are judged by what they were trained on."""
    return f"{described(section)}, n = {n}"


def _panels(
    columns: int, width: float = 3.5, height: float = 3.7, ratios: Sequence[float] = (1,)
) -> tuple[Figure, np.ndarray]:
    """Axes of shape (len(ratios), columns): rows share their y axis, columns their x axis."""
    figure, axes = plt.subplots(
        len(ratios),
        columns,
        figsize=(width * columns, height),
        height_ratios=ratios,
        sharex="col",
        sharey="row",
        squeeze=False,
        layout="constrained",
    )
    figure.get_layout_engine().set(w_pad=0.08)
    return figure, axes
