"""The two experts as frozen encoders: loading them, and what they see in texts and pictures."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

EXPERTS = ("text_expert", "vision_expert")


def load_expert(folder: str | Path) -> tuple[Any, Any]:
    """Load an expert in eval mode with its tokenizer or image processor.

    Raises FileNotFoundError naming the folder and the step that fills it.
    """
    folder = Path(folder)
    if not (folder / "config.json").exists():
        raise FileNotFoundError(
            f"{folder} holds no trained expert; train it with Step 4: python -m lib.run --from 4"
        )
    # Imported here because they take longer than all else that serving imports together.
    if folder.name == "text_expert":
        from transformers import AutoModelForSequenceClassification as Model
        from transformers import AutoTokenizer as Processor
    else:
        from transformers import AutoImageProcessor as Processor
        from transformers import AutoModelForImageClassification as Model
    return Model.from_pretrained(folder).eval(), Processor.from_pretrained(folder)


def head_name(model: Any) -> str:
    """The name of the last layer of a classifier of transformers or timm."""
    timm_model = getattr(model, "timm_model", None)
    if timm_model is not None:
        return f"timm_model.{timm_model.default_cfg['classifier']}"
    return next(name for name in ("classifier", "score") if hasattr(model, name))


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


@contextlib.contextmanager
def _input_of(layer: torch.nn.Module) -> Iterator[list[torch.Tensor]]:
    seen: list[torch.Tensor] = []
    handle = layer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    try:
        yield seen
    finally:
        handle.remove()
