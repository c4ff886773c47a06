"""What the policy does, drawn: risk over coverage, and where its cuts lie among the memes."""

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lib.calibration import prob_hate
from lib.config import MODELS
from lib.decisions.bundle import DecisionBundle
from lib.decisions.policy import CHOSEN
from lib.decisions.policy_outcomes import risk_coverages, shares
from lib.decisions.report import described, section_of
from lib.figures.style import GREY, INK, MODEL_STYLES, PALE, ROLES
from lib.modeling.prediction_table import logits_of

# So many points of a curve at most are drawn.
N_POINTS = 1000
BINS = np.linspace(0, 1, 41)
LINES = dict(zip(MODELS, ("--", ":", "-"), strict=True))


def policy_figure(frame: pd.DataFrame, decision: DecisionBundle) -> Figure:
    """Risk over coverage of the three models, and fusion's memes with the policy's cuts.

    On the left each model's error rate among its surest decisions (`risk_coverages`), its AURC in
    the legend; fusion's coverage, were it to decide just what its policy does not send to a
    person, is marked. On the right how many memes of each label fusion gives which probability,
    and above it which share is allowed, reviewed and blocked between the cuts.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    share = shares(frame, decision.policy, decision.temperatures[CHOSEN])
    _risk_coverage(left, frame, decision, 1 - share["review"])
    _cuts_among_memes(right, frame, decision, share)
    figure.suptitle(
        f"{described(section_of(frame))}, n = {len(frame)}: "
        f"policy '{decision.policy.kind}' at confidence {decision.policy.confidence:g}"
    )
    return figure


def _risk_coverage(ax: Axes, frame: pd.DataFrame, decision: DecisionBundle, decided: float) -> None:
    for model, curve in risk_coverages(frame, decision).items():
        at = np.unique(np.linspace(0, len(curve.risk) - 1, N_POINTS).round().astype(int))
        style = MODEL_STYLES[model]
        label = f"{style.label}, AURC {curve.aurc:.3f}"
        look: dict[str, Any] = {"color": style.color, "linestyle": LINES[model], "linewidth": 2}
        ax.plot(curve.coverage[at], curve.risk[at], **look, label=label)
    ax.axvline(decided, **ROLES["reference"], label=f"not sent to a person: {decided:.0%}")
    ax.set(xlim=(0, 1.01), xlabel="coverage: share of memes decided, surest first")
    ax.set_ylim(bottom=0)
    ax.set(ylabel="risk: error rate among them", title="Risk over coverage")
    ax.legend(fontsize=9, frameon=False)


def _cuts_among_memes(
    ax: Axes, frame: pd.DataFrame, decision: DecisionBundle, share: dict[str, float]
) -> None:
    prob = prob_hate(logits_of(frame, CHOSEN), decision.temperatures[CHOSEN])
    hate = frame["label"].to_numpy() == 1
    ax.hist(
        [prob[~hate], prob[hate]],
        BINS,
        stacked=True,
        color=[PALE, INK],
        label=["non-hate", "hate"],
    )
    low, high = np.clip(decision.policy.ends, 0, 1)
    ax.axvspan(low, high, **ROLES["interval"], zorder=0)
    for side, cut in (("allow", decision.policy.allow), ("block", decision.policy.block)):
        if cut is not None:
            ax.axvline(cut, color=GREY, linewidth=1.5)
            ax.annotate(
                f"{side} {'<' if side == 'allow' else '≥'} {cut:.3g}",
                (cut, 0.98),
                xycoords=("data", "axes fraction"),
                rotation=90,
                va="top",
                ha="right",
                fontsize=8,
                color=GREY,
            )
    spelt = ", ".join(f"{name} {share[name]:.0%}" for name in ("allow", "review", "block"))
    ax.set(xlim=(0, 1), xlabel="fusion's p(hate)", ylabel="memes", title=f"Fusion: {spelt}")
    ax.margins(y=0.15)
    ax.legend(fontsize=9, frameon=False)
