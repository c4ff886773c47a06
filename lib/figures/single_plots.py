"""Plots that each draw on one Axes (or fill one Figure) and read in greyscale."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike
from PIL import Image
from scipy.special import betaincinv

from lib.calibration import Interval
from lib.calibration.checked_input import binary_labels, check_same_shape, probabilities

Picture = Image.Image | np.ndarray | str | Path

# Chosen by lightness, so that a greyscale print keeps them apart; marks differ in shape as well.
DARK, MIDDLE, LIGHT = "#1b1b3a", "#b4482e", "#c9ced6"


def reliability_diagram(
    ax: Axes, prob: ArrayLike, labels: ArrayLike, n_bins: int = 10, level: float = 0.95
) -> Axes:
    """Observed rate of hate against mean p(hate) per uniform bin, over a histogram of p(hate).

    `prob` and 0/1 `labels` have shape (N,). Bars are Jeffreys intervals (Brown, Cai and DasGupta
    2001) of each bin's rate; numbers are the bins' counts. Returns `ax`.
    Raises ValueError for what is empty, mismatched, not finite, outside [0, 1] or not 0/1.
    """
    p, y = probabilities(prob), binary_labels(labels)
    check_same_shape(p, "prob", y)
    edges = np.linspace(0, 1, n_bins + 1)
    bins = np.searchsorted(edges[1:-1], p, side="right")
    count = np.bincount(bins, minlength=n_bins)
    full = count > 0
    n, hits = count[full], np.bincount(bins, y, n_bins)[full]
    mean, rate = np.bincount(bins, p, n_bins)[full] / n, hits / n
    tail = (1 - level) / 2
    low = np.where(hits > 0, betaincinv(hits + 0.5, n - hits + 0.5, tail), 0)
    high = np.where(hits < n, betaincinv(hits + 0.5, n - hits + 0.5, 1 - tail), 1)
    # An interval always holds its rate but for rounding, which would make a negative error bar.
    errors = np.maximum([rate - low, high - rate], 0)

    share = ax.bar(edges[:-1], 0.25 * count / count.max(), 1 / n_bins, align="edge", color=LIGHT)
    share.set_label("share of examples")
    ax.plot([0, 1], [0, 1], "--", color=DARK, lw=1, label="perfectly calibrated")
    ax.errorbar(
        mean,
        rate,
        errors,
        fmt="o-",
        color=MIDDLE,
        ecolor=DARK,
        capsize=3,
        label=f"observed, {level:.0%}",
    )
    halo = [withStroke(linewidth=3, foreground="white")]
    for bar, examples in zip(share, count, strict=True):
        foot = bar.get_x() + bar.get_width() / 2, 0.015
        ax.annotate(examples, foot, ha="center", fontsize=8, zorder=4, path_effects=halo)
    ax.set(xlim=(0, 1), ylim=(0, 1), xlabel="mean p(hate)", ylabel="observed rate of hate")
    ax.legend(loc="upper left", fontsize=8)
    return ax


def threshold_curve(
    ax: Axes, curve: pd.DataFrame, chosen: float, interval: Interval | None = None
) -> Axes:
    """Precision, recall and F1 over the threshold, with the chosen threshold and its interval.

    `curve` is what `sweep_thresholds` returns; F1 is interpolated where `chosen` is none of its
    cuts. `interval` is that of the threshold. Returns `ax`.
    """
    curve = curve.sort_values("threshold")
    if interval is not None:
        low, high = (np.clip(end, 0, 1) for end in (interval.low, interval.high))
        ax.axvspan(low, high, color=LIGHT, alpha=0.6, label=f"its interval {low:.2f} to {high:.2f}")
    ax.plot(curve["threshold"], curve["precision"], ":", color=DARK, lw=1.8, label="precision")
    ax.plot(curve["threshold"], curve["recall"], "--", color=DARK, lw=1.5, label="recall")
    ax.plot(curve["threshold"], curve["f1"], "-", color=MIDDLE, lw=2.5, label="F1")
    f1 = np.interp(chosen, curve["threshold"], curve["f1"])
    ax.axvline(chosen, color=DARK, lw=1)
    ax.plot([chosen], [f1], "D", color=DARK, ms=7, label=f"chosen {chosen:.3f}")
    ax.set(xlim=(0, 1), ylim=(0, 1.02), xlabel="threshold on p(hate)", ylabel="score")
    ax.legend(loc="lower left", fontsize=8)
    return ax


def joint_heatmap(ax: Axes, frame: pd.DataFrame) -> Axes:
    """F1 over temperature and threshold, the best pair framed; `frame` is from `joint_search`.

    Returns `ax`.
    """
    frame = frame.drop_duplicates(["temperature", "threshold"])
    table = frame.pivot(index="temperature", columns="threshold", values="f1")
    f1 = table.to_numpy()
    image = ax.imshow(f1, cmap="cividis", aspect="auto", origin="lower")
    middle = (f1.min() + f1.max()) / 2
    for (row, column), value in np.ndenumerate(f1):
        shade = "white" if value < middle else "black"
        label = f"{value:.2f}".removeprefix("0")
        ax.text(column, row, label, color=shade, fontsize=7, ha="center", va="center")
    row, column = np.unravel_index(np.argmax(f1), f1.shape)
    outline = withStroke(linewidth=5, foreground="black")
    corner = (column - 0.5, row - 0.5)
    ax.add_patch(Rectangle(corner, 1, 1, fill=False, ec="white", lw=2, path_effects=[outline]))
    ax.set_xticks(range(len(table.columns)), [f"{t:g}" for t in table.columns])
    ax.set_yticks(range(len(table.index)), [f"{t:g}" for t in table.index])
    at = f"T = {table.index[row]:g}, t = {table.columns[column]:g}"
    ax.set(
        xlabel="threshold t", ylabel="temperature T", title=f"best F1 {f1[row, column]:.3f} at {at}"
    )
    ax.figure.colorbar(image, ax=ax, label="F1")
    return ax


def training_curve(ax: Axes, history: Sequence[Mapping[str, float]]) -> Axes:
    """Training and evaluation loss per epoch, and macro-F1 on a second scale where it was logged.

    `history` is a Hugging Face Trainer's `state.log_history`. Returns `ax`.
    Raises ValueError if it logs neither a training nor an evaluation loss.
    """
    logged = {
        key: [
            (entry["epoch"], entry[key]) for entry in history if key in entry and "epoch" in entry
        ]
        for key in ("loss", "eval_loss", "eval_macro_f1")
    }
    if not (logged["loss"] or logged["eval_loss"]):
        raise ValueError("history logs no loss; set the Trainer's logging_steps or eval_strategy")
    styles = {
        "loss": ("o:", MIDDLE, "training loss"),
        "eval_loss": ("s--", DARK, "evaluation loss"),
    }
    lines = []
    for key, (style, color, label) in styles.items():
        if logged[key]:
            lines += ax.plot(*zip(*logged[key], strict=True), style, color=color, ms=4, label=label)
    ax.set(xlabel="epoch", ylabel="loss (nats)")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    if logged["eval_macro_f1"]:
        right = ax.twinx()
        points = zip(*logged["eval_macro_f1"], strict=True)
        lines += right.plot(*points, "D-", color="#777777", lw=2, ms=5, label="evaluation macro-F1")
        right.set(ylabel="macro-F1", ylim=(0, 1.02))
    ax.legend(handles=lines, loc="best", fontsize=8)
    return ax


def contact_sheet(
    figure: Figure, images: Sequence[Picture], titles: Sequence[str], columns: int = 5
) -> Figure:
    """Fill a figure with pictures, row by row, each under its title; returns `figure`.

    `images` are PIL images, files or arrays (H, W) or (H, W, 3).
    Raises ValueError if there are no images or not one title per image.
    """
    if len(images) == 0 or len(images) != len(titles):
        raise ValueError(f"a title per image, and one image at least: {len(images)}, {len(titles)}")
    columns = min(columns, len(images))
    axes = figure.subplots(math.ceil(len(images) / columns), columns, squeeze=False).ravel()
    for ax in axes:
        ax.set_axis_off()
    for ax, image, title in zip(axes, images, titles, strict=False):
        if isinstance(image, str | Path):
            with Image.open(image) as opened:
                image = opened.convert("RGB")
        ax.imshow(np.asarray(image), cmap="gray")
        # A title from a meme may hold dollars, which would start a formula.
        ax.set_title(title, fontsize=8, parse_math=False, wrap=True)
    return figure
