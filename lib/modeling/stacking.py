"""Stacking: scores of models that have not seen a meme, weighted by logistic regression.

Wolpert (1992), Stacked generalization. Beside the experts' logits it weighs the vote of the nearest
training memes in the space of text and of picture features, in the manner of retrieval-guided
detectors of hateful memes (Mei et al. 2024, RGCL).
"""

from collections.abc import Sequence

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from torch import nn
from torch.nn.functional import normalize

# The experts' logits, and the votes of the nearest training memes.
LOGITS = ("text_logits", "vision_logits")
VOTES = ("text_vote", "vision_vote")

# The features that memes are near in, and the temperature of their weights.
SPACES = {"text_vote": ("text_mean", 0.05), "vision_vote": ("vision_pooled", 0.1)}
NEIGHBOURS = 30


class Neighbours(nn.Module):
    """Training memes by their features, and how the nearest of them vote on another meme.

    A vote is the share of hate among the `NEIGHBOURS` memes of highest cosine, each weighted by
    exp(cosine / temperature); features are centred by the training memes' mean first.
    """

    def __init__(self, memes: int, text_dim: int, vision_dim: int) -> None:
        super().__init__()
        self.register_buffer("labels", torch.zeros(memes))
        for vote, width in zip(VOTES, (text_dim, vision_dim), strict=True):
            self.register_buffer(f"{vote}_mean", torch.zeros(width))
            self.register_buffer(f"{vote}_memes", torch.zeros(memes, width))

    def keep(self, text: torch.Tensor, vision: torch.Tensor, labels: torch.Tensor) -> None:
        """Take in the training memes: features (M, t) and (M, v), labels (M,)."""
        self.labels.copy_(labels)
        for vote, features in zip(VOTES, (text, vision), strict=True):
            self.get_buffer(f"{vote}_mean").copy_(features.float().mean(0))
            self.get_buffer(f"{vote}_memes").copy_(self._centred(vote, features))

    def forward(
        self, text: torch.Tensor, vision: torch.Tensor, groups: Sequence[str] | None = None
    ) -> dict[str, torch.Tensor]:
        """The votes (B,) on B memes by text and by picture.

        With `groups` the memes are those that were taken in, in that order, and a meme's own group
        has no vote on it.
        """
        kin = None if groups is None else np.unique(groups, return_inverse=True)[1]
        numbers = None if kin is None else torch.from_numpy(kin)
        return {
            vote: self._vote(vote, features, numbers)
            for vote, features in zip(VOTES, (text, vision), strict=True)
        }

    def _centred(self, vote: str, features: torch.Tensor) -> torch.Tensor:
        return normalize(features.float() - self.get_buffer(f"{vote}_mean"), dim=-1)

    def _vote(
        self, vote: str, features: torch.Tensor, kin: torch.Tensor | None, rows: int = 1024
    ) -> torch.Tensor:
        memes, temperature = self.get_buffer(f"{vote}_memes"), SPACES[vote][1]
        votes = []
        for start in range(0, len(features), rows):
            cosine = self._centred(vote, features[start : start + rows]) @ memes.T
            if kin is not None:
                cosine[kin[start : start + rows, None] == kin] = -torch.inf
            near, which = cosine.topk(min(NEIGHBOURS, len(memes)), dim=1)
            weights = torch.softmax(near / temperature, dim=1)
            votes.append((weights * self.labels[which]).sum(1))
        return torch.cat(votes)


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
        columns = self._columns(*scores)
        self.mean.copy_(columns.mean(0))
        self.std.copy_(columns.std(0).clamp_min(1e-6))
        found = LogisticRegression(C=strength)
        found.fit(((columns - self.mean) / self.std).numpy(), labels.numpy())
        with torch.no_grad():
            self.weights.weight.copy_(torch.from_numpy(found.coef_))
            self.weights.bias.copy_(torch.from_numpy(found.intercept_))

    def forward(self, *scores: torch.Tensor) -> torch.Tensor:
        hate = self.weights((self._columns(*scores) - self.mean) / self.std) / 2
        return torch.cat([-hate, hate], dim=-1)

    @staticmethod
    def _columns(*scores: torch.Tensor) -> torch.Tensor:
        margins = (each[:, 1] - each[:, 0] if each.ndim == 2 else each for each in scores)
        return torch.stack([margin.float() for margin in margins], dim=-1)
