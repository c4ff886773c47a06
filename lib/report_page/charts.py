"""The page's charts, drawn by Vega-Lite into SVG: it reads without a script and prints.

Colours are the page's own CSS variables, so that a chart turns dark with it. Each mark carries its
numbers as a label for screen readers, and the page shows that label under the pointer.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import vl_convert

from lib.config import MODELS
from lib.figures.style import style_of

INK, SOFT, LINE, BAD = "var(--ink)", "var(--soft)", "var(--line)", "var(--bad)"
SIDE = 210
CONFIG = {
    "font": "inherit",
    "background": None,
    "view": {"stroke": LINE},
    "axis": {
        "labelColor": SOFT,
        "titleColor": SOFT,
        "titleFontWeight": "normal",
        "gridColor": LINE,
        "domainColor": LINE,
        "tickColor": LINE,
        "labelFontSize": 11,
        "titleFontSize": 12,
    },
    "legend": {"labelColor": INK, "labelFontSize": 12, "title": None, "orient": "top"},
}


def color_of(model: str) -> str:
    return f"var(--{model.replace('_', '-')})"


def reliability_chart(model: str, bins: pd.DataFrame) -> str:
    """One model's share of hate by its mean p(hate), before and after; `bins` of `reliability`."""
    told = [
        f"{row.when}: mean p {row.p:.3f}, share of hate {row.rate:.3f}, {row.n} memes"
        for row in bins.itertuples()
    ]
    data = {"values": bins.assign(told=told).to_dict("records")}
    axes = {"x": _share("p", "mean p(hate)"), "y": _share("rate", "share of hate")}
    color = _by("when", ["before", "after"], [SOFT, color_of(model)])
    dashes = _by("when", ["before", "after"], [[4, 3], [1, 0]])
    lines = {
        "data": data,
        "mark": {"type": "line", "strokeWidth": 1.5, "aria": False},
        "encoding": axes | {"color": color, "strokeDash": dashes},
    }
    size = {"field": "n", "type": "quantitative", "legend": None, "scale": {"range": [12, 180]}}
    description = {"field": "told", "type": "nominal"}
    points = {
        "data": data,
        "mark": {"type": "circle", "opacity": 0.85},
        "encoding": axes | {"color": color, "size": size, "description": description},
    }
    perfect = {
        "data": {"values": [{"p": 0, "rate": 0}, {"p": 1, "rate": 1}]},
        "mark": {"type": "line", "color": LINE, "strokeWidth": 1.5, "aria": False},
        "encoding": axes,
    }
    return svg({"width": SIDE, "height": SIDE, "layer": [perfect, lines, points]})


def risk_chart(curves: Mapping[str, pd.DataFrame]) -> str:
    """The error rate of what is decided, by the share that is, a line a model."""
    names = [style_of(model).label for model in curves]
    rows = pd.concat([curve.assign(model=style_of(model).label) for model, curve in curves.items()])
    spec = {
        "width": 460,
        "height": SIDE,
        "data": {"values": rows.to_dict("records")},
        "mark": {"type": "line", "strokeWidth": 2},
        "encoding": {
            "x": _share("coverage", "share of memes decided without a person"),
            "y": {
                "field": "risk",
                "type": "quantitative",
                "title": "error rate among them",
                "axis": {"format": "%", "tickCount": 5},
            },
            "color": _by("model", names, [color_of(model) for model in curves]),
            "strokeDash": _by("model", names, [[1, 0], [6, 3], [2, 2]][: len(names)]),
        },
    }
    return svg(spec)


def heat_map(table: pd.DataFrame) -> str | None:
    """What each perturbation costs each model in macro-F1, worst for fusion first.

    `table` is `robustness_<m>.csv`; with a column `severity` each model has a cell a severity.
    None where the table lacks the columns perturbation, model and macro_f1_change.
    """
    if not {"perturbation", "model", "macro_f1_change"} <= set(table.columns):
        return None
    cells = _cells(table)
    if cells.empty:
        return None
    # Rows are worst first, so that the first of them need not have every column.
    columns = list(dict.fromkeys(cells.sort_values(["rank", "level"], kind="stable")["column"]))
    axes = {
        "x": {
            "field": "column",
            "type": "nominal",
            "sort": columns,
            "title": None,
            "axis": {"orient": "top", "labelAngle": -35 if len(columns) > 3 else 0, "grid": False},
        },
        "y": {
            "field": "perturbation",
            "type": "nominal",
            "sort": list(dict.fromkeys(cells["perturbation"])),
            "title": None,
            "axis": {"labelLimit": 240, "grid": False},
        },
    }
    worst = max(float(cells["cost"].max()), 0.05)
    shade = {"field": "cost", "type": "quantitative", "legend": None}
    heat = {
        "mark": {"type": "rect", "fill": BAD, "stroke": LINE},
        "encoding": axes
        | {
            "fillOpacity": shade
            | {"scale": {"domain": [0, worst], "range": [0, 0.9], "clamp": True}},
            "description": {"field": "told", "type": "nominal"},
        },
    }
    number = {
        "mark": {"type": "text", "color": INK, "fontSize": 11, "aria": False},
        "encoding": axes | {"text": {"field": "change", "type": "quantitative", "format": "+.3f"}},
    }
    width = 96 if len(columns) <= 3 else 58
    spec = {
        "data": {"values": cells.to_dict("records")},
        "width": {"step": width},
        "height": {"step": 24},
        "layer": [heat, number],
    }
    return svg(spec)


def svg(spec: Mapping[str, Any]) -> str:
    """A Vega-Lite specification as an SVG element."""
    drawn = vl_convert.vegalite_to_svg({**spec, "config": CONFIG})
    return drawn.replace("<svg ", '<svg role="img" ', 1)


def _by(field: str, domain: Sequence[str], values: Sequence[Any]) -> dict[str, Any]:
    scale = {"domain": list(domain), "range": list(values)}
    return {"field": field, "type": "nominal", "scale": scale}


def _share(field: str, title: str) -> dict[str, Any]:
    scale = {"domain": [0, 1]}
    axis = {"tickCount": 5, "format": ".1f", "labelOverlap": False}
    return {"field": field, "type": "quantitative", "title": title, "scale": scale, "axis": axis}


def _cells(table: pd.DataFrame) -> pd.DataFrame:
    """A row a cell, worst perturbation first: perturbation, column, change, cost, told.

    `rank` and `level` are the place of the model and the severity, by which columns are ordered.
    """
    rows = table[(table["perturbation"] != "none") & table["macro_f1_change"].notna()].copy()
    rows["rank"] = rows["model"].map({m: k for k, m in enumerate(reversed(MODELS))}).fillna(9)
    severe = rows["severity"] if "severity" in rows else pd.Series("", index=rows.index)
    rows["level"] = pd.to_numeric(severe, errors="coerce").fillna(0.0)
    severe = severe.fillna("").astype(str).str.removesuffix(".0")
    rows["column"] = [
        f"{style_of(m).label} {s}".strip() for m, s in zip(rows["model"], severe, strict=True)
    ]
    rows["change"] = rows["macro_f1_change"]
    rows["cost"] = -rows["change"]
    fusion = rows[rows["model"] == "mm_fusion"]
    worst = (fusion if len(fusion) else rows).groupby("perturbation")["change"].min()
    rows["worst"] = rows["perturbation"].map(worst)
    rows["told"] = [
        f"{row.perturbation}, {row.column}: macro-F1 {row.change:+.3f}" for row in rows.itertuples()
    ]
    rows = rows.sort_values(["worst", "perturbation", "rank", "level"], kind="stable")
    return rows[["perturbation", "column", "change", "cost", "told", "rank", "level"]]
