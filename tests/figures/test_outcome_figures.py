from dataclasses import replace

import pandas as pd
import pytest

from lib.decisions.bundle import DecisionBundle
from lib.decisions.policy_outcomes import judged, threshold_stability, workload
from lib.figures.outcome_figures import outcome_figure, suspects_figure


@pytest.fixture
def drawn(logits_frame, model_folders):
    """A frame, a decision with these cuts, and the three panels of their figure."""

    def of(allow, block):
        frame = logits_frame(100)
        bundle = DecisionBundle.fit(frame, model_folders, 5)
        decision = replace(bundle, policy=replace(bundle.policy, allow=allow, block=block))
        return frame, decision, outcome_figure(frame, decision, 0, 0.1)

    return of


def test_the_panels_show_the_three_tables(drawn):
    frame, decision, figure = drawn(0.2, 0.8)
    left, middle, right = figure.axes
    sides = judged(frame, decision, 0)
    observed = [line.get_xdata()[0] for line in left.lines if line.get_marker() == "o"]
    assert observed == sides["observed"].tolist()
    targets = [line.get_xdata()[0] for line in left.lines if line.get_linestyle() == "--"]
    assert targets == sides["target"].dropna().tolist()
    work = workload(frame, decision, 0.1)
    widths = [bar.get_width() for bar in middle.patches]
    assert widths == pytest.approx([*work["hateful"], *work["harmless"]])
    assert sum(widths) == pytest.approx(10_000)
    assert "10% is hate" in middle.get_title()
    drawn_at = sorted(line.get_xdata()[0] for line in right.lines)
    assert drawn_at == sorted(threshold_stability(frame, decision)["macro_f1"])
    assert figure.get_suptitle().startswith("val, calibrate half, n = 100")


def test_a_side_without_memes_is_said_to_be_empty(drawn):
    _, _, figure = drawn(None, None)
    assert "no meme on this side" in [text.get_text() for text in figure.axes[0].texts]


def test_suspects_stand_under_the_label_they_were_given():
    table = pd.DataFrame({"label": [0, 0, 1], "prob_hate": [0.9, 0.96, 0.02]})
    (ax,) = suspects_figure(table).axes
    harmless, hateful = ax.containers
    assert sum(bar.get_height() for bar in harmless) == 2
    assert sum(bar.get_height() for bar in hateful) == 1
    assert [text.get_text() for text in ax.get_legend().get_texts()] == [
        "labelled non-hate (2)",
        "labelled hate (1)",
    ]


def test_without_suspects_the_figure_says_so():
    (ax,) = suspects_figure(pd.DataFrame({"label": [], "prob_hate": []})).axes
    assert ax.get_title() == "train: 0 memes whose label looks wrong"
