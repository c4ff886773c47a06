"""What the frozen experts see in each meme: every encoder runs once, the rest reads its cache."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
import webdataset as wds
from safetensors import safe_open
from safetensors.torch import save_file
from tqdm import tqdm

from lib.artifacts import atomic_path, fingerprint
from lib.config import Settings
from lib.data.datasets import MemeShards, shard_paths, stream
from lib.modeling.encoders import EXPERTS, Encoders, collate

# What a cache file holds: token and patch states too, or one vector a meme and encoder.
KINDS = ("tokens", "pooled")

TOKEN_ARRAYS = ("text_tokens", "text_mask", "vision_patches")


@dataclass(frozen=True)
class Features:
    """Encoder outputs of N memes, rows in shard order.

    `arrays` holds text_logits and vision_logits (N, 2), text_cls and text_mean (N, t),
    vision_pooled (N, v); with tokens also text_tokens (N, L, t), text_mask (N, L) and
    vision_patches (N, P, w), these three in half precision: they are the bulk.
    """

    ids: list[str]
    labels: torch.Tensor
    arrays: dict[str, torch.Tensor]

    def __len__(self) -> int:
        return len(self.ids)


def encode_shards(
    shards: Sequence[str | Path],
    encoders: Encoders,
    experts: Sequence[Path],
    cache: Path | None = None,
    tokens: bool = False,
    batch_size: int = 32,
    workers: int = 0,
) -> Features:
    """Encode all memes of some shards in one pass, or read the cached outcome of an earlier one.

    `experts` are the folders the encoders were loaded from: with the shards they make the cache's
    fingerprint, so that a changed expert or shard is encoded anew. Raises what `stream` raises.
    """
    if cache is None:
        return encode_anew(shards, encoders, tokens, batch_size, workers)
    weights = [folder / name for folder in experts for name in ("model.safetensors", "config.json")]
    key = fingerprint(*weights, *shards) + ("-bf16" if encoders.bf16 else "")
    with_tokens, pooled = (Path(cache) / f"{key}-{kind}.safetensors" for kind in KINDS)
    if with_tokens.exists():
        return _load(with_tokens)
    file = with_tokens if tokens else pooled
    if not file.exists():
        _save(encode_anew(shards, encoders, tokens, batch_size, workers), file)
    return _load(file)


def encode_for_fusion(settings: Settings, encoders: Encoders) -> tuple[Features, Features | None]:
    """Train and val, encoded and cached, with tokens where `token_heads` is set.

    val is None in the pilot, which has none.
    """
    experts = [settings.model_folder(name) for name in EXPERTS]
    encode = partial(
        encode_shards,
        encoders=encoders,
        experts=experts,
        cache=settings.features,
        tokens=settings.token_heads,
        workers=settings.workers,
    )
    train = encode(shard_paths(settings.shards, "train"))
    if settings.mode == "pilot":
        return train, None
    return train, encode(shard_paths(settings.shards, "val"))


@torch.inference_mode()
def encode_anew(
    shards: Sequence[str | Path], encoders: Encoders, tokens: bool, batch_size: int, workers: int
) -> Features:
    ids, labels, parts = [], [], {}
    loader = wds.WebLoader(
        stream(shards),
        batch_size=batch_size,
        collate_fn=partial(collate, encoders.tokenizer, encoders.processor),
        num_workers=min(workers, len(shards)),
    )
    with tqdm(desc="encoding", unit=" memes") as bar:
        for batch in loader:
            for name, tensor in encoders.encode_batch(batch, tokens).items():
                half = name in TOKEN_ARRAYS
                parts.setdefault(name, []).append(tensor.half().cpu() if half else tensor.cpu())
            ids += batch.ids
            labels += batch.labels
            bar.update(len(batch.ids))
    return _in_shard_order(shards, ids, labels, parts)


def _in_shard_order(
    shards: Sequence[str | Path],
    ids: list[str],
    labels: list[int],
    parts: Mapping[str, list[torch.Tensor]],
) -> Features:
    """Undo the order in which the loader's workers happened to deliver."""
    place = {meme: row for row, meme in enumerate(ids)}
    ordered = MemeShards(shards, pictures=False).ids
    rows = torch.tensor([place[meme] for meme in ordered])
    arrays = {name: _join(name, tensors)[rows] for name, tensors in parts.items()}
    return Features(ordered, torch.tensor(labels)[rows], arrays)


def _join(name: str, tensors: list[torch.Tensor]) -> torch.Tensor:
    """Concatenate batches; texts are as long as the longest of their batch, so pad those."""
    if name not in ("text_tokens", "text_mask"):
        return torch.cat(tensors)
    longest = max(tensor.shape[1] for tensor in tensors)
    return torch.cat(
        [
            torch.nn.functional.pad(t, (0, 0) * (t.ndim - 2) + (0, longest - t.shape[1]))
            for t in tensors
        ]
    )


def _save(features: Features, file: Path) -> None:
    tensors = {name: tensor.contiguous() for name, tensor in features.arrays.items()}
    with atomic_path(file) as new:
        save_file(
            tensors | {"labels": features.labels}, new, metadata={"ids": json.dumps(features.ids)}
        )


def _load(file: Path) -> Features:
    with safe_open(file, framework="pt") as stored:
        ids = json.loads(stored.metadata()["ids"])
        arrays = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
    return Features(ids, arrays.pop("labels"), arrays)
