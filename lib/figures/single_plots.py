"""Plots that each draw on one Axes (or fill one Figure) and read in greyscale.

Legends stand below the axes: each plot puts its marks into its figure's one legend.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import FigureBase
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike
from PIL import Image
from scipy.special import betaincinv

from lib.calibration import Interval
from lib.calibration.checked_input import binary_labels, check_same_shape, probabilities
from lib.figures.style import GREY, INK, PALE, PLAIN, ROLES, Style, share_legend

Picture = Image.Image | np.ndarray | str | Path

LOGGED = ("loss", "eval_loss", "eval_macro_f1")


def reliability_diagram(
    ax: Axes,
    prob: ArrayLike,
    labels: ArrayLike,
    n_bins: int = 10,
    level: float = 0.95,
    style: Style = PLAIN,
    share_ax: Axes | None = None,
) -> Axes:
    """Observed rate of hate against mean p(hate) per uniform bin; below, the bins' share of memes.

    `prob` and 0/1 `labels` have shape (N,). Bars are Jeffreys intervals (Brown, Cai and DasGupta
    2001) of each bin's rate. The shares, each with its count, go to `share_ax`; without one `ax`,
    which must be one of a figure's subplots, makes room for them. Returns `ax`.
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
    # An interval always holds its rate but for rounding, which would make a negative error bar.
    errors = np.abs(_jeffreys(hits, n, level) - rate)

    ax.plot([0, 1], [0, 1], **ROLES["reference"], label="perfectly calibrated")
    ax.errorbar(
        mean,
        rate,
        errors,
        fmt=style.marker,
        color=style.color,
        capsize=3,
        label=f"observed rate and its {level:.0%} interval",
    )
    ax.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03), ylabel="observed rate of hate")
    _share_of_memes(share_ax or _room_below(ax), edges, count)
    share_legend(ax.figure)
    return ax


def _jeffreys(hits: np.ndarray, n: np.ndarray, level: float) -> np.ndarray:
    """The ends of the intervals of hits / n, shape (2, bins); at a rate of 0 or 1 one end is it."""
    tail = (1 - level) / 2
    low = np.where(hits > 0, betaincinv(hits + 0.5, n - hits + 0.5, tail), 0)
    high = np.where(hits < n, betaincinv(hits + 0.5, n - hits + 0.5, 1 - tail), 1)
    return np.array([low, high])


def _room_below(ax: Axes) -> Axes:
    """New Axes on the same x axis in the lower quarter of the place of `ax`."""
    parts = ax.get_subplotspec().subgridspec(2, 1, height_ratios=(3, 1), hspace=0.02)
    ax.set_subplotspec(parts[0])
    ax.tick_params(labelbottom=False)
    return ax.figure.add_subplot(parts[1], sharex=ax)


def _share_of_memes(ax: Axes, edges: np.ndarray, count: np.ndarray) -> None:
    """A histogram: shares up the axis, counts on the bars."""
    share = count / count.sum()
    bars = ax.bar(edges[:-1], share, np.diff(edges), align="edge", color=PALE, edgecolor=GREY)
    bars.set_label("share of the memes in a bin, and their number")
    ax.bar_label(bars, [str(n) if n else "" for n in count], fontsize=8, padding=1)
    ax.margins(y=0.3)  # room for the counts
    ax.set(xlim=(-0.03, 1.03), xlabel="mean p(hate)", ylabel="share")
    ax.yaxis.set_major_locator(MaxNLocator(2, steps=[1, 2, 5, 10]))


def threshold_curve(
    ax: Axes,
    curve: pd.DataFrame,
    chosen: float,
    interval: Interval | None = None,
    style: Style = PLAIN,
) -> Axes:
    """Precision, recall and F1 over the threshold, with the chosen threshold and its interval.

    `curve` is what `sweep_thresholds` returns; F1 is interpolated where `chosen` is none of its
    cuts, and precision ends where no meme reaches the threshold. `interval` is that of the
    threshold. The title has the numbers. Returns `ax`.
    """
    curve = curve.sort_values("threshold")
    title = f"chosen: {chosen:.3f}"
    if interval is not None:
        low, high = (np.clip(end, 0, 1) for end in (interval.low, interval.high))
        ax.axvspan(low, high, **ROLES["interval"], label="its 95% interval")
        title += f" ({low:.2f} to {high:.2f})"
    precision = curve["precision"].where(curve["tp"] + curve["fp"] > 0)
    ax.plot(curve["threshold"], precision, **ROLES["precision"], label="precision")
    ax.plot(curve["threshold"], curve["recall"], **ROLES["recall"], label="recall")
    ax.plot(curve["threshold"], curve["f1"], **ROLES["main"], color=style.color, label="F1")
    f1 = np.interp(chosen, curve["threshold"], curve["f1"])
    ax.plot([chosen], [f1], linestyle="", **ROLES["chosen"], label="chosen threshold")
    ax.axvline(chosen, color=INK, linewidth=1, zorder=1)
    ax.set(xlim=(0, 1), ylim=(0, 1.04), xlabel="threshold on p(hate)", ylabel="score", title=title)
    share_legend(ax.figure)
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
    row, column = map(int, np.unravel_index(np.argmax(f1), f1.shape))
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


def training_curve(
    ax: Axes,
    history: Sequence[Mapping[str, float]],
    style: Style = PLAIN,
    f1_ax: Axes | None = None,
) -> Axes:
    """Training and val loss on `ax`, val macro-F1 on `f1_ax` or else on a second scale of `ax`.

    `history` is a Hugging Face Trainer's `state.log_history`. Each logged loss is a point. Over
    epochs a line leads through the points, or where an epoch has several through their means;
    a single epoch gets none, and has its optimiser steps along the axis. Returns `ax`.
    Raises ValueError if it logs neither a training nor an evaluation loss.
    """
    log = _log_of(history)
    one_epoch = log["epoch"].max() <= 1 and log["step"].notna().all()
    at, xlabel = ("step", "optimiser step") if one_epoch else ("epoch", "epoch")
    losses, val, scores = (log.dropna(subset=name) for name in LOGGED)
    if not losses.empty:
        _training_loss(ax, losses, at, style)
    if not val.empty:
        ax.plot(val[at], val["eval_loss"], **ROLES["val loss"], label="val loss")
    ax.set(xlabel=xlabel, ylabel="loss (nats)")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    if not scores.empty:
        f1_ax = f1_ax or ax.twinx()
        f1_ax.plot(scores[at], scores[LOGGED[2]], **ROLES["val macro-F1"], label="val macro-F1")
        f1_ax.set(xlabel=xlabel, ylabel="val macro-F1", ylim=(0, 1.04))
    share_legend(ax.figure)
    return ax


def _log_of(history: Sequence[Mapping[str, float]]) -> pd.DataFrame:
    """The entries that have an epoch, a column a number; NaN where an entry does not log it."""
    names = ("epoch", "step", *LOGGED)
    rows = [[entry.get(name) for name in names] for entry in history if "epoch" in entry]
    log = pd.DataFrame(rows, columns=names, dtype=float)
    if log["loss"].isna().all() and log["eval_loss"].isna().all():
        raise ValueError("history logs no loss; set the Trainer's logging_steps or eval_strategy")
    return log


def _training_loss(ax: Axes, losses: pd.DataFrame, at: str, style: Style) -> None:
    """A line where each epoch has one loss; else points, and over epochs a line of their means."""
    epochs = np.ceil(losses["epoch"].round(6)).clip(lower=1)
    means = losses.groupby(epochs)[["epoch", "loss"]].mean()
    look = ROLES["main"] if len(means) == len(losses) > 1 else {"linestyle": ""}
    averaged = 1 < len(means) < len(losses)
    if averaged:
        look = look | {"alpha": 0.5, "markersize": 3.5}
    look = look | {"color": style.color, "marker": style.marker}
    ax.plot(losses[at], losses["loss"], **look, label="training loss")
    if averaged:
        line = {"color": style.color, "label": "its mean over an epoch"}
        ax.plot(means["epoch"], means["loss"], **ROLES["main"], **line)


def grid_of(n: int, columns: int | None = None) -> tuple[int, int]:
    """Rows and columns for n pictures: as many columns as asked for, else nearly a square.

    Of the square's columns and one more, those are taken that leave fewer places empty.
    Raises ValueError without a picture.
    """
    if n < 1:
        raise ValueError("no picture to show")
    if columns is None:
        square = math.ceil(math.sqrt(n))
        columns = min((square, square + 1), key=lambda wide: -n % wide)
    columns = max(1, min(columns, n))
    return math.ceil(n / columns), columns


def contact_sheet(
    figure: FigureBase,
    images: Sequence[Picture],
    titles: Sequence[str],
    columns: int | None = None,
) -> FigureBase:
    """Fill a figure with pictures, row by row, each under its title; returns `figure`.

    `images` are PIL images, files or arrays (H, W) or (H, W, 3). Without `columns` the grid is
    nearly a square.
    Raises ValueError if there are no images or not one title per image.
    """
    if len(images) == 0 or len(images) != len(titles):
        raise ValueError(f"a title per image, and one image at least: {len(images)}, {len(titles)}")
    axes = figure.subplots(*grid_of(len(images), columns), squeeze=False).ravel()
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
