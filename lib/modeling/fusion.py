"""The fusion model: both experts and the head, its files, and its three logits a meme."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from pydantic import ValidationError
from torch import nn

from lib.artifacts import atomic_path, fingerprint, guard_overwrite, read_json, require, write_json
from lib.config import Settings
from lib.modeling.device import default_device
from lib.modeling.encoders import Encoders
from lib.modeling.heads import FusionConfig, FusionHead, build_head, head_class

TRAIN_EXPERTS = "python -m lib.run --from 4"
TRAIN_FUSION = "python -m lib.run --from 5"


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
        return model_logits(self.head, self.encoders(texts, images, self.head.reads_tokens))


def model_logits(head: FusionHead, encoded: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Logits (N, 2) of the three models from the encoders' outputs."""
    return {
        "text_expert": encoded["text_logits"],
        "vision_expert": encoded["vision_logits"],
        "mm_fusion": head(*(encoded[name] for name in head.config.inputs)),
    }


@dataclass(frozen=True)
class TrainedHead:
    """A trained head, its log (an entry an epoch), its best val macro-F1 (None without val)."""

    head: FusionHead
    history: list[dict[str, float]]
    macro_f1: float | None


def save_fusion(trained: TrainedHead, settings: Settings) -> Path:
    """Write `fusion_model.pt` (the head's state_dict) and `config.json` to `models/mm_fusion/`.

    The experts stay where Step 4 saved them; the config holds their fingerprints.
    Raises FileExistsError where a full run's model from other experts would be lost.
    """
    folder = settings.model_folder("mm_fusion")
    origin = {"mode": settings.mode, "experts": trained.head.config.experts}
    guard_overwrite(folder / "made_from.json", origin, settings.overwrite)
    with atomic_path(folder) as new:
        new.mkdir()
        torch.save(trained.head.state_dict(), new / "fusion_model.pt")
        write_json(new / "config.json", trained.head.config.model_dump())
        write_json(new / "history.json", trained.history)
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
    head = build_head(config)
    _read_weights(head, require(folder / "fusion_model.pt", TRAIN_FUSION))
    encoders = Encoders.load(models, config.bf16)
    return FusionModel(encoders, head).eval().to(device or default_device())


def _read_config(file: Path) -> FusionConfig:
    try:
        config = FusionConfig(**read_json(file, TRAIN_FUSION))
        head_class(config.head)
    except ValidationError as error:
        fault = error.errors()[0]
        raise ValueError(
            f"{file}: {'.'.join(map(str, fault['loc']))}: {fault['msg']}; "
            f"train fusion again: {TRAIN_FUSION}"
        ) from None
    except ValueError as error:
        raise ValueError(f"{file}: head: {error}; train fusion again: {TRAIN_FUSION}") from None
    return config


def _read_weights(head: FusionHead, file: Path) -> None:
    try:
        head.load_state_dict(torch.load(file, map_location="cpu", weights_only=True))
    except (RuntimeError, UnpicklingError, EOFError) as error:
        raise ValueError(
            f"{file} is broken or not of the config beside it ({type(error).__name__}); "
            f"train fusion again: {TRAIN_FUSION}"
        ) from None
