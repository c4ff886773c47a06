"""Judging whole shards."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from lib.data.datasets import stream
from lib.serving.classifier import MemeClassifier


def score_shards(classifier: MemeClassifier, shards: Sequence[str | Path]) -> pd.DataFrame:
    """Judge all memes of some shards: id, text, prob_hate, label, threshold, review, experts."""
    frames = []
    for batch in stream(shards).batched(16, collation_fn=None):
        texts, images = [s["text"] for s in batch], [s["image"] for s in batch]
        frame = classifier.predict_frame(texts, images)
        frame.insert(0, "text", texts)
        frame.insert(0, "id", [s["id"] for s in batch])
        frames.append(frame)
    return pd.concat(frames, ignore_index=True)
