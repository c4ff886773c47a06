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
    grid_of,
    joint_heatmap,
    reliability_diagram,
    threshold_curve,
    training_curve,
)


@pytest.fixture
def ax():
    figure, ax = plt.subplots(layout="constrained")
    yield ax
    figure.draw_without_rendering()


def sample(n=200):
    rng = np.random.default_rng(0)
    p = rng.random(n)
    return p, (rng.random(n) < p).astype(int)


def legend(ax):
    return [text.get_text() for text in ax.figure.legends[0].get_texts()]


def line_of(ax, label):
    return next(line for line in ax.lines if line.get_label() == label)


def test_reliability_diagram_shows_rates_and_intervals(ax):
    p, y = [0.05, 0.15, 0.35, 0.35, 0.35, 0.95], [0, 1, 0, 1, 1, 1]
    assert reliability_diagram(ax, p, y, n_bins=10) is ax
    points = next(line for line in ax.lines if line.get_marker() == "o")
    assert points.get_xdata() == pytest.approx([0.05, 0.15, 0.35, 0.95])
    assert points.get_ydata() == pytest.approx([0, 1, 2 / 3, 1])
    bars = [s.tolist() for s in ax.collections[0].get_segments()]
    low, high = beta(2.5, 1.5).ppf([0.025, 0.975])
    assert bars[2] == [pytest.approx([0.35, low]), pytest.approx([0.35, high])]
    # Where no rate lies beyond, the interval ends at the rate.
    assert bars[0][0][1] == 0 and bars[3][1][1] == 1


def test_below_a_reliability_diagram_stand_shares_and_counts(ax, boxes, legend_stands_apart):
    p, y = [0.05, 0.15, 0.35, 0.35, 0.35, 0.95], [0, 1, 0, 1, 1, 1]
    reliability_diagram(ax, p, y, n_bins=10)
    _, strip = ax.figure.axes
    shares = [bar.get_height() for bar in strip.patches]
    assert shares == pytest.approx([1 / 6, 1 / 6, 0, 1 / 2, 0, 0, 0, 0, 0, 1 / 6])
    counts = [text.get_text() for text in strip.texts]
    assert counts == ["1", "1", "", "3", "", "", "", "", "", "1"]
    assert "share" in strip.get_ylabel() and strip.get_xlim() == ax.get_xlim()
    assert legend_stands_apart(ax.figure)
    frame, below = ax.get_window_extent(), strip.get_tightbbox()
    assert below.y1 < frame.y0 and all(box.y0 >= 0 for box in boxes(ax.figure))


def test_reliability_diagram_refuses_logits(ax):
    with pytest.raises(ValueError, match="not logits"):
        reliability_diagram(ax, [-2.0, 3.0], [0, 1])


def test_threshold_curve_marks_the_chosen_point_and_its_interval(ax, legend_stands_apart):
    curve = sweep_thresholds(*sample())
    threshold_curve(ax, curve.sample(frac=1, random_state=0), 0.5, Interval(0.5, 0.3, np.inf))
    point = next(line for line in ax.lines if line.get_marker() == "D")
    assert point.get_xdata()[0] == 0.5
    assert point.get_ydata()[0] == curve.set_index("threshold").loc[0.5, "f1"]
    assert legend(ax) == ["its 95% interval", "precision", "recall", "F1", "chosen threshold"]
    assert legend_stands_apart(ax.figure)
    assert ax.get_title() == "chosen: 0.500 (0.30 to 1.00)"
    band = ax.patches[0].get_extents().transformed(ax.transData.inverted())
    assert (band.x0, band.x1) == pytest.approx((0.3, 1))


def test_precision_ends_where_no_meme_reaches_the_threshold(ax):
    threshold_curve(ax, sweep_thresholds([0.2, 0.6], [0, 1], [0.1, 0.5, 0.9]), 0.5)
    assert line_of(ax, "precision").get_ydata() == pytest.approx([0.5, 1, np.nan], nan_ok=True)
    assert line_of(ax, "F1").get_ydata() == pytest.approx([2 / 3, 1, 0])


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


def test_training_curve_averages_the_losses_of_an_epoch(ax, legend_stands_apart):
    history = [
        {"loss": 0.7, "epoch": 0.5, "step": 1},
        {"loss": 0.5, "epoch": 1.0, "step": 2},
        {"eval_loss": 0.6, "eval_macro_f1": 0.4, "epoch": 1.0, "step": 2},
        {"loss": 0.2, "epoch": 1.5, "step": 3},
        {"train_loss": 0.6, "epoch": 1.5, "step": 3},
    ]
    training_curve(ax, history)
    assert legend(ax) == ["training loss", "its mean over an epoch", "val loss", "val macro-F1"]
    assert legend_stands_apart(ax.figure)
    points = line_of(ax, "training loss")
    assert points.get_xydata().tolist() == [[0.5, 0.7], [1, 0.5], [1.5, 0.2]]
    assert points.get_linestyle() == "None"
    means = line_of(ax, "its mean over an epoch").get_xydata().tolist()
    assert means == [pytest.approx([0.75, 0.6]), pytest.approx([1.5, 0.2])]
    assert line_of(ax, "val loss").get_xydata().tolist() == [[1, 0.6]]
    assert ax.figure.axes[1].lines[0].get_xydata().tolist() == [[1, 0.4]]


def test_the_steps_of_one_epoch_are_points_without_a_line(ax):
    training_curve(ax, [{"loss": 0.7, "epoch": s / 4, "step": s} for s in (1, 2, 3, 4)])
    (points,) = ax.lines
    assert points.get_xdata().tolist() == [1, 2, 3, 4]
    assert points.get_linestyle() == "None" and ax.get_xlabel() == "optimiser step"


def test_one_loss_an_epoch_is_a_line(ax):
    training_curve(ax, [{"loss": 1 / e, "epoch": e} for e in (1, 2, 3)])
    (line,) = ax.lines
    assert line.get_linestyle() == "-" and legend(ax) == ["training loss"]
    assert ax.get_xlabel() == "epoch"


def test_training_curve_without_a_loss(ax):
    for history in ([{"train_runtime": 3.0, "epoch": 1.0}], [], [{"loss": 1.0}]):
        with pytest.raises(ValueError, match="logs no loss"):
            training_curve(ax, history)


@pytest.mark.parametrize(
    "n, columns, expected",
    [
        (1, None, (1, 1)),
        (5, None, (2, 3)),
        (6, None, (2, 3)),
        (7, None, (2, 4)),
        (10, None, (2, 5)),
        (13, None, (3, 5)),
        (6, 5, (2, 5)),
        (2, 5, (1, 2)),
    ],
)
def test_grid_has_the_columns_asked_for_or_is_nearly_a_square(n, columns, expected):
    assert grid_of(n, columns) == expected


def test_no_more_than_a_quarter_of_a_grid_is_empty():
    for n in range(1, 60):
        rows, columns = grid_of(n)
        assert 0 <= rows * columns - n <= rows * columns / 4


def test_contact_sheet_takes_files_images_and_arrays(tmp_path):
    picture = Image.new("RGB", (8, 6), "red")
    picture.save(tmp_path / "meme.png")
    images = [picture, tmp_path / "meme.png", np.zeros((6, 8)), str(tmp_path / "meme.png")]
    figure = plt.figure()
    contact_sheet(figure, images, ["you $x", "b", "c", "$^"], columns=3)
    figure.draw_without_rendering()
    assert [ax.get_title() for ax in figure.axes] == ["you $x", "b", "c", "$^", "", ""]
    assert figure.axes[1].images[0].get_array()[0, 0].tolist() == [255, 0, 0]


def test_contact_sheet_of_six_leaves_no_place_empty():
    figure = contact_sheet(plt.figure(), [np.zeros((4, 4))] * 6, list("abcdef"))
    assert [len(ax.images) for ax in figure.axes] == [1] * 6
    columns = {round(ax.get_position().x0, 3) for ax in figure.axes}
    assert len(columns) == 3


def test_contact_sheet_needs_a_title_per_image():
    for images, titles in (([], []), ([np.zeros((2, 2))], [])):
        with pytest.raises(ValueError, match="a title per image"):
            contact_sheet(plt.figure(), images, titles)


def test_curves_of_a_panel_differ_in_their_dashes(ax):
    threshold_curve(ax, sweep_thresholds(*sample()), 0.5)
    curves = [line_of(ax, label) for label in ("precision", "recall", "F1")]
    assert len({line.get_linestyle() for line in curves}) == 3
