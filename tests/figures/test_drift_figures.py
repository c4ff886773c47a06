import matplotlib.pyplot as plt
import pytest

from lib.figures.drift_figures import drift_figure

BINS = [
    {"from": 0.0, "to": 0.5, "reference": 0.5, "now": 0.7},
    {"from": 0.5, "to": 1.0, "reference": 0.5, "now": 0.3},
]
COMPARED = {"bins": BINS, "psi": {"value": 0.17}, "ks": {"value": 0.2}}
NONE = {"bins": [], "psi": None, "ks": None}
ROW = {"mean_prob": 0.2, "share_of_hate": 0.3, "low": 0.1, "high": 0.5}


@pytest.mark.parametrize(
    ("drift", "labels", "panels"),
    [
        ({"scores": COMPARED, "text_length": COMPARED}, {"reliability": [ROW]}, 3),
        ({"scores": COMPARED}, None, 1),
        ({"scores": NONE, "text_length": NONE}, None, 1),
    ],
)
def test_a_panel_for_all_that_was_compared(drift, labels, panels):
    report = {"answers": 1000, "reference": "val", "verdict": "moderate drift", "drift": drift}
    figure = drift_figure(report | ({"labels": labels} if labels else {}))
    assert len(figure.axes) == panels
    if drift["scores"]["bins"]:
        heights = [bar.get_height() for bar in figure.axes[0].patches]
        assert heights == [0.5, 0.5, 0.7, 0.3]
    plt.close(figure)
