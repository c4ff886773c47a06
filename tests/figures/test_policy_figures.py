from dataclasses import replace

import matplotlib.pyplot as plt
import pytest

from lib.decisions.bundle import DecisionBundle
from lib.figures.policy_figures import policy_figure


@pytest.mark.parametrize(("allow", "block"), [(0.2, 0.8), (None, None), (0.5, 0.5), (None, 0.9)])
def test_the_figure_shows_each_model_and_the_cuts_in_use(logits_frame, model_folders, allow, block):
    frame = logits_frame(100)
    bundle = DecisionBundle.fit(frame, model_folders, 5)
    decision = replace(bundle, policy=replace(bundle.policy, allow=allow, block=block))
    figure = policy_figure(frame, decision)
    left, right = figure.axes
    curves = [line for line in left.lines if line.get_label().count("AURC")]
    assert len(curves) == 3
    assert curves[2].get_ydata()[-1] == pytest.approx(
        ((decided := _wrong(frame, decision)).sum()) / len(decided)
    )
    cuts = [line.get_xdata()[0] for line in right.lines]
    assert cuts == [cut for cut in (allow, block) if cut is not None]
    assert figure.get_suptitle().startswith("val, calibrate half, n = 100: policy 'targets'")
    if allow == block == 0.5:
        assert "review 0%" in right.get_title()
    plt.close(figure)


def _wrong(frame, decision):
    margin = frame["mm_fusion_logit_1"] - frame["mm_fusion_logit_0"]
    prob = 1 / (1 + 2.718281828459045 ** (-margin / decision.temperatures["mm_fusion"]))
    return (prob >= decision.thresholds["mm_fusion"]) != frame["label"]
