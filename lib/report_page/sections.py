"""The sections of the page that only read: tables and charts as HTML, by name.

A file that is not there is a sentence saying which command writes it, so that the page can be
written before robustness has run.
"""

import html
import warnings
from collections.abc import Callable

import numpy as np
import pandas as pd

from lib.artifacts import read_json
from lib.commands import again
from lib.config import MODELS, Settings
from lib.data.text import words_of
from lib.decisions.policy import policy_table
from lib.decisions.policy_outcomes import judged, risk_coverages
from lib.figures.style import style_of
from lib.modeling.prediction_table import contamination
from lib.report_page.charts import heat_map, reliability_chart, risk_chart
from lib.report_page.counts import reliability
from lib.report_page.finished_run import Run, step_7_table

# Rows of a table that is shown whole: a longer one is cut, and says so.
TABLE_ROWS = 500
LONGEST_CELL = 120
CURVE_POINTS = 200
_WHEN = ("before", "after", "zero-truth")

# Tables of Step 7 that have no chart beside them, in the page's order: file, heading, explanation.
TABLES = {
    "policy": (
        "policy.csv",
        "What is certified of each side of the policy, and on how many memes.",
    ),
    "slices": (
        "slices.csv",
        "Fusion's error rate by kind of meme. Slices of fewer than 30 memes are marked "
        "insufficient: a ranking of them would be noise.",
    ),
    "fairness": (
        "fairness.csv",
        "Gaps of fusion's errors between the groups that memes are about.",
    ),
    "pairs": (
        "pairs.csv",
        "Memes of one text or one picture and opposite labels: how often the hateful one scores "
        "higher.",
    ),
    "modalities": ("modalities.csv", "What text and picture bring, and what is lost without them."),
    "suspects": (
        "label_suspects.csv",
        "Memes of train whose label the out-of-fold scores contradict most. What you call wrong "
        "here goes into corrections.csv too, and Step 3 applies it.",
    ),
}


def sections(run: Run) -> dict[str, str]:
    """The HTML of each section, by its name in `page.html`."""
    settings = run.settings
    said = contamination(run.report, settings.mode)
    found = {
        "contamination": _note(f"Caution: {said}") if said else "",
        "reliability": _reliability(run),
        "calibration": _calibration(settings),
        "risk": _risk(run),
        "robustness": _of_file(settings, "robustness.csv", _robustness),
        "guidelines": _guidelines(settings),
    }
    # As it is in use: with an edited temperature its cuts have moved since the file was written.
    in_use = table_html(policy_table(run.decision.policy), "policy")
    for name, (file, words) in TABLES.items():
        shown = (lambda _: in_use) if name == "policy" else _table(name)
        found[name] = f"<p>{html.escape(words)}</p>" + _of_file(settings, file, shown)
    found["policy"] += _held(run)
    return found


def _held(run: Run) -> str:
    """What came of each side of the policy on the reported memes."""
    split = run.report["split"].iloc[0]
    words = f"What came of it on {split}, one meme of each group, with exact 95% intervals."
    table = judged(run.report, run.decision, run.settings.seed)
    table["holds"] = table["holds"].map({True: "yes", False: "no"})
    return f"<p>{html.escape(words)}</p>" + table_html(table, "held")


def _of_file(settings: Settings, name: str, shown: Callable[[pd.DataFrame], str]) -> str:
    """What `shown` makes of a table of Step 7, or a sentence where it is missing or empty."""
    table, why = step_7_table(settings, name)
    return _note(why) if why else shown(table)


def _note(words: str) -> str:
    return f'<p class="note">{html.escape(words)}</p>'


def _table(name: str) -> Callable[[pd.DataFrame], str]:
    return lambda table: table_html(table, name)


def table_html(table: pd.DataFrame, name: str) -> str:
    """A table that DataTables makes sortable, its cells escaped; the first 500 rows of it."""
    shown = table.head(TABLE_ROWS).copy()
    if "text" in shown:
        shown["text"] = shown["text"].fillna("").map(words_of)
    for column in shown.columns[~shown.dtypes.map(pd.api.types.is_numeric_dtype)]:
        shown[column] = shown[column].map(_cell)
    for column in map(str, shown.select_dtypes("float")):
        # Of whole numbers some are missing, which makes floats of the others in a CSV.
        if shown[column].isna().any() and (shown[column].dropna() % 1 == 0).all():
            shown[column] = shown[column].astype("Int64").astype("string").fillna("")
    shown.columns = [str(column).replace("_", " ") for column in shown.columns]
    with pd.option_context("display.max_colwidth", None):
        drawn = shown.to_html(
            index=False,
            border=0,
            na_rep="",
            escape=True,
            table_id=f"table-{name}",
            classes="sortable",
            float_format=lambda number: f"{number:.3g}" if abs(number) < 1e-3 else f"{number:.3f}",
        )
    cut = _note(f"The first {TABLE_ROWS} of {len(table)} rows.") if len(table) > TABLE_ROWS else ""
    return _scrolled(drawn, name) + cut


def _cell(value: object) -> object:
    if not isinstance(value, str):
        return value
    return value if len(value) <= LONGEST_CELL else value[: LONGEST_CELL - 1] + "…"


def _chart(drawn: str, title: str, words: str = "") -> str:
    caption = f"<figcaption><b>{html.escape(title)}</b> {html.escape(words)}</figcaption>"
    return f'<figure class="chart">{caption}{_scrolled(drawn, title)}</figure>'


def _scrolled(inner: str, name: str) -> str:
    """What may be wider than a phone, scrolled by keys too."""
    label = html.escape(name)
    return f'<div class="scroll" tabindex="0" role="region" aria-label="{label}">{inner}</div>'


def _reliability(run: Run) -> str:
    drawn = []
    for model in reversed(MODELS):
        scales = {"before": 1.0, "after": run.decision.temperatures[model]}
        bins = reliability(run.report, model, scales)
        ece = bins.groupby("when")["ece"].first()
        words = (
            f"ECE {ece['before']:.3f} before, {ece['after']:.3f} after, "
            f"T = {run.decision.temperatures[model]:.2f}"
        )
        drawn.append(_chart(reliability_chart(model, bins), style_of(model).label, words))
    return "".join(drawn)


def _calibration(settings: Settings) -> str:
    """NLL, Brier score and ECE before and after, of the reported split, from the report."""
    path = settings.artifact(7, "report.json")
    if not path.exists():
        return _note(f"{path.name} is not there. It is written by: {again(7)}")
    report = read_json(path, again(7))
    found = report.get("calibration", {}).get(report.get("reported_on"))
    if not found:
        return _note(f"{path.name} holds no calibration.")
    rows = pd.DataFrame({style_of(model).label: found[model] for model in MODELS if model in found})
    order = [f"{metric} {when}" for metric in ("nll", "brier", "ece") for when in _WHEN]
    table = rows.T[[name for name in order if name in rows.index]]
    return table_html(table.rename_axis("model").reset_index(), "calibration")


def _risk(run: Run) -> str:
    found = risk_coverages(run.report, run.decision)
    shown = np.unique(np.linspace(0, len(run.report) - 1, CURVE_POINTS).round().astype(int))
    curves = {
        model: pd.DataFrame({"coverage": curve.coverage[shown], "risk": curve.risk[shown]})
        for model, curve in found.items()
    }
    areas = ", ".join(f"{style_of(model).label} {curve.aurc:.3f}" for model, curve in found.items())
    return _chart(risk_chart(curves), "Risk and coverage", f"Area under the curve: {areas}.")


def _robustness(table: pd.DataFrame) -> str:
    """Heat maps of what changes cost, those that may change a meme's label apart, and the table."""
    parts = {"Change in macro-F1": table}
    if "may_change_label" in table:
        may = table["may_change_label"].astype(str) == "True"
        parts = {"The label stays": table[~may], "The label may change": table[may]}
    drawn = {title: heat_map(part) for title, part in parts.items()}
    charts = [_chart(svg, title, "Worst for fusion first.") for title, svg in drawn.items() if svg]
    rows = f"<details><summary>All numbers</summary>{table_html(table, 'robustness')}</details>"
    return f'<div class="figures">{"".join(charts)}</div>{rows}'


def _guidelines(settings: Settings) -> str:
    """What the labels mean, from the label schema that Step 3 wrote."""
    try:
        labels = read_json(settings.taxonomy, again(3))["labels"]
    except (FileNotFoundError, ValueError, KeyError) as error:
        warnings.warn(f"the report shows no label schema: {error}", stacklevel=2)
        return ""
    items = [
        f"<dt>{html.escape(name.replace('_', ' '))}</dt>"
        f"<dd>{html.escape(str(label.get('description', '')))}</dd>"
        for name, label in labels.items()
    ]
    return f"<dl>{''.join(items)}</dl>"
