"""What the frozen experts see in each meme: every encoder runs once, the rest reads its cache."""

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
import webdataset as wds
from safetensors import safe_open
from safetensors.torch import save_file
from tqdm import tqdm

from lib.artifacts import atomic_path, fingerprint
from lib.config import Settings
from lib.datasets import MemeShards, shard_paths, stream
from lib.experts import head_name, load_expert

EXPERTS = ("text_expert", "vision_expert")

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


class Encoders(torch.nn.Module):
    """The two experts as frozen feature extractors with their tokenizer and image processor."""

    def __init__(self, text: tuple[Any, Any], vision: tuple[Any, Any], bf16: bool = False) -> None:
        super().__init__()
        self.text_expert, self.tokenizer = text
        self.vision_expert, self.processor = vision
        self.vision_expert.to(memory_format=torch.channels_last)
        self.bf16 = bf16

    @classmethod
    def load(cls, models: str | Path, bf16: bool = False) -> "Encoders":
        """Load both experts from the `models/` folder, in eval mode."""
        text, vision = (load_expert(Path(models) / name) for name in EXPERTS)
        return cls(text, vision, bf16).eval()

    @property
    def device(self) -> torch.device:
        return self.text_expert.device

    def forward(
        self, texts: Sequence[str], images: Sequence[Any], tokens: bool = False
    ) -> dict[str, torch.Tensor]:
        """Encode B texts and B RGB pictures; `Features` has the names and shapes."""
        return self.encode_texts(texts, tokens) | self.encode_images(images, tokens)

    def encode_texts(
        self, texts: Sequence[str], tokens: bool = False, padding: str = "longest"
    ) -> dict[str, torch.Tensor]:
        """The text half of `Features`."""
        return self._encode_inputs(tokenise(self.tokenizer, texts, padding), tokens)

    def encode_images(self, images: Sequence[Any], tokens: bool = False) -> dict[str, torch.Tensor]:
        """The vision half of `Features`."""
        return self._encode_pixels(pixels_of(self.processor, images), tokens)

    def encode_batch(self, batch: "Batch", tokens: bool = False) -> dict[str, torch.Tensor]:
        """Like calling the module, on what `collate` has prepared."""
        return self._encode_inputs(batch.inputs, tokens) | self._encode_pixels(batch.pixels, tokens)

    def _encode_inputs(self, inputs: dict[str, torch.Tensor], tokens: bool) -> dict:
        inputs = {name: tensor.to(self.device) for name, tensor in inputs.items()}
        with self._precision():
            encoded = encode_text(self.text_expert, inputs)
        if not tokens:
            del encoded["text_tokens"], encoded["text_mask"]
        return {name: tensor.float() for name, tensor in encoded.items()}

    def _encode_pixels(self, pixels: torch.Tensor, tokens: bool) -> dict[str, torch.Tensor]:
        with self._precision():
            encoded = encode_image(self.vision_expert, pixels.to(self.device), patches=tokens)
        return {name: tensor.float() for name, tensor in encoded.items()}

    def _precision(self) -> Any:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16)


class Batch(NamedTuple):
    """A batch of memes ready for the encoders, prepared by a loader's worker."""

    ids: list[str]
    labels: list[int]
    inputs: dict[str, torch.Tensor]
    pixels: torch.Tensor


def collate(tokenizer: Any, processor: Any, samples: Sequence[Mapping[str, Any]]) -> Batch:
    """Tokenize and process samples of `stream` into one batch."""
    return Batch(
        [s["id"] for s in samples],
        [s["label"] for s in samples],
        tokenise(tokenizer, [s["text"] for s in samples]),
        pixels_of(processor, [s["image"] for s in samples]),
    )


def tokenise(
    tokenizer: Any, texts: Sequence[str], padding: str = "longest"
) -> dict[str, torch.Tensor]:
    """Token ids and mask of B texts, (B, L) each, cut at the tokenizer's own maximum."""
    return dict(tokenizer(list(texts), padding=padding, truncation=True, return_tensors="pt"))


def pixels_of(processor: Any, images: Sequence[Any]) -> torch.Tensor:
    """Pixel values (B, 3, H, W) of B RGB pictures as the vision expert wants them."""
    return processor(list(images), return_tensors="pt")["pixel_values"]


def encode_text(expert: Any, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Logits, first-token state, mean over real tokens, and all token states of a text expert."""
    output = expert(**inputs, output_hidden_states=True)
    states, mask = output.hidden_states[-1], inputs["attention_mask"]
    weights = mask.unsqueeze(-1).to(states.dtype)
    return {
        "text_logits": output.logits,
        "text_cls": states[:, 0],
        "text_mean": (states * weights).sum(1) / weights.sum(1),
        "text_tokens": states,
        "text_mask": mask,
    }


def encode_image(
    expert: Any, pixel_values: torch.Tensor, patches: bool = False
) -> dict[str, torch.Tensor]:
    """Logits and pooled feature of a vision expert, and its patch states on demand.

    The pooled feature is what the expert's own classifier reads, whatever the architecture.
    """
    pixel_values = pixel_values.contiguous(memory_format=torch.channels_last)
    with _input_of(expert.get_submodule(head_name(expert))) as seen:
        output = expert(pixel_values=pixel_values, output_hidden_states=patches)
    encoded = {"vision_logits": output.logits, "vision_pooled": seen[0]}
    if patches:
        last = output.hidden_states[-1]
        encoded["vision_patches"] = last.flatten(2).transpose(1, 2) if last.ndim == 4 else last
    return encoded


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
        return _encode(shards, encoders, tokens, batch_size, workers)
    weights = [folder / name for folder in experts for name in ("model.safetensors", "config.json")]
    key = fingerprint(*weights, *shards) + ("-bf16" if encoders.bf16 else "")
    with_tokens, pooled = (Path(cache) / f"{key}-{kind}.safetensors" for kind in KINDS)
    if with_tokens.exists():
        return _load(with_tokens)
    file = with_tokens if tokens else pooled
    if not file.exists():
        _save(_encode(shards, encoders, tokens, batch_size, workers), file)
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
def _encode(
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


@contextlib.contextmanager
def _input_of(layer: torch.nn.Module) -> Iterator[list[torch.Tensor]]:
    seen: list[torch.Tensor] = []
    handle = layer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    try:
        yield seen
    finally:
        handle.remove()
