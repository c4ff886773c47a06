import re

import pandas as pd

from lib.config import MODELS
from lib.figures.style import style_of
from lib.report_page.charts import heat_map, risk_chart


def table(**columns):
    rows = [
        {"perturbation": name, "model": model, "macro_f1_change": change * (model == "mm_fusion")}
        for name, change in (("none", 0.0), ("mild", -0.01), ("harsh", -0.3), ("helps", 0.02))
        for model in MODELS
    ]
    return pd.DataFrame(rows).assign(**columns)


def told(svg):
    return re.findall(r'aria-label="([^"]*macro-F1[^"]*)"', svg)


def test_the_heat_map_names_the_worst_for_fusion_first_and_leaves_out_what_is_unchanged():
    labels = re.findall(r">(mild|harsh|helps|none)</text>", heat_map(table()))
    assert labels == ["harsh", "mild", "helps"]
    assert "harsh, fusion: macro-F1 -0.300" in told(heat_map(table()))
    assert len(told(heat_map(table()))) == 9


def test_severities_have_a_column_each():
    severe = pd.concat([table(severity=1.0), table(severity=2.0)])
    assert "harsh, fusion 2: macro-F1 -0.300" in told(heat_map(severe))
    assert len(told(heat_map(severe))) == 18


def test_columns_go_by_model_and_severity_though_the_worst_row_lacks_some():
    severe = pd.concat([table(severity=s) for s in (1, 2, 10)])
    severe = severe[(severe["perturbation"] != "harsh") | (severe["severity"] == 10)]
    heads = re.findall(r">([a-z ]+ \d+)</text>", heat_map(severe))
    models = [style_of(model).label for model in reversed(MODELS)]
    assert heads == [f"{model} {s}" for model in models for s in (1, 2, 10)]


def test_a_table_of_other_columns_or_without_changes_has_no_heat_map():
    assert heat_map(table().drop(columns="model")) is None
    assert heat_map(table().query("perturbation == 'none'")) is None


def test_charts_take_their_colours_from_the_page():
    svg = risk_chart({"mm_fusion": pd.DataFrame({"coverage": [0.5, 1.0], "risk": [0.0, 0.1]})})
    assert 'stroke="var(--mm-fusion)"' in svg and svg.startswith('<svg role="img"')
