"""The whole fusion model as one graph, for whoever serves it without PyTorch."""

from collections.abc import Mapping
from typing import Any

import torch

from lib.config import MODELS
from lib.modeling.encoders import EXPERTS
from lib.modeling.fusion import FusionModel, model_logits
from lib.modeling.stacking import SPACE, VOTE
from lib.serving.engines.encoder_graphs import (
    EXAMPLES,
    EncoderGraph,
    reads_pixels_alone,
)
from lib.serving.engines.onnx_files import Axes


def input_name(source: str, name: str) -> str:
    """The graph's name for an encoder's input: the experts' keep theirs, others are led by the
    encoder's, `text_encoder_input_ids`."""
    return name if source in EXPERTS else f"{source}_{name}"


class WholeGraph(torch.nn.Module):
    """All encoders and the head: inputs by name, to the logits (B, 2) of the three models."""

    outputs = tuple(MODELS)

    def __init__(self, model: FusionModel) -> None:
        super().__init__()
        self.model = model
        self.tokens = model.head.reads_tokens
        # For each input of the graph its encoder and that one's own name of it.
        self.inputs: dict[str, tuple[str, str]] = {}
        self.example: dict[str, torch.Tensor] = {}
        self._axes: dict[str, Mapping[int, str]] = {}
        for source_name, source in model.encoders.sources.items():
            if not source.is_network:
                # Its score is an input: counting n-grams is no work for a graph.
                self.inputs[source_name] = (source_name, "")
                self.example[source_name] = source.prepare(EXAMPLES["text"])
                self._axes[source_name] = {0: "batch"}
                continue
            graph = EncoderGraph(source, self.tokens)
            for name, tensor in graph.example.items():
                whole = input_name(source_name, name)
                self.inputs[whole] = (source_name, name)
                self.example[whole] = tensor
                self._axes[whole] = graph.axes[name]

    @property
    def axes(self) -> Axes:
        return self._axes

    def forward(self, **inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        prepared: dict[str, dict[str, torch.Tensor]] = {}
        for whole, (source, name) in self.inputs.items():
            prepared.setdefault(source, {})[name] = inputs[whole]
        features = self._features(prepared)
        head = self.model.head
        if head.neighbours is not None:
            text, vision = (features[name] for name in SPACE)
            # Without `Neighbours.forward`'s loop over rows, which no graph can hold.
            cosine = head.neighbours.text_cosine(text) + head.neighbours.vision_cosine(vision)
            features[VOTE] = head.neighbours.vote(cosine)
        logits = model_logits(head, features)
        return tuple(logits[name] for name in self.outputs)

    def _features(
        self, prepared: Mapping[str, Mapping[str, torch.Tensor]]
    ) -> dict[str, torch.Tensor]:
        """What `Encoders.named` gives, without its loop over rows that no graph can hold."""
        features: dict[str, torch.Tensor] = {}
        for name, source in self.model.encoders.sources.items():
            given: Any = prepared[name]
            alone = not source.is_network or reads_pixels_alone(source)
            found = source(next(iter(given.values())) if alone else given, self.tokens)
            if name == "vision_expert":
                found["vision_logits"] = source.logits(found["vision_pooled"])
            expert = name in EXPERTS
            features |= {k: v for k, v in found.items() if expert or not k.endswith("_logits")}
        return features
