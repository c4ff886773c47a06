"""The fusion heads: a class each, registered by name. To add one, add its class here."""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import nn
from torch.nn.functional import linear, normalize

from lib.modeling.rows import moments
from lib.modeling.stacking import LOGITS, NGRAMS, SPACE, VOTE, Neighbours, Stack, constant

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


def check_head(name: str, token_heads: bool) -> None:
    """Raise ValueError for an unknown head, or one that reads tokens where none are encoded."""
    if head_class(name).reads_tokens and not token_heads:
        raise ValueError(f"fusion_head={name} reads tokens: set token_heads=true, or another head")


class FusionConfig(BaseModel):
    """What rebuilds a fusion model: the head, what it reads, and the experts it was trained on."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    head: str = "concat"
    # How many heads of that kind, each of its own seed, whose logits are averaged.
    members: int = Field(default=1, ge=1)
    text_feature: Literal["cls", "mean", "logits", "dual"] = "cls"
    vision_feature: Literal["pooled", "logits", "dual"] = "logits"
    stack: bool = False
    # Whether the n-gram model's score is stacked with the experts' logits.
    ngrams: bool = False
    # How many training memes vote on others (0: none do), and the widths they are near in.
    voters: int = 0
    voters_text_dim: int = 0
    voters_vision_dim: int = 0
    text_dim: int
    vision_dim: int
    hidden: int = 256
    rank: int = 64
    dropout: float = 0.1
    bf16: bool | None = None
    experts: dict[str, str] = {}
    encoders: dict[str, str] = {}
    # The folders in `encoders` whose weights were tuned with the head's and lie beside them.
    tuned: tuple[str, ...] = ()

    @property
    def inputs(self) -> tuple[str, ...]:
        """The names of the features the head reads, in the order of its arguments."""
        extra = [name for name, read in ((NGRAMS, self.ngrams), (VOTE, self.voters)) if read]
        scores = (*LOGITS, *extra) if self.stack else ()
        if head_class(self.head).reads_tokens:
            return ("text_tokens", "vision_patches", *scores, "text_mask")
        return (f"text_{self.text_feature}", f"vision_{self.vision_feature}", *scores)

    @property
    def reads(self) -> tuple[str, ...]:
        """The names of all features that the encoders must give."""
        given = tuple(name for name in self.inputs if name != VOTE)
        return (*given, *SPACE) if VOTE in self.inputs else given


def build_head(config: FusionConfig) -> "FusionHead":
    """A new head of the configured kind, or several. Raises ValueError for an unknown one."""
    if config.members > 1:
        return Ensemble(config, [head_class(config.head)(config) for _ in range(config.members)])
    return head_class(config.head)(config)


class FusionHead(nn.Module):
    """Fuse text and image features of B memes into logits (B, 2) over `abuse_hate`.

    A kind of head says in `build` which layers it has and how wide the fused vector is, and in
    `fuse` how it comes about; Linear, GELU, Dropout, Linear follow in all of them. Features are
    standardised by the training set's mean and deviation first: two logits would drown beside 384
    hidden units of another scale.

    With `config.stack` the weighted scores of `stacking` are added to the outcome: what the head
    learns from the features is then a correction of what the experts and the nearest training memes
    say. It pays where the logits are those of experts that have not seen the memes.

    `tries` are the pairs of text and vision feature that Step 5 compares. A head that
    `reads_tokens` is given token states (B, L, t), patches (B, P, v) and the text's mask (B, L)
    instead of one vector a meme and modality. One that `is_stack` is nothing but the
    weighted scores.
    """

    tries: ClassVar[tuple[tuple[str, str], ...]] = (("mean", "pooled"),)
    reads_tokens: bool = False
    is_stack: ClassVar[bool] = False
    neighbours: Neighbours | None
    stack: Any

    def __init__(self, config: FusionConfig) -> None:
        super().__init__()
        self.config = config
        self.neighbours = self.stack = None
        self.scales = nn.ModuleList(
            Standardise(width) for width in (config.text_dim, config.vision_dim)
        )
        width = self.build(config)
        self.mlp = nn.Sequential(
            nn.Linear(width, config.hidden),
            nn.GELU(),
            nn.Dropout(config.dropout),
            nn.Linear(config.hidden, 2),
        )
        self.add_stack()

    def add_stack(self) -> None:
        """Make what stacks other models' scores, where the configuration asks for it."""
        config = self.config
        if config.voters:
            self.neighbours = Neighbours(
                config.voters, config.voters_text_dim, config.voters_vision_dim
            )
        if config.stack:
            self.stack = Stack(len(LOGITS) + config.ngrams + bool(config.voters))

    def build(self, config: FusionConfig) -> int:
        """Make the layers that `fuse` needs, and return the width of what it returns."""
        raise NotImplementedError

    def fuse(
        self, text: torch.Tensor, vision: torch.Tensor, mask: torch.Tensor | None
    ) -> torch.Tensor:
        """Standardised features to the fused vectors (B, width)."""
        raise NotImplementedError

    def fit(self, labels: torch.Tensor, *features: torch.Tensor) -> None:
        """Take scales and the weights of stacked scores from the training set.

        `labels` is (N,), `features` are in the order of `config.inputs`.
        """
        mask = features[-1] if self.reads_tokens else None
        self.scales[0].fit(features[0], mask)
        self.scales[1].fit(features[1])
        if self.stack is not None:
            # Weak at first, or the features are left with nothing to learn: on generated memes the
            # full weights cost 0.04 of accuracy on unseen pictograms.
            self.stack.fit(labels, *self._scores(features), strength=1e-3)

    def forward(self, *features: torch.Tensor) -> torch.Tensor:
        """Features in the order of `config.inputs` to logits (B, 2)."""
        logits = self.mlp(self.fused(*features))
        return logits if self.stack is None else logits + self.stack(*self._scores(features))

    def fused(self, *features: torch.Tensor) -> torch.Tensor:
        """Features in the order of `config.inputs` to the fused vectors (B, width)."""
        mask = features[-1] if self.reads_tokens else None
        return self.fuse(self.scales[0](features[0]), self.scales[1](features[1]), mask)

    def _scores(self, features: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        return features[2:-1] if self.reads_tokens else features[2:]


@register_head("concat")
class Concat(FusionHead):
    """Both features side by side: the plainest head."""

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

    def fused(self, *features):
        text = self.scales[0].into(self.project_text, features[0])
        vision = self.scales[1].into(self.project_vision, features[1])
        mask = features[-1]
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
        mean, std, bounds = moments(features, mask)
        self.mean.copy_(mean)
        # A feature that hardly varies among the training memes must not become huge in another
        # meme, or when its encoder is tuned.
        floor = max(1e-6, 0.01 * std.median().item())
        self.std.copy_(std.clamp_min(floor).masked_fill(constant(bounds), 1.0))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return (features.float() - self.mean) / self.std

    def into(self, layer: nn.Linear, features: torch.Tensor) -> torch.Tensor:
        """What `layer` makes of the standardised features, which are not written out for it.

        Token states are many and wide, and the mean and deviation go into the layer's weights.
        """
        weight = layer.weight / self.std
        return linear(features.float(), weight, layer.bias - weight @ self.mean)


@register_head("late")
class Late(FusionHead):
    """Late fusion, the baseline that a head must beat: nothing but the weighted scores."""

    tries = (("logits", "logits"),)
    is_stack = True

    def __init__(self, config: FusionConfig) -> None:
        nn.Module.__init__(self)
        self.config = config
        self.neighbours = self.stack = None
        self.add_stack()

    def fit(self, labels: torch.Tensor, *features: torch.Tensor) -> None:
        self.stack.fit(labels, *features[2:])

    def forward(self, *features: torch.Tensor) -> torch.Tensor:
        return self.stack(*features[2:])


class Ensemble(FusionHead):
    """Heads of one kind, trained from a seed each; its logits are the mean of theirs.

    Lakshminarayanan et al. (2017), Simple and scalable predictive uncertainty estimation using deep
    ensembles. The training memes that vote are the same for all, and are kept once.
    """

    def __init__(self, config: FusionConfig, heads: Sequence[FusionHead]) -> None:
        nn.Module.__init__(self)
        self.config, self.stack = config, None
        self.neighbours, self.reads_tokens = heads[0].neighbours, heads[0].reads_tokens
        for head in heads:
            head.neighbours = None
        self.members = nn.ModuleList(heads)

    def forward(self, *features: torch.Tensor) -> torch.Tensor:
        return torch.stack([head(*features) for head in self.members]).mean(0)
