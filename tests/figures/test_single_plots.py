import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy.special import expit
from scipy.stats import beta

from lib.calibration import Interval, joint_search, sweep_thresholds
from lib.figures.single_plots import (
    contact_sheet,
    joint_heatmap,
    reliability_diagram,
    threshold_curve,
    training_curve,
)


@pytest.fixture
def ax():
    figure, ax = plt.subplots()
    yield ax
    figure.canvas.draw()
    plt.close(figure)


def sample(n=200):
    rng = np.random.default_rng(0)
    p = rng.random(n)
    return p, (rng.random(n) < p).astype(int)


def legend(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


def test_reliability_diagram_shows_rates_counts_and_intervals(ax):
    p, y = [0.05, 0.15, 0.35, 0.35, 0.35, 0.95], [0, 1, 0, 1, 1, 1]
    assert reliability_diagram(ax, p, y, n_bins=10) is ax
    points = next(line for line in ax.lines if line.get_marker() == "o")
    assert points.get_xdata() == pytest.approx([0.05, 0.15, 0.35, 0.95])
    assert points.get_ydata() == pytest.approx([0, 1, 2 / 3, 1])
    assert [t.get_text() for t in ax.texts] == ["1", "1", "0", "3", "0", "0", "0", "0", "0", "1"]
    bars = [s.tolist() for s in ax.collections[0].get_segments()]
    low, high = beta(2.5, 1.5).ppf([0.025, 0.975])
    assert bars[2] == [pytest.approx([0.35, low]), pytest.approx([0.35, high])]
    # Where no rate lies beyond, the interval ends at the rate.
    assert bars[0][0][1] == 0 and bars[3][1][1] == 1


def test_reliability_diagram_refuses_logits(ax):
    with pytest.raises(ValueError, match="not logits"):
        reliability_diagram(ax, [-2.0, 3.0], [0, 1])


def test_threshold_curve_marks_the_chosen_point_and_its_interval(ax):
    curve = sweep_thresholds(*sample())
    threshold_curve(ax, curve.sample(frac=1, random_state=0), 0.5, Interval(0.5, 0.3, np.inf))
    point = next(line for line in ax.lines if line.get_marker() == "D")
    assert point.get_xdata()[0] == 0.5
    assert point.get_ydata()[0] == curve.set_index("threshold").loc[0.5, "f1"]
    assert {"precision", "recall", "F1", "chosen 0.500"} < set(legend(ax))
    band = ax.patches[0].get_extents().transformed(ax.transData.inverted())
    assert (band.x0, band.x1) == pytest.approx((0.3, 1))


def test_joint_heatmap_frames_the_best_pair(ax):
    rng = np.random.default_rng(0)
    z = rng.normal(-1, 2, (300, 4))
    frame = joint_search(z, rng.random(z.shape) < expit(z), [1.0, 2, 5], [0.2, 0.5, 0.8])
    joint_heatmap(ax, frame)
    best = frame.loc[frame["f1"].idxmax()]
    assert f"T = {best['temperature']:g}, t = {best['threshold']:g}" in ax.get_title()
    x, y = ax.patches[0].get_xy()
    assert ax.get_xticklabels()[round(x + 0.5)].get_text() == f"{best['threshold']:g}"
    assert ax.get_yticklabels()[round(y + 0.5)].get_text() == f"{best['temperature']:g}"
    assert len(ax.texts) == 9


def test_joint_heatmap_shows_a_repeated_pair_once(ax):
    joint_heatmap(ax, joint_search([[2.0], [-2.0]], [[1], [0]], [1, 2, 1], [0.5, 0.5]))
    assert len(ax.texts) == 2


def test_joint_heatmap_of_one_value(ax):
    joint_heatmap(ax, pd.DataFrame({"temperature": [1.0], "threshold": [0.5], "f1": [1.0]}))
    assert ax.texts[0].get_text() == "1.00"


def test_training_curve_shows_what_the_trainer_logged(ax):
    history = [
        {"loss": 0.7, "epoch": 0.5, "step": 1},
        {"loss": 0.5, "epoch": 1.0, "step": 2},
        {"eval_loss": 0.6, "eval_macro_f1": 0.4, "epoch": 1.0, "step": 2},
        {"train_loss": 0.6, "epoch": 1.0, "step": 2},
    ]
    training_curve(ax, history)
    assert legend(ax) == ["training loss", "evaluation loss", "evaluation macro-F1"]
    assert ax.lines[0].get_xydata().tolist() == [[0.5, 0.7], [1, 0.5]]
    assert ax.figure.axes[1].lines[0].get_xydata().tolist() == [[1, 0.4]]


def test_training_curve_without_evaluation_or_loss(ax):
    training_curve(ax, [{"loss": 0.7, "epoch": 1.0}])
    assert legend(ax) == ["training loss"]
    with pytest.raises(ValueError, match="logs no loss"):
        training_curve(ax, [{"train_runtime": 3.0, "epoch": 1.0}])


def test_contact_sheet_takes_files_images_and_arrays(tmp_path):
    picture = Image.new("RGB", (8, 6), "red")
    picture.save(tmp_path / "meme.png")
    images = [picture, tmp_path / "meme.png", np.zeros((6, 8)), str(tmp_path / "meme.png")]
    figure = plt.figure()
    contact_sheet(figure, images, ["you $x", "b", "c", "$^"], columns=3)
    figure.canvas.draw()
    assert [ax.get_title() for ax in figure.axes] == ["you $x", "b", "c", "$^", "", ""]
    assert figure.axes[1].images[0].get_array()[0, 0].tolist() == [255, 0, 0]
    plt.close(figure)


def test_contact_sheet_needs_a_title_per_image():
    for images, titles in (([], []), ([np.zeros((2, 2))], [])):
        with pytest.raises(ValueError, match="a title per image"):
            contact_sheet(plt.figure(), images, titles)
    plt.close("all")


def lightness(color):
    return np.array(matplotlib.colors.to_rgb(color)) @ [0.299, 0.587, 0.114]


def test_series_differ_in_style_or_by_lightness_in_grey(ax):
    threshold_curve(ax, sweep_thresholds(*sample()), 0.5)
    curves = [line for line in ax.lines if line.get_label() in ("precision", "recall", "F1")]
    assert len({line.get_linestyle() for line in curves}) == 3
    shades = sorted({lightness(line.get_color()) for line in curves})
    assert shades[1] - shades[0] > 0.2
