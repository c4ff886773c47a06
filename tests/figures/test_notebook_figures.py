import matplotlib.pyplot as plt
import pandas as pd
import pytest
from PIL import Image
from sklearn.metrics import f1_score

from lib.config import MODELS
from lib.decisions.bundle import DecisionBundle
from lib.decisions.calibration_tables import calibrated
from lib.decisions.evaluation import evaluate
from lib.figures.notebook_figures import (
    meme_sheet,
    predictions_figure,
    reliability_figure,
    results_figure,
    robustness_figure,
    threshold_figure,
    training_figure,
)


@pytest.fixture(autouse=True)
def _closed():
    plt.switch_backend("agg")
    yield
    plt.close("all")


@pytest.fixture
def val(logits_frame):
    return logits_frame(80)


@pytest.fixture
def decision(val, model_folders):
    return DecisionBundle.fit(val, model_folders, n_resamples=20)


def titles(figure) -> list[str]:
    figure.canvas.draw()
    return [title for ax in figure.axes if (title := ax.get_title())]


def test_memes_stand_under_their_labels():
    image = Image.new("RGB", (384, 384))
    samples = [{"image": image, "label": label} for label in (1, 0, 0, 1, 1, 0, 1)]
    assert titles(meme_sheet(samples)) == [
        "hate" if sample["label"] else "non-hate" for sample in samples
    ]


def test_training_curves_have_a_panel_each():
    history = [{"epoch": e, "loss": 1 / e, "eval_loss": 1.0, "eval_macro_f1": 0.5} for e in (1, 2)]
    assert titles(training_figure({"text": history, "vision": history[:1]})) == ["text", "vision"]


def test_results_show_each_model_at_its_metric_and_within_its_interval(val):
    report = evaluate(val, n_resamples=30)
    ax = results_figure(report, "val").axes[0]
    points = [line for line in ax.lines if line.get_marker() == "o"]
    shown = [float(point.get_xdata()[0]) for point in points]
    assert shown == pytest.approx([report[model]["val"]["macro_f1"] for model in MODELS])
    assert "n = 80" in ax.get_xlabel()


def test_reliability_has_before_above_after(val, decision):
    found = titles(reliability_figure(val, decision))
    assert len(found) == 6
    assert all("before: T = 1.00" in title for title in found[:3])
    assert f"after: T = {decision.temperatures['mm_fusion']:.2f}" in found[5]


def test_threshold_curves_mark_the_chosen_cut_at_its_f1(val, decision):
    figure = threshold_figure(val, decision)
    assert titles(figure) == list(MODELS)
    prob = calibrated(val, decision.temperatures)
    for model, ax in zip(MODELS, figure.axes, strict=False):
        mark = next(line for line in ax.lines if line.get_marker() == "D")
        cut = decision.thresholds[model]
        f1 = f1_score(val["label"], prob[model] >= cut)
        assert mark.get_xydata().tolist() == [pytest.approx([cut, f1])]


def test_robustness_draws_a_bar_for_every_change():
    names = ["none", "text: removed", "image: grey"]
    rows = [
        {"perturbation": name, "model": model, "macro_f1_change": -0.1 * place}
        for place, name in enumerate(names)
        for model in MODELS
    ]
    ax = robustness_figure(pd.DataFrame(rows)).axes[0]
    assert [label.get_text() for label in ax.get_yticklabels()] == names[1:]
    assert sorted(bar.get_width() for bar in ax.patches) == pytest.approx([-0.2] * 3 + [-0.1] * 3)


def test_predictions_say_what_a_person_should_check():
    frame = pd.DataFrame({"prob_hate": [0.9, 0.5], "label": [1, 0], "review": [False, True]})
    figure = predictions_figure([Image.new("RGB", (40, 40))] * 2, frame)
    assert titles(figure) == ["p(hate) = 0.90: hate", "p(hate) = 0.50: non-hate (review)"]
