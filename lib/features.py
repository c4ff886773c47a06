"""What the frozen experts see in each meme: every encoder runs once, the rest reads its cache."""

import contextlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import webdataset as wds
from safetensors import safe_open
from safetensors.torch import save_file
from tqdm import tqdm

from lib.artifacts import atomic_path, fingerprint
from lib.config import Settings
from lib.datasets import shard_paths, stream
from lib.experts import head_name, load_expert

EXPERTS = ("text_expert", "vision_expert")

# What a cache file holds: token and patch states too, or one vector a meme and encoder.
KINDS = ("tokens", "pooled")


@dataclass(frozen=True)
class Features:
    """Encoder outputs of N memes, rows in shard order.

    `arrays` holds text_logits and vision_logits (N, 2), text_cls and text_mean (N, t),
    vision_pooled (N, v); with tokens also text_tokens (N, L, t), text_mask (N, L) and
    vision_patches (N, P, w).
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
        inputs = self.tokenizer(list(texts), padding=padding, truncation=True, return_tensors="pt")
        with self._precision():
            encoded = encode_text(self.text_expert, dict(inputs.to(self.device)))
        if not tokens:
            del encoded["text_tokens"], encoded["text_mask"]
        return {name: tensor.float() for name, tensor in encoded.items()}

    def encode_images(self, images: Sequence[Any], tokens: bool = False) -> dict[str, torch.Tensor]:
        """The vision half of `Features`."""
        pixels = self.processor(list(images), return_tensors="pt")["pixel_values"]
        with self._precision():
            encoded = encode_image(self.vision_expert, pixels.to(self.device), patches=tokens)
        return {name: tensor.float() for name, tensor in encoded.items()}

    def _precision(self) -> Any:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16)


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
) -> Features:
    """Encode all memes of some shards in one pass, or read the cached outcome of an earlier one.

    `experts` are the folders the encoders were loaded from: with the shards they make the cache's
    fingerprint, so that a changed expert or shard is encoded anew. Raises what `stream` raises.
    """
    if cache is None:
        return _encode(shards, encoders, tokens, batch_size)
    weights = [folder / name for folder in experts for name in ("model.safetensors", "config.json")]
    key = fingerprint(*weights, *shards) + ("-bf16" if encoders.bf16 else "")
    with_tokens, pooled = (Path(cache) / f"{key}-{kind}.safetensors" for kind in KINDS)
    if with_tokens.exists():
        return _load(with_tokens)
    file = with_tokens if tokens else pooled
    if not file.exists():
        _save(_encode(shards, encoders, tokens, batch_size), file)
    return _load(file)


def encode_for_fusion(settings: Settings, encoders: Encoders) -> tuple[Features, Features | None]:
    """Train and val, encoded with tokens and cached; val is None in the pilot, which has none."""
    experts = [settings.model_folder(name) for name in EXPERTS]
    encode = partial(
        encode_shards, encoders=encoders, experts=experts, cache=settings.features, tokens=True
    )
    train = encode(shard_paths(settings.shards, "train"))
    if settings.mode == "pilot":
        return train, None
    return train, encode(shard_paths(settings.shards, "val"))


@torch.inference_mode()
def _encode(
    shards: Sequence[str | Path], encoders: Encoders, tokens: bool, batch_size: int
) -> Features:
    ids, labels, parts = [], [], {}
    batches = wds.WebLoader(stream(shards), batch_size=batch_size, collate_fn=list, num_workers=0)
    with tqdm(desc="encoding", unit=" memes") as bar:
        for samples in batches:
            texts, images = [s["text"] for s in samples], [s["image"] for s in samples]
            for name, tensor in encoders(texts, images, tokens).items():
                parts.setdefault(name, []).append(tensor.cpu())
            ids += [s["id"] for s in samples]
            labels += [s["label"] for s in samples]
            bar.update(len(samples))
    arrays = {name: _join(name, tensors) for name, tensors in parts.items()}
    return Features(ids, torch.tensor(labels), arrays)


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
