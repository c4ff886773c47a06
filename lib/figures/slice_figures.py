"""Figures of where fusion errs, and of what each modality brings: tables of Step 7 flow in."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lib.config import MODELS
from lib.decisions.fairness import RATES
from lib.decisions.modalities import CHANGES, Modalities
from lib.decisions.pairs import KINDS
from lib.decisions.report import described
from lib.figures.style import GREY, INK, MODEL_STYLES, PALE, share_legend

WORSE = "#b3402a"
MOST_ROWS = 40


def slices_figure(table: pd.DataFrame, split: str) -> Figure:
    """Fusion's error rate in each judged slice with its 95% interval; worse ones stand out.

    `table` is that of `lib.decisions.slices`, of `split`'s memes. Of more than `MOST_ROWS` values
    the largest are drawn.
    """
    judged = table[table["verdict"] != "insufficient"]
    shown = judged[judged["n"].rank(ascending=False, method="first") <= MOST_ROWS]
    figure, ax = plt.subplots(figsize=(8, 1.6 + 0.28 * max(len(shown), 3)), layout="constrained")
    places = np.arange(len(shown)) + _gaps(shown["slice"])
    _rates(ax, shown["error_rate"], shown, places, "error rate", "worse than the rest")
    ax.plot(shown["rest_error_rate"], places, "|", color=GREY, markersize=11, label="the rest's")
    _named(ax, shown[["slice", "value", "n"]], places)
    ax.set(xlabel="error rate of fusion, with 95% intervals")
    left = len(table) - len(judged)
    figure.suptitle(f"{described(split)}: {len(shown)} slices, {left} too small to judge")
    if len(shown):
        share_legend(figure)
    return figure


def fairness_figure(table: pd.DataFrame, split: str) -> Figure:
    """Fusion's rates of both kinds of error by target, language and so on, with 95% intervals.

    `table` is that of `lib.decisions.fairness`, of `split`'s memes; what is too small to judge is
    left out, and rates higher than the rest's stand out.
    """
    judged = table[table["rate"].notna()]
    parts = [judged[judged["metric"] == metric] for metric in RATES]
    rows = max(3, *map(len, parts))
    figure, axes = plt.subplots(1, 2, figsize=(12, 1.6 + 0.28 * rows), layout="constrained")
    for ax, metric, part in zip(axes, RATES, parts, strict=True):
        places = np.arange(len(part)) + _gaps(part["attribute"])
        _rates(ax, part["rate"], part, places, "rate", "higher than the rest")
        _named(ax, part[["attribute", "value", "n"]], places)
        ax.set(xlabel=f"{metric.replace('_', '-', 1).replace('_', ' ')}, with 95% intervals")
    left = int((table["verdict"] == "insufficient").sum())
    figure.suptitle(f"{described(split)}: {len(judged)} rates of fusion, {left} too small to judge")
    if len(judged):
        share_legend(figure)
    return figure


def modalities_figure(found: Modalities, split: str) -> Figure:
    """What AUROC and macro-F1 lose without a modality, and pair accuracy, each with its interval.

    A bar a model; `found` is of `split`'s memes.
    """
    figure, axes = plt.subplots(1, 3, figsize=(12, 4.2), layout="constrained")
    effects = found.effects[found.effects["change"].isin(CHANGES)]
    for ax, metric, name in zip(axes, ("auroc", "macro_f1"), ("AUROC", "macro-F1"), strict=False):
        ends = [f"{metric}_lost", f"{metric}_lost_low", f"{metric}_lost_high"]
        _bars(ax, effects.set_index(["change", "model"])[ends], CHANGES)
        ax.axhline(0, color=GREY, linewidth=0.8)
        ax.set(ylabel=f"{name} lost")
    pairs = found.pairs.set_index(["kind", "model"])[["pair_accuracy", "low", "high"]]
    _bars(axes[2], pairs, KINDS)
    axes[2].axhline(0.5, color=GREY, linewidth=0.8, linestyle="--")
    axes[2].set(ylabel="pairs with the hateful meme above", ylim=(0, 1.02))
    n = int(found.effects["n"].max()) if len(found.effects) else 0
    figure.suptitle(f"{described(split)}, n = {n}: what text and picture bring")
    share_legend(figure)
    return figure


def _rates(
    ax: Axes, rates: pd.Series, shown: pd.DataFrame, places: np.ndarray, name: str, worse: str
) -> None:
    """Marks on their intervals; where a verdict says that it is `worse`, in another colour."""
    stands_out = (shown["verdict"] == worse).to_numpy()
    for rows, color, marker, label in (
        (~stands_out, INK, "o", name),
        (stands_out, WORSE, "D", worse),
    ):
        part, at = shown[rows], places[rows]
        ax.hlines(at, part["low"], part["high"], color=color, linewidth=2)
        if len(part):
            ax.plot(rates[rows], at, marker, color=color, label=label)


def _named(ax: Axes, names: pd.DataFrame, places: np.ndarray) -> None:
    """The names of rows from above: slice, value and number of memes."""
    ax.set_yticks(places, [f"{s}: {v}  ({n})" for s, v, n in names.to_numpy()])
    ax.set_xlim(0, None)
    ax.set_ylim(places.max(initial=0) + 0.7, -0.7)
    ax.tick_params(axis="y", length=0)


def _bars(ax: Axes, table: pd.DataFrame, groups: tuple[str, ...]) -> None:
    """A bar for each model in each group, from (value, low, high); what is undefined has none."""
    for offset, model in zip((-0.27, 0, 0.27), MODELS, strict=True):
        style = MODEL_STYLES[model]
        rows = table.reindex([(group, model) for group in groups]).to_numpy(float)
        value, low, high = rows.T
        at = np.arange(len(groups)) + offset
        ax.bar(at, value, 0.25, color=style.color, label=style.label)
        ax.vlines(at, low, high, color=PALE, linewidth=3)
        ax.vlines(at, low, high, color=GREY, linewidth=1)
    ax.set_xticks(range(len(groups)), [group.replace(" ", "\n") for group in groups])
    ax.tick_params(axis="x", length=0)


def _gaps(names: pd.Series) -> np.ndarray:
    """Half a row of room before each slice but the first."""
    starts = names.ne(names.shift()).to_numpy()
    return 0.5 * (np.cumsum(starts) - 1)
