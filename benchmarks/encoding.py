"""The cost of looking at memes: one pass for three models, precision, and fusion from the cache.

    python benchmarks/encoding.py [--memes 64] [--repeats 5]

Untrained heads on the packaged backbones (their speed does not depend on the weights) over
generated memes. Writes results/encoding.csv: medians of repeats that take turns, as ratios.
"""

import argparse
import platform
import tempfile
import time
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm
from transformers import (
    AutoImageProcessor,
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
    AutoTokenizer,
)

from lib.artifacts import write_csv
from lib.config import Settings
from lib.data.datasets import MemeShards, shard_paths
from lib.data.packing.pack import pack
from lib.data.sources import examples_for
from lib.modeling import backbones
from lib.modeling.encoders import Encoders, encode_image, encode_text
from lib.modeling.features import Features, encode_shards
from lib.modeling.fusion import model_logits
from lib.modeling.fusion_training import train_fusion
from lib.modeling.heads import FusionConfig, build_head

RESULTS = Path(__file__).parent / "results/encoding.csv"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--memes", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(root=folder, mode="full", dataset="confounders", n_memes=300)
        pack(examples_for(settings), settings.step3, mode="full", limit=None)
        memes = MemeShards(shard_paths(settings.shards, "train"))
        samples = [memes[i] for i in range(options.memes)]
        rows = measure(settings, samples, options.repeats)
    table = pd.DataFrame(rows).assign(
        memes=options.memes,
        cpu=f"{platform.processor() or platform.machine()} x{torch.get_num_threads()}",
        versions=" ".join(f"{n} {version(n)}" for n in ("timm", "torch", "transformers")),
    )
    write_csv(RESULTS, table)
    print(table.drop(columns=["cpu", "versions"]).to_string(index=False))


@torch.inference_mode()
def measure(settings: Settings, samples: list[dict], repeats: int) -> list[dict]:
    encoders = load_encoders()
    head = build_head(FusionConfig(text_dim=384, vision_dim=2)).eval()
    texts, images = [s["text"] for s in samples], [s["image"] for s in samples]
    tokens = encoders.tokenizer(texts, padding=True, truncation=True, return_tensors="pt")
    pixels = encoders.processor(images, return_tensors="pt")["pixel_values"]
    large = torch.nn.functional.interpolate(pixels, 384)
    text, vision = encoders.text_expert, encoders.vision_expert

    def fused() -> None:
        model_logits(head, encode_text(text, dict(tokens)) | encode_image(vision, pixels))

    def separately() -> None:
        text(**tokens)
        vision(pixel_values=pixels)
        fused()

    precision = {
        f"{size} px, {name}": partial(forward, vision, x, layout, bf16)
        for size, x in ((224, pixels), (384, large))
        for name, layout, bf16 in (
            ("float32", torch.contiguous_format, False),
            ("channels_last", torch.channels_last, False),
            ("channels_last bfloat16", torch.channels_last, True),
        )
    }
    times = alternate({"separately": separately, "one pass": fused} | precision, repeats)
    rows = [
        row("three models in one pass", "each model by itself", "separately", "one pass", times)
    ]
    for size in (224, 384):
        for name in ("channels_last", "channels_last bfloat16"):
            pair = (f"{size} px, float32", f"{size} px, {name}")
            rows.append(row(f"EfficientNet-Lite0, {pair[1]}", "float32", *pair, times))
    return [*rows, *fusion_rows(settings, encoders)]


def forward(model: torch.nn.Module, x: torch.Tensor, layout: torch.memory_format, bf16: bool):
    model.to(memory_format=layout)
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        return model(pixel_values=x.contiguous(memory_format=layout)).logits


def fusion_rows(settings: Settings, encoders: Encoders) -> list[dict]:
    """One epoch of fusion on cached features against the encoder pass that filled the cache."""
    shards = shard_paths(settings.shards, "train")
    start = time.perf_counter()
    features = encode_shards(shards, encoders, experts=[])
    encoding = time.perf_counter() - start
    config = FusionConfig(text_dim=384, vision_dim=2)
    epochs = 20
    with torch.inference_mode(False):
        # Tensors made in inference mode cannot be trained on.
        arrays = {name: array.clone() for name, array in features.arrays.items()}
        features = Features(features.ids, features.labels.clone(), arrays)
        start = time.perf_counter()
        train_fusion(features, config, settings.model_copy(update={"fusion_epochs": epochs}))
    epoch = (time.perf_counter() - start) / epochs
    return [row("an epoch of fusion from the cache", "one encoder pass", 0, 1, [encoding, epoch])]


def load_encoders() -> Encoders:
    text = backbones.load(AutoModelForSequenceClassification, "minilm", num_labels=2)
    vision = backbones.load(
        AutoModelForImageClassification,
        "efficientnet_lite0",
        num_labels=2,
        ignore_mismatched_sizes=True,
    )
    tokenizer = backbones.load(AutoTokenizer, "minilm")
    processor = backbones.load(AutoImageProcessor, "efficientnet_lite0")
    return Encoders((text, tokenizer), (vision, processor)).eval()


def alternate(runs: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """The median seconds of each run; all take turns, so that a drift of the machine cancels."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for repeat in tqdm(range(repeats + 1), desc="repeats"):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            if repeat:
                seconds[name].append(time.perf_counter() - start)
    return {name: float(np.median(values)) for name, values in seconds.items()}


def row(what: str, against: str, theirs, ours, times) -> dict:
    return {
        "what": what,
        "against": against,
        "their_seconds": times[theirs],
        "our_seconds": times[ours],
        "ratio": times[theirs] / times[ours],
    }


if __name__ == "__main__":
    main()
