"""Logits of the three models for every packed meme: one encoder pass feeds Steps 6 and 7."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from lib.artifacts import atomic_path, require
from lib.config import MODELS, Settings
from lib.datasets import shard_paths
from lib.features import EXPERTS, Features, encode_shards
from lib.fusion import FusionModel, feature_logits, load_fusion

EVALUATE = "python -m lib.run --from 6"


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

    One row a meme: id, split, label, then `<model>_logit_0` and `<model>_logit_1` for
    text_expert, vision_expert and mm_fusion. Raises what `load_fusion` and `stream` raise.
    """
    models = Path(models)
    fusion = load_fusion(models)
    tokens = fusion.head.config.head == "cross_attention"
    experts = [models / name for name in EXPERTS]
    frames = []
    for split, paths in shards.items():
        features = encode_shards(paths, fusion.encoders, experts, cache, tokens, workers=workers)
        frames.append(_frame(split, features, fusion))
    return pd.concat(frames, ignore_index=True)


def save_predictions(frame: pd.DataFrame, path: str | Path) -> None:
    """Write the predictions as Parquet, atomically."""
    with atomic_path(path) as new:
        frame.to_parquet(new, index=False)


def read_predictions(settings: Settings, split: str) -> pd.DataFrame:
    """The saved predictions of one split; other splits are filtered out while reading.

    Raises FileNotFoundError naming the step, and ValueError if the split has no rows.
    """
    path = require(settings.artifact(6, "predictions.parquet"), EVALUATE)
    frame = pd.read_parquet(path, filters=[("split", "==", split)])
    if frame.empty:
        raise ValueError(f"{path} has no rows of split '{split}'; evaluate again: {EVALUATE}")
    return frame


def logits_of(frame: pd.DataFrame, model: str) -> pd.DataFrame:
    """The two logit columns of a model, shape (N, 2), hate second."""
    return frame[[f"{model}_logit_0", f"{model}_logit_1"]]


def _frame(split: str, features: Features, fusion: FusionModel) -> pd.DataFrame:
    logits = feature_logits(fusion.head, features)
    columns = {"id": features.ids, "split": split, "label": features.labels.numpy()}
    for model in MODELS:
        for k in (0, 1):
            columns[f"{model}_logit_{k}"] = logits[model][:, k].double().numpy()
    return pd.DataFrame(columns)
