"""The cost of looking at memes: one pass for three models, precision, and fusion from the cache.

    python benchmarks/encoding.py [--memes 64] [--repeats 5]
    python benchmarks/encoding.py --stored 10000 100000

Untrained heads on the packaged backbones (their speed does not depend on the weights) over
generated memes. Writes results/encoding.csv: medians of repeats that take turns, as ratios.
With --stored it encodes so many memes with encoders that compute nothing, and writes
results/features.csv: the memory that encoding and an epoch over its features take beyond the index.
"""

import argparse
import json
import multiprocessing
import platform
import re
import tempfile
import threading
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
from webdataset import TarWriter

from lib.artifacts import write_csv
from lib.config import Settings
from lib.data.datasets import MemeShards, shard_paths
from lib.data.packing.pack import pack
from lib.data.sources import examples_for
from lib.modeling import backbones
from lib.modeling.encoders import (
    EXPERTS,
    Encoders,
    Source,
    TextEncoder,
    VisionEncoder,
    encode_image,
    encode_text,
)
from lib.modeling.features import Features, encode_shards
from lib.modeling.fusion import model_logits
from lib.modeling.fusion_training import train_fusion
from lib.modeling.heads import FusionConfig, build_head

RESULTS = Path(__file__).parent / "results/encoding.csv"
STORED = RESULTS.with_name("features.csv")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--memes", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--stored", type=int, nargs="+", help="how many memes to encode and keep")
    options = parser.parse_args()
    if options.stored:
        write_csv(STORED, pd.DataFrame([in_new_process(stored, n) for n in options.stored]))
        print(pd.read_csv(STORED).to_string(index=False))
        return
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(root=folder, mode="full", dataset="confounders", n_memes=300)
        pack(examples_for(settings), settings.step3, mode="full")
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
    text_source, vision_source = (encoders.sources[name] for name in EXPERTS)
    tokens, pixels = text_source.prepare(texts), vision_source.prepare(images)
    large = torch.nn.functional.interpolate(pixels, 384)
    text, vision = text_source.model, vision_source.model

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
    features = encode_shards(shards, encoders)
    encoding = time.perf_counter() - start
    config = FusionConfig(text_dim=384, vision_dim=2)
    epochs = 20
    with torch.inference_mode(False):
        # Tensors made in inference mode cannot be trained on.
        arrays = {name: array[:].clone() for name, array in features.arrays.items()}
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
    sources = {
        "text_expert": TextEncoder(text, tokenizer),
        "vision_expert": VisionEncoder(vision, processor),
    }
    return Encoders(sources).eval()


class Nothing(Source):
    """An encoder that gives features of the packaged backbones' widths and computes nothing."""

    def __init__(self, modality: str, **widths: int) -> None:
        super().__init__()
        self.modality, self.widths = modality, widths
        self.classifier = torch.nn.Linear(1280, 2)
        self.prepare = partial(numbers_of, modality)

    def forward(self, inputs: torch.Tensor, tokens: bool) -> dict[str, torch.Tensor]:
        return {name: inputs.expand(-1, width) for name, width in self.widths.items()}

    def logits(self, pooled: torch.Tensor) -> torch.Tensor:
        return self.classifier(pooled)

    def fingerprint(self) -> str:
        return self.modality


def numbers_of(modality: str, items: list) -> torch.Tensor:
    """A number a text or picture, (B, 1)."""
    if modality == "text":
        return torch.tensor([[float(len(text))] for text in items])
    return torch.tensor([[float(picture.width)] for picture in items])


def stored(memes: int, per_shard: int = 1000) -> dict:
    """The memory of encoding so many memes, and of one epoch of a head over what was encoded."""
    sources = {
        "text_expert": Nothing("text", text_logits=2, text_cls=384, text_mean=384),
        "vision_expert": Nothing("vision", vision_pooled=1280),
    }
    with tempfile.TemporaryDirectory() as folder:
        shards = [fake_shard(Path(folder), k, per_shard) for k in range(memes // per_shard)]
        index = MemeShards(shards)
        labels, cache = torch.tensor(index.labels), Path(folder) / "features"
        with Anonymous() as encoding:
            features = encode_shards(shards, Encoders(sources).eval(), cache)
        with Anonymous() as epoch:
            for rows in torch.randperm(memes).split(64):
                batch = [features.arrays[name][rows] for name in ("text_mean", "vision_pooled")]
                assert all(len(array) == len(labels[rows]) for array in batch)
        sizes = [file.stat().st_size for file in cache.rglob("*.safetensors")]
    return {
        "memes": memes,
        "megabytes_on_disk": sum(sizes) / 1e6,
        "encoding_megabytes": encoding.megabytes,
        "encoding_seconds": encoding.seconds,
        "epoch_megabytes": epoch.megabytes,
        "epoch_seconds": epoch.seconds,
    }


def fake_shard(folder: Path, number: int, memes: int) -> Path:
    """A shard of memes without a picture."""
    path = folder / f"shard-{number:06d}.tar"
    with TarWriter(str(path), encoder=False) as tar:
        for row in range(memes):
            key = f"{number:06d}{row:06d}"
            meta = json.dumps({"id": key, "labels": {"abuse_hate": row % 2}}).encode()
            tar.write({"__key__": key, "txt": b"[OCR] a text [/OCR]", "json": meta})
    return path


class Anonymous:
    """Seconds, and by how much the process's own memory, mapped files apart, grew at its peak."""

    def __enter__(self) -> "Anonymous":
        self.done, self.peak, self.before = threading.Event(), 0.0, anonymous()
        self.watcher = threading.Thread(target=self.watch)
        self.start = time.perf_counter()
        self.watcher.start()
        return self

    def watch(self) -> None:
        while not self.done.wait(0.02):
            self.peak = max(self.peak, anonymous())

    def __exit__(self, *_: object) -> None:
        self.seconds = time.perf_counter() - self.start
        self.done.set()
        self.watcher.join()
        self.megabytes = max(self.peak, anonymous()) - self.before


def anonymous() -> float:
    """The process's own memory in MB, as Linux tells it."""
    status = Path("/proc/self/status").read_text()
    return float(re.search(r"RssAnon:\s+(\d+)", status)[1]) / 1e3


def in_new_process(function: Callable, *arguments: object) -> dict:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, arguments)


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
