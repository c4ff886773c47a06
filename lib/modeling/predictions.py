"""Logits of the three models for every packed meme: one encoder pass feeds Steps 6 and 7."""

from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from lib.config import MODELS, Settings
from lib.data.datasets import MemeShards, shard_paths
from lib.data.shard_index import shards_fingerprint
from lib.data.val_parts import SELECT, val_parts
from lib.modeling.device import moved
from lib.modeling.features import Features, encode_shards
from lib.modeling.fusion import FusionModel, load_fusion, model_logits
from lib.modeling.heads import FusionHead
from lib.modeling.prediction_table import model_fingerprints
from lib.modeling.stacking import LOGITS
from lib.modeling.trained_on import of_other_shards, warn_of_other_shards


@torch.inference_mode()
def feature_logits(
    head: FusionHead, features: Features, rows: int = 1024
) -> dict[str, torch.Tensor]:
    """Logits (N, 2) of the three models from cached features, `rows` of them at a time.

    Only what the head reads goes to its device. Token states of a whole data set would not fit
    beside their projections.
    """
    device = next(head.parameters()).device
    names = {*LOGITS, *head.config.inputs, *head.config.reads} & features.arrays.keys()
    parts = []
    for start in range(0, len(features), rows):
        part = {name: features.arrays[name][start : start + rows] for name in sorted(names)}
        part = moved(part, device)
        parts.append(model_logits(head, part))
    return {name: torch.cat([part[name].cpu() for part in parts]) for name in parts[0]}


def packed_splits(settings: Settings) -> dict[str, list[Path]]:
    """The shards of every split that Step 3 packed, train first, then val, test and the rest.

    Raises FileNotFoundError if there is none.
    """
    shard_paths(settings.shards, "train")
    order = {"train": 0, "val": 1, "test": 2}
    folders = sorted(
        (folder for folder in settings.shards.iterdir() if any(folder.glob("shard-*.tar"))),
        key=lambda folder: (order.get(folder.name, 3), folder.name),
    )
    return {folder.name: shard_paths(settings.shards, folder.name) for folder in folders}


def predict_shards(
    shards: Mapping[str, Sequence[str | Path]],
    models: str | Path,
    cache: Path | None = None,
    workers: int = 0,
) -> pd.DataFrame:
    """Run the three models of the `models/` folder over the shards of each split.

    One row a meme: id, split, part ("select" or "calibrate" in val, empty elsewhere), group,
    label, then `<model>_logit_0` and `<model>_logit_1` for text_expert, vision_expert and
    mm_fusion. `attrs` holds the fingerprints of "models" and, by split, "shards", taken before
    the first logit: whatever replaces a model later, these logits are not of it. It says
    "bf16" where the encoders ran in that, "undivided" where what calibrates in val has selected
    too, and under "trained_on_other_shards" the models that were.
    Warns of experts that were trained on other shards, and raises what `load_fusion` and `stream`
    raise.
    """
    models = Path(models)
    warn_of_other_shards(models, shards)
    origin: dict[Hashable | None, Any] = {
        "models": model_fingerprints(models),
        "shards": {split: shards_fingerprint(paths) for split, paths in shards.items()},
    }
    if elsewhere := of_other_shards(models, shards):
        origin["trained_on_other_shards"] = elsewhere
    fusion = load_fusion(models)
    if fusion.encoders.autocast:
        origin["bf16"] = True
    frames = []
    for split, paths in shards.items():
        features = encode_shards(
            paths, fusion.encoders, cache, fusion.head.reads_tokens, workers=workers
        )
        groups = MemeShards(paths, pictures=False).groups
        frames.append(_frame(split, features, groups, fusion))
    frame = pd.concat(frames, ignore_index=True)
    if "val" in shards and not (frame["part"] == SELECT).any():
        origin["undivided"] = True
    frame.attrs = origin
    return frame


def _frame(
    split: str, features: Features, groups: Sequence[str], fusion: FusionModel
) -> pd.DataFrame:
    logits = feature_logits(fusion.head, features)
    labels = features.labels.numpy()
    part = val_parts(labels, groups) if split == "val" else ""
    columns = {"id": features.ids, "split": split, "part": part, "group": groups, "label": labels}
    for model in MODELS:
        for k in (0, 1):
            columns[f"{model}_logit_{k}"] = logits[model][:, k].double().numpy()
    return pd.DataFrame(columns)
