import pytest

from lib.figures.evidence_figures import evidence_figure

ANSWER = {
    "prob_hate": 0.91,
    "threshold": 0.4,
    "rests_on": {"without_text": 0.2, "without_picture": 0.35},
    "experts": {"text_expert": 0.5, "vision_expert": 0.45},
}


def test_every_view_has_its_bar_and_number():
    (ax,) = evidence_figure(ANSWER).axes
    assert [bar.get_width() for bar in ax.patches] == pytest.approx([0.91, 0.2, 0.35, 0.5, 0.45])
    names = [tick.get_text() for tick in ax.get_yticklabels()]
    assert names[0] == "fusion" and names[3:] == ["text expert", "vision expert"]
    assert {"0.91", "0.35", "threshold"} <= {text.get_text() for text in ax.texts}
    assert ax.lines[0].get_xdata()[0] == 0.4
