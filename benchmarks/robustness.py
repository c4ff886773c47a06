"""What it saves to encode again only what a perturbation changed.

    python benchmarks/robustness.py --root DIR [--mode full] [--memes 64] [--repeats 3]

Needs a finished run under the root. The naive way runs the whole model on the perturbed memes; ours
runs the encoders of the changed modality on the items that came out otherwise (`lib.decisions.
robustness`). Both make the same logits, which is checked. They take turns. Writes
results/robustness.csv: median seconds a perturbation and their ratio.
"""

import argparse
import platform
import statistics
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from lib.artifacts import write_csv
from lib.config import Settings
from lib.data.datasets import MemeShards, shard_paths
from lib.decisions.perturbations import IMAGE_PERTURBATIONS, TEXT_PERTURBATIONS
from lib.decisions.robustness import modalities_of, stratified_rows
from lib.modeling.fusion import FusionModel, load_fusion, model_logits

RESULTS = Path(__file__).parent / "results/robustness.csv"
SEVERITY = 2
TRIED = ("text: misread", "text: homoglyphs", "image: noise", "image: JPEG")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, default=Settings().root)
    parser.add_argument("--mode", choices=("pilot", "full"), default="full")
    parser.add_argument("--memes", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    settings = Settings(mode=options.mode, root=options.root)
    memes = MemeShards(shard_paths(settings.shards, settings.report_split))
    samples = [memes[row] for row in stratified_rows(memes.labels, options.memes, settings.seed)]
    model = load_fusion(settings.models)
    texts, images = modalities_of(model, samples)
    rows = []
    for name in tqdm(TRIED, desc="perturbations"):
        own, other = (texts, images) if name in TEXT_PERTURBATIONS else (images, texts)
        perturbation = (TEXT_PERTURBATIONS | IMAGE_PERTURBATIONS)[name]
        seconds = {"ours": [], "naive": []}
        for _ in range(options.repeats):
            start = time.perf_counter()
            encoded = other.plain | own.perturbed(perturbation, SEVERITY, settings.seed)
            found = model_logits(model.head, encoded)["mm_fusion"]
            seconds["ours"].append(time.perf_counter() - start)
            start = time.perf_counter()
            expected = naive(model, samples, name, settings.seed)
            seconds["naive"].append(time.perf_counter() - start)
        torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-3)
        median = {way: statistics.median(taken) for way, taken in seconds.items()}
        rows.append(
            {"perturbation": name, "severity": SEVERITY, "n": len(samples)}
            | {"seconds": median["ours"], "seconds_naive": median["naive"]}
            | {"naive_to_ours": median["naive"] / median["ours"]}
        )
    table = pd.DataFrame(rows).assign(
        threads=torch.get_num_threads(),
        cpu=platform.processor() or platform.machine(),
        versions=" ".join(f"{name} {version(name)}" for name in ("timm", "torch", "transformers")),
    )
    write_csv(RESULTS, table)
    print(table.drop(columns=["cpu", "versions"]).to_string(index=False, float_format="%.3f"))


@torch.inference_mode()
def naive(model: FusionModel, samples: list[dict], name: str, seed: int) -> torch.Tensor:
    """Fusion's logits (N, 2) of the perturbed memes, texts and pictures encoded, 32 at a time."""
    perturbation = (TEXT_PERTURBATIONS | IMAGE_PERTURBATIONS)[name]
    key = "text" if name in TEXT_PERTURBATIONS else "image"
    generators = np.random.default_rng(seed).spawn(len(samples))
    changed = [
        sample | {key: perturbation(sample[key], rng, SEVERITY)}
        for sample, rng in zip(samples, generators, strict=True)
    ]
    parts = []
    for start in range(0, len(changed), 32):
        batch = changed[start : start + 32]
        logits = model([s["text"] for s in batch], [s["image"] for s in batch])
        parts.append(logits["mm_fusion"])
    return torch.cat(parts)


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    main()
