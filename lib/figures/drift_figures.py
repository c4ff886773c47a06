"""What has changed since calibration, drawn from the report of `lib.serving.drift`."""

from collections.abc import Mapping
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lib.figures.style import GREY, INK, PALE


def drift_figure(report: Mapping[str, Any]) -> Figure:
    """The shares of scores and text lengths then and now; with labels, their reliability too.

    `report` is what `Step_8/drift_<mode>.json` holds.
    """
    compared = {name: found for name, found in report["drift"].items() if found["bins"]}
    panels = max(len(compared) + ("labels" in report), 1)
    figure, axes = plt.subplots(
        1, panels, figsize=(4.5 * panels, 3.8), squeeze=False, layout="constrained"
    )
    places = iter(axes[0])
    for name, found in compared.items():
        draw_shares(next(places), name, found)
    if "labels" in report:
        draw_reliability(next(places), report["labels"]["reliability"])
    against = f"{report['answers']:,} answers against {report['reference']}"
    figure.suptitle(f"{against}: {report['verdict']}")
    return figure


def draw_shares(axes: Axes, name: str, found: Mapping[str, Any]) -> None:
    """The share of each bin in the calibration split and now, bars beside each other."""
    place = np.arange(len(found["bins"]))
    sides = ((-0.2, "reference", "calibration", PALE), (0.2, "now", "now", INK))
    for shift, key, label, color in sides:
        shares = [row[key] for row in found["bins"]]
        axes.bar(place + shift, shares, 0.4, label=label, color=color)
    axes.set_xticks(place, [f"{row['from']:.2g}" for row in found["bins"]], rotation=45)
    axes.set(xlabel=f"{name.replace('_', ' ')}, from", ylabel="share of memes")
    axes.set_title(f"PSI {found['psi']['value']:.3f}, KS {found['ks']['value']:.3f}")
    axes.legend(frameon=False)


def draw_reliability(axes: Axes, rows: list[Mapping[str, Any]]) -> None:
    """The share of hate over the mean probability of each bin, with its exact 95% interval."""
    said, share, low, high = (
        np.array([row[key] for row in rows])
        for key in ("mean_prob", "share_of_hate", "low", "high")
    )
    axes.plot([0, 1], [0, 1], linestyle=":", color=GREY)
    axes.errorbar(said, share, [share - low, high - share], fmt="o", color=INK, capsize=2)
    axes.set(xlabel="mean probability", ylabel="share of hate", title="fresh labels")
