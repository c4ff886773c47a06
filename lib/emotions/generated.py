"""Generated sentences with emotions as imbalanced as GoEmotions', words in `sentences.yaml`."""

from collections.abc import Sequence
from importlib import resources

import numpy as np
import yaml

from lib.emotions.data import LABEL_COUNTS, LABELS, EmotionData

# Annotators agree on less than this: a tenth of the generated sentences lose their emotion.
LABEL_NOISE = 0.1
TWO_EMOTIONS = 0.15
_WORDS = yaml.safe_load(
    resources.files(__package__).joinpath("sentences.yaml").read_text(encoding="utf-8")
)
OPENERS: list[str] = _WORDS["openers"]
TOPICS: list[str] = _WORDS["topics"]
PHRASES: dict[str, list[str]] = _WORDS["phrases"]


def generate(n: int, seed: int) -> EmotionData:
    """Write `n` sentences with emotions as frequent and as imbalanced as in GoEmotions.

    The first label of a sentence is drawn by LABEL_COUNTS; some carry a second emotion, and some
    lose theirs to "neutral", as human labels do. Every label occurs at least once if n >= 28.
    """
    rng = np.random.default_rng(seed)
    counts = np.array(list(LABEL_COUNTS.values()), dtype=float)
    first = rng.choice(len(LABELS), size=n, p=counts / counts.sum())
    first[: len(LABELS)] = rng.permutation(len(LABELS))[:n]
    texts, labels = [], np.zeros((n, len(LABELS)), dtype=np.uint8)
    for row, emotion in enumerate(first):
        emotions = [emotion]
        if row >= len(LABELS) and rng.random() < TWO_EMOTIONS:
            emotions.append(rng.choice(len(LABELS), p=counts / counts.sum()))
        texts.append(_sentence([LABELS[e] for e in emotions], rng))
        if row >= len(LABELS) and rng.random() < LABEL_NOISE:
            emotions = [LABELS.index("neutral")]
        labels[row, emotions] = 1
    return EmotionData(f"generated sentences (seed {seed})", LABELS, texts, labels)


def _sentence(emotions: Sequence[str], rng: np.random.Generator) -> str:
    parts = [rng.choice(PHRASES[emotion]).format(t=rng.choice(TOPICS)) for emotion in emotions]
    return rng.choice(OPENERS) + " and ".join(parts)
