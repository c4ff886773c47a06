"""The fusion head on top of the two frozen experts: its kinds, its training, its file."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from sklearn.metrics import accuracy_score, f1_score
from torch import nn
from tqdm import tqdm
from transformers import set_seed

from lib.artifacts import atomic_path, fingerprint, guard_overwrite, read_json, require, write_json
from lib.config import Settings
from lib.experts import default_device
from lib.features import EXPERTS, Encoders, Features

TRAIN_EXPERTS = "python -m lib.run --from 4"
TRAIN_FUSION = "python -m lib.run --from 5"


class FusionConfig(BaseModel):
    """What rebuilds a fusion model: the head, what it reads, and the experts it was trained on."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    head: Literal["concat", "align", "align_concat", "bilinear", "cross_attention"] = "concat"
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
        if self.head == "cross_attention":
            return "text_tokens", "vision_patches", "text_mask"
        return f"text_{self.text_feature}", f"vision_{self.vision_feature}"


class FusionHead(nn.Module):
    """Fuse text and image features of B memes into logits (B, 2) over `abuse_hate`.

    `concat` is [t; v] -> Linear -> GELU -> Dropout -> Linear; the other heads project both to
    `rank` first and end in the same layers. `align` L2-normalises the projections and multiplies
    them (Kumar and Nandakumar 2022, Hate-CLIPper); `align_concat` puts them beside their product.
    `bilinear` multiplies tanh projections and keeps them beside it (Kim et al. 2017, Hadamard
    product for low-rank bilinear pooling): the text can turn the meaning of the picture over, and
    the low rank leaves little to learn by heart. `cross_attention` lets text tokens (B, L, t)
    attend to image patches (B, P, v). Features are standardised by the training set's mean and
    deviation first: two logits would drown beside 384 hidden units of another scale.
    """

    def __init__(self, config: FusionConfig) -> None:
        super().__init__()
        self.config = config
        rank = config.rank
        self.text_scale = _Standardise(config.text_dim)
        self.vision_scale = _Standardise(config.vision_dim)
        if config.head != "concat":
            self.project_text = nn.Linear(config.text_dim, rank)
            self.project_vision = nn.Linear(config.vision_dim, rank)
        if config.head == "cross_attention":
            self.attention = nn.MultiheadAttention(rank, num_heads=4, batch_first=True)
        width = {
            "concat": config.text_dim + config.vision_dim,
            "align": rank,
            "align_concat": 3 * rank,
            "bilinear": 3 * rank,
            "cross_attention": 2 * rank,
        }[config.head]
        self.mlp = nn.Sequential(
            nn.Linear(width, config.hidden),
            nn.GELU(),
            nn.Dropout(config.dropout),
            nn.Linear(config.hidden, 2),
        )

    def forward(
        self, text: torch.Tensor, vision: torch.Tensor, mask: torch.Tensor | None = None
    ) -> torch.Tensor:
        text, vision = self.text_scale(text), self.vision_scale(vision)
        fused = getattr(self, f"_{self.config.head}")(text, vision, mask)
        return self.mlp(fused)

    def _concat(self, text, vision, mask):
        return torch.cat([text, vision], dim=-1)

    def _align(self, text, vision, mask):
        return self._aligned(self.project_text(text), self.project_vision(vision))

    def _align_concat(self, text, vision, mask):
        text, vision = self.project_text(text), self.project_vision(vision)
        return torch.cat([text, vision, self._aligned(text, vision)], dim=-1)

    def _bilinear(self, text, vision, mask):
        text, vision = self.project_text(text).tanh(), self.project_vision(vision).tanh()
        return torch.cat([text, vision, text * vision], dim=-1)

    def _aligned(self, text, vision):
        product = nn.functional.normalize(text, dim=-1) * nn.functional.normalize(vision, dim=-1)
        # A product of two unit vectors has entries near 1 / width; undo that.
        return product * self.config.rank

    def _cross_attention(self, text, vision, mask):
        text, vision = self.project_text(text), self.project_vision(vision)
        seen, _ = self.attention(text, vision, vision, need_weights=False)
        weights = mask.unsqueeze(-1).to(text.dtype)
        pooled = [(x * weights).sum(1) / weights.sum(1) for x in (text, seen)]
        return torch.cat(pooled, dim=-1)


class FusionModel(nn.Module):
    """The whole system: both experts and the head, from texts and pictures to three logits."""

    def __init__(self, encoders: Encoders, head: FusionHead) -> None:
        super().__init__()
        self.encoders = encoders
        self.head = head

    @property
    def device(self) -> torch.device:
        return self.encoders.device

    def forward(self, texts: Sequence[str], images: Sequence[Any]) -> dict[str, torch.Tensor]:
        """Logits (B, 2) of text_expert, vision_expert and mm_fusion for B texts and pictures."""
        tokens = self.head.config.head == "cross_attention"
        return model_logits(self.head, self.encoders(texts, images, tokens))


def model_logits(head: FusionHead, encoded: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Logits (N, 2) of the three models from the encoders' outputs."""
    return {
        "text_expert": encoded["text_logits"],
        "vision_expert": encoded["vision_logits"],
        "mm_fusion": head(*(encoded[name] for name in head.config.inputs)),
    }


@torch.inference_mode()
def feature_logits(
    head: FusionHead, features: Features, rows: int = 1024
) -> dict[str, torch.Tensor]:
    """Logits (N, 2) of the three models from cached features, `rows` of them at a time.

    Token states of a whole data set would not fit beside their projections.
    """
    device = head.mlp[0].weight.device
    parts = []
    for start in range(0, len(features), rows):
        part = {k: v[start : start + rows].to(device) for k, v in features.arrays.items()}
        parts.append(model_logits(head, part))
    return {name: torch.cat([part[name].cpu() for part in parts]) for name in parts[0]}


@dataclass(frozen=True)
class FusionRun:
    """A trained head, its log (an entry an epoch), its best val macro-F1 (None without val)."""

    head: FusionHead
    history: list[dict[str, float]]
    macro_f1: float | None


def fusion_config(features: Features, settings: Settings, **choice: str) -> FusionConfig:
    """The configuration of a head for these features; `choice` overrides the settings' kind."""
    kind = {
        "head": "concat" if settings.fusion_head == "auto" else settings.fusion_head,
        "text_feature": settings.text_feature,
        "vision_feature": settings.vision_feature,
    } | choice
    draft = FusionConfig(text_dim=0, vision_dim=0, hidden=settings.fusion_hidden, **kind)
    text, vision = (features.arrays[name].shape[-1] for name in draft.inputs[:2])
    experts = {name: fingerprint(settings.model_folder(name)) for name in EXPERTS}
    return draft.model_copy(
        update={
            "text_dim": text,
            "vision_dim": vision,
            "experts": experts,
            "bf16": settings.autocast,
        }
    )


def train_fusion(
    train: Features,
    config: FusionConfig,
    settings: Settings,
    val: Features | None = None,
    seed: int | None = None,
) -> FusionRun:
    """Train a head on cached features by 2-class cross-entropy with Adam and an L2 penalty.

    With `val` the epoch of best macro-F1 on it is kept, without it the last.
    Raises FloatingPointError naming the epoch when the loss turns NaN.
    """
    seed = settings.seed if seed is None else seed
    set_seed(seed)
    head = FusionHead(config)
    inputs = [train.arrays[name] for name in config.inputs]
    head.text_scale.fit(inputs[0], inputs[2] if len(inputs) > 2 else None)
    head.vision_scale.fit(inputs[1])
    # Few memes, many features: the penalty sits in the loss (Adam), where it binds, and not beside
    # the step (AdamW), where at this length of training it would not.
    optimiser = torch.optim.Adam(
        head.parameters(), lr=settings.fusion_lr, weight_decay=settings.fusion_l2
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, settings.fusion_epochs)
    order = torch.Generator().manual_seed(seed)
    history, best = [], None
    for epoch in tqdm(range(1, settings.fusion_epochs + 1), desc=f"fusion {config.head}"):
        entry = {"epoch": epoch} | _train_epoch(head, inputs, train.labels, optimiser, order)
        schedule.step()
        if val is not None:
            entry |= _evaluate(head, val)
            if best is None or entry["eval_macro_f1"] > best[0]:
                best = (entry["eval_macro_f1"], _copy(head.state_dict()))
        history.append(entry)
    if best is not None:
        head.load_state_dict(best[1])
    return FusionRun(head.eval(), history, best[0] if best else None)


CANDIDATES = (
    {"head": "concat", "text_feature": "cls", "vision_feature": "logits"},
    {"head": "concat", "text_feature": "mean", "vision_feature": "pooled"},
    {"head": "align", "text_feature": "mean", "vision_feature": "pooled"},
    {"head": "align_concat", "text_feature": "mean", "vision_feature": "pooled"},
    {"head": "bilinear", "text_feature": "mean", "vision_feature": "pooled"},
    {"head": "cross_attention", "text_feature": "cls", "vision_feature": "pooled"},
)


def save_fusion(run: FusionRun, settings: Settings) -> Path:
    """Write `fusion_model.pt` (the head's state_dict) and `config.json` to `models/mm_fusion/`.

    The experts stay where Step 4 saved them; the config holds their fingerprints.
    Raises FileExistsError where a full run's model from other experts would be lost.
    """
    folder = settings.model_folder("mm_fusion")
    origin = {"mode": settings.mode, "experts": run.head.config.experts}
    guard_overwrite(folder / "made_from.json", origin, settings.overwrite)
    with atomic_path(folder) as new:
        new.mkdir()
        torch.save(run.head.state_dict(), new / "fusion_model.pt")
        write_json(new / "config.json", run.head.config.model_dump())
        write_json(new / "history.json", run.history)
        write_json(new / "made_from.json", origin)
    return folder


def load_fusion(models: str | Path, device: str | None = None) -> FusionModel:
    """Load the fusion model and its experts from the `models/` folder, in eval mode.

    Raises FileNotFoundError naming the missing part and its step, and ValueError if a file is
    broken or an expert is not the one the head was trained on.
    """
    models = Path(models)
    folder = models / "mm_fusion"
    config = _read_config(folder / "config.json")
    for name, trained_on in config.experts.items():
        if fingerprint(require(models / name, TRAIN_EXPERTS)) != trained_on:
            raise ValueError(
                f"{models / name} is not the expert that {folder} was trained on; "
                f"train fusion again: {TRAIN_FUSION}"
            )
    head = FusionHead(config)
    _read_weights(head, require(folder / "fusion_model.pt", TRAIN_FUSION))
    encoders = Encoders.load(models, config.bf16)
    return FusionModel(encoders, head).eval().to(device or default_device())


def _read_config(file: Path) -> FusionConfig:
    try:
        return FusionConfig(**read_json(file, TRAIN_FUSION))
    except ValidationError as error:
        fault = error.errors()[0]
        raise ValueError(
            f"{file}: {'.'.join(map(str, fault['loc']))}: {fault['msg']}; "
            f"train fusion again: {TRAIN_FUSION}"
        ) from None


def _read_weights(head: FusionHead, file: Path) -> None:
    try:
        head.load_state_dict(torch.load(file, map_location="cpu", weights_only=True))
    except (RuntimeError, UnpicklingError, EOFError) as error:
        raise ValueError(
            f"{file} is broken or not of the config beside it ({type(error).__name__}); "
            f"train fusion again: {TRAIN_FUSION}"
        ) from None


class _Standardise(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("std", torch.ones(width))

    def fit(self, features: torch.Tensor, mask: torch.Tensor | None = None) -> None:
        rows = features[mask.bool()] if mask is not None else features.flatten(0, -2)
        rows = rows.float()
        self.mean.copy_(rows.mean(0))
        self.std.copy_(rows.std(0).clamp_min(1e-6))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return (features.float() - self.mean) / self.std


def _train_epoch(
    head: FusionHead,
    inputs: Sequence[torch.Tensor],
    labels: torch.Tensor,
    optimiser: torch.optim.Optimizer,
    order: torch.Generator,
) -> dict[str, float]:
    head.train()
    losses, hits = [], 0
    for rows in torch.randperm(len(labels), generator=order).split(64):
        logits = head(*(tensor[rows] for tensor in inputs))
        loss = nn.functional.cross_entropy(logits, labels[rows])
        if not torch.isfinite(loss):
            raise FloatingPointError(
                f"the fusion loss is {loss.item()} after {len(losses)} batches of an epoch; "
                "nothing was saved. Lower fusion_lr and run Step 5 again"
            )
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item() * len(rows))
        hits += int((logits.argmax(1) == labels[rows]).sum())
    return {"loss": sum(losses) / len(labels), "accuracy": hits / len(labels)}


@torch.inference_mode()
def _evaluate(head: FusionHead, features: Features) -> dict[str, float]:
    head.eval()
    logits = feature_logits(head, features)["mm_fusion"]
    loss = nn.functional.cross_entropy(logits, features.labels)
    scores = {f"eval_{name}": value for name, value in _scores(features.labels, logits).items()}
    return {"eval_loss": loss.item()} | scores


def _copy(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in state.items()}


def compare_heads(train: Features, settings: Settings, val: Features | None = None) -> pd.DataFrame:
    """Train every candidate head over `fusion_seeds` seeds and score it on val (else on train).

    One row a candidate: head, text_feature, vision_feature, mean and deviation of macro-F1 over
    the seeds, and `scored_on`, "val" or "train (in-sample)".
    """
    scored = train if val is None else val
    rows = []
    for choice in _candidates(train):
        config = fusion_config(train, settings, **choice)
        runs = [
            train_fusion(train, config, settings, val, seed=settings.seed + offset)
            for offset in range(settings.fusion_seeds)
        ]
        scores = [_evaluate(run.head, scored)["eval_macro_f1"] for run in runs]
        rows.append(choice | {"macro_f1": np.mean(scores), "std": np.std(scores)})
    frame = pd.DataFrame(rows)
    frame["scored_on"] = "val" if val is not None else "train (in-sample)"
    return frame


def _candidates(features: Features) -> list[dict[str, str]]:
    readable = "text_tokens" in features.arrays
    return [c for c in CANDIDATES if readable or c["head"] != "cross_attention"]


def choose_head(comparison: pd.DataFrame, train: Features, settings: Settings) -> FusionConfig:
    """The head to train: the configured one, or with "auto" the best of `compare_heads` on val."""
    if settings.fusion_head != "auto":
        return fusion_config(train, settings)
    best = comparison.loc[comparison["macro_f1"].idxmax()]
    return fusion_config(train, settings, **{name: best[name] for name in CANDIDATES[0]})


def compare_models(head: FusionHead, features: Features) -> pd.DataFrame:
    """Accuracy and macro-F1 of the three models on encoded memes, a row a model."""
    rows = {
        model: _scores(features.labels, logits)
        for model, logits in feature_logits(head, features).items()
    }
    return pd.DataFrame(rows).T


def _scores(labels: torch.Tensor, logits: torch.Tensor) -> dict[str, float]:
    predicted = logits.argmax(1)
    return {
        "accuracy": accuracy_score(labels, predicted),
        "macro_f1": f1_score(labels, predicted, average="macro"),
    }
