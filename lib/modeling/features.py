"""What the frozen encoders see in each meme: every encoder runs once, the rest reads its cache."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import webdataset as wds
from safetensors import safe_open
from safetensors.torch import save_file
from tqdm import tqdm

from lib.artifacts import atomic_path, fingerprint
from lib.config import Settings
from lib.data.datasets import MemeShards, shard_paths, stream
from lib.modeling.encoders import Encoders, Source

# What a cache file holds: token and patch states too, or one vector a meme and encoder.
KINDS = ("tokens", "pooled")

TOKEN_ARRAYS = ("text_tokens", "text_mask", "vision_patches")

# Per source of features, per name of an array.
Arrays = dict[str, dict[str, torch.Tensor]]


@dataclass(frozen=True)
class Features:
    """Encoder outputs of N memes, rows in shard order.

    `arrays` holds text_logits and vision_logits (N, 2), text_cls and text_mean (N, t),
    vision_pooled (N, v), with a dual encoder text_dual and vision_dual (N, d); with tokens also
    text_tokens (N, L, t), text_mask (N, L) and vision_patches (N, P, w), these three in half
    precision: they are the bulk.
    """

    ids: list[str]
    labels: torch.Tensor
    arrays: dict[str, torch.Tensor]

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, rows: np.ndarray) -> "Features":
        """The memes of these row numbers alone."""
        chosen = torch.from_numpy(rows)
        arrays = {name: tensor[chosen] for name, tensor in self.arrays.items()}
        return Features([self.ids[row] for row in rows], self.labels[chosen], arrays)

    def with_arrays(self, **arrays: torch.Tensor) -> "Features":
        """The same memes with some arrays replaced."""
        return replace(self, arrays=self.arrays | arrays)


class Batch(NamedTuple):
    """A batch of memes ready for the encoders, prepared by a loader's worker."""

    ids: list[str]
    prepared: dict[str, Any]


def collate(
    prepare: Mapping[str, tuple[str, Callable]], samples: Sequence[Mapping[str, Any]]
) -> Batch:
    """Prepare samples of `stream` for each source, named with its modality."""
    items = {"text": [s["text"] for s in samples], "vision": [s.get("image") for s in samples]}
    return Batch(
        [s["id"] for s in samples],
        {name: function(items[modality]) for name, (modality, function) in prepare.items()},
    )


def encode_shards(
    shards: Sequence[str | Path],
    encoders: Encoders,
    cache: Path | None = None,
    tokens: bool = False,
    batch_size: int = 32,
    workers: int = 0,
) -> Features:
    """Encode all memes of some shards in one pass, or read the cached outcome of an earlier one.

    Each encoder has a cache file of its own, whose name holds a fingerprint of its weights and of
    the shards: a changed expert is run again, the others are not. Raises what `stream` raises.
    """
    memes = MemeShards(shards, pictures=False)
    files = _files(shards, encoders, cache, tokens)
    found = {name: _load(file) for name, file in files.items() if file and file.exists()}
    missing = [name for name in encoders.sources if name not in found]
    if missing:
        encoded = _encode(shards, memes.ids, encoders, missing, tokens, batch_size, workers)
        for name, arrays in encoded.items():
            if file := files[name]:
                _save(arrays, memes.ids, file)
        found |= encoded
    with torch.no_grad():
        arrays = encoders.named(found)
    return Features(memes.ids, torch.tensor(memes.labels), arrays)


def encode_splits(settings: Settings, encoders: Encoders) -> tuple[Features, Features | None]:
    """Train and val, encoded and cached, with tokens where `token_heads` is set.

    val is None in the pilot, which has none.
    """
    encode = partial(
        encode_shards,
        encoders=encoders,
        cache=settings.features,
        tokens=settings.token_heads,
        workers=settings.workers,
    )
    train = encode(shard_paths(settings.shards, "train"))
    if settings.mode == "pilot":
        return train, None
    return train, encode(shard_paths(settings.shards, "val"))


def _files(
    shards: Sequence[str | Path], encoders: Encoders, cache: Path | None, tokens: bool
) -> dict[str, Path | None]:
    """The cache file of each source: the one with tokens serves both kinds."""
    if cache is None:
        return dict.fromkeys(encoders.sources)
    data = fingerprint(*shards)
    files: dict[str, Path | None] = {}
    for name, source in encoders.sources.items():
        key = f"{data}-{_weights_of(source)}" + ("-bf16" if encoders.bf16 else "")
        with_tokens, pooled = (Path(cache) / f"{key}-{kind}.safetensors" for kind in KINDS)
        files[name] = with_tokens if tokens or with_tokens.exists() else pooled
    return files


def _weights_of(source: Source) -> str:
    # The two towers of a dual encoder have the same weights.
    return f"{source.modality}-{source.fingerprint()}"


@torch.inference_mode()
def _encode(
    shards: Sequence[str | Path],
    ids: Sequence[str],
    encoders: Encoders,
    names: Iterable[str],
    tokens: bool,
    batch_size: int,
    workers: int,
) -> Arrays:
    sources = {name: encoders.sources[name] for name in names}
    pictures = any(source.modality == "vision" for source in sources.values())
    loader = wds.WebLoader(
        stream(shards, pictures),
        batch_size=batch_size,
        collate_fn=partial(collate, {n: (s.modality, s.prepare) for n, s in sources.items()}),
        num_workers=min(workers, len(shards)) if pictures else 0,
    )
    seen: list[str] = []
    parts: dict[str, dict[str, list[torch.Tensor]]] = {name: {} for name in names}
    with tqdm(desc="encoding", unit=" memes", total=len(ids)) as bar:
        for batch in loader:
            for name, arrays in encoders.encode_prepared(batch.prepared, tokens).items():
                for key, tensor in arrays.items():
                    half = key in TOKEN_ARRAYS
                    kept = tensor.half().cpu() if half else tensor.cpu()
                    parts[name].setdefault(key, []).append(kept)
            seen += batch.ids
            bar.update(len(batch.ids))
    # The loader's workers deliver in an order of their own.
    place = {meme: row for row, meme in enumerate(seen)}
    rows = torch.tensor([place[meme] for meme in ids])
    return {
        name: {key: _join(key, tensors)[rows] for key, tensors in arrays.items()}
        for name, arrays in parts.items()
    }


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


def _save(arrays: Mapping[str, torch.Tensor], ids: Sequence[str], file: Path) -> None:
    tensors = {name: tensor.contiguous() for name, tensor in arrays.items()}
    with atomic_path(file) as new:
        save_file(tensors, new, metadata={"ids": json.dumps(list(ids))})


def _load(file: Path) -> dict[str, torch.Tensor]:
    with safe_open(file, framework="pt") as stored:
        # Cloned, because a matrix product rounds differently at another alignment in memory.
        return {name: stored.get_tensor(name).clone() for name in stored.keys()}  # noqa: SIM118
