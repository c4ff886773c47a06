"""The fusion heads: a class each, registered by name. To add one, add its class here."""

from collections.abc import Callable
from typing import ClassVar, Literal

import torch
from pydantic import BaseModel, ConfigDict
from torch import nn
from torch.nn.functional import normalize

HEADS: dict[str, type["FusionHead"]] = {}


def register_head(name: str) -> Callable[[type["FusionHead"]], type["FusionHead"]]:
    """Make a head known under `name` to the settings, to Step 5's comparison and to loading."""

    def register(head: type["FusionHead"]) -> type["FusionHead"]:
        HEADS[name] = head
        return head

    return register


def head_class(name: str) -> type["FusionHead"]:
    """The head of that name. Raises ValueError naming the known ones."""
    if name not in HEADS:
        raise ValueError(f"fusion head {name!r} is unknown; known: {', '.join(HEADS)}")
    return HEADS[name]


class FusionConfig(BaseModel):
    """What rebuilds a fusion model: the head, what it reads, and the experts it was trained on."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    head: str = "concat"
    text_feature: Literal["cls", "mean", "logits"] = "cls"
    vision_feature: Literal["pooled", "logits"] = "logits"
    text_dim: int
    vision_dim: int
    hidden: int = 256
    rank: int = 64
    dropout: float = 0.1
    bf16: bool = False
    experts: dict[str, str] = {}

    @property
    def inputs(self) -> tuple[str, ...]:
        """The names of the features the head reads, in the order of its arguments."""
        if head_class(self.head).reads_tokens:
            return "text_tokens", "vision_patches", "text_mask"
        return f"text_{self.text_feature}", f"vision_{self.vision_feature}"


def build_head(config: FusionConfig) -> "FusionHead":
    """A new head of the configured kind. Raises ValueError for an unknown one."""
    return head_class(config.head)(config)


class FusionHead(nn.Module):
    """Fuse text and image features of B memes into logits (B, 2) over `abuse_hate`.

    A kind of head says in `build` which layers it has and how wide the fused vector is, and in
    `fuse` how it comes about; Linear, GELU, Dropout, Linear follow in all of them. Features are
    standardised by the training set's mean and deviation first: two logits would drown beside 384
    hidden units of another scale.

    `tries` are the pairs of text and vision feature that Step 5 compares. A head that
    `reads_tokens` is given token states (B, L, t), patches (B, P, v) and the text's mask (B, L)
    instead of one vector a meme and modality.
    """

    tries: ClassVar[tuple[tuple[str, str], ...]] = (("mean", "pooled"),)
    reads_tokens: ClassVar[bool] = False

    def __init__(self, config: FusionConfig) -> None:
        super().__init__()
        self.config = config
        self.text_scale = Standardise(config.text_dim)
        self.vision_scale = Standardise(config.vision_dim)
        width = self.build(config)
        self.mlp = nn.Sequential(
            nn.Linear(width, config.hidden),
            nn.GELU(),
            nn.Dropout(config.dropout),
            nn.Linear(config.hidden, 2),
        )

    def build(self, config: FusionConfig) -> int:
        """Make the layers that `fuse` needs, and return the width of what it returns."""
        raise NotImplementedError

    def fuse(
        self, text: torch.Tensor, vision: torch.Tensor, mask: torch.Tensor | None
    ) -> torch.Tensor:
        """Standardised features to the fused vectors (B, width)."""
        raise NotImplementedError

    def forward(
        self, text: torch.Tensor, vision: torch.Tensor, mask: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Features as the encoders give them, in the order of `config.inputs`, to logits (B, 2)."""
        return self.mlp(self.fuse(self.text_scale(text), self.vision_scale(vision), mask))


@register_head("concat")
class Concat(FusionHead):
    """The documented head: both features side by side."""

    tries = (("cls", "logits"), ("mean", "pooled"))

    def build(self, config: FusionConfig) -> int:
        return config.text_dim + config.vision_dim

    def fuse(self, text, vision, mask):
        return torch.cat([text, vision], dim=-1)


class _Projected(FusionHead):
    """Both features are projected to `rank` first; `parts` vectors of that width are fused."""

    parts: ClassVar[int] = 1

    def build(self, config: FusionConfig) -> int:
        self.project_text = nn.Linear(config.text_dim, config.rank)
        self.project_vision = nn.Linear(config.vision_dim, config.rank)
        return self.parts * config.rank

    def fuse(self, text, vision, mask):
        return self.join(self.project_text(text), self.project_vision(vision))

    def join(self, text: torch.Tensor, vision: torch.Tensor) -> torch.Tensor:
        """Two projections (B, rank) to the fused vectors (B, parts * rank)."""
        raise NotImplementedError


@register_head("align")
class Align(_Projected):
    """The product of the L2-normalised projections (Kumar and Nandakumar 2022, Hate-CLIPper)."""

    def join(self, text, vision):
        # A product of two unit vectors has entries near 1 / width; undo that.
        return normalize(text, dim=-1) * normalize(vision, dim=-1) * self.config.rank


@register_head("align_concat")
class AlignConcat(Align):
    """Both projections beside their normalised product."""

    parts = 3

    def join(self, text, vision):
        return torch.cat([text, vision, super().join(text, vision)], dim=-1)


@register_head("bilinear")
class Bilinear(_Projected):
    """The product of tanh projections beside them (Kim et al. 2017, Hadamard product for low-rank
    bilinear pooling): the text can turn the meaning of the picture over, and the low rank leaves
    little to learn by heart."""

    parts = 3

    def join(self, text, vision):
        text, vision = text.tanh(), vision.tanh()
        return torch.cat([text, vision, text * vision], dim=-1)


@register_head("cross_attention")
class CrossAttention(_Projected):
    """Text tokens attend to image patches; the means over the real tokens are fused."""

    tries = (("cls", "pooled"),)
    reads_tokens = True
    parts = 2

    def build(self, config: FusionConfig) -> int:
        width = super().build(config)
        self.attention = nn.MultiheadAttention(config.rank, num_heads=4, batch_first=True)
        return width

    def fuse(self, text, vision, mask):
        text, vision = self.project_text(text), self.project_vision(vision)
        seen, _ = self.attention(text, vision, vision, need_weights=False)
        weights = mask.unsqueeze(-1).to(text.dtype)
        pooled = [(x * weights).sum(1) / weights.sum(1) for x in (text, seen)]
        return torch.cat(pooled, dim=-1)


class Standardise(nn.Module):
    """Subtract a mean and divide by a deviation, both kept with the weights."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("std", torch.ones(width))

    def fit(self, features: torch.Tensor, mask: torch.Tensor | None = None) -> None:
        """Take mean and deviation of features (..., width), of those under `mask` if given."""
        rows = features[mask.bool()] if mask is not None else features.flatten(0, -2)
        rows = rows.float()
        self.mean.copy_(rows.mean(0))
        self.std.copy_(rows.std(0).clamp_min(1e-6))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return (features.float() - self.mean) / self.std
