"""The picture at the top of README.md: what the pilot says of memes in pairs, and its threshold."""

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from lib.decisions.bundle import DecisionBundle
from lib.decisions.policy import CHOSEN
from lib.decisions.report import described, section_of
from lib.figures.notebook_figures import threshold_panel
from lib.figures.single_plots import contact_sheet


def pairs_of(texts: Sequence[str], labels: Sequence[int], n: int = 3) -> list[int]:
    """The rows of the first n texts that are hateful over one picture and harmless over another.

    The hateful ones come first, the harmless ones of the same texts follow in the same order.
    """
    rows: dict[str, dict[int, int]] = {}
    for row, (text, label) in enumerate(zip(texts, labels, strict=True)):
        rows.setdefault(text, {}).setdefault(label, row)
    both = [found for found in rows.values() if len(found) == 2][:n]
    return [found[label] for label in (1, 0) for found in both]


def pilot_picture(
    images: Sequence[Any],
    labels: Sequence[int],
    answers: pd.DataFrame,
    frame: pd.DataFrame,
    decision: DecisionBundle,
) -> Figure:
    """Memes in two rows under fusion's `answers`, beside its threshold curve on `frame`."""
    figure = plt.figure(figsize=(10, 4.7), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=(4, 3))
    titles = [
        f"p(hate) = {row.prob_hate:.2f}: {'hate' if row.label else 'non-hate'}"
        + (" (wrong)" if row.label != label else "")
        for row, label in zip(answers.itertuples(), labels, strict=True)
    ]
    contact_sheet(left, images, titles, len(images) // 2)
    threshold_panel(right.subplots(), frame, decision, CHOSEN)
    right.suptitle(f"{described(section_of(frame))}, n = {len(frame)}", fontsize=10)
    return figure
