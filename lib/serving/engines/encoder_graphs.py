"""The encoders' passes as graphs: one ONNX file an encoder, and what runs it in its place."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from lib.modeling.encoders import Source, head_name
from lib.serving.engines.onnx_files import Axes, export_onnx

Run = Callable[[Mapping[str, Any]], dict[str, torch.Tensor]]

# Texts of two lengths, so that the graph is written and checked with padding.
EXAMPLES = {
    "text": ["[OCR] monday again [/OCR] [CAP] [/CAP] <lang=en>", "[OCR] one [/OCR] [CAP] [/CAP]"],
    "vision": [Image.new("RGB", (64, 64), "white"), Image.linear_gradient("L").convert("RGB")],
}


class EncoderGraph(torch.nn.Module):
    """What an encoder makes of its inputs, given by name, as a tuple in the order of `outputs`."""

    def __init__(self, source: Source, tokens: bool) -> None:
        super().__init__()
        self.source, self.tokens = source, tokens
        self.example = _named(source.prepare(EXAMPLES[source.modality]))
        with torch.no_grad():
            self.outputs = list(self._encoded(self.example))

    @property
    def axes(self) -> Axes:
        """The axes of any length: the batch, and the tokens of a text."""
        text = self.source.modality == "text"
        return {
            name: {0: "batch", 1: "length"} if text and tensor.ndim == 2 else {0: "batch"}
            for name, tensor in self.example.items()
        }

    def forward(self, **inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        encoded = self._encoded(inputs)
        return tuple(encoded[name] for name in self.outputs)

    def _encoded(self, inputs: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The encoder's arrays, without the mask: it is an input, so the caller has it."""
        given = inputs["pixel_values"] if reads_pixels_alone(self.source) else dict(inputs)
        encoded = self.source(given, self.tokens)
        encoded.pop("text_mask", None)
        return encoded


class GraphSource(Source):
    """An encoder whose passes are run elsewhere; it prepares inputs as the one it stands for."""

    def __init__(self, source: Source, run: Run) -> None:
        super().__init__()
        self.modality = source.modality  # type: ignore[misc]
        self.folding, self.prepare, self.run = source.folding, source.prepare, run
        if reads_pixels_alone(source):
            # Fusion reads the logits off the pooled feature: all that is kept of the model.
            self.classifier = source.model.get_submodule(head_name(source.model))

    def forward(self, inputs: Any, tokens: bool) -> dict[str, torch.Tensor]:
        named = _named(inputs)
        encoded = self.run(named)
        if "text_tokens" in encoded:
            encoded["text_mask"] = named["attention_mask"]
        return encoded

    def logits(self, pooled: torch.Tensor) -> torch.Tensor:
        """Logits (B, 2) from pooled features (B, v)."""
        return self.classifier(pooled)


def export_encoder(source: Source, tokens: bool, file: Path) -> Path:
    """Write an encoder's graph to `file`; raises what `export_onnx` raises."""
    graph = EncoderGraph(source, tokens).eval()
    return export_onnx(graph, graph.example, graph.outputs, file, graph.axes)


def reads_pixels_alone(source: Source) -> bool:
    """Whether the encoder is an image classifier, which is given a tensor and no dictionary."""
    return source.modality == "vision" and hasattr(source, "logits")


def _named(inputs: Any) -> dict[str, torch.Tensor]:
    return inputs if isinstance(inputs, dict) else {"pixel_values": inputs}
