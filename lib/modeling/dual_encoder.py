"""A dual encoder (CLIP, SigLIP): a text and an image tower that were trained to agree."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from lib.modeling.encoders import Source, folding_of, shown_texts
from lib.modeling.model_files import (
    fingerprint_of_processor,
    fingerprint_of_tokenizer,
    save_model,
    save_processor,
    weights_fingerprint,
)

# How the names of the weights begin that one tower has and the other does not.
OF_TEXTS, OF_PICTURES = ("text_",), ("vision_", "visual_")


class DualText(Source):
    """The text tower of a dual encoder: one embedding a text, its markers left out."""

    modality = "text"

    def __init__(self, model: Any, tokenizer: Any) -> None:
        super().__init__()
        self.model, self.tokenizer = model, tokenizer
        positions = model.config.text_config.max_position_embeddings
        self.length = min(positions, tokenizer.model_max_length)
        self.folding = folding_of(model)
        to_ids = partial(words_to_ids, tokenizer, self.length, is_siglip(model))
        self.prepare = partial(to_ids, folding=self.folding)

    def forward(self, inputs: dict[str, torch.Tensor], tokens: bool) -> dict[str, torch.Tensor]:
        return {"text_dual": _embedding(self.model.get_text_features(**inputs))}

    def too_long(self, texts: Sequence[str]) -> int:
        """How many packed texts have more tokens than the tower reads, and so are cut."""
        words = shown_texts(texts, True, self.folding)
        if is_siglip(self.model):
            words = [text.lower() for text in words]
        encoded = self.tokenizer(words, truncation=False, verbose=False)["input_ids"]
        return sum(len(ids) > self.length for ids in encoded)

    def tower(self) -> torch.nn.Module:
        return self.model.text_model

    def fingerprint(self) -> str:
        """What tells this tower and its inputs from others."""
        prepared = f"{self.length} tokens" + (f", folding {self.folding}" if self.folding else "")
        prepared += f", tokenizer {fingerprint_of_tokenizer(self.tokenizer)}"
        return weights_fingerprint(self.model, OF_PICTURES, prepared)

    def save(self, folder: Path, weights: bool = True) -> None:
        """Write model (or its configuration alone) and tokenizer."""
        save_model(self.model, folder, weights)
        save_processor(self.tokenizer, folder)


class DualVision(Source):
    """The image tower of a dual encoder: one embedding a picture."""

    modality = "vision"

    def __init__(self, model: Any, processor: Any) -> None:
        super().__init__()
        self.model, self.processor = model, processor
        self.prepare = partial(pictures_to_inputs, processor)

    def forward(self, inputs: dict[str, torch.Tensor], tokens: bool) -> dict[str, torch.Tensor]:
        return {"vision_dual": _embedding(self.model.get_image_features(**inputs))}

    def tower(self) -> torch.nn.Module:
        return self.model.vision_model

    def fingerprint(self) -> str:
        """What tells this tower and its inputs from others."""
        prepared = fingerprint_of_processor(self.processor)
        return weights_fingerprint(self.model, OF_TEXTS, prepared)

    def save(self, folder: Path, weights: bool = True) -> None:
        """Write model (or its configuration alone) and image processor."""
        save_model(self.model, folder, weights)
        self.processor.save_pretrained(folder)


def is_siglip(model: Any) -> bool:
    """Whether a dual encoder is a SigLIP, which reads texts in a way of its own."""
    return model.config.model_type.startswith("siglip")


def words_to_ids(
    tokenizer: Any,
    length: int,
    siglip: bool,
    texts: Sequence[str],
    padding: str = "longest",
    folding: int = 0,
) -> dict[str, torch.Tensor]:
    """Token ids (B, L) of the words of B packed texts, cut at `length`, and their mask.

    A CLIP takes the state of the first end-of-text token, so padding behind it does no harm. A
    SigLIP takes the last state and was trained on small letters, padded to `length` and without a
    mask; its embeddings are others on anything else.
    """
    words = shown_texts(texts, True, folding)
    if siglip:
        words, padding = [text.lower() for text in words], "max_length"
    options = {"padding": padding, "max_length": length, "truncation": True}
    encoded = tokenizer(words, **options, padding_side="right", return_tensors="pt")
    names = ("input_ids",) if siglip else ("input_ids", "attention_mask")
    return {name: encoded[name] for name in names}


def pictures_to_inputs(processor: Any, images: Sequence[Any]) -> dict[str, torch.Tensor]:
    """All inputs that an image tower wants for B RGB pictures; of a NaFlex SigLIP several."""
    return dict(processor(list(images), return_tensors="pt"))


def _embedding(output: Any) -> torch.Tensor:
    # Before transformers 5 the tensor itself, since then an output that holds it.
    return output if isinstance(output, torch.Tensor) else output.pooler_output
