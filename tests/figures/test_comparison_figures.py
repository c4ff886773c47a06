import itertools

import pandas as pd
import pytest

from lib.config import MODELS
from lib.decisions.bundle import DecisionBundle
from lib.decisions.prevalence import precision_by_prevalence
from lib.decisions.rivals import CALIBRATORS, METRICS
from lib.figures.comparison_figures import (
    SHARES,
    choice_figure,
    cross_fitted_figure,
    prevalence_figure,
    rivals_figure,
)
from lib.figures.style import MODEL_STYLES


def marks(ax, model):
    """Where one model's marks stand in a panel: (value, row) each."""
    lines = [line for line in ax.get_lines() if line.get_label() == MODEL_STYLES[model].label]
    return [(float(line.get_xdata()[0]), float(line.get_ydata()[0])) for line in lines]


def spans(ax):
    """The intervals of a panel as (low, high), in the order of their drawing."""
    return [tuple(part.get_segments()[0][:, 0]) for part in ax.collections]


@pytest.fixture
def of_rivals():
    rows = [
        {"model": model, "metric": metric, "calibrator": name, "minus_temperature": 0.01 * k}
        for k, (model, metric, name) in enumerate(itertools.product(MODELS, METRICS, CALIBRATORS))
    ]
    table = pd.DataFrame(rows)
    return table.assign(low=table["minus_temperature"] - 1, high=table["minus_temperature"] + 2)


def test_each_rival_stands_by_what_it_has_above_temperature(of_rivals, legend_stands_apart):
    figure = rivals_figure(of_rivals, "val calibrate")
    assert len(figure.axes) == len(METRICS)
    names = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert names == [name for name in CALIBRATORS if name != "temperature"]
    for ax, metric in zip(figure.axes, METRICS, strict=True):
        of_metric = of_rivals[
            (of_rivals["metric"] == metric) & (of_rivals["calibrator"] != "temperature")
        ]
        for model in MODELS:
            of_model = of_metric[of_metric["model"] == model]
            assert [value for value, _ in marks(ax, model)] == pytest.approx(
                of_model["minus_temperature"].tolist()
            )
            assert [round(row) for _, row in marks(ax, model)] == list(range(len(names)))
        assert spans(ax) == [
            pytest.approx(ends) for ends in of_metric[["low", "high"]].itertuples(index=False)
        ]
    assert figure.get_suptitle().startswith("val, calibrate half, cross-fitted")
    assert legend_stands_apart(figure)


def test_in_sample_is_hollow_above_what_is_cross_fitted():
    rows = []
    for model, estimate in itertools.product(MODELS, ("in-sample", "cross-fitted")):
        row = {"model": model, "estimate": estimate}
        for metric in ("macro_f1", "brier", "ece"):
            row |= {metric: 0.5, f"{metric}_low": 0.4, f"{metric}_high": 0.7}
        rows.append(row)
    table = pd.DataFrame(rows)
    # A model without an estimate has a mark less.
    figure = cross_fitted_figure(table.drop(index=1), "train")
    for ax in figure.axes:
        assert [len(marks(ax, model)) for model in MODELS] == [1, 2, 2]
        hollow, filled = (
            line for line in ax.get_lines() if line.get_label() == MODEL_STYLES["mm_fusion"].label
        )
        assert hollow.get_markerfacecolor() == "white" != filled.get_markerfacecolor()
        assert hollow.get_ydata()[0] < filled.get_ydata()[0]
        assert spans(ax) == [pytest.approx((0.4, 0.7))] * 5


def test_the_best_model_is_compared_with_each_other():
    table = pd.DataFrame(
        {
            "model": ["mm_fusion", "vision_expert", "text_expert"],
            "best_minus_this": [0.0, 0.1, 0.3],
            "gap_low": [0.0, -0.1, 0.2],
            "gap_high": [0.0, 0.3, 0.4],
        }
    )
    (ax,) = choice_figure(table, "test").axes
    assert [label.get_text() for label in ax.get_yticklabels()] == [
        "over vision expert",
        "over text expert",
    ]
    assert marks(ax, "vision_expert") == [(0.1, 0)]
    assert marks(ax, "text_expert") == [(0.3, 1)]
    assert spans(ax) == [pytest.approx((-0.1, 0.3)), pytest.approx((0.2, 0.4))]
    assert ax.get_xlabel() == "macro-F1 of fusion minus the other's"


def test_precision_is_drawn_over_the_share_of_hate(
    logits_frame, model_folders, legend_stands_apart
):
    frame = logits_frame(100)
    decision = DecisionBundle.fit(frame, model_folders, 5)
    figure = prevalence_figure(frame, decision, 0, 0.02)
    (ax,) = figure.axes
    table = precision_by_prevalence(frame, decision, SHARES)
    for model in MODELS:
        (curve,) = (
            line for line in ax.get_lines() if line.get_label() == MODEL_STYLES[model].label
        )
        assert (
            curve.get_ydata().tolist() == table.loc[table["model"] == model, "precision"].tolist()
        )
    assert [text.get_text() for text in ax.texts] == ["these memes: 0.5", "stated: 0.02"]
    assert legend_stands_apart(figure)


def test_a_single_class_has_no_precision_to_draw(logits_frame, model_folders):
    frame = logits_frame(100)
    decision = DecisionBundle.fit(frame, model_folders, 5)
    (ax,) = prevalence_figure(frame[frame["label"] == 0], decision, 0).axes
    assert [text.get_text() for text in ax.texts] == ["one class alone"]
