"""What runs the emotion classifier's network: measured once, gated, and kept beside the checkpoint.

The files lie in `<checkpoint>.engines/`, named after the weights they were made from.
"""

import os
import platform
import time
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import emotion_cli
import numpy as np
import pandas as pd
import torch
from torch import nn
from tqdm.auto import tqdm

from lib.artifacts import fingerprint, read_json, write_json
from lib.emotions.classifier import WEIGHTS, BERTEmotionClassifier
from lib.emotions.commands import script_command
from lib.emotions.encoding import MAX_TOKENS, encode_all
from lib.emotions.passes import Pass, all_logits, bfloat16_pass, by_tokens, eager_pass
from lib.serving.engines.onnx_files import (
    OnnxSession,
    OpenVinoSession,
    export_onnx,
    quantised,
)

# An engine is refused that flips more of the decisions (texts times labels) than this share ...
MOST_FLIPS = 0.001
# ... or moves any probability by more than this.
MOST_MOVED = 0.01
_TIMED_TEXTS, _ROUNDS = 512, 3

Session = Callable[[dict[str, np.ndarray]], dict[str, torch.Tensor]]


class Network:
    """A checkpoint's network and how each engine runs it; one pass for each worker.

    On a CPU every core is a worker with a thread of its own; an accelerator has one.
    """

    def __init__(self, model: BERTEmotionClassifier, folder: Path) -> None:
        self.model, self.folder = model.eval(), folder
        self.files = folder.with_name(f"{folder.name}.engines")
        self.on_cpu = model.head.weight.device.type == "cpu"
        self.workers = torch.get_num_threads() if self.on_cpu else 1
        self._weights = emotion_cli.weights_fingerprint(model)

    def passes(self, engine: str) -> list[Pass]:
        """Open an engine of ENGINES, making its file first if there is none.

        Raises ValueError if it cannot run here.
        """
        try:
            return ENGINES[engine](self)
        except ImportError as error:
            raise ValueError(f"engine {engine}: {error}") from None
        except RuntimeError as error:
            raise ValueError(f"engine {engine} cannot run this network: {error}") from None

    def logits(self, texts: Sequence[str], passes: Sequence[Pass]) -> np.ndarray:
        """Return raw logits (N, L), float32."""
        encoded = encode_all(self.model.tokenizer, texts)
        batches = by_tokens([len(text["input_ids"]) for text in encoded])
        labels = len(self.model.names)
        return all_logits(self.model.tokenizer, encoded, batches, passes, labels)

    def onnx_file(self) -> Path:
        """The graph of the encoder in single precision."""
        file = self.files / f"{self._weights}.onnx"
        if not file.exists():
            pair = encode_all(self.model.tokenizer, ["one text", "and one that is longer"])
            batch = self.model.tokenizer.pad(pair, return_tensors="pt")
            inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
            axes = {name: {0: "texts", 1: "tokens"} for name in inputs}
            export_onnx(_States(self.model.encoder).eval(), inputs, ["states"], file, axes)
        return file

    def int8_file(self) -> Path:
        """The same with weights of 8 bits."""
        file = self.files / f"{self._weights}.int8.onnx"
        return file if file.exists() else quantised(self.onnx_file(), file)


class _States(nn.Module):
    """The encoder with the two inputs by name and no others."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        return self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state


def _session_pass(session: Session, model: BERTEmotionClassifier) -> Pass:
    # The mean and the head, next to no work, stay in single precision whatever the engine does.
    @torch.inference_mode()
    def run(ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        states = session({"input_ids": ids, "attention_mask": mask})["states"]
        return model.told_by(states.float(), torch.from_numpy(mask)).numpy()

    return run


def _torch(make: Callable[[nn.Module], Pass]) -> Callable[[Network], list[Pass]]:
    return lambda network: [make(network.model)] * network.workers


def _onnx(network: Network) -> list[Pass]:
    session = OnnxSession(network.onnx_file(), threads=1)
    return [_session_pass(session, network.model)] * network.workers


def _onnx_int8(network: Network) -> list[Pass]:
    session = OnnxSession(network.int8_file(), threads=1)
    return [_session_pass(session, network.model)] * network.workers


def _openvino(precision: str) -> Callable[[Network], list[Pass]]:
    def passes(network: Network) -> list[Pass]:
        # A request of its own for each worker: one cannot run twice at a time.
        file = network.onnx_file()
        sessions = (OpenVinoSession(file, 1, precision) for _ in range(network.workers))
        return [_session_pass(session, network.model) for session in sessions]

    return passes


ENGINES: dict[str, Callable[[Network], list[Pass]]] = {
    "float32": _torch(eager_pass),
    "bfloat16": _torch(bfloat16_pass),
    "onnx": _onnx,
    "onnx-int8": _onnx_int8,
    "openvino": _openvino("f32"),
    "openvino-bf16": _openvino("bf16"),
}
_ON_CPU_ALONE = ("onnx", "onnx-int8", "openvino", "openvino-bf16")


def measure(network: Network, texts: Sequence[str]) -> pd.DataFrame:
    """Time every engine, compare its answers with float32's, and keep the fastest that passes.

    Writes the files and `engines.json`. Returns a row per engine: texts per second, their ratio to
    float32, share of flipped decisions, largest and mean distance of probabilities, verdict.
    """
    opened, refused = {}, {}
    for engine in tqdm(ENGINES, desc="opening engines"):
        try:
            if not network.on_cpu and engine in _ON_CPU_ALONE:
                raise ValueError("runs on a CPU alone")
            opened[engine] = network.passes(engine)
            network.logits(texts[:8], opened[engine])
        except Exception as error:  # an engine that fails, for whatever reason, is not chosen
            opened.pop(engine, None)
            if engine == "float32":
                raise
            refused[engine] = " ".join(str(error).split())[:200]
    rows = _compare(network, texts, opened)
    seconds = _take_turns(network, texts[:_TIMED_TEXTS], opened)
    for row in rows:
        engine = row["engine"]
        row["texts_per_second"] = min(len(texts), _TIMED_TEXTS) / seconds[engine]
        row["ratio"] = seconds["float32"] / seconds[engine]
    passed = [row for row in rows if row["verdict"] == "passed"]
    chosen = max(passed, key=lambda row: row["ratio"])["engine"]
    rows += [{"engine": engine, "verdict": why} for engine, why in refused.items()]
    content = {"chosen": chosen, "measured_on": len(texts), "engines": rows}
    write_json(network.files / "engines.json", content | bound_to(network))
    return pd.DataFrame(rows)


def _compare(network: Network, texts: Sequence[str], opened: dict[str, list[Pass]]) -> list[dict]:
    rows, expected = [], None
    for engine, passes in tqdm(opened.items(), desc="comparing answers"):
        prob = network.model.probabilities(network.logits(texts, passes))
        expected = prob if expected is None else expected
        moved = np.abs(prob - expected)
        flips = (network.model.decide(prob) != network.model.decide(expected)).mean()
        sound = bool(np.isfinite(prob).all())
        good = sound and flips <= MOST_FLIPS and moved.max() <= MOST_MOVED
        found = {"flips": flips, "moved_most": moved.max(), "moved_mean": moved.mean()}
        found = {name: float(value) if sound else None for name, value in found.items()}
        rows.append({"engine": engine} | found | {"verdict": "passed" if good else "refused"})
    return rows


def _take_turns(
    network: Network, texts: Sequence[str], opened: dict[str, list[Pass]]
) -> dict[str, float]:
    """The least of several rounds, in seconds, the engines taking turns."""
    seconds = dict.fromkeys(opened, float("inf"))
    for _ in tqdm(range(_ROUNDS), desc="taking time"):
        for engine, passes in opened.items():
            start = time.perf_counter()
            network.logits(texts, passes)
            seconds[engine] = min(seconds[engine], time.perf_counter() - start)
    return seconds


def bound_to(network: Network) -> dict:
    """What a choice holds for: weights, temperature and thresholds, processor and libraries."""
    versions, able = {}, torch.cpu.get_capabilities()
    for package in ("torch", "transformers", "onnxruntime", "openvino"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = None
    processor = [platform.machine(), *sorted(name for name in able if able[name])]
    return {
        "checkpoint": fingerprint(network.folder / WEIGHTS),
        "machine": {"cores": os.cpu_count(), "processor": processor, "on_cpu": network.on_cpu},
        "max_tokens": MAX_TOKENS,
        "versions": versions,
    }


def chosen(network: Network, data: Path | None = None) -> tuple[str, str]:
    """The engine that was chosen, and what there is to say about it; float32 where none holds.

    `data` is the folder of files that it is advised to measure on.
    """
    again = script_command("predict_emotions", network.folder, data, "--measure")
    file = network.files / "engines.json"
    if not file.exists():
        return "float32", f"no engine was measured; a faster one is found by: {again}"
    kept = read_json(file, again)
    differing = [name for name, value in bound_to(network).items() if kept.get(name) != value]
    if differing or kept.get("chosen") not in ENGINES:
        what = ", ".join(differing) or "engines"
        return "float32", f"{file}: {what} changed since; measure again: {again}"
    return kept["chosen"], f"measured on {kept['measured_on']} texts"
