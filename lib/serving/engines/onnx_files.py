"""Graphs in ONNX files: written from a module of PyTorch, checked against it, made small, and run.

Of use to any model: it knows nothing of memes. Needs the extra `export`; OpenVINO is asked for by
name alone.
"""

import functools
import importlib
import logging
import os
import threading
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lib.artifacts import atomic_path

# What outputs may be apart of PyTorch's, by their size: float32 sums in another order.
TOLERANCE = 1e-4

# For each input its axes of any length, by number, with the name of that length.
Axes = Mapping[str, Mapping[int, str]]


def needs(package: str, extra: str = "export") -> Any:
    """The package of that name. Raises ModuleNotFoundError saying how it is installed."""
    try:
        return importlib.import_module(package)
    except ImportError:
        raise ModuleNotFoundError(
            f"{package} is not installed; install it with: pip install 'calibrated-memes[{extra}]'",
            name=package,
        ) from None


def export_onnx(
    module: torch.nn.Module,
    example: Mapping[str, torch.Tensor],
    outputs: Sequence[str],
    file: str | Path,
    axes: Axes,
) -> Path:
    """Write a module's graph to an ONNX file, whole or not at all, and check it.

    The module takes the inputs of `example` by name, batches of two or more (a one would be written
    into the graph as a constant), and returns a tensor for each of `outputs`, or one tensor.
    `axes` says which axes of an input may have another length than in the example.
    Raises ValueError if the module cannot be written, or the graph computes something else than it,
    on the example or on the first half of each such axis, and ModuleNotFoundError where the extra
    is missing.
    """
    needs("onnxscript")
    given = {name: tensor.contiguous() for name, tensor in example.items()}
    shapes = {
        name: {axis: torch.export.Dim.DYNAMIC for axis in axes.get(name, {})} for name in given
    }
    with atomic_path(file) as new, warnings.catch_warnings(), torch.no_grad():
        # The exporter warns of what its own libraries call, which no reader here can change.
        warnings.simplefilter("ignore")
        try:
            torch.onnx.export(
                module,
                (),
                str(new),
                kwargs=given,
                input_names=list(given),
                output_names=list(outputs),
                dynamic_shapes=shapes,
                dynamo=True,
                external_data=False,
                verbose=False,
            )
        except Exception as error:  # the exporter raises whatever it meets in a model
            why = f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"
            raise ValueError(f"{file}: this model cannot be written as a graph ({why})") from error
        session = OnnxSession(new, threads=1)
        for inputs in (given, _halved(given, axes)):
            _compare(module, session, inputs, outputs, Path(file))
    return Path(file)


def quantised(file: str | Path, new: str | Path) -> Path:
    """Write the graph with the weights of its matrix products as 8-bit integers; return `new`.

    Activations are quantised as they come (dynamic quantisation), convolutions stay as they are.
    Without VNNI the processor's products of 8 bits saturate, so that weights keep 7 bits there.
    """
    needs("onnx")
    quantization = needs("onnxruntime.quantization")
    # It advises, on the root logger, a step that changes nothing here.
    logging.disable(logging.WARNING)
    try:
        with atomic_path(new) as scratch:
            quantization.quantize_dynamic(
                str(file),
                str(scratch),
                op_types_to_quantize=["MatMul", "Gemm", "Gather"],
                weight_type=quantization.QuantType.QInt8,
                per_channel=True,
                reduce_range=not has_vnni(),
            )
    finally:
        logging.disable(logging.NOTSET)
    return Path(new)


def has_vnni() -> bool:
    """Whether the processor adds products of 8-bit integers without saturation in between."""
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name, False) for name in ("avx512_vnni", "avx_vnni", "dotprod"))


class OnnxSession:
    """A graph that ONNX Runtime runs on the CPU: tensors in by name, tensors out by name.

    Inputs that the graph does not read are left out.
    """

    def __init__(self, file: str | Path, threads: int | None = None) -> None:
        runtime = needs("onnxruntime")
        options = runtime.SessionOptions()
        options.intra_op_num_threads = threads or torch.get_num_threads()
        options.inter_op_num_threads = 1
        # Threads that spin while they wait starve whoever else is on the machine.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3
        self._session = runtime.InferenceSession(
            str(file), options, providers=["CPUExecutionProvider"]
        )
        self.inputs = [entry.name for entry in self._session.get_inputs()]
        self.outputs = [entry.name for entry in self._session.get_outputs()]

    def __call__(self, inputs: Mapping[str, Any]) -> dict[str, torch.Tensor]:
        """The outputs for inputs that are tensors or arrays."""
        found = self._session.run(None, {name: _array(inputs[name]) for name in self.inputs})
        return dict(zip(self.outputs, map(torch.from_numpy, found), strict=True))


class OpenVinoSession:
    """The same graph run by OpenVINO, in "f32" or in "bf16" where the processor has that."""

    def __init__(
        self, file: str | Path, threads: int | None = None, precision: str = "f32"
    ) -> None:
        self._model = _openvino_core().compile_model(
            str(file),
            "CPU",
            {
                "PERFORMANCE_HINT": "LATENCY",
                "INFERENCE_NUM_THREADS": threads or torch.get_num_threads(),
                "INFERENCE_PRECISION_HINT": precision,
            },
        )
        self._request = self._model.create_infer_request()
        # Which takes one batch at a time, and callers may have threads.
        self._running = threading.Lock()
        self.inputs = [entry.any_name for entry in self._model.inputs]
        self.outputs = [entry.any_name for entry in self._model.outputs]

    def __call__(self, inputs: Mapping[str, Any]) -> dict[str, torch.Tensor]:
        """The outputs for inputs that are tensors or arrays."""
        given = {name: _array(inputs[name]) for name in self.inputs}
        with self._running:
            found = self._request.infer(given)
            # Copies: the request writes its next outputs into the same memory.
            arrays = [torch.from_numpy(np.array(found[name])) for name in self.outputs]
        return dict(zip(self.outputs, arrays, strict=True))


@functools.cache
def _openvino_core() -> Any:
    """The one that every session shares, and that stays until the process ends.

    Each has a stack for signals on processors with AMX, puts it in the place of the thread's own
    and gives its memory back when it goes. Of two that go in the order they came, the thread is
    left with the memory of the first, and the next signal (a child that ended, Ctrl-C) ends the
    process without a word.
    """
    # Asked before it is imported: nothing about a user's machine leaves it.
    os.environ.setdefault("OPENVINO_TELEMETRY_OPT_OUT", "1")
    return needs("openvino", "export").Core()


def _array(value: Any) -> np.ndarray:
    return np.ascontiguousarray(value.detach().cpu().numpy() if hasattr(value, "detach") else value)


def _halved(given: Mapping[str, torch.Tensor], axes: Axes) -> dict[str, torch.Tensor]:
    """The inputs with the first half of every axis of any length."""
    halves = dict(given)
    for name, of_input in axes.items():
        for axis in of_input:
            halves[name] = halves[name].narrow(axis, 0, (halves[name].shape[axis] + 1) // 2)
    return halves


def _compare(
    module: torch.nn.Module,
    session: OnnxSession,
    inputs: Mapping[str, torch.Tensor],
    outputs: Sequence[str],
    file: Path,
) -> None:
    expected = module(**inputs)
    expected = (expected,) if isinstance(expected, torch.Tensor) else expected
    found = session(inputs)
    for name, tensor in zip(outputs, expected, strict=True):
        tensor = tensor.float()
        apart = (found[name].float() - tensor).abs().max().item()
        if not apart <= TOLERANCE * max(1.0, tensor.abs().max().item()):
            raise ValueError(f"{file}: output '{name}' is {apart:.2g} apart of PyTorch's")
