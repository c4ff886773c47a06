from itertools import combinations

import matplotlib.pyplot as plt
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from skimage.color import rgb2lab

from lib.config import MODELS
from lib.figures.style import MODEL_STYLES, PLAIN, share_legend, style_of


def lightness(color) -> float:
    """L* of CIELAB, 0 for black to 100 for white: what is left of a colour in a grey print."""
    return float(rgb2lab([[to_rgb(color)]])[0, 0, 0])


def legend_texts(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_models_differ_in_lightness_and_mark():
    assert tuple(MODEL_STYLES) == MODELS
    styles = MODEL_STYLES.values()
    shades = [lightness(style.color) for style in styles]
    assert min(abs(a - b) for a, b in combinations(shades, 2)) > 15
    assert max(shades) < 65  # and from the white of the paper
    assert len({style.marker for style in styles}) == len(MODELS)


def test_a_style_is_found_by_name_and_by_words():
    assert style_of("mm_fusion") is style_of("fusion") is MODEL_STYLES["mm_fusion"]
    assert style_of("emotions") is PLAIN


def test_one_legend_for_all_panels_with_each_label_once(legend_stands_apart):
    figure, axes = plt.subplots(1, 2, layout="constrained")
    for ax, color in zip(axes, ("black", "orange"), strict=True):
        ax.plot([0, 1], color=color, label="F1")
        ax.plot([1, 0], color="grey", label="recall")
        share_legend(figure)
    axes[1].bar([0], [1], label="share")
    share_legend(figure)
    assert legend_texts(figure) == ["F1", "recall", "share"]
    assert legend_stands_apart(figure)
    # A line of each panel before "F1", whose colours differ, and one before "recall".
    drawn = [line.get_color() for line in figure.legends[0].findobj(plt.Line2D)]
    assert [drawn.count(color) for color in ("black", "orange", "grey")] == [1, 1, 1]


def test_a_figure_without_a_layout_gets_one(legend_stands_apart):
    figure = Figure(figsize=(4, 3))
    ax = figure.subplots()
    ax.plot([0, 1], label="loss")
    ax.set_xlabel("epoch")
    share_legend(figure)
    assert legend_stands_apart(figure)


def test_a_part_of_a_figure_has_a_legend_of_its_own():
    whole = Figure(figsize=(8, 3), layout="constrained")
    left, right = whole.subfigures(1, 2)
    right.subplots().plot([0, 1], label="loss")
    share_legend(right)
    assert legend_texts(right) == ["loss"]
    assert not whole.legends and not left.legends


@pytest.mark.parametrize("width, lines", [(12, 1), (5, 2), (2.5, 4)])
def test_a_narrow_figure_stacks_its_legend(width, lines, legend_stands_apart):
    figure = Figure(figsize=(width, 3))
    ax = figure.subplots()
    for place in range(4):
        ax.plot([place], label=f"a line with the number {place}")
    texts = share_legend(figure).get_texts()
    assert legend_stands_apart(figure)
    assert len({round(text.get_window_extent().y0) for text in texts}) == lines
