"""What a reader moves, sorts and searches in Jupyter; in a batch run the same, standing still."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from IPython import get_ipython
from numpy.typing import ArrayLike

from lib.calibration import sweep_thresholds
from lib.commands import GIVEN
from lib.config import MODELS
from lib.decisions.bundle import DecisionBundle
from lib.decisions.calibration_tables import calibrated
from lib.decisions.policy import CHOSEN
from lib.decisions.spreadsheets import as_met

# More than that of a table is sampled for the page: a browser would choke on it.
SHOWN_BYTES = "2MB"


def is_batch() -> bool:
    """Whether nobody can click: `lib.run`, `make notebooks` or papermill runs this notebook.

    Papermill, as all that executes notebooks by nbclient, forbids its cells to ask for input, which
    no front end does.
    """
    if GIVEN in os.environ:
        return True
    kernel = getattr(get_ipython(), "kernel", None)
    asked = kernel.get_parent() if kernel else {}
    return not asked.get("content", {}).get("allow_stdin", True)


def threshold_explorer(frame: pd.DataFrame, decision: DecisionBundle) -> Any:
    """A slider a model over its threshold, above what the decisions of `frame` come to at it.

    `frame` holds predictions of one split. Returns an ipywidgets box, which lists `errors_at` of
    fusion too, in a batch run the table of `decisions_at` at the chosen thresholds.
    """
    prob = calibrated(frame, decision.temperatures)
    if is_batch():
        return decisions_at(prob, frame["label"], decision.thresholds)
    # Here, since a batch run needs none.
    from ipywidgets import HTML, FloatSlider, Layout, VBox

    # One above every score lies above 1, and a slider would pull it down.
    highest = max(1.0, *decision.thresholds.values())
    limits = {"min": 0.0, "max": highest, "step": 0.001, "readout_format": ".3f"}
    sliders = {
        model: FloatSlider(
            value=decision.thresholds[model],
            description=model.replace("_", " "),
            style={"description_width": "8em"},
            layout=Layout(width="40em"),
            **limits,
        )
        for model in MODELS
    }
    page = HTML()

    def update(_: Any = None) -> None:
        cuts = {model: slider.value for model, slider in sliders.items()}
        errors = errors_at(frame, prob, cuts[CHOSEN])
        page.value = "".join(
            table.to_html(float_format="{:.3f}".format)
            for table in (decisions_at(prob, frame["label"], cuts), errors)
        )

    for slider in sliders.values():
        slider.observe(update, names="value")
    update()
    return VBox([*sliders.values(), page])


def decisions_at(
    prob: Mapping[str, ArrayLike] | pd.DataFrame,
    labels: ArrayLike,
    thresholds: Mapping[str, float],
) -> pd.DataFrame:
    """What `prob >= threshold` comes to, a row a model.

    `prob` holds p(hate) (N,) by model, `labels` (N,) are 0 or 1. Columns: threshold, tp, fp, tn,
    fn, precision, recall, f1, macro_f1, the mean of both classes' F1, and per_10000, how many of
    10,000 such memes are called hate; a ratio without denominator is 0.
    """
    rows = {m: sweep_thresholds(prob[m], labels, [cut]).iloc[0] for m, cut in thresholds.items()}
    table = pd.DataFrame(rows).T
    table = table.astype({name: int for name in ("tp", "fp", "tn", "fn")})
    of_non_hate = 2 * table["tn"] / (2 * table["tn"] + table["fp"] + table["fn"]).clip(lower=1)
    table["macro_f1"] = (table["f1"] + of_non_hate) / 2
    called = table["tp"] + table["fp"]
    table["per_10000"] = (
        (10_000 * called / (called + table["tn"] + table["fn"])).round().astype(int)
    )
    columns = ["threshold", "tp", "fp", "tn", "fn", "precision", "recall", "f1", "macro_f1"]
    return table[[*columns, "per_10000"]].rename_axis("model")


def errors_at(
    frame: pd.DataFrame,
    prob: Mapping[str, ArrayLike] | pd.DataFrame,
    threshold: float,
    rows: int = 10,
) -> pd.DataFrame:
    """The memes that fusion decides wrongly at a threshold, the `rows` it is surest of first.

    `prob` holds p(hate) (N,) of the N memes of `frame` by model. Columns: id, label, p(hate) of the
    three models, and `error_type`, "FP" or "FN".
    """
    table = frame.filter(["id", "label"]).assign(**{m: np.asarray(prob[m]) for m in MODELS})
    wrong = table[(table[CHOSEN] >= threshold) != table["label"]]
    distance = (wrong[CHOSEN] - wrong["label"]).abs()
    surest = wrong.iloc[np.argsort(-distance.to_numpy(), kind="stable")[:rows]]
    return surest.assign(error_type=np.where(surest["label"] == 1, "FN", "FP"))


def sortable(table: pd.DataFrame | Path, rows: int = 5) -> Any:
    """A table, or a CSV file, to sort and search by clicking; in a batch run its first rows.

    Works without a network: the script that sorts comes with the itables package. Of a table over
    2 MB a sample is shown, and said to be one.
    """
    first = rows if is_batch() else None
    shown = as_met(table, first) if isinstance(table, Path) else table
    if is_batch():
        return shown.head(rows)
    from IPython.display import HTML
    from itables import to_html_datatable

    return HTML(to_html_datatable(shown, connected=False, maxBytes=SHOWN_BYTES))
