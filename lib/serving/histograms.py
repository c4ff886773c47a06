"""Counts of what a classifier answered, without a meme's content: for watching it over time.

`python -m lib.serving.score` writes them beside its scores, the service keeps them, and
`python -m lib.serving.drift` compares them with the memes that the model was calibrated on.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from scipy.special import expit

from lib.artifacts import as_written, read_json, write_json

MADE_BY = "python -m lib.serving.score INPUT --out scores.parquet"

# Even steps of 0.1 on the scale of the logit, where a sharp model's probabilities keep apart.
PROB_EDGES = np.array(as_written([0.0, *expit(np.arange(-100, 101) / 10), 1.0]))
# Characters: none, then bins that are 10% wide or hold one length.
LENGTH_EDGES = np.unique([0, *np.geomspace(1, 20_000, 105).round().astype(int)])
# Of what is counted; all bins together then fit into 64 bits.
MOST = 2**53
WORDS = {
    "decision": ("allow", "review", "block"),
    "label": ("0", "1"),
    "text_from": ("given", "picture"),
}


class Histograms:
    """Counts of probabilities, text lengths, decisions, labels and where the texts came from.

    `prob_hate` (202,) counts bins with the edges `PROB_EDGES`, `text_length` those of
    `LENGTH_EDGES`; a bin holds its lower edge, the last one also all above. `words` has a count for
    each of the `WORDS`. `models` says by name what answered, as `DecisionBundle.judged_by`; empty
    where it was not told.
    """

    def __init__(self, models: Mapping[str, str] | None = None) -> None:
        self.models = dict(models or {})
        self.prob_hate = np.zeros(len(PROB_EDGES) - 1, np.int64)
        self.text_length = np.zeros(len(LENGTH_EDGES) - 1, np.int64)
        self.words = {name: dict.fromkeys(known, 0) for name, known in WORDS.items()}

    @property
    def n(self) -> int:
        """How many answers were counted."""
        return int(self.prob_hate.sum())

    def add(self, answers: Sequence[Mapping[str, Any]]) -> None:
        """Count answers of `MemeClassifier`."""
        self.add_columns(
            [answer["prob_hate"] for answer in answers],
            [len(answer["text"]) for answer in answers],
            {name: [str(answer[name]) for answer in answers] for name in WORDS},
        )

    def add_columns(
        self,
        prob_hate: Any,
        text_length: Any,
        words: Mapping[str, Iterable[str]] | None = None,
    ) -> None:
        """Count N answers by columns: probabilities (N,), characters (N,), and the `WORDS`."""
        self.prob_hate += _counted(prob_hate, PROB_EDGES)
        self.text_length += _counted(text_length, LENGTH_EDGES)
        for name, values in (words or {}).items():
            for value, count in zip(*np.unique(list(values), return_counts=True), strict=True):
                self.words[name][str(value)] = self.words[name].get(str(value), 0) + int(count)

    def __add__(self, other: "Histograms") -> "Histograms":
        """Both together; ValueError where they are of different models."""
        if self.models and other.models and self.models != other.models:
            raise ValueError("these histograms are of different models and cannot be added")
        both = Histograms(self.models or other.models)
        both.prob_hate = self.prob_hate + other.prob_hate
        both.text_length = self.text_length + other.text_length
        for name in WORDS:
            for word in {**self.words[name], **other.words[name]}:
                both.words[name][word] = sum(h.words[name].get(word, 0) for h in (self, other))
        return both

    def write(self, file: str | Path) -> None:
        """Write the counts with their edges as JSON, atomically."""
        content = {"n": self.n, "models": self.models, **self.words}
        content |= {"prob_hate": {"edges": PROB_EDGES, "counts": self.prob_hate}}
        content |= {"text_length": {"edges": LENGTH_EDGES, "counts": self.text_length}}
        write_json(file, content)

    @classmethod
    def read(cls, file: str | Path) -> Self:
        """Read what `write` wrote.

        Raises FileNotFoundError naming the command that writes such a file, and ValueError naming
        the field that is missing, has other bins, or counts more than there are answers.
        """
        content = read_json(file, MADE_BY)
        found = content if isinstance(content, Mapping) else {}
        for name in ("models", "prob_hate", "text_length", *WORDS):
            if not isinstance(found.get(name), Mapping):
                raise ValueError(f"{file}: field '{name}' is missing; write it again: {MADE_BY}")
        read = cls(found["models"])
        read.prob_hate = _read_counts(found["prob_hate"], PROB_EDGES, f"{file}: prob_hate")
        read.text_length = _read_counts(found["text_length"], LENGTH_EDGES, f"{file}: text_length")
        for name in WORDS:
            read.words[name] |= {
                str(k): _whole(v, f"{file}: {name}") for k, v in found[name].items()
            }
            if (total := sum(read.words[name].values())) > read.n:
                raise ValueError(
                    f"{file}: {name} counts {total:,} answers, prob_hate {read.n:,}; write it "
                    f"again: {MADE_BY}"
                )
        return read


def _counted(values: Any, edges: np.ndarray) -> np.ndarray:
    bins = np.searchsorted(edges, np.asarray(values, float), side="right") - 1
    return np.bincount(np.clip(bins, 0, len(edges) - 2), minlength=len(edges) - 1)


def _read_counts(found: Mapping[str, Any], edges: np.ndarray, where: str) -> np.ndarray:
    if found.get("edges") != as_written(edges):
        raise ValueError(f"{where}.edges are not those of this version; write it again: {MADE_BY}")
    counts = found.get("counts")
    if not isinstance(counts, list) or len(counts) != len(edges) - 1:
        raise ValueError(f"{where}.counts needs {len(edges) - 1} numbers")
    return np.array([_whole(count, f"{where}.counts") for count in counts], np.int64)


def _whole(count: Any, where: str) -> int:
    if not isinstance(count, int) or isinstance(count, bool) or not 0 <= count <= MOST:
        raise ValueError(f"{where} holds {count!r}, expected whole numbers from 0 to {MOST:,}")
    return count
