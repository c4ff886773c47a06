"""A linear model of words and letters: what a user would try first, as one more score to stack.

It knows the spellings that a text reader or a writer in a hurry leaves behind, which a pre-trained
tokenizer cuts to pieces: on real memes it adds to what the text expert knows.
"""

import contextlib
import hashlib
import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import load_file, save_file
from scipy.sparse import hstack
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from lib.artifacts import read_json, write_json
from lib.commands import again
from lib.data.folding import check_folding
from lib.modeling.encoders import Source, shown_texts
from lib.modeling.stacking import NGRAMS

# Words and pairs of them; runs of two to five letters within a word.
KINDS: dict[str, dict[str, Any]] = {
    "words": {"analyzer": "word", "ngram_range": (1, 2)},
    "letters": {"analyzer": "char_wb", "ngram_range": (2, 5)},
}
# Of each kind the most frequent in the training texts.
MOST = 100_000


class Ngrams(Source):
    """Logistic regression on TF-IDF of words and letters of the overlaid text.

    `vocabularies` holds the n-grams of each kind in order, `arrays` their inverse document
    frequencies ("words", "letters"), one weight each in that order ("weights") and "bias".
    `folding` is the version of the text folding it was fitted with, 0 for none.
    """

    modality = "text"
    is_network = False

    def __init__(
        self,
        vocabularies: dict[str, list[str]],
        arrays: dict[str, np.ndarray],
        folding: int = 0,
    ) -> None:
        super().__init__()
        self.vocabularies, self.arrays, self.folding = vocabularies, arrays, folding
        vectorizers = _vectorizers(vocabularies, arrays)
        self.prepare = partial(scores, vectorizers, arrays, folding=folding)

    @classmethod
    def fit(cls, texts: Sequence[str], labels: Sequence[int], folding: int = 0) -> "Ngrams":
        """Fit to packed texts and their labels.

        Raises ValueError if the texts hold no word often enough to learn from.
        """
        words = shown_texts(texts, True, folding)
        # What occurs once in a few thousand memes is mostly a misreading.
        rare = {"words": 2, "letters": 3} if len(texts) > 100 else {"words": 1, "letters": 1}
        found = {
            name: TfidfVectorizer(
                sublinear_tf=True, min_df=rare[name], max_features=MOST, **kind
            ).fit(words)
            for name, kind in KINDS.items()
        }
        model = LogisticRegression(C=2.0, max_iter=1000)
        model.fit(_columns(found, words), np.asarray(labels))
        arrays = {name: vectorizer.idf_ for name, vectorizer in found.items()}
        arrays |= {"weights": model.coef_[0], "bias": model.intercept_}
        names = {name: v.get_feature_names_out().tolist() for name, v in found.items()}
        return cls(names, arrays, folding)

    def forward(self, inputs: torch.Tensor, tokens: bool) -> dict[str, torch.Tensor]:
        return {NGRAMS: inputs}

    def fingerprint(self) -> str:
        """What tells this model from others."""
        digest = hashlib.sha256(json.dumps(self.vocabularies, sort_keys=True).encode())
        if self.folding:
            digest.update(f"folding {self.folding}".encode())
        for _, array in sorted(self.arrays.items()):
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()[:16]

    def save(self, folder: Path, weights: bool = True) -> None:
        """Write vocabularies and weights as `load` reads them."""
        folder.mkdir(parents=True)
        write_json(folder / "vocabularies.json", self.vocabularies)
        write_json(folder / "config.json", {"text_folding": self.folding})
        save_file(self.arrays, folder / "weights.safetensors")

    @classmethod
    def load(cls, folder: Path) -> "Ngrams":
        """Read what `save` wrote.

        Raises ValueError if it was fitted with a text folding that is not known here.
        """
        vocabularies = read_json(folder / "vocabularies.json", again(5))
        config = folder / "config.json"
        # Without the file it was fitted before there was a folding.
        folding = read_json(config, again(5))["text_folding"] if config.exists() else 0
        check_folding(folding, str(config))
        return cls(vocabularies, load_file(folder / "weights.safetensors"), folding)


def scores(
    vectorizers: dict[str, TfidfVectorizer],
    arrays: dict[str, np.ndarray],
    texts: Sequence[str],
    padding: str = "longest",
    folding: int = 0,
) -> torch.Tensor:
    """Log-odds of hate of B packed texts, (B,). There is nothing to pad."""
    columns = _columns(vectorizers, shown_texts(texts, True, folding))
    return torch.from_numpy(columns @ arrays["weights"] + arrays["bias"]).float()


def out_of_fold_ngrams(
    texts: Sequence[str], labels: Sequence[int], fold: np.ndarray, folding: int = 0
) -> torch.Tensor:
    """The score (N,) of each of N texts by a model of the texts outside its fold.

    It is 0 where those hold no word often enough to learn from.
    """
    found = torch.zeros(len(texts))
    y = np.asarray(labels)
    for k in np.unique(fold):
        others, own = (np.flatnonzero(mask).tolist() for mask in (fold != k, fold == k))
        # Few texts, or copies of one, may all lie in the fold
        with contextlib.suppress(ValueError):
            model = Ngrams.fit([texts[row] for row in others], y[others].tolist(), folding)
            found[own] = model.prepare([texts[row] for row in own])
    return found


def _vectorizers(
    vocabularies: dict[str, list[str]], arrays: dict[str, np.ndarray]
) -> dict[str, TfidfVectorizer]:
    found = {}
    for name, kind in KINDS.items():
        found[name] = TfidfVectorizer(sublinear_tf=True, vocabulary=vocabularies[name], **kind)
        found[name].idf_ = arrays[name]
    return found


def _columns(vectorizers: dict[str, TfidfVectorizer], words: Sequence[str]) -> Any:
    return hstack([vectorizer.transform(words) for vectorizer in vectorizers.values()]).tocsr()
