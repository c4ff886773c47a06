import matplotlib

matplotlib.use("agg")

import matplotlib.pyplot as plt
import pytest


@pytest.fixture(autouse=True)
def _closed():
    plt.switch_backend("agg")
    yield
    plt.close("all")


@pytest.fixture
def boxes():
    """Where the texts and frames of a figure come to lie, in pixels."""

    def of(figure):
        figure.draw_without_rendering()
        return [ax.get_tightbbox() for ax in figure.axes]

    return of


@pytest.fixture
def legend_stands_apart(boxes):
    """Whether a figure has one legend, which covers no axes, axis label or title."""

    def check(figure) -> bool:
        around = boxes(figure)
        (legend,) = figure.legends
        here = legend.get_window_extent()
        inside = figure.bbox.padded(1)
        assert not [ax for ax in figure.axes if ax.get_legend()]
        assert inside.contains(*here.min) and inside.contains(*here.max)
        return not any(here.overlaps(box) for box in around)

    return check
