"""Step 7's heat map of what small changes of a meme cost."""

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from lib.decisions.report import described
from lib.figures.style import INK, MODEL_STYLES, PALE

# Changes at least as large as this have the full colour where none is larger.
LEAST_RANGE = 0.1
SEVERITY_NAMES = {1: "1: light", 2: "2: medium", 3: "3: heavy"}


def robustness_figure(table: pd.DataFrame, split: str, model: str = "mm_fusion") -> Figure:
    """A heat map of the change of a model's macro-F1: a row a perturbation, a column a severity.

    `table` is that of `lib.decisions.robustness` on memes of `split`. Rows are worst first; what
    may change a label stands in a panel of its own. A cell without a number does not exist.
    """
    own = table[table["model"] == model]
    plain, changed = own[own["severity"] == 0], own[own["severity"] > 0]
    panels = [
        (title, _worst_first(rows))
        for title, rows in (
            ("the label stays", changed[~changed["may_change_label"]]),
            ("the label may change", changed[changed["may_change_label"]]),
        )
        if len(rows)
    ]
    heights = [len(wide) for _, wide in panels]
    figure, axes = plt.subplots(
        len(panels),
        1,
        figsize=(6.4, 1.9 + 0.31 * sum(heights)),
        height_ratios=heights,
        squeeze=False,
        layout="constrained",
    )
    largest = max(LEAST_RANGE, float(changed["macro_f1_change"].abs().max()))
    for ax, (title, wide) in zip(axes[:, 0], panels, strict=True):
        image = _heat_map(ax, wide, largest)
        ax.set_title(title, fontsize=10, loc="left")
    figure.colorbar(image, ax=axes[:, 0].tolist(), label="change of macro-F1", shrink=0.6)
    score, n = plain["macro_f1"].iloc[0], int(plain["n"].iloc[0])
    figure.suptitle(
        f"{MODEL_STYLES[model].label}, {described(split)}, n = {n}\n"
        f"macro-F1 {score:.3f} as they are{_fewer(changed, n)}",
        fontsize=11,
    )
    return figure


def _worst_first(rows: pd.DataFrame) -> pd.DataFrame:
    """Changes by perturbation and severity, the worst perturbation on top."""
    wide = rows.pivot(index="perturbation", columns="severity", values="macro_f1_change")
    wide = wide.reindex(columns=list(SEVERITY_NAMES))
    return wide.loc[wide.min(axis=1).sort_values(kind="stable").index]


def _heat_map(ax: Axes, wide: pd.DataFrame, largest: float) -> AxesImage:
    ax.set_facecolor(PALE)
    image = ax.imshow(
        wide, cmap=plt.get_cmap("RdBu", 15), vmin=-largest, vmax=largest, aspect="auto"
    )
    for row, changes in enumerate(wide.to_numpy()):
        for column, change in enumerate(changes):
            if change == change:  # not NaN
                dark = abs(change) > 0.65 * largest
                color = "white" if dark else INK
                text = f"{change:+.3f}" if round(change, 3) else "0"
                ax.text(column, row, text, ha="center", va="center", fontsize=8, color=color)
    ax.set_yticks(range(len(wide)), wide.index, fontsize=9)
    ax.set_xticks(range(wide.shape[1]), list(SEVERITY_NAMES.values()), fontsize=9)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    return image


def _fewer(changed: pd.DataFrame, n: int) -> str:
    """Which perturbations were judged on fewer memes."""
    fewer = changed[changed["n"] < n]
    kinds = sorted({name.partition(":")[0] for name in fewer["perturbation"]})
    if not kinds:
        return ""
    return f"; {' and '.join(kinds)} perturbations on {int(fewer['n'].iloc[0])} of them"
