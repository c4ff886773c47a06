"""Going on with an interrupted joint tuning from its last whole epoch, to the same weights."""

import hashlib
import json
from pathlib import Path
from typing import Any

import torch

from lib.artifacts import atomic_path, fingerprint
from lib.config import Settings
from lib.modeling.compared_heads import ComparedHeads, digest_of
from lib.modeling.features import Features
from lib.modeling.heads import FusionConfig

# The settings that decide, beside the head and its features, what becomes of it.
KNOBS = (
    *("fusion_tuning", "fusion_top_k", "lora_rank", "fusion_tuning_epochs", "fusion_tuning_lr"),
    *("batch_size", "seed", "bf16"),
)
CODE = tuple(Path(__file__).with_name(name) for name in ("fusion_tuning.py", "trainable_layers.py"))


def tuning_file(
    settings: Settings, config: FusionConfig, train: Features, val: Features | None
) -> Path:
    """Where the feature cache keeps a tuning, by all that decides its outcome."""
    job = {name: getattr(settings, name) for name in KNOBS} | {"code": fingerprint(*CODE)}
    job["altered"] = [digest_of(name, train.altered[name]) for name in sorted(train.altered)]
    job["head"] = ComparedHeads(settings, train, val).key(config, settings.seed)
    key = hashlib.sha256(json.dumps(job, sort_keys=True).encode()).hexdigest()[:16]
    return settings.features / f"tuning-{key}.pt"


def keep_epoch(file: Path, content: dict[str, Any], loader: torch.Generator) -> None:
    """Write where a tuning stands at the end of an epoch, and the dice of what comes next."""
    dice = {"torch": torch.get_rng_state(), "loader": loader.get_state()}
    if torch.cuda.is_available():
        dice["cuda"] = torch.cuda.get_rng_state()
    file.parent.mkdir(parents=True, exist_ok=True)
    for other in file.parent.glob("tuning-*.pt"):
        # It is as large as three of the models that learn.
        if other != file:
            other.unlink()
    with atomic_path(file) as new:
        torch.save(content | {"dice": dice}, new)


def last_epoch(file: Path, loader: torch.Generator) -> dict[str, Any] | None:
    """What `keep_epoch` wrote, with the dice as they lay; None where nothing was kept."""
    if not file.exists():
        return None
    content = torch.load(file, map_location="cpu", weights_only=True)
    dice = content.pop("dice")
    torch.set_rng_state(dice["torch"])
    loader.set_state(dice["loader"])
    if "cuda" in dice and torch.cuda.is_available():
        torch.cuda.set_rng_state(dice["cuda"])
    return content
