"""Stacking: scores of models that have not seen a meme, weighted by logistic regression.

Wolpert (1992), Stacked generalization. Beside the experts' logits it weighs the vote of the nearest
training memes by text and picture features together, in the manner of retrieval-guided detectors of
hateful memes (Mei et al. 2024, RGCL).
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import nn
from torch.nn.functional import normalize

# The scores: the experts' logits, the n-gram model's, and the vote of the nearest training memes.
LOGITS = ("text_logits", "vision_logits")
NGRAMS = "text_ngrams"
VOTE = "vote"

# The features that together span the space in which memes are near each other.
SPACE = ("text_mean", "vision_pooled")
NEIGHBOURS = 30
TEMPERATURE = 0.1


class Neighbours(nn.Module):
    """Training memes by their features, and how the nearest of them vote on another meme.

    The vote is the share of hate among the `NEIGHBOURS` memes of highest cosine, each weighted by
    exp(cosine / `TEMPERATURE`). Text and picture features are centred by the training memes' mean,
    scaled to length 1 and put side by side, so that both have the same say in what is near.
    """

    def __init__(self, memes: int, text_dim: int, vision_dim: int) -> None:
        super().__init__()
        self.register_buffer("labels", torch.zeros(memes))
        self.register_buffer("text_mean", torch.zeros(text_dim))
        self.register_buffer("vision_mean", torch.zeros(vision_dim))
        self.register_buffer("memes", torch.zeros(memes, text_dim + vision_dim))

    def keep(self, text: torch.Tensor, vision: torch.Tensor, labels: torch.Tensor) -> None:
        """Take in training memes: features (N, t) and (N, v), labels (N,).

        Of more than there is room for, every so many: shards are in random order.
        """
        rows = self._kept(len(labels))
        self.labels.copy_(labels[rows])
        self.text_mean.copy_(text[rows].float().mean(0))
        self.vision_mean.copy_(vision[rows].float().mean(0))
        self.memes.copy_(self._placed(text[rows], vision[rows]))

    def forward(
        self, text: torch.Tensor, vision: torch.Tensor, groups: Sequence[str] | None = None
    ) -> torch.Tensor:
        """The votes (B,) on B memes of these text and picture features.

        With `groups` the memes are those that were given to `keep`, in that order, and a meme's own
        group has no vote on it. Where there is no other, the vote is the share of hate among all.
        """
        kin = None if groups is None else np.unique(groups, return_inverse=True)[1]
        numbers = None if kin is None else torch.from_numpy(kin)
        return self._votes(text, vision, numbers).to(text.device)

    def nearest(
        self, text: torch.Tensor, vision: torch.Tensor, n: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Cosine and place, (B, n) each, of the n nearest kept memes to B others, nearest first.

        There are fewer columns where fewer memes are kept.
        """
        cosine = self.text_cosine(text) + self.vision_cosine(vision)
        near, which = cosine.topk(min(n, len(self.memes)), dim=1)
        return near.cpu().numpy(), which.cpu().numpy()

    def text_cosine(self, text: torch.Tensor) -> torch.Tensor:
        """What text features (B, t) add to the cosines of B memes and the kept ones, (B, memes)."""
        width = len(self.text_mean)
        return self._half(text, self.text_mean) @ self.memes[:, :width].T

    def vision_cosine(self, vision: torch.Tensor) -> torch.Tensor:
        """What picture features (B, v) add to them, (B, memes)."""
        width = len(self.text_mean)
        return self._half(vision, self.vision_mean) @ self.memes[:, width:].T

    def vote(self, cosine: torch.Tensor) -> torch.Tensor:
        """The votes (B,) of the kept memes by their cosines (B, memes)."""
        near, which = cosine.topk(min(NEIGHBOURS, len(self.memes)), dim=1)
        weights = torch.softmax(near / TEMPERATURE, dim=1)
        return (weights * self.labels[which]).sum(1)

    def _kept(self, memes: int) -> torch.Tensor:
        room = len(self.labels)
        return torch.arange(room) * memes // room

    def _placed(self, text: torch.Tensor, vision: torch.Tensor) -> torch.Tensor:
        """Where memes lie: unit vectors (B, t + v)."""
        halves = (self._half(text, self.text_mean), self._half(vision, self.vision_mean))
        return torch.cat(halves, dim=-1)

    def _half(self, features: torch.Tensor, mean: torch.Tensor) -> torch.Tensor:
        return normalize(features.to(mean.device).float() - mean, dim=-1) / 2**0.5

    def _votes(
        self, text: torch.Tensor, vision: torch.Tensor, kin: torch.Tensor | None, rows: int = 1024
    ) -> torch.Tensor:
        kin = None if kin is None else kin.to(self.memes.device)
        voters = None if kin is None else kin[self._kept(len(kin))]
        votes = []
        for start in range(0, len(text), rows):
            part = slice(start, start + rows)
            cosine = self.text_cosine(text[part]) + self.vision_cosine(vision[part])
            if kin is None:
                votes.append(self.vote(cosine))
                continue
            own = kin[part, None] == voters
            found = self.vote(cosine.masked_fill(own, -torch.inf))
            votes.append(torch.where(own.all(dim=1), self.labels.mean(), found))
        return torch.cat(votes)


def constant(features: torch.Tensor) -> torch.Tensor:
    """Which columns of features (N, width) are one value, up to its rounding: booleans (width,)."""
    spread = features.amax(0) - features.amin(0)
    return spread <= 1e-6 * features.abs().amax(0)


class Stack(nn.Module):
    """Logistic regression on the scores of other models: their weighted sum as logits (B, 2)."""

    def __init__(self, scores: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(scores))
        self.register_buffer("std", torch.ones(scores))
        self.weights = nn.Linear(scores, 1)

    def fit(self, labels: torch.Tensor, *scores: torch.Tensor, strength: float = 1.0) -> None:
        """Fit to labels (N,) and each model's scores: logits (N, 2) or numbers (N,).

        The lower `strength` (scikit-learn's C), the smaller the weights.
        """
        # Here, since serving fits nothing and scikit-learn takes a while to import.
        from sklearn.linear_model import LogisticRegression

        columns = self._columns(*scores)
        self.mean.copy_(columns.mean(0))
        self.std.copy_(columns.std(0).clamp_min(1e-6).masked_fill(constant(columns), 1.0))
        if len(labels.unique()) == 1:
            self._know_one_class(labels)
            return
        found = LogisticRegression(C=strength)
        found.fit(((columns - self.mean) / self.std).numpy(), labels.numpy())
        with torch.no_grad():
            self.weights.weight.copy_(torch.from_numpy(found.coef_))
            self.weights.bias.copy_(torch.from_numpy(found.intercept_))

    def _know_one_class(self, labels: torch.Tensor) -> None:
        """No score tells more than the class does: Laplace's rule of succession."""
        hateful = float(labels.sum())
        with torch.no_grad():
            self.weights.weight.zero_()
            self.weights.bias.fill_(math.log((hateful + 1) / (len(labels) - hateful + 1)))

    def forward(self, *scores: torch.Tensor) -> torch.Tensor:
        hate = self.weights((self._columns(*scores) - self.mean) / self.std) / 2
        return torch.cat([-hate, hate], dim=-1)

    @staticmethod
    def _columns(*scores: torch.Tensor) -> torch.Tensor:
        margins = (each[:, 1] - each[:, 0] if each.ndim == 2 else each for each in scores)
        return torch.stack([margin.float() for margin in margins], dim=-1)
