"""Memes judged a second, and one meme alone, with the engine that is kept for a run.

    python benchmarks/serving_throughput.py [--root DIR] [--mode pilot] [--memes 96] [--repeats 3]

`MemeClassifier.predict_batch` on picture files of mixed size against the two plain
`transformers.pipeline`s that a user would write for the same two experts; and `predict` on one meme
after the other, of all these sizes, against the sum of the encoder passes that its head needs. The
sides take turns. Measure an engine
first (`make engines`). Writes results/serving_throughput.csv: medians, ratios, peak memory, and the
share of memes decided as in float32.
"""

import argparse
import random
import resource
import statistics
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import pandas as pd
import torch
from tqdm import tqdm

from lib.artifacts import write_csv
from lib.config import Settings
from lib.data.datasets import MemeShards, shard_paths
from lib.serving import MemeClassifier
from lib.serving.engines.runtimes import processor_name
from lib.serving.memes import read_meme

RESULTS = Path(__file__).parent / "results/serving_throughput.csv"
SIDES = (240, 384, 640, 1024)
# Memes that are judged one by one.
ALONE = 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path)
    parser.add_argument("--mode", choices=("pilot", "full"), default="pilot")
    parser.add_argument("--memes", type=int, default=96)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    settings = Settings.model_validate({"mode": options.mode, "root": options.root})
    kept = MemeClassifier.load(settings.root, options.mode)
    exact = MemeClassifier.load(settings.root, options.mode, engine="float32")
    with tempfile.TemporaryDirectory() as folder:
        texts, files = memes(settings, Path(folder), options.memes)
        same = [
            a["decision"] == b["decision"] and a["label"] == b["label"]
            for a, b in zip(
                kept.predict_batch(texts, files), exact.predict_batch(texts, files), strict=True
            )
        ]
        batch = in_turn(batch_sides(kept, exact, settings, texts, files), options.repeats)
        alone = in_turn(single_sides(kept, texts[:ALONE], files[:ALONE]), 3 * options.repeats)
    rows = [row("batch", batch, "two transformers.pipeline", options.memes)]
    rows += [row("one meme", alone, "its encoder passes", len(files[:ALONE]))]
    table = pd.concat(rows, ignore_index=True).assign(
        mode=options.mode,
        decided_as_float32=sum(same) / len(same),
        peak_mb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        threads=torch.get_num_threads(),
        cpu=processor_name(),
        versions=" ".join(f"{n} {version(n)}" for n in ("onnxruntime", "torch", "transformers")),
    )
    write_csv(RESULTS, table)
    print(table.drop(columns="versions").to_string(index=False))


def memes(settings: Settings, folder: Path, number: int) -> tuple[list[str], list[str]]:
    """Texts and JPEG files of several sizes, from the split that the thresholds were fitted on."""
    shards = MemeShards(shard_paths(settings.shards, settings.fit_split))
    rng, texts, files = random.Random(0), [], []
    for place in range(number):
        sample = shards[place % len(shards)]
        side = rng.choice(SIDES)
        picture = sample["image"].resize((side, side * rng.choice((2, 3, 4)) // 4))
        files.append(str(folder / f"{place}.jpg"))
        picture.save(files[-1], quality=90)
        texts.append(sample["text"])
    return texts, files


def batch_sides(kept, exact, settings: Settings, texts: list[str], files: list[str]) -> dict:
    from transformers import pipeline

    of_texts = pipeline("text-classification", model=str(settings.models / "text_expert"))
    of_pictures = pipeline("image-classification", model=str(settings.models / "vision_expert"))
    return {
        "two transformers.pipeline": lambda: (of_texts(texts), of_pictures(files)),
        "predict_batch, kept engine": lambda: kept.predict_batch(texts, files),
        "predict_batch, float32": lambda: exact.predict_batch(texts, files),
    }


def single_sides(kept, texts: list[str], files: list[str]) -> dict:
    encoders, tokens = kept.model.encoders, kept.model.head.reads_tokens
    memes = [read_meme(text, file) for text, file in zip(texts, files, strict=True)]
    prepared = [
        {
            name: source.prepare([meme.text if source.modality == "text" else meme.image])
            for name, source in encoders.sources.items()
        }
        for meme in memes
    ]

    @torch.inference_mode()
    def passes() -> None:
        for inputs in prepared:
            encoders.encode_prepared(inputs, tokens)

    def predict() -> None:
        for text, file in zip(texts, files, strict=True):
            kept.predict(text, file)

    return {"its encoder passes": passes, "predict": predict}


def in_turn(sides: dict, repeats: int) -> dict[str, float]:
    """Median seconds of each side; one round more than counted."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for turn in tqdm(range(repeats + 1), desc="rounds"):
        for name, side in sides.items():
            start = time.perf_counter()
            side()
            if turn:
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(taken) for name, taken in seconds.items()}


def row(what: str, seconds: dict[str, float], peer: str, number: int) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "what": what,
            "side": name,
            "milliseconds_a_meme": 1e3 * taken / number,
            "times_the_peer": taken / seconds[peer],
            "peer_times_it": seconds[peer] / taken,
        }
        for name, taken in seconds.items()
    )


if __name__ == "__main__":
    main()
