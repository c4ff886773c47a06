"""Each runtime measured on a run's own memes and gated on decisions; the fastest is kept.

An encoder is given the fastest runtime with which the answers stay what they are in float32. Which
one that is differs between encoders: what near memes are asked about reacts to the last digits of a
feature, an expert's own logits hardly do.
"""

import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np
import torch
from tqdm import tqdm

from lib.artifacts import fingerprint, write_json
from lib.calibration import prob_hate
from lib.config import MODELS, Settings
from lib.data.datasets import MemeShards, shard_paths
from lib.decisions.bundle import DecisionBundle
from lib.modeling.encoders import Source
from lib.modeling.fusion import FusionModel, load_fusion, model_logits
from lib.serving.engines.kept import engine_folder, threads, versions, write_graphs
from lib.serving.engines.runtimes import (
    FLOAT32,
    RUNTIMES,
    networks,
    processor_name,
    refusal,
    run_by,
)

BATCH = 16
# Batches that the time of a pass is the median of, and memes that are judged one by one.
TIMED, ALONE = 8, 16

Encoded = list[dict[str, torch.Tensor]]


class Gate(NamedTuple):
    """What an engine may change of float32's answers: share of memes decided otherwise, and the
    largest difference of a probability of any of the three models."""

    flips: float = 0.0
    probability: float = 0.01


class Pass(NamedTuple):
    """What a runtime made of all memes in batches, and of the first ones one by one.

    `seconds` are those a meme in batches, and of one meme alone.
    """

    batched: Encoded
    alone: Encoded
    seconds: tuple[float, float]


def measure(settings: Settings, memes: int = 512, gate: Gate | None = None) -> dict[str, Any]:
    """Measure the runtimes on up to `memes` memes of val (pilot: train), keep the best, return it.

    `engine.json` is written last: a run that is killed leaves the engine that was kept before, or
    none. Raises what `MemeClassifier.load` raises.
    """
    decision = DecisionBundle.load(settings)
    model = load_fusion(settings.models)
    decision.verify(settings.models)
    samples = _samples(settings, memes)
    folder = engine_folder(settings)
    judge = _Judge(model, decision, gate or Gate())
    with torch.inference_mode():
        table, passes = _measured(model, samples, folder, decision.fingerprints)
        choice, seen = judge.choose(passes)
        rows = [row | judge.verdict(passes, row) for row in table]
    files = {
        name: fingerprint(folder / name)
        for name in sorted({f"{n}{RUNTIMES[r].ending}" for n, r in choice.items()})
        if (folder / name).is_file()
    }
    kept = {
        "choice": choice,
        "gate": {"allowed": judge.gate._asdict(), "found": seen, "memes": len(samples)},
        "measured": rows,
        "fingerprints": decision.fingerprints,
        "files": files,
        "cpu": processor_name(),
        "device": model.device.type,
        "threads": threads(),
        "versions": versions(),
    }
    write_json(folder / "engine.json", kept)
    return kept


def _samples(settings: Settings, memes: int) -> list[dict[str, Any]]:
    """Memes from all over the split, texts of like length together, as batches of users are."""
    shards = MemeShards(shard_paths(settings.shards, settings.fit_split))
    rows = sorted({int(row) for row in np.linspace(0, len(shards) - 1, min(memes, len(shards)))})
    return sorted((shards[row] for row in rows), key=lambda sample: len(sample["text"]))


def _measured(
    model: FusionModel,
    samples: Sequence[Mapping[str, Any]],
    folder: Path,
    fingerprints: dict[str, str],
) -> tuple[list[dict[str, Any]], dict[str, dict[str, Pass]]]:
    """A row for each encoder and runtime, and what those made of the memes that could run."""
    table, passes = [], {}
    found = networks(model)
    bar = tqdm(total=len(found) * len(RUNTIMES), desc="measuring engines")
    for name, source in model.encoders.sources.items():
        items = [s["text" if source.modality == "text" else "image"] for s in samples]
        prepared = _prepared(source, items)
        tokens, passes[name] = model.head.reads_tokens, {}
        if name not in found:
            passes[name][FLOAT32] = _run(source, *prepared, tokens)
            continue
        for runtime in RUNTIMES:
            bar.set_postfix_str(f"{name}: {runtime}")
            bar.update()
            why = refusal(runtime, source.modality, model.device.type)
            if not why:
                try:
                    write_graphs(model, {name: runtime}, folder, fingerprints)
                    ran_by = run_by(source, runtime, folder / name)
                    passes[name][runtime] = _run(ran_by, *prepared, tokens)
                except ModuleNotFoundError as error:
                    why = str(error)
                except Exception as error:  # exporters raise whatever they meet in a model
                    why = f"{type(error).__name__}: {str(error).splitlines()[0][:200]}"
            table.append({"encoder": name, "runtime": runtime, "refused": why})
    bar.close()
    return table, passes
