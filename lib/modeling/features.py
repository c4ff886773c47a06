"""What the frozen encoders see in each meme: every encoder runs once, the rest reads its cache."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from torch.utils.data import ConcatDataset, DataLoader
from tqdm import tqdm

from lib.config import Settings
from lib.data.altered_pictures import altered as alter
from lib.data.datasets import MemeShards, shard_paths
from lib.modeling.encoders import Encoders
from lib.modeling.feature_cache import FeatureCache
from lib.modeling.rows import Rows

TOKEN_ARRAYS = ("text_tokens", "text_mask", "vision_patches")

Array: TypeAlias = torch.Tensor | Rows

# Of a shard, per source of features, per name of an array.
Arrays = dict[str, dict[str, torch.Tensor]]


@dataclass(frozen=True)
class Features:
    """Encoder outputs of N memes, rows in shard order.

    `arrays` holds text_logits and vision_logits (N, 2), text_cls and text_mean (N, t),
    vision_pooled (N, v), with a dual encoder text_dual and vision_dual (N, d); with tokens also
    text_tokens (N, L, t), text_mask (N, L) and vision_patches (N, P, w), these three in half
    precision: they are the bulk. All but the logits are `Rows`, which are read from the cache by
    the batch: `arrays[name][rows]` is a tensor, `arrays[name][:]` all of it. `altered` holds those
    that differ where each meme has its picture altered, and is empty where that is not known.
    """

    ids: list[str]
    labels: torch.Tensor
    arrays: dict[str, Any]
    altered: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, rows: np.ndarray) -> "Features":
        """The memes of these row numbers alone."""
        chosen = torch.from_numpy(rows)
        arrays, altered = (
            {name: _taken(array, chosen) for name, array in each.items()}
            for each in (self.arrays, self.altered)
        )
        return Features([self.ids[row] for row in rows], self.labels[chosen], arrays, altered)

    def with_arrays(self, **arrays: Array) -> "Features":
        """The same memes with some arrays replaced."""
        return replace(self, arrays=self.arrays | arrays)

    def with_altered(self, **arrays: Array) -> "Features":
        """The same memes with some arrays of the altered pictures replaced."""
        return replace(self, altered=self.altered | arrays)

    def as_met_and_altered(self) -> "Features":
        """All memes as they are and, where that is known, once more with their pictures altered."""
        if not self.altered:
            return self
        arrays = {n: _joined_arrays(a, self.altered.get(n, a)) for n, a in self.arrays.items()}
        return Features(self.ids * 2, torch.cat([self.labels] * 2), arrays)


class Batch(NamedTuple):
    """A batch of memes ready for the encoders, prepared by a loader's worker."""

    ids: list[str]
    prepared: dict[str, Any]


def collate(
    prepare: Mapping[str, tuple[str, Callable]], samples: Sequence[Mapping[str, Any]]
) -> Batch:
    """Prepare items of `MemeShards` for each source, named with its modality."""
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
    altered: bool = False,
) -> Features:
    """Encode all memes of some shards in one pass, or read the cached outcome of an earlier one.

    With `altered` their pictures are changed first, as `lib.data.altered_pictures` does.

    With a `cache` each shard's features are written when it is done and dropped from memory, so
    that a killed pass goes on with the next shard. Each encoder has files of its own: a changed
    expert is run again, the others are not. Raises what `MemeShards` raises.
    """
    memes = MemeShards(shards, pictures=False)
    kept = None if cache is None else FeatureCache(Path(cache), encoders, shards, tokens, altered)
    found: dict[str | Path, Arrays] = {}
    for names, todo in _missing(shards, list(encoders.sources), kept).items():
        for shard, arrays in _encode(todo, encoders, names, tokens, batch_size, workers, altered):
            if kept is None:
                found[shard] = arrays
            else:
                for name in names:
                    kept.save(name, shard, arrays[name])
    if kept is not None:
        found = {shard: {n: kept.load(n, shard) for n in encoders.sources} for shard in shards}
        kept.forget()
    joined = _joined([found[shard] for shard in shards], tokens)
    with torch.no_grad():
        named = encoders.named(joined)
    arrays = {name: a[:] if name.endswith("_logits") else a for name, a in named.items()}
    return Features(memes.ids, torch.tensor(memes.labels), arrays)


def encode_splits(settings: Settings, encoders: Encoders) -> tuple[Features, Features | None]:
    """Train and val, encoded and cached, with tokens where `token_heads` is set.

    val is None in the pilot, which has none.
    """
    encode = _encoder_of(settings, encoders)
    train = encode(shard_paths(settings.shards, "train"))
    if settings.mode == "pilot":
        return train, None
    return train, encode(shard_paths(settings.shards, "val"))


def encode_altered(settings: Settings, encoders: Encoders) -> dict[str, Any]:
    """The vision half of train's features with every picture altered, encoded and cached."""
    encode = _encoder_of(settings, encoders.of_pictures())
    return encode(shard_paths(settings.shards, "train"), altered=True).arrays


def _encoder_of(settings: Settings, encoders: Encoders) -> Callable[..., Features]:
    return partial(
        encode_shards,
        encoders=encoders,
        cache=settings.features,
        tokens=settings.token_heads,
        workers=settings.workers,
    )


def _joined_arrays(first: Array, then: Array) -> Array:
    if isinstance(first, Rows):
        return first.followed_by(then)
    return torch.cat([first, then])


def _taken(array: Array, rows: torch.Tensor) -> Array:
    return array.take(rows) if isinstance(array, Rows) else array[rows]


def _missing(
    shards: Sequence[str | Path], sources: Sequence[str], cache: FeatureCache | None
) -> dict[tuple[str, ...], list[str | Path]]:
    """The shards to be read, by the names of the sources that have not encoded them yet."""
    missing: dict[tuple[str, ...], list[str | Path]] = {}
    for shard in shards:
        names = (n for n in sources if cache is None or not cache.holds(n, shard))
        missing.setdefault(tuple(names), []).append(shard)
    return {names: todo for names, todo in missing.items() if names}


@torch.inference_mode()
def _encode(
    shards: Sequence[str | Path],
    encoders: Encoders,
    names: Sequence[str],
    tokens: bool,
    batch_size: int,
    workers: int,
    altered: bool,
) -> Iterator[tuple[str | Path, Arrays]]:
    """Each shard in turn with what the sources `names` see in its memes, on the CPU."""
    sources = {name: encoders.sources[name] for name in names}
    pictures = any(source.modality == "vision" for source in sources.values())
    change = alter if altered else None
    sets = [MemeShards([shard], change, pictures) for shard in shards]
    loader = DataLoader(
        ConcatDataset(sets),
        batch_sampler=_batches([len(memes) for memes in sets], batch_size),
        collate_fn=partial(collate, {n: (s.modality, s.prepare) for n, s in sources.items()}),
        num_workers=workers if pictures else 0,
        pin_memory=encoders.device.type == "cuda",
        # Else the loader draws from the seeded generator, and a cached pass would not.
        generator=torch.Generator(),
    )
    batches = iter(loader)
    with tqdm(desc="encoding", unit=" memes", total=sum(map(len, sets))) as bar:
        for shard, memes in zip(shards, sets, strict=True):
            found: Arrays = {name: {} for name in names}
            for start in range(0, len(memes), batch_size):
                batch = next(batches)
                for name, arrays in encoders.encode_prepared(batch.prepared, tokens).items():
                    for key, tensor in arrays.items():
                        kept = tensor.half() if key in TOKEN_ARRAYS else tensor
                        found[name][key] = _put(found[name].get(key), start, kept.cpu(), len(memes))
                bar.update(len(batch.ids))
            yield shard, found


def _batches(sizes: Sequence[int], batch_size: int) -> list[list[int]]:
    """Row numbers over all shards in order, `batch_size` at a time and never of two shards."""
    ends = np.cumsum([0, *sizes]).tolist()
    return [
        list(range(start, min(start + batch_size, end)))
        for begin, end in pairwise(ends)
        for start in range(begin, end, batch_size)
    ]


def _put(whole: torch.Tensor | None, start: int, batch: torch.Tensor, memes: int) -> torch.Tensor:
    """A shard's array with a batch in its place; a text's tokens are filled up with zeros.

    Batches are as long as their longest text, so the array may have to grow. To collect them first
    would take the memory twice, and leave it in pieces.
    """
    length = batch.shape[1:2]
    if whole is None or length > whole.shape[1:2]:
        grown = batch.new_zeros(memes, *batch.shape[1:])
        if whole is not None:
            grown[:, : whole.shape[1]] = whole
        whole = grown
    rows = whole[start : start + len(batch)]
    (rows[:, : batch.shape[1]] if length else rows).copy_(batch)
    return whole


def _joined(shards: Sequence[Arrays], tokens: bool) -> dict[str, dict[str, Rows]]:
    """The arrays of all shards, per source; token states only if asked for."""
    joined: dict[str, dict[str, Rows]] = {}
    for name in shards[0]:
        keys = dict.fromkeys(key for found in shards for key in found[name])
        joined[name] = {
            key: Rows([found[name][key] for found in shards if key in found[name]])
            for key in keys
            if tokens or key not in TOKEN_ARRAYS
        }
    return joined
