"""What a single answer rests on, drawn from what `MemeClassifier.predict` says."""

from collections.abc import Mapping
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from lib.figures.style import GREY, INK, MODEL_STYLES, PALE


def evidence_figure(answer: Mapping[str, Any]) -> Figure:
    """Fusion's probability, the same without text and without picture, and each expert's; bars.

    A dashed line stands at the threshold.
    """
    rests, experts = answer["rests_on"], answer["experts"]
    rows = [
        ("fusion", answer["prob_hate"], INK),
        ("without the text", rests["without_text"], PALE),
        ("without the picture", rests["without_picture"], PALE),
        *((MODEL_STYLES[m].label, prob, MODEL_STYLES[m].color) for m, prob in experts.items()),
    ]
    names, probs, colors = zip(*rows, strict=True)
    figure, ax = plt.subplots(figsize=(7, 2.6), layout="constrained")
    bars = ax.barh(range(len(rows)), probs, color=colors, height=0.7)
    ax.bar_label(bars, [f"{prob:.2f}" for prob in probs], padding=4)
    ax.axvline(answer["threshold"], color=GREY, linestyle="--", zorder=0)
    ax.text(answer["threshold"], -0.75, "threshold", color=GREY, ha="center")
    ax.set_yticks(range(len(rows)), names)
    ax.tick_params(axis="y", length=0)
    ax.set(xlabel="probability of hate", xlim=(0, 1.08), ylim=(len(rows) - 0.4, -0.6))
    ax.spines[["top", "right"]].set_visible(False)
    return figure
