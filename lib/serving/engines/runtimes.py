"""What can run an encoder's passes, by name, and a model with its encoders exchanged for such."""

import gc
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch

from lib.modeling.device import bf16_pays
from lib.modeling.encoders import Source
from lib.modeling.fusion import FusionModel
from lib.serving.engines.encoder_graphs import GraphSource
from lib.serving.engines.onnx_files import OnnxSession, OpenVinoSession, needs

FLOAT32 = "float32"


class Runtime(NamedTuple):
    """What runs an encoder: the package it needs, the file's ending, and what loads that.

    Without a `load` it is PyTorch. `modalities` are those whose encoders it takes. It is trusted on
    no fewer than `memes`.
    """

    package: str = "torch"
    ending: str = ""
    load: Callable[[Path], Any] | None = None
    modalities: tuple[str, ...] = ("text", "vision")
    memes: int = 1


def _openvino_bf16(file: Path) -> OpenVinoSession:
    return OpenVinoSession(file, precision="bf16")


RUNTIMES = {
    FLOAT32: Runtime(),
    "bfloat16": Runtime(),
    "onnxruntime": Runtime("onnxruntime", ".onnx", OnnxSession),
    # Products of a text model; convolutions lose more than the gate allows. How a batch is rounded
    # depends on all of its texts, so that a few batches say little of others.
    "onnxruntime-int8": Runtime("onnxruntime", ".int8.onnx", OnnxSession, ("text",), 300),
    "openvino": Runtime("openvino", ".onnx", OpenVinoSession),
    "openvino-bf16": Runtime("openvino", ".onnx", _openvino_bf16),
}


class Bfloat16Source(Source):
    """An encoder that PyTorch runs under bfloat16 autocast."""

    def __init__(self, source: Source) -> None:
        super().__init__()
        self.modality = source.modality  # type: ignore[misc]
        self.folding, self.prepare, self.source = source.folding, source.prepare, source

    def forward(self, inputs: Any, tokens: bool) -> dict[str, torch.Tensor]:
        device = next(self.source.parameters()).device.type
        with torch.autocast(device, torch.bfloat16):
            return self.source(inputs, tokens)

    def logits(self, pooled: torch.Tensor) -> torch.Tensor:
        """Logits (B, 2) from pooled features (B, v), in single precision."""
        return self.source.logits(pooled)


def check_engine(name: str) -> str:
    """The name of an engine. Raises ValueError naming the known ones."""
    if name not in RUNTIMES:
        raise ValueError(f"engine {name!r} is unknown; known: {', '.join(RUNTIMES)}")
    return name


def refusal(name: str, modality: str, device: str, memes: int | None = None) -> str:
    """Why a runtime cannot run encoders of a modality here, "" if it can.

    `memes` are those there are to judge it by, None where that is not asked.
    """
    runtime = RUNTIMES[name]
    if memes is not None and memes < runtime.memes:
        return f"judged on {memes} memes alone; it takes {runtime.memes}"
    if modality not in runtime.modalities:
        return f"not for {modality} encoders"
    if runtime.load is not None and device != "cpu":
        return f"the models are on {device}"
    if name == "bfloat16" or name.endswith("bf16"):
        return "" if bf16_pays(device) else "no bfloat16 in this processor"
    return ""


def run_by(source: Source, name: str, file: Path) -> Source:
    """The encoder run by a runtime; `file` is its graph's path without an ending.

    Raises ModuleNotFoundError saying how a missing package is installed.
    """
    runtime = RUNTIMES[name]
    if name == FLOAT32:
        return source
    if runtime.load is None:
        return Bfloat16Source(source)
    needs(runtime.package, "export")
    return GraphSource(source, runtime.load(file.with_name(file.name + runtime.ending)))


def networks(model: FusionModel) -> dict[str, Source]:
    """The encoders of a model that are networks, by name."""
    return {name: source for name, source in model.encoders.sources.items() if source.is_network}


def exchange(model: FusionModel, choice: Mapping[str, str], folder: Path) -> None:
    """Let each encoder named in `choice` be run by its runtime, from the graphs in `folder`.

    What PyTorch held of the exchanged ones is let go.
    """
    for name, runtime in choice.items():
        model.encoders.sources[name] = run_by(model.encoders.sources[name], runtime, folder / name)
    model.eval()
    gc.collect()


def processor_name() -> str:
    """The processor's model, as the system names it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{named[0] if named else os.uname().machine}"
