import pandas as pd
import pytest

from lib.config import MODELS
from lib.figures.robustness_figures import robustness_figure


@pytest.fixture
def table():
    """Two perturbations that keep the label and one that may not, of fusion; the experts' are 0."""
    costs = {
        ("none", 0): 0.0,
        ("text: typos", 1): 0.0,
        ("text: typos", 2): -0.1,
        ("text: typos", 3): -0.2,
        ("image: noise", 1): 0.02,
        ("image: noise", 2): -0.3,
        ("image: noise", 3): -0.25,
        ("text: removed", 3): -0.5,
    }
    rows = [
        {"perturbation": name, "severity": severity, "model": model, "macro_f1": 0.9 + cost}
        | {"may_change_label": name == "text: removed", "n": 40 if name[0] == "i" else 80}
        | {"macro_f1_change": cost if model == "mm_fusion" else 0.0}
        for (name, severity), cost in costs.items()
        for model in MODELS
    ]
    return pd.DataFrame(rows)


def cells(ax):
    return [text.get_text() for text in ax.texts]


def test_rows_are_worst_first_and_what_may_change_the_label_stands_apart(table):
    figure = robustness_figure(table, "test")
    keeps, changes = (ax for ax in figure.axes if ax.get_images())
    assert [label.get_text() for label in keeps.get_yticklabels()] == [
        "image: noise",
        "text: typos",
    ]
    assert cells(keeps) == ["+0.020", "-0.300", "-0.250", "0", "-0.100", "-0.200"]
    # It has one severity alone.
    assert cells(changes) == ["-0.500"]
    assert [label.get_text() for label in changes.get_yticklabels()] == ["text: removed"]


def test_both_panels_share_colours_that_are_white_where_nothing_changed(table):
    figure = robustness_figure(table, "test")
    images = [image for ax in figure.axes for image in ax.get_images()]
    assert {image.get_clim() for image in images} == {(-0.5, 0.5)}
    calm = table.assign(macro_f1_change=0.0)
    images = [image for ax in robustness_figure(calm, "test").axes for image in ax.get_images()]
    assert {image.get_clim() for image in images} == {(-0.1, 0.1)}


def test_the_title_says_what_was_judged_on_how_many(table):
    title = robustness_figure(table, "test").get_suptitle()
    assert "fusion, test, n = 80" in title and "0.900" in title
    assert "image perturbations on 40 of them" in title
    own = robustness_figure(table, "train", model="text_expert").get_suptitle()
    assert own.startswith("text expert, train (in-sample)")


def test_a_table_without_label_changing_edits_has_one_panel(table):
    figure = robustness_figure(table[~table["may_change_label"]], "test")
    assert sum(bool(ax.get_images()) for ax in figure.axes) == 1
