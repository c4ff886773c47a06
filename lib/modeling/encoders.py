"""Frozen encoders of memes: the two experts, and what else fusion reads."""

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import torch

from lib.data.folding import folded
from lib.data.text import words_of
from lib.modeling import freed_memory
from lib.modeling.device import default_device, moved, reads_in_bf16
from lib.modeling.model_files import (
    fingerprint_of_processor,
    fingerprint_of_tokenizer,
    load_expert,
    save_model,
    save_processor,
    weights_fingerprint,
)

EXPERTS = ("text_expert", "vision_expert")


def head_name(model: Any) -> str:
    """The name of the last layer of a classifier of transformers or timm."""
    timm_model = getattr(model, "timm_model", None)
    if timm_model is not None:
        return f"timm_model.{timm_model.default_cfg['classifier']}"
    return next(name for name in ("classifier", "score") if hasattr(model, name))


class Source(torch.nn.Module):
    """An encoder of texts ("text") or pictures ("vision").

    `prepare` makes its inputs from texts or pictures; it holds nothing of the model, so that a
    loader's worker takes no copy of that. Called on them the encoder gives arrays of `Features`.
    """

    modality: ClassVar[str]
    # Whether calling it takes a network's time; else all is done where it is prepared.
    is_network: ClassVar[bool] = True
    # The version of the text folding that its texts go through, 0 for none.
    folding: int = 0
    model: Any
    prepare: Callable[..., Any]

    def forward(self, inputs: Any, tokens: bool) -> dict[str, torch.Tensor]:
        raise NotImplementedError

    def tower(self) -> torch.nn.Module:
        """The part of the model that gives the features."""
        return self.model

    def fingerprint(self) -> str:
        """What tells its features from those of other encoders: weights and preparation."""
        raise NotImplementedError

    def save(self, folder: Path, weights: bool = True) -> None:
        """Write what loads it again; without `weights` only what rebuilds it."""
        raise NotImplementedError


class TextEncoder(Source):
    """A text classifier of transformers with its tokenizer."""

    modality = "text"

    def __init__(self, model: Any, tokenizer: Any) -> None:
        super().__init__()
        self.model, self.tokenizer = model, tokenizer
        self.folding = folding_of(model)
        how = partial(tokenise, drop_markers=drops_markers(model), folding=self.folding)
        self.prepare = partial(how, tokenizer)

    def forward(self, inputs: dict[str, torch.Tensor], tokens: bool) -> dict[str, torch.Tensor]:
        encoded = encode_text(self.model, inputs)
        if not tokens:
            del encoded["text_tokens"], encoded["text_mask"]
        return encoded

    def fingerprint(self) -> str:
        """What tells this model and its inputs from others."""
        shown = "words" if drops_markers(self.model) else "all"
        prepared = f"{shown}, {self.tokenizer.model_max_length} tokens"
        if self.folding:
            prepared += f", folding {self.folding}"
        prepared += f", tokenizer {fingerprint_of_tokenizer(self.tokenizer)}"
        return weights_fingerprint(self.model, prepared=prepared)

    def save(self, folder: Path, weights: bool = True) -> None:
        """Write model (or its configuration alone) and tokenizer as `load_expert` reads them."""
        save_model(self.model, folder, weights)
        save_processor(self.tokenizer, folder)


class VisionEncoder(Source):
    """An image classifier of transformers with its image processor."""

    modality = "vision"

    def __init__(self, model: Any, processor: Any) -> None:
        super().__init__()
        self.model, self.processor = model.to(memory_format=torch.channels_last), processor
        self.prepare = partial(pixels_of, processor)

    def forward(self, pixels: torch.Tensor, tokens: bool) -> dict[str, torch.Tensor]:
        encoded = encode_image(self.model, pixels, patches=tokens)
        # The pooled feature gives the logits, which are therefore not kept beside it.
        del encoded["vision_logits"]
        return encoded

    def logits(self, pooled: torch.Tensor) -> torch.Tensor:
        """Logits (B, 2) from pooled features (B, v)."""
        return self.model.get_submodule(head_name(self.model))(pooled)

    def fingerprint(self) -> str:
        """What tells this model and its inputs from others, the classifier left out: its input is
        kept."""
        prepared = fingerprint_of_processor(self.processor)
        return weights_fingerprint(self.model, (f"{head_name(self.model)}.",), prepared)

    def save(self, folder: Path, weights: bool = True) -> None:
        """Write model (or its configuration alone) and processor as `load_expert` reads them."""
        save_model(self.model, folder, weights)
        self.processor.save_pretrained(folder)


class Encoders(torch.nn.Module):
    """Frozen feature extractors: the experts, and the encoders that fusion has of its own.

    The logits are always the experts'. Their hidden features are too, unless there is an encoder
    of fusion's own for that modality (`text_encoder`, `vision_encoder`), which then gives them;
    `dual_encoder`, a text and an image tower, adds its embeddings. `Features` has the names.
    With `bf16` None they run in bfloat16 where `lib.modeling.device` says so.
    """

    def __init__(self, sources: Mapping[str, Source], bf16: bool | None = None) -> None:
        super().__init__()
        freed_memory.reuse()
        self.sources = torch.nn.ModuleDict(sources)
        self.bf16 = bf16

    @classmethod
    def load(
        cls,
        models: str | Path,
        bf16: bool | None = None,
        own: Mapping[str, Source] | None = None,
        device: str | None = None,
    ) -> "Encoders":
        """Load both experts from the `models/` folder, in eval mode, with `own` beside them.

        They are on `device`, by default the one that `lib.modeling.device` chooses.
        """
        text, vision = (load_expert(Path(models) / name) for name in EXPERTS)
        sources: dict[str, Source] = {"text_expert": TextEncoder(*text)}
        sources |= {"vision_expert": VisionEncoder(*vision), **(own or {})}
        return cls(sources, bf16).eval().to(device or default_device())

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    @property
    def autocast(self) -> bool:
        """Whether they run in bfloat16 where they now are."""
        return reads_in_bf16(self.bf16, self.device.type)

    def forward(
        self, texts: Sequence[str], images: Sequence[Any], tokens: bool = False
    ) -> dict[str, torch.Tensor]:
        """Encode B texts and B RGB pictures; `Features` has the names and shapes."""
        return self.encode_texts(texts, tokens) | self.encode_images(images, tokens)

    def encode_texts(
        self, texts: Sequence[str], tokens: bool = False, padding: str = "longest"
    ) -> dict[str, torch.Tensor]:
        """The text half of `Features`."""
        return self._encode("text", texts, tokens, padding=padding)

    def encode_images(self, images: Sequence[Any], tokens: bool = False) -> dict[str, torch.Tensor]:
        """The vision half of `Features`."""
        return self._encode("vision", images, tokens)

    def _encode(
        self, modality: str, items: Sequence[Any], tokens: bool, **how: str
    ) -> dict[str, torch.Tensor]:
        prepared = {
            name: source.prepare(items, **how) for name, source in self.of_modality(modality)
        }
        return self.named(self.encode_prepared(prepared, tokens))

    def of_modality(self, modality: str) -> list[tuple[str, Source]]:
        """The sources of "text" or "vision" with their names."""
        return [(n, source) for n, source in self.sources.items() if source.modality == modality]

    def of_pictures(self) -> "Encoders":
        """Those of pictures alone."""
        return Encoders(dict(self.of_modality("vision")), self.bf16)

    def encode_prepared(
        self, prepared: Mapping[str, Any], tokens: bool = False
    ) -> dict[str, dict[str, torch.Tensor]]:
        """What each source makes of its own prepared inputs, by its name."""
        encoded = {}
        for name, inputs in prepared.items():
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.autocast):
                found = self.sources[name](moved(inputs, self.device), tokens)
            encoded[name] = {key: tensor.float() for key, tensor in found.items()}
        return encoded

    def named(self, encoded: dict[str, dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        """The sources' outputs under the names of `Features`: whose logits, whose hidden states."""
        features: dict[str, torch.Tensor] = {}
        for name in self.sources:
            if name not in encoded:
                continue
            found = dict(encoded[name])
            if name == "vision_expert":
                features["vision_logits"] = self._vision_logits(found["vision_pooled"])
            if name == "text_expert":
                features["text_logits"] = found["text_logits"]
            # What comes later, fusion's own encoders, takes the experts' place.
            features |= {key: value for key, value in found.items() if not key.endswith("_logits")}
        return features

    def _vision_logits(self, pooled: Any, rows: int = 2048) -> torch.Tensor:
        """Logits (N, 2) from pooled features (N, v), `rows` at a time: they may lie on the disk."""
        expert = self.sources["vision_expert"]
        parts = (pooled[start : start + rows] for start in range(0, len(pooled), rows))
        return torch.cat([expert.logits(p.to(self.device)).to(p.device) for p in parts])


def drops_markers(model: Any) -> bool:
    """Whether a text model is shown the words of a packed text without its markers."""
    return getattr(model.config, "text_markers", "keep") == "drop"


def folding_of(model: Any) -> int:
    """The version of the text folding that a text model was trained with, 0 for none."""
    return getattr(model.config, "text_folding", 0)


def shown_texts(texts: Sequence[str], drop_markers: bool, folding: int = 0) -> list[str]:
    """Packed texts as a text model reads them; `folding` is 0, or the version of `folded`."""
    shown = [folded(text, folding) for text in texts] if folding else list(texts)
    return [words_of(text) for text in shown] if drop_markers else shown


def tokenise(
    tokenizer: Any,
    texts: Sequence[str],
    padding: str = "longest",
    drop_markers: bool = False,
    folding: int = 0,
) -> dict[str, torch.Tensor]:
    """Token ids and mask of B packed texts, (B, L) each, cut at the tokenizer's own maximum."""
    shown = shown_texts(texts, drop_markers, folding)
    return dict(tokenizer(shown, padding=padding, truncation=True, return_tensors="pt"))


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
    # Some classifiers, as ResNet's, begin with a layer that takes the width and height of 1 away.
    encoded = {"vision_logits": output.logits, "vision_pooled": seen[0].flatten(1)}
    if patches:
        last = output.hidden_states[-1]
        encoded["vision_patches"] = last.flatten(2).transpose(1, 2) if last.ndim == 4 else last
    return encoded


@contextlib.contextmanager
def _input_of(layer: torch.nn.Module) -> Iterator[list[torch.Tensor]]:
    seen: list[torch.Tensor] = []
    own = threading.get_ident()

    def see(_: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        # Another thread may have the layer read logits off features meanwhile.
        if threading.get_ident() == own:
            seen.append(inputs[0])

    handle = layer.register_forward_pre_hook(see)
    try:
        yield seen
    finally:
        handle.remove()
