"""Figures of differences: between calibrators, estimates, models and shares of hate."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lib.config import MODELS
from lib.decisions.bundle import DecisionBundle
from lib.decisions.prevalence import precision_by_prevalence
from lib.decisions.report import described, section_of
from lib.decisions.rivals import CALIBRATORS, METRICS
from lib.figures.notebook_figures import METRIC_NAMES
from lib.figures.style import GREY, MODEL_STYLES, ROLES, Style, share_legend

SHARES = np.geomspace(0.001, 0.5, 60)
# How far the marks of the models lie from their row's middle.
OFFSETS = dict(zip(MODELS, (-0.22, 0.0, 0.22), strict=True))


def rivals_figure(table: pd.DataFrame, section: str) -> Figure:
    """What other calibrators have above temperature scaling, with 95% intervals; a panel a metric.

    `table` is that of `lib.decisions.rivals`, of the memes of `section`. Left of 0 is better, but
    not of ECE, which reads too high for scores that are spread out.
    """
    names = [name for name in CALIBRATORS if name != "temperature"]
    figure, axes = plt.subplots(1, len(METRICS), figsize=(11, 3), sharey=True, layout="constrained")
    for ax, metric in zip(axes, METRICS, strict=True):
        for row in table[table["metric"] == metric].to_dict("records"):
            if row["calibrator"] in names:
                place = names.index(row["calibrator"]) + OFFSETS[row["model"]]
                ends = row["minus_temperature"], row["low"], row["high"]
                _mark(ax, place, *ends, MODEL_STYLES[row["model"]])
        ax.axvline(0, **ROLES["reference"])
        ax.set_xlabel(f"{METRIC_NAMES[metric]} above temperature's")
        ax.locator_params(axis="x", nbins=4)
    _rows(axes[0], names)
    figure.suptitle(
        f"{described(section)}, cross-fitted: left of the line is less than temperature has"
    )
    share_legend(figure)
    return figure


def cross_fitted_figure(table: pd.DataFrame, section: str) -> Figure:
    """Each model's figures in-sample and cross-fitted, with 95% intervals; a panel a metric.

    `table` is that of `cross_fitted`, of the memes of `section`.
    """
    metrics = ("macro_f1", "brier", "ece")
    figure, axes = plt.subplots(1, len(metrics), figsize=(11, 3), sharey=True, layout="constrained")
    for ax, metric in zip(axes, metrics, strict=True):
        for row in table.to_dict("records"):
            fitted = row["estimate"] == "cross-fitted"
            place = MODELS.index(row["model"]) + (0.15 if fitted else -0.15)
            ends = (row[metric], row[f"{metric}_low"], row[f"{metric}_high"])
            _mark(ax, place, *ends, MODEL_STYLES[row["model"]], filled=fitted)
        ax.set_xlabel(METRIC_NAMES[metric])
    _rows(axes[0], [MODEL_STYLES[model].label for model in MODELS])
    figure.suptitle(f"{described(section)}: in-sample (hollow) and cross-fitted (filled)")
    return figure


def choice_figure(table: pd.DataFrame, section: str) -> Figure:
    """What the best model's macro-F1 has above each other's, with its paired 95% interval.

    `table` is that of `model_choice`, best first, of the memes of `section`.
    """
    best, *others = table.to_dict("records")
    figure, ax = plt.subplots(figsize=(6, 1.9), layout="constrained")
    for place, row in enumerate(others):
        ends = row["best_minus_this"], row["gap_low"], row["gap_high"]
        _mark(ax, place, *ends, MODEL_STYLES[row["model"]])
    ax.axvline(0, **ROLES["reference"])
    _rows(ax, [f"over {MODEL_STYLES[row['model']].label}" for row in others])
    ax.set_xlabel(f"macro-F1 of {MODEL_STYLES[best['model']].label} minus the other's")
    ax.set_title(f"{described(section)}: more than luck if both lie right of the line")
    return figure


def prevalence_figure(
    frame: pd.DataFrame, decision: DecisionBundle, seed: int, prevalence: float | None = None
) -> Figure:
    """Precision of the frozen decisions over the share of hate, each model's 95% interval shaded.

    Lines stand at `frame`'s own share, and at `prevalence` where it is stated. A frame of one class
    has no precision to move, and the figure says so.
    """
    figure, ax = plt.subplots(figsize=(7, 3.4), layout="constrained")
    table = precision_by_prevalence(frame, decision, SHARES, seed=seed)
    for model, rows in table.groupby("model", sort=False):
        style = MODEL_STYLES[str(model)]
        ax.plot(
            rows["prevalence"],
            rows["precision"],
            color=style.color,
            marker=style.marker,
            markevery=12,
            label=style.label,
        )
        ends = rows["prevalence"], rows["low"], rows["high"]
        ax.fill_between(*ends, color=style.color, alpha=0.15, linewidth=0)
    if table["precision"].isna().all():
        ax.text(0.02, 0.5, "one class alone", transform=ax.get_yaxis_transform(), color=GREY)
    else:
        _share_line(ax, float(frame["label"].mean()), "these memes")
    if prevalence is not None:
        _share_line(ax, prevalence, "stated")
    ax.set(
        xscale="log",
        xlim=(SHARES[0] / 1.2, 1),
        ylim=(0, 1.02),
        xlabel="share of hate among memes",
        ylabel="precision",
    )
    ax.xaxis.set_major_formatter(lambda share, _: f"{share:.3g}")
    figure.suptitle(f"{described(section_of(frame))}, n = {len(frame)}: the frozen decisions")
    share_legend(figure)
    return figure


def _mark(
    ax: Axes, place: float, value: float, low: float, high: float, style: Style, filled: bool = True
) -> None:
    """A value on its interval, in a model's look; what does not exist is left out."""
    ax.hlines(place, low, high, color=style.color, linewidth=2)
    ax.plot(
        value,
        place,
        style.marker,
        color=style.color,
        markerfacecolor=style.color if filled else "white",
        label=style.label,
    )


def _rows(ax: Axes, names: list[str]) -> None:
    """Name the rows, the first at the top."""
    ax.set_yticks(range(len(names)), names)
    ax.tick_params(axis="y", length=0)
    ax.set_ylim(len(names) - 0.5, -0.5)


def _share_line(ax: Axes, share: float, name: str) -> None:
    ax.axvline(share, **ROLES["reference"])
    ax.annotate(
        f"{name}: {share:.3g}",
        (share, 0.02),
        xycoords=ax.get_xaxis_transform(),
        rotation=90,
        ha="right",
        va="bottom",
        fontsize=8,
        color=GREY,
    )
