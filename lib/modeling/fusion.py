"""The fusion model: both experts and the head, its files, and its three logits a meme."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from pydantic import ValidationError
from torch import nn

from lib.artifacts import atomic_path, fingerprint, guard_overwrite, read_json, require, write_json
from lib.commands import again
from lib.config import Settings
from lib.modeling.device import default_device
from lib.modeling.encoders import Encoders, Source
from lib.modeling.heads import FusionConfig, FusionHead, build_head, head_class
from lib.modeling.own_encoders import load_own, own_sources, own_state, save_own
from lib.modeling.stacking import SPACE, VOTE


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
    """Logits (N, 2) of the three models from the encoders' outputs.

    The nearest training memes vote where `encoded` does not hold their vote yet.
    """
    if head.neighbours is not None and VOTE not in encoded:
        encoded = {**encoded, VOTE: head.neighbours(*(encoded[name] for name in SPACE))}
    return {
        "text_expert": encoded["text_logits"],
        "vision_expert": encoded["vision_logits"],
        "mm_fusion": head(*(encoded[name] for name in head.config.inputs)),
    }


@dataclass(frozen=True)
class TrainedHead:
    """A trained head and its log, an entry an epoch."""

    head: FusionHead
    history: list[dict[str, float]]


def save_fusion(trained: TrainedHead, settings: Settings, encoders: Encoders) -> Path:
    """Write a fusion model to `models/mm_fusion/`: `fusion_model.pt`, `config.json`, `encoders/`.

    The experts stay where Step 4 saved them. `encoders/` holds those encoders of fusion's own that
    the head reads; the config holds the fingerprints of both. The weights of tuned encoders stand
    beside the head's in `fusion_model.pt`.
    Raises FileExistsError where a full run's model would be lost whose experts were trained from
    other data or backbones.
    """
    folder = settings.model_folder("mm_fusion")
    origin = {"mode": settings.mode, "experts": _made_from(settings, trained.head.config)}
    guard_overwrite(folder / "made_from.json", origin, settings.overwrite)
    with atomic_path(folder) as new:
        new.mkdir()
        own, tuned = own_sources(encoders, trained.head.config.reads), trained.head.config.tuned
        save_own(own, new / "encoders", tuned)
        found = sorted((new / "encoders").glob("*")) if (new / "encoders").exists() else []
        config = trained.head.config.model_copy(
            update={"encoders": {own.name: fingerprint(own) for own in found}}
        )
        state = {name: tensor.cpu() for name, tensor in trained.head.state_dict().items()}
        if tuned:
            state = {f"head.{name}": tensor for name, tensor in state.items()}
            state |= own_state(own, tuned)
        torch.save(state, new / "fusion_model.pt")
        write_json(new / "config.json", config.model_dump())
        # Of one class alone there is no AUROC, and NaN is no JSON.
        history = [{k: v if isfinite(v) else None for k, v in e.items()} for e in trained.history]
        write_json(new / "history.json", history)
        write_json(new / "made_from.json", origin)
    return folder


def _made_from(settings: Settings, config: FusionConfig) -> dict[str, Any]:
    """What each expert was made from; its fingerprint where nothing says that.

    Experts trained anew, from the same data and backbones, come with a fusion of their own.
    """
    files = {name: settings.model_folder(name) / "made_from.json" for name in config.experts}
    return {
        name: read_json(file, again(4)) if file.exists() else config.experts[name]
        for name, file in files.items()
    }


def load_fusion(models: str | Path, device: str | None = None) -> FusionModel:
    """Load the fusion model and its encoders from the `models/` folder, in eval mode.

    Raises FileNotFoundError naming the missing part and its step, and ValueError if a file is
    broken or an encoder is not the one the head was trained on.
    """
    models = Path(models)
    folder = models / "mm_fusion"
    config = _read_config(folder / "config.json")
    trained_on = {models / name: (found, again(4)) for name, found in config.experts.items()}
    for name, found in config.encoders.items():
        trained_on[folder / "encoders" / name] = (found, again(5))
    for encoder, (found, made_by) in trained_on.items():
        if fingerprint(require(encoder, made_by)) != found:
            raise ValueError(
                f"{encoder} is not the one that {folder} was trained on; "
                f"train fusion again: {again(5)}"
            )
    head, own = _read_weights(config, require(folder / "fusion_model.pt", again(5)))
    encoders = Encoders.load(models, config.bf16, own, device)
    return FusionModel(encoders, head).eval().to(device or default_device())


def _read_config(file: Path) -> FusionConfig:
    try:
        config = FusionConfig(**read_json(file, again(5)))
        head_class(config.head)
    except ValidationError as error:
        fault = error.errors()[0]
        raise ValueError(
            f"{file}: {'.'.join(map(str, fault['loc']))}: {fault['msg']}; "
            f"train fusion again: {again(5)}"
        ) from None
    except ValueError as error:
        raise ValueError(f"{file}: head: {error}; train fusion again: {again(5)}") from None
    return config


def _read_weights(config: FusionConfig, file: Path) -> tuple[FusionHead, dict[str, Source]]:
    """The head and fusion's own encoders, from `fusion_model.pt` and the folders beside it."""
    head = build_head(config)
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
        parts = _parts(state, config.tuned)
        head.load_state_dict(parts["head"])
        return head, load_own(file.parent / "encoders", list(config.encoders), parts)
    except (RuntimeError, KeyError, UnpicklingError, EOFError, OSError) as error:
        raise ValueError(
            f"{file} is broken or not of the config beside it ({type(error).__name__}); "
            f"train fusion again: {again(5)}"
        ) from None


def _parts(
    state: Mapping[str, torch.Tensor], tuned: Sequence[str]
) -> dict[str, dict[str, torch.Tensor]]:
    """The weights of the head and of each tuned encoder; without such, all are the head's."""
    if not tuned:
        return {"head": dict(state)}
    parts: dict[str, dict[str, torch.Tensor]] = {name: {} for name in ("head", *tuned)}
    for name, tensor in state.items():
        part, _, rest = name.partition(".")
        parts[part][rest] = tensor
    return parts
