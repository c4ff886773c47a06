"""The engine that was measured for a run on this machine: kept in `Step_8/engines/<mode>/`."""

import os
import shlex
import sys
import warnings
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from lib.artifacts import fingerprint, read_json, write_text
from lib.config import MODELS, Settings
from lib.layout import Layout
from lib.modeling.fusion import FusionModel
from lib.serving.engines.encoder_graphs import export_encoder
from lib.serving.engines.onnx_files import quantised
from lib.serving.engines.runtimes import (
    FLOAT32,
    RUNTIMES,
    check_engine,
    exchange,
    networks,
    processor_name,
    refusal,
)

PACKAGES = ("torch", "transformers", "onnxruntime", "openvino")


def engine_folder(settings: Settings) -> Path:
    """Where the graphs and `engine.json` of a run lie; no step reads or fingerprints it."""
    return settings.root / "Step_8" / "engines" / settings.mode


def measure_again(settings: Settings) -> str:
    """The command that measures the engines of a run anew."""
    words = [Path(sys.executable).name, "-m", "lib.serving.engines", "--mode", settings.mode]
    if settings.root != Layout().root:
        words += ["--root", str(settings.root)]
    return shlex.join(words)


def versions() -> dict[str, str]:
    """The versions of what can run an encoder, of those that are installed."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def use_engine(
    model: FusionModel, settings: Settings, fingerprints: dict[str, str], engine: str | None
) -> dict[str, str]:
    """Let a loaded model's encoders be run by an engine; return the runtime of each.

    None takes what was kept for these models on this machine, and without such float32, with a
    warning where something was kept for others. A name runs all encoders by that runtime; graphs
    that are not there are written first.
    Raises ValueError for an unknown name, or one that cannot run these models here, and
    saying how a runtime is installed that is not.
    """
    fingerprints = {name: fingerprints[name] for name in MODELS}
    # On an accelerator too the runtime says what is computed in bfloat16, unless a user did.
    model.encoders.bf16 = bool(model.encoders.bf16)
    try:
        if engine is None:
            choice = _kept(model, settings, fingerprints)
        else:
            choice = _forced(model, check_engine(engine))
            write_graphs(model, choice, engine_folder(settings), fingerprints)
        exchange(model, choice, engine_folder(settings))
    except ModuleNotFoundError as error:
        raise ValueError(f"engine {engine or 'kept for this run'}: {error}") from None
    return {name: choice.get(name, FLOAT32) for name in networks(model)}


def write_graphs(
    model: FusionModel, choice: dict[str, str], folder: Path, fingerprints: dict[str, str]
) -> None:
    """Write those graphs that the runtimes need and that are not there of these models."""
    if not any(RUNTIMES[runtime].ending for runtime in choice.values()):
        return
    origin = folder / "graphs_made_from.txt"
    said = repr(sorted(fingerprints.items()))
    if not (origin.exists() and origin.read_text(encoding="utf-8") == said):
        # All of other models go first, so that a kill leaves none that is taken for these.
        for stale in folder.glob("*.onnx"):
            # Another process may be writing graphs too.
            stale.unlink(missing_ok=True)
        write_text(origin, said)
    for name, runtime in choice.items():
        file, ending = folder / f"{name}.onnx", RUNTIMES[runtime].ending
        if not ending:
            continue
        if not file.exists():
            export_encoder(networks(model)[name], model.head.reads_tokens, file)
        small = folder / f"{name}.int8.onnx"
        if ending == ".int8.onnx" and not small.exists():
            quantised(file, small)


def _forced(model: FusionModel, engine: str) -> dict[str, str]:
    """Each encoder's runtime for an engine given by name; what it cannot take runs by its base."""
    choice = {}
    for name, source in networks(model).items():
        runtime = engine
        if source.modality not in RUNTIMES[runtime].modalities:
            runtime = engine.partition("-")[0]
        if why := refusal(runtime, source.modality, model.device.type):
            raise ValueError(f"engine {engine!r} cannot run {name} here: {why}")
        choice[name] = runtime
    return choice


def _kept(model: FusionModel, settings: Settings, fingerprints: dict[str, str]) -> dict[str, str]:
    file = engine_folder(settings) / "engine.json"
    if not file.exists():
        return {}
    again = measure_again(settings)
    kept = read_json(file, again)
    if why := _differs(kept, file.parent, fingerprints, model.device.type):
        warnings.warn(
            f"the engine kept in {file} is not used: {why}; the models run in float32. "
            f"Measure again: {again}",
            stacklevel=4,
        )
        return {}
    return dict(kept["choice"])


def _differs(kept: Any, folder: Path, fingerprints: dict[str, str], device: str) -> str:
    """Why a kept engine is not for these models here, "" if it is."""
    fields = {"choice", "fingerprints", "cpu", "device", "versions", "files"}
    if not isinstance(kept, dict) or not fields <= set(kept):
        return "a field is missing"
    used = {RUNTIMES[r].package for r in kept["choice"].values() if r in RUNTIMES}
    if set(kept["choice"].values()) - set(RUNTIMES):
        return "it names a runtime that is unknown"
    if kept["fingerprints"] != fingerprints:
        return "it was measured for other models"
    if kept["device"] != device:
        return f"it was measured on {kept['device']}, the models are on {device}"
    if kept["cpu"] != processor_name():
        return f"it was measured on {kept['cpu']}"
    now = versions()
    for package in sorted(used):
        # What is missing altogether is an error of its own, with the way to install it.
        if package in now and kept["versions"].get(package) != now[package]:
            return f"it was measured with {package} {kept['versions'].get(package)}"
    for name, found in kept["files"].items():
        if not (folder / name).exists() or fingerprint(folder / name) != found:
            return f"{name} is missing or another file"
    return ""


def threads() -> int:
    """The threads that a pass uses."""
    import torch

    return min(torch.get_num_threads(), os.cpu_count() or 1)
