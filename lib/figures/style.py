"""The one look of all figures: a colour and a mark per model, a line per role, one legend.

The models' colours differ in lightness and their marks in shape, so that a figure reads in grey.
"""

from dataclasses import dataclass
from typing import Any

from matplotlib.artist import Artist
from matplotlib.colors import to_rgba
from matplotlib.figure import FigureBase
from matplotlib.legend import Legend
from matplotlib.legend_handler import HandlerTuple

INK, GREY, PALE = "#1b1b3a", "#6b6b6b", "#c9ced6"


@dataclass(frozen=True)
class Style:
    """How what belongs to one model is drawn, and what the model is called."""

    label: str
    color: str
    marker: str


PLAIN = Style("model", INK, "o")

MODEL_STYLES = {
    "text_expert": Style("text expert", "#d08614", "s"),
    "vision_expert": Style("vision expert", "#2a6591", "^"),
    "mm_fusion": Style("fusion", INK, "o"),
}

# A panel's main line has its model's colour; what stands beside it is grey and told by its dashes.
ROLES: dict[str, dict[str, Any]] = {
    "main": {"linestyle": "-", "linewidth": 2.5},
    "precision": {"color": GREY, "linestyle": ":", "linewidth": 2},
    "recall": {"color": GREY, "linestyle": "--", "linewidth": 1.5},
    "val loss": {"color": INK, "linestyle": "--", "linewidth": 1.2, "marker": "X"},
    "val macro-F1": {"color": GREY, "linestyle": "-.", "linewidth": 1.2, "marker": "D"},
    "reference": {"color": GREY, "linestyle": (0, (6, 3)), "linewidth": 1},
    "chosen": {"color": INK, "marker": "D", "markerfacecolor": "white", "markersize": 8},
    "interval": {"color": PALE, "alpha": 0.6, "linewidth": 0},
}


def style_of(name: str) -> Style:
    """The style of a model, by its name in the tables or in words; of anything else `PLAIN`."""
    by_label = {style.label: style for style in MODEL_STYLES.values()}
    return MODEL_STYLES.get(name) or by_label.get(name, PLAIN)


def share_legend(figure: FigureBase) -> Legend:
    """Put one legend of all axes below them, in place of an earlier one; returns it.

    A label that stands for marks of several colours, a model each, is named once, behind one of
    each. The legend has as many columns as the figure is wide enough for. The room below is kept
    free by constrained layout, which a figure without a layout gets.
    """
    root = figure.get_figure(root=True)
    if root.get_layout_engine() is None:
        root.set_layout_engine("constrained")
    handles = _labelled(figure)
    for columns in range(max(1, len(handles)), 0, -1):
        for earlier in list(figure.legends):
            earlier.remove()
        legend = figure.legend(
            [tuple(same) if len(same) > 1 else same[0] for same in handles.values()],
            list(handles),
            loc="outside lower center",
            ncols=columns,
            fontsize=9,
            frameon=False,
            handler_map={tuple: HandlerTuple(ndivide=None)},
        )
        if legend.get_window_extent().width <= figure.bbox.width:
            break
    return legend


def _labelled(figure: FigureBase) -> dict[str, list[Artist]]:
    """The labelled marks of a figure by their label, one of each colour."""
    found: dict[str, list[Artist]] = {}
    for ax in figure.axes:
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True):
            same = found.setdefault(label, [])
            if _color(handle) not in map(_color, same):
                same.append(handle)
    return found


def _color(handle: Any) -> tuple[float, ...]:
    if isinstance(handle, tuple):  # a bar or error bar is a tuple of its parts
        return _color(handle[0])
    return to_rgba(handle.get_color() if hasattr(handle, "get_color") else handle.get_facecolor())
