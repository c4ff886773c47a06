"""What decisions come to, drawn: promises against what is observed, work, wrong cuts, suspects."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lib.config import MODELS
from lib.decisions.bundle import DecisionBundle
from lib.decisions.policy_outcomes import judged, threshold_stability, workload
from lib.decisions.report import described, section_of
from lib.figures.style import GREY, INK, MODEL_STYLES, PALE, ROLES

BINS = np.linspace(0, 1, 21)
LABELS = {0: ("labelled non-hate", PALE), 1: ("labelled hate", INK)}


def outcome_figure(
    frame: pd.DataFrame, decision: DecisionBundle, seed: int, prevalence: float | None = None
) -> Figure:
    """The frozen decision on `frame` in three panels, those of three tables.

    `judged` with each side's target beside what is observed; `workload` of 10,000 memes, what is
    hateful and what is harmless among the blocked, reviewed and allowed; `threshold_stability`, the
    macro-F1 of each model at the ends of its threshold's interval and at the worst cut within.
    """
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(12, 3.3), layout="constrained")
    _promises(left, judged(frame, decision, seed))
    _work(middle, workload(frame, decision, prevalence))
    _stability(right, threshold_stability(frame, decision))
    figure.suptitle(f"{described(section_of(frame))}, n = {len(frame)}: the frozen decision")
    return figure


def suspects_figure(table: pd.DataFrame) -> Figure:
    """How sure models that never saw the label are of the memes of `label_suspects`, by label."""
    figure, ax = plt.subplots(figsize=(7, 2.8), layout="constrained")
    parts = [table.loc[table["label"] == label, "prob_hate"].to_numpy(float) for label in LABELS]
    names, colors = zip(*LABELS.values(), strict=True)
    labels = [f"{name} ({len(part)})" for name, part in zip(names, parts, strict=True)]
    ax.hist(parts, BINS, stacked=True, color=colors, edgecolor=GREY, linewidth=0.5, label=labels)
    ax.axvline(0.5, **ROLES["reference"])
    ax.set(xlim=(0, 1), xlabel="p(hate) by models that have not seen the label", ylabel="memes")
    ax.set(title=f"train: {len(table)} memes whose label looks wrong")
    if len(table):
        ax.legend(fontsize=9, frameon=False, loc="upper center")
    return figure


def _promises(ax: Axes, sides: pd.DataFrame) -> None:
    columns = sides[["target", "observed", "low", "high"]].to_numpy(float)
    for place, (target, observed, low, high) in enumerate(columns):
        if not np.isnan(target):
            ax.plot([target] * 2, [place - 0.3, place + 0.3], color=GREY, linestyle="--")
        if np.isnan(observed):
            ax.text(0.5, place, "no meme on this side", ha="center", va="center", color=GREY)
            continue
        ax.plot([low, high], [place] * 2, "|-", color=INK, linewidth=2)
        ax.plot(observed, place, "o", color=INK)
    ax.set_yticks(range(len(sides)), sides["side"] + ": " + sides["measure"])
    ax.tick_params(axis="y", length=0)
    ax.set(xlim=(-0.02, 1.02), ylim=(len(sides) - 0.4, -0.6), xlabel="observed, with 95% interval")
    ax.set_title("Promised (dashed) and observed")


def _work(ax: Axes, table: pd.DataFrame) -> None:
    places = range(len(table))
    hateful, harmless = (table[name].fillna(0) for name in ("hateful", "harmless"))
    ax.barh(places, hateful, color=INK, height=0.6, label="hateful")
    ends = ax.barh(places, harmless, left=hateful, color=PALE, height=0.6, label="harmless")
    ax.bar_label(ends, [f"{memes:,.0f}" for memes in table["memes"].fillna(0)], padding=4)
    ax.set_yticks(places, table["decision"])
    ax.tick_params(axis="y", length=0)
    ax.set(xlim=(0, 12_600), ylim=(len(table) - 0.4, -0.6), xlabel="memes of 10,000")
    ax.set_title(f"Work, where {table['prevalence'].iloc[0]:.0%} is hate")
    ax.legend(fontsize=9, frameon=False)


def _stability(ax: Axes, table: pd.DataFrame) -> None:
    marks = {
        "chosen": ("D", "white"),
        "low": ("<", None),
        "high": (">", None),
        "worst": ("x", None),
    }
    for place, model in enumerate(MODELS):
        style = MODEL_STYLES[model]
        found = table[table["model"] == model].set_index("at")["macro_f1"]
        ax.hlines(place, found.min(), found.max(), color=style.color, linewidth=2)
        for at, (mark, inside) in marks.items():
            label = f"{at}" if not place else None
            look = {"color": style.color, "markerfacecolor": inside or style.color}
            ax.plot(found[at], place, mark, **look, label=label, linestyle="", zorder=3)
    ax.set_yticks(range(len(MODELS)), [MODEL_STYLES[model].label for model in MODELS])
    ax.tick_params(axis="y", length=0)
    ax.set(ylim=(len(MODELS) - 0.4, -0.9), xlabel="macro-F1 at cuts within the interval")
    ax.set_title("What another cut would cost")
    ax.legend(fontsize=8, frameon=False, ncols=4, loc="upper center", columnspacing=0.8)
