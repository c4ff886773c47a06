import numpy as np
import pandas as pd
from PIL import Image

from lib.decisions.bundle import DecisionBundle
from lib.figures.pilot_picture import pairs_of, pilot_picture


def test_pairs_are_of_one_text_under_both_labels():
    texts = ["a", "b", "a", "c", "c", "b", "c", "d"]
    labels = [0, 1, 1, 0, 0, 1, 1, 1]
    assert pairs_of(texts, labels) == [2, 6, 0, 3]
    assert pairs_of(texts, labels, n=1) == [2, 0]
    assert pairs_of(["a"], [1]) == []


def test_wrong_answers_are_told_and_the_chosen_threshold_is_marked(logits_frame, model_folders):
    frame = logits_frame(60)
    decision = DecisionBundle.fit(frame, model_folders, 5)
    answers = pd.DataFrame({"prob_hate": [0.9, 0.2, 0.7, 0.1], "label": [1, 0, 1, 0]})
    images = [Image.fromarray(np.zeros((8, 8, 3), np.uint8))] * 4
    figure = pilot_picture(images, [1, 1, 0, 0], answers, frame, decision)
    *pictures, curve = figure.axes
    assert [ax.get_title() for ax in pictures] == [
        "p(hate) = 0.90: hate",
        "p(hate) = 0.20: non-hate (wrong)",
        "p(hate) = 0.70: hate (wrong)",
        "p(hate) = 0.10: non-hate",
    ]
    assert f"{decision.thresholds['mm_fusion']:.3f}" in curve.get_title()
