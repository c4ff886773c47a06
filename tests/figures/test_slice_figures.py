import itertools

import numpy as np
import pandas as pd
import pytest
from matplotlib.patches import Rectangle

from lib.config import MODELS
from lib.decisions.fairness import fairness
from lib.decisions.modalities import CHANGES, INTACT, Modalities
from lib.decisions.modalities import COLUMNS as EFFECTS
from lib.decisions.pairs import KINDS
from lib.decisions.slices import slices
from lib.figures.slice_figures import WORSE, fairness_figure, modalities_figure, slices_figure


@pytest.fixture
def sliced():
    cells = {"short": (90, 10, 90, 10), "long": (30, 60, 30, 60), "few": (5, 0, 5, 0)}
    rows = [
        {"slice": "length", "value": value, "tp": tp, "fp": fp, "tn": tn, "fn": fn}
        for value, (tp, fp, tn, fn) in cells.items()
    ]
    return slices([pd.DataFrame(rows)])


@pytest.fixture
def found():
    effects = pd.DataFrame(
        [
            {"change": change, "model": model, "n": 600}
            | {name: 0.3 for name in EFFECTS[3:] if change != INTACT}
            for change, model in itertools.product((INTACT, *CHANGES), MODELS)
        ],
        columns=list(EFFECTS),
    )
    pairs = pd.DataFrame(
        [
            {"kind": kind, "model": model, "pair_accuracy": 0.9, "low": 0.8, "high": 0.95}
            for kind, model in itertools.product(KINDS, MODELS)
        ]
    )
    return Modalities(pairs, effects)


def test_a_slice_is_a_mark_on_its_interval_and_the_worse_stand_out(sliced, legend_stands_apart):
    figure = slices_figure(sliced, "test")
    (ax,) = figure.axes
    marks = {line.get_label(): line for line in ax.get_lines()}
    assert marks["error rate"].get_xdata().tolist() == [0.1]
    assert marks["worse than the rest"].get_xdata() == pytest.approx([120 / 180])
    assert marks["worse than the rest"].get_color() == WORSE
    names = [label.get_text() for label in ax.get_yticklabels()]
    assert names == ["length: long  (180)", "length: short  (200)"]
    assert "2 slices, 1 too small to judge" in figure.get_suptitle()
    assert legend_stands_apart(figure)


def test_without_slices_that_can_be_judged_the_figure_says_so(sliced):
    figure = slices_figure(sliced[sliced["verdict"] == "insufficient"], "train")
    assert "0 slices, 1 too small to judge" in figure.get_suptitle()
    figure.draw_without_rendering()


def test_every_model_has_a_bar_for_each_change_and_kind_of_pair(found, legend_stands_apart):
    figure = modalities_figure(found, "test")
    for ax, groups, height in zip(
        figure.axes, (CHANGES, CHANGES, KINDS), (0.3, 0.3, 0.9), strict=True
    ):
        bars = [patch for patch in ax.patches if isinstance(patch, Rectangle)]
        assert [bar.get_height() for bar in bars] == [height] * (3 * len(groups))
        names = [label.get_text().replace("\n", " ") for label in ax.get_xticklabels()]
        assert names == list(groups)
    assert "n = 600" in figure.get_suptitle()
    assert legend_stands_apart(figure)


def test_what_is_undefined_has_no_bar(found):
    pairs = found.pairs.assign(pair_accuracy=np.nan, low=np.nan, high=np.nan)
    figure = modalities_figure(Modalities(pairs, found.effects[:0]), "train")
    assert all(np.isnan(patch.get_height()) for ax in figure.axes for patch in ax.patches)
    figure.draw_without_rendering()


def test_a_rate_is_a_mark_on_its_interval_and_the_higher_stands_out(legend_stands_apart):
    cells = {"a": (90, 80, 20, 10), "b": (80, 5, 95, 20), "few": (3, 1, 2, 3)}
    counts = [
        {"slice": "target_type", "value": value, "tp": tp, "fp": fp, "tn": tn, "fn": fn}
        for value, (tp, fp, tn, fn) in cells.items()
    ]
    figure = fairness_figure(fairness(pd.DataFrame(counts)), "test")
    false_positives, false_negatives = figure.axes
    marks = {line.get_label(): line for line in false_positives.get_lines()}
    assert marks["rate"].get_xdata().tolist() == [0.05]
    assert marks["higher than the rest"].get_xdata().tolist() == [0.8]
    assert marks["higher than the rest"].get_color() == WORSE
    assert [t.get_text() for t in false_positives.get_yticklabels()] == [
        "target_type: a  (100)",
        "target_type: b  (100)",
    ]
    assert false_negatives.get_xlabel() == "false-negative rate, with 95% intervals"
    assert "4 rates of fusion, 2 too small to judge" in figure.get_suptitle()
    assert legend_stands_apart(figure)


def test_without_rates_that_can_be_judged_the_figure_says_so():
    counts = pd.DataFrame(
        [{"slice": "language", "value": "en", "tp": 3, "fp": 1, "tn": 3, "fn": 1}]
    )
    figure = fairness_figure(fairness(counts), "train")
    assert "0 rates of fusion, 2 too small to judge" in figure.get_suptitle()
