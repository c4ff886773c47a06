import math
from itertools import combinations, pairwise

import pandas as pd
import pytest
from matplotlib.colors import to_hex
from PIL import Image
from sklearn.metrics import f1_score

from lib.config import MODELS
from lib.decisions.bundle import DecisionBundle
from lib.decisions.calibration_tables import calibrated
from lib.decisions.evaluation import evaluate
from lib.decisions.report import decision_report
from lib.figures.notebook_figures import (
    figure_of_reported,
    meme_sheet,
    predictions_figure,
    reliability_figure,
    results_figure,
    threshold_figure,
    training_figure,
)
from lib.figures.style import MODEL_STYLES

LABELS = [MODEL_STYLES[model].label for model in MODELS]


@pytest.fixture
def val(logits_frame):
    return logits_frame(80)


@pytest.fixture
def decision(val, model_folders):
    return DecisionBundle.fit(val, model_folders, n_resamples=20)


@pytest.fixture
def report(val):
    return evaluate(val, n_resamples=30)


def titles(figure) -> list[str]:
    figure.draw_without_rendering()
    return [title for ax in figure.axes if (title := ax.get_title())]


def legend(figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_memes_stand_under_their_labels():
    image = Image.new("RGB", (384, 384))
    samples = [{"image": image, "label": label} for label in (1, 0, 0, 1, 1, 0, 1)]
    assert titles(meme_sheet(samples)) == [
        "hate" if sample["label"] else "non-hate" for sample in samples
    ]
    with pytest.raises(ValueError, match="no picture"):
        meme_sheet([])


def test_training_of_one_epoch_shows_the_steps_beside_ln_2(legend_stands_apart):
    history = [{"epoch": s / 4, "step": s, "loss": 0.7} for s in (1, 2, 3, 4)]
    figure = training_figure({"text expert": history, "vision_expert": history}, n_train=50)
    assert titles(figure) == [f"{name}, 4 optimiser steps" for name in LABELS[:2]]
    assert figure.get_suptitle() == "Loss while training on train, n = 50"
    assert legend(figure) == ["always answering one half: ln 2", "training loss"]
    assert legend_stands_apart(figure)
    for ax in figure.axes:
        assert ax.lines[0].get_ydata()[0] == pytest.approx(math.log(2))


def test_training_with_validation_has_a_panel_of_macro_f1_below_each(legend_stands_apart):
    history = [{"epoch": e, "loss": 1 / e, "eval_loss": 1.0, "eval_macro_f1": 0.5} for e in (1, 2)]
    figure = training_figure({"text expert": history, "fusion": history[:1]})
    assert titles(figure) == ["text expert", "fusion"]
    assert [ax.get_ylabel() for ax in figure.axes] == ["loss (nats)", "", "val macro-F1", ""]
    assert [ax.get_xlabel() for ax in figure.axes] == ["", "", "epoch", "epoch"]
    assert legend_stands_apart(figure)


def test_results_show_each_model_at_its_metric_and_within_its_interval(report):
    figure = results_figure(report, "val")
    assert figure.get_suptitle().startswith("val, n = 80")
    for ax, metric in zip(figure.axes, ("macro_f1", "auroc"), strict=True):
        marks = [line for line in ax.lines if line.get_marker() in "os^"]
        shown = [float(mark.get_xdata()[0]) for mark in marks]
        assert shown == pytest.approx([report[model]["val"][metric] for model in MODELS])
        ends = [line.get_xdata() for line in ax.lines if line.get_marker() == "|"]
        assert [list(e) for e in ends] == [
            report[model]["val"]["intervals"][metric] for model in MODELS
        ]
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == LABELS


def test_equal_baselines_share_a_line_and_a_label_outside_the_panel(report, boxes):
    report["baselines"]["val"]["always_negative"]["macro_f1"] = 0.4
    figure = results_figure(report, "val")
    boxes(figure)
    for ax, expected in zip(
        figure.axes,
        (
            ["always_positive = prior: 0.333", "always_negative: 0.400"],
            ["always_negative = always_positive = prior: 0.500"],
        ),
        strict=True,
    ):
        assert [text.get_text() for text in ax.texts] == expected
        dashed = {line.get_xdata()[0] for line in ax.lines if line.is_dashed()}
        assert sorted(dashed) == pytest.approx(
            [float(t.split(": ")[1]) for t in expected], abs=1e-3
        )
        places = [text.get_window_extent() for text in ax.texts]
        assert not any(place.overlaps(ax.get_window_extent()) for place in places)
        assert not any(a.overlaps(b) for a, b in pairwise(places))


def test_a_metric_that_does_not_exist_is_said_to(report):
    for model in MODELS:
        report[model]["val"]["auroc"] = None
        report[model]["val"]["intervals"]["auroc"] = [None, None]
    for row in report["baselines"]["val"].values():
        row["auroc"] = None
    figure = results_figure(report, "val", ["auroc"])
    (right,) = figure.axes[0].child_axes
    assert [label.get_text() for label in right.get_yticklabels()] == ["does not exist"] * 3


def test_reliability_has_before_above_after(val, decision, legend_stands_apart):
    figure = reliability_figure(val, decision)
    found = titles(figure)
    assert len(found) == 6
    assert all("before: T = 1.00" in title for title in found[:3])
    assert f"after: T = {decision.temperatures['mm_fusion']:.2f}" in found[5]
    assert figure.get_suptitle().startswith("val, calibrate half, n = 80")
    assert len(legend(figure)) == 3 and legend_stands_apart(figure)


def test_figures_say_what_they_are_of_and_what_was_fitted_elsewhere(val, logits_frame, decision):
    test = logits_frame(60, "test", seed=1)
    for figure, what in (
        (reliability_figure, "(T from val, calibrate half)"),
        (threshold_figure, "(threshold and interval from val, calibrate half)"),
    ):
        assert "(" not in figure(val, decision).get_suptitle()
        said = figure(test, decision).get_suptitle()
        assert said.startswith("test, n = 60") and said.endswith(what)


def test_the_reported_split_is_drawn_unless_it_was_already(val, logits_frame, decision, capsys):
    report = {"fitted_on": "val calibrate", "reported_on": "test"}
    test = logits_frame(40, "test")
    figure = figure_of_reported(report, reliability_figure, test, decision)
    assert figure.get_suptitle().startswith("test, n = 40")
    assert not capsys.readouterr().out
    pilot = {"fitted_on": "train", "reported_on": "train"}
    assert figure_of_reported(pilot, reliability_figure, val, decision) is None
    assert "train is what was fitted on" in capsys.readouterr().out


def test_the_report_of_a_decision_is_drawn_like_step_6s(
    val, logits_frame, decision, model_folders, legend_stands_apart
):
    found = decision_report(val, logits_frame(60, "test", seed=1), decision, model_folders, 20)
    for section, said in (
        ("val calibrate", "val, calibrate half, n = 80"),
        ("test", "test, n = 60"),
    ):
        figure = results_figure(found, section, ["macro_f1", "ece"])
        assert figure.get_suptitle() == f"{said}, with 95% intervals over resampled memes"
        shown = [
            [float(line.get_xdata()[0]) for line in ax.lines if line.get_marker() in "os^"]
            for ax in figure.axes
        ]
        assert shown == [
            pytest.approx([found[model][section][metric] for model in MODELS])
            for metric in ("macro_f1", "ece")
        ]


def test_reliability_panels_are_aligned_and_share_the_scale_of_shares(val, decision, boxes):
    figure = reliability_figure(val, decision)
    places = [ax.get_position() for ax in figure.axes]
    assert len({round(place.width, 6) for place in places}) == 1
    assert len({round(place.y0, 6) for place in places}) == 4
    strips = figure.axes[3:6] + figure.axes[9:]
    assert len({strip.get_ylim() for strip in strips}) == 1
    for strip in strips:
        heights = [bar.get_height() for bar in strip.patches]
        assert sum(heights) == pytest.approx(1) and max(heights) < strip.get_ylim()[1]
    around = boxes(figure)
    assert not any(a.overlaps(b) for a, b in combinations(around, 2))


def test_threshold_curves_mark_the_chosen_cut_at_its_f1(val, decision, legend_stands_apart):
    figure = threshold_figure(val, decision)
    prob = calibrated(val, decision.temperatures)
    for model, ax in zip(MODELS, figure.axes, strict=True):
        mark = next(line for line in ax.lines if line.get_marker() == "D")
        cut = decision.thresholds[model]
        f1 = f1_score(val["label"], prob[model] >= cut)
        assert mark.get_xydata().tolist() == [pytest.approx([cut, f1])]
        assert ax.get_title().startswith(f"{MODEL_STYLES[model].label}\nchosen: {cut:.3f} (")
    assert len(set(legend(figure))) == len(legend(figure)) == 5
    assert legend_stands_apart(figure)
    assert figure.get_suptitle().startswith("val, calibrate half, n = 80")


def test_a_threshold_without_a_bound_is_shaded_to_the_end(val, decision):
    decision.intervals["mm_fusion"]["threshold"] = [None, None]
    assert titles(threshold_figure(val, decision))[2].endswith("(0.00 to 1.00)")


def test_a_model_has_its_colour_in_every_figure(val, decision, report):
    history = [{"epoch": e, "loss": 1 / e} for e in (1, 2)]
    figures = [
        training_figure(dict.fromkeys(LABELS, history)),
        threshold_figure(val, decision),
        reliability_figure(val, decision),
    ]
    for figure in figures:
        for ax, model in zip(figure.axes[:3], MODELS, strict=True):
            colors = {to_hex(line.get_color()) for line in ax.lines}
            assert MODEL_STYLES[model].color in colors
            others = {style.color for style in MODEL_STYLES.values()} - {"#1b1b3a"}
            assert not colors & (others - {MODEL_STYLES[model].color})


def test_predictions_say_what_is_decided():
    decided = {"prob_hate": [0.9, 0.5], "label": [1, 0], "decision": ["block", "review"]}
    frame = pd.DataFrame(decided)
    figure = predictions_figure([Image.new("RGB", (40, 40))] * 2, frame, "train")
    assert titles(figure) == ["p(hate) = 0.90: hate, block", "p(hate) = 0.50: non-hate, review"]
    assert figure.get_suptitle() == "train (in-sample), n = 2"


@pytest.mark.parametrize("n, columns, empty", [(6, None, 0), (6, 4, 2), (5, None, 1)])
def test_six_predictions_fill_their_figure(n, columns, empty):
    frame = pd.DataFrame({"prob_hate": [0.9] * n, "label": [1] * n, "decision": ["block"] * n})
    figure = predictions_figure([Image.new("RGB", (40, 40))] * n, frame, columns=columns)
    assert len([ax for ax in figure.axes if not ax.images]) == empty
    figure.draw_without_rendering()
    covered = sum(ax.get_window_extent().size.prod() for ax in figure.axes if ax.images)
    assert covered / figure.bbox.size.prod() > (0.75 if not empty else 0.5)
