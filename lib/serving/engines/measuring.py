"""Each runtime measured on a run's own memes and gated on decisions; the fastest is kept.

An encoder is given the fastest runtime with which the answers stay what they are in float32. Which
one that is differs between encoders: what near memes are asked about reacts to the last digits of a
feature, an expert's own logits hardly do.
"""

import time
from collections.abc import Mapping, Sequence
from functools import partial
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
from lib.modeling.device import moved
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
TIMED, ALONE = 8, 64

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
    origin = {name: decision.fingerprints[name] for name in MODELS}
    folder = engine_folder(settings)
    judge = _Judge(model, decision, gate or Gate())
    with torch.inference_mode():
        table, passes = _measured(model, samples, folder, origin)
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
        "fingerprints": origin,
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
    table: list[dict[str, Any]] = []
    passes: dict[str, dict[str, Pass]] = {}
    found = networks(model)
    bar = tqdm(total=len(found) * len(RUNTIMES), desc="measuring engines")
    for name, source in model.encoders.sources.items():
        items = [s["text" if source.modality == "text" else "image"] for s in samples]
        prepared = _prepared(source, items)
        tokens, passes[name] = model.head.reads_tokens, {}
        run = partial(_run, batches=prepared[0], singles=prepared[1], tokens=tokens)
        if name not in found:
            passes[name][FLOAT32] = run(source, model.device)
            continue
        for runtime in RUNTIMES:
            bar.set_postfix_str(f"{name}: {runtime}")
            bar.update()
            why = refusal(runtime, source.modality, model.device.type, len(samples))
            if not why:
                try:
                    write_graphs(model, {name: runtime}, folder, fingerprints)
                    ran_by = run_by(source, runtime, folder / name)
                    passes[name][runtime] = run(ran_by, model.device)
                except ModuleNotFoundError as error:
                    why = str(error)
                except Exception as error:  # exporters raise whatever they meet in a model
                    if runtime == FLOAT32:
                        raise
                    why = f"{type(error).__name__}: {str(error).splitlines()[0][:200]}"
            table.append({"encoder": name, "runtime": runtime, "refused": why})
    bar.close()
    return table, passes


def _prepared(source: Source, items: Sequence[Any]) -> tuple[list[Any], list[Any]]:
    """The inputs in batches, and those of some memes from all over one by one."""
    batches = [source.prepare(items[k : k + BATCH]) for k in range(0, len(items), BATCH)]
    return batches, [source.prepare([items[row]]) for row in _alone(len(items))]


def _alone(memes: int) -> list[int]:
    return sorted({int(row) for row in np.linspace(0, memes - 1, min(ALONE, memes))})


def _run(
    source: Source, device: torch.device, batches: list[Any], singles: list[Any], tokens: bool
) -> Pass:
    source.eval()
    _timed(source, device, [batches[0], singles[0]], tokens)
    batched = _timed(source, device, batches, tokens)
    alone = _timed(source, device, singles, tokens)
    of_batch = median([seconds for _, seconds in batched][: len(batches) - 1 or 1]) / BATCH
    of_one = median(seconds for _, seconds in alone)
    return Pass([found for found, _ in batched], [found for found, _ in alone], (of_batch, of_one))


def _timed(
    source: Source, device: torch.device, inputs: list[Any], tokens: bool
) -> list[tuple[dict[str, torch.Tensor], float]]:
    found = []
    for each in inputs:
        start = time.perf_counter()
        encoded = source(moved(each, device), tokens)
        if device.type not in ("cpu", "meta"):
            torch.accelerator.synchronize()
        seconds = time.perf_counter() - start
        found.append(({name: tensor.float() for name, tensor in encoded.items()}, seconds))
    return found


class _Judge:
    """The answers to all memes with any runtimes, against those of float32."""

    def __init__(self, model: FusionModel, decision: DecisionBundle, gate: Gate) -> None:
        self.model, self.decision, self.gate = model, decision, gate

    def choose(
        self, passes: Mapping[str, Mapping[str, Pass]]
    ) -> tuple[dict[str, str], dict[str, float]]:
        """The runtime of each encoder that is a network, and what the gate saw of them together.

        From float32 on, the exchange that gains most time is made first, and only where the answers
        still pass.
        """
        choice = {name: FLOAT32 for name in passes}
        gains = [
            (found[FLOAT32].seconds[0] - passed.seconds[0], name, runtime)
            for name, found in passes.items()
            for runtime, passed in found.items()
        ]
        for gain, name, runtime in sorted(gains, reverse=True):
            if gain > 0 and choice[name] == FLOAT32:
                tried = choice | {name: runtime}
                if not self.fault(self.seen(passes, tried)):
                    choice = tried
        seen = self.seen(passes, choice)
        return {n: r for n, r in choice.items() if n in networks(self.model)}, seen

    def verdict(
        self, passes: Mapping[str, Mapping[str, Pass]], row: Mapping[str, str]
    ) -> dict[str, Any]:
        """What the table says of one encoder in one runtime, the others in float32."""
        passed = passes[row["encoder"]].get(row["runtime"])
        if passed is None:
            return {}
        choice = {name: FLOAT32 for name in passes} | {row["encoder"]: row["runtime"]}
        seen = self.seen(passes, choice)
        speed = {
            "memes_per_second": 1 / passed.seconds[0],
            "milliseconds_alone": 1e3 * passed.seconds[1],
        }
        return speed | seen | {"refused": self.fault(seen)}

    def seen(
        self, passes: Mapping[str, Mapping[str, Pass]], choice: Mapping[str, str]
    ) -> dict[str, float]:
        """Share of memes decided otherwise than in float32, and the largest difference in
        probability, over the memes in batches and those one by one."""
        exact = {name: FLOAT32 for name in passes}
        known, found = self._answers(passes, exact), self._answers(passes, choice)
        apart = max(float(np.abs(known[m] - found[m]).max()) for m in MODELS)
        flips = np.zeros(len(known["mm_fusion"]), bool)
        for before, after in zip(self._decided(known), self._decided(found), strict=True):
            flips |= before != after
        return {"flips": float(flips.mean()), "probability": apart}

    def fault(self, seen: Mapping[str, float]) -> str:
        """Why the gate refuses what was seen, "" if it passes."""
        if seen["flips"] > self.gate.flips:
            return f"decides {seen['flips']:.2%} of memes otherwise"
        # Written so that what is no number is refused too.
        if not seen["probability"] <= self.gate.probability:
            return f"a probability is {seen['probability']:.3g} apart"
        return ""

    def _answers(
        self, passes: Mapping[str, Mapping[str, Pass]], choice: Mapping[str, str]
    ) -> dict[str, np.ndarray]:
        batches = [
            *self._memes({n: passes[n][r].batched for n, r in choice.items()}),
            # Float32's own answers one by one are those of its batches, up to rounding.
            *self._memes({n: passes[n][r].alone for n, r in choice.items()}),
        ]
        temperatures = self.decision.temperatures
        return {
            m: np.concatenate([prob_hate(b[m].cpu().double(), temperatures[m]) for b in batches])
            for m in MODELS
        }

    def _memes(self, encoded: Mapping[str, Encoded]) -> list[dict[str, torch.Tensor]]:
        """The three models' logits of each batch."""
        names = list(encoded)
        return [
            model_logits(
                self.model.head, self.model.encoders.named(dict(zip(names, batch, strict=True)))
            )
            for batch in zip(*encoded.values(), strict=True)
        ]

    def _decided(self, answers: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        prob = answers["mm_fusion"]
        label = prob >= self.decision.thresholds["mm_fusion"]
        return label, np.asarray(self.decision.policy.decide(prob))
