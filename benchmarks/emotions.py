"""How soon 10,000 texts have their emotions: the engines against the network as it comes.

    python benchmarks/emotions.py [--data DIR] [--model DIR] [--texts 10000]

The texts go through in parts, and within each part all take turns: float32 in batches of 32 as the
texts come, float32 a text at a time (what a pipeline of transformers does unless told otherwise;
a tenth of each part), float32 and bfloat16 in batches of like length, and the engine that
`scripts/predict_emotions.py --measure` chose. Tokenising counts. Real texts, GoEmotions' train.tsv,
with --data, else generated ones. Writes results/emotions.csv.
"""

import argparse
import platform
import sys
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from lib.artifacts import write_csv
from lib.config import ROOT
from lib.emotions.classifier import BERTEmotionClassifier
from lib.emotions.encoding import encode
from lib.emotions.generated import generate
from lib.emotions.passes import eager_pass
from lib.emotions.splits import load_split

sys.path.insert(0, str(ROOT / "scripts"))
import emotion_cli
import emotion_engines

RESULTS = Path(__file__).parent / "results/emotions.csv"
PARTS = 5
PEERS = {"float32, batches of 32 as they come": 32, "float32, a text at a time": 1}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path)
    parser.add_argument("--model", type=Path, default=emotion_cli.MODEL)
    parser.add_argument("--texts", type=int, default=10_000)
    options = parser.parse_args()
    network = emotion_engines.Network(BERTEmotionClassifier.load(options.model), options.model)
    if not (network.files / "engines.json").exists():
        emotion_engines.measure(network, load_split(options.data, "tune").texts)
    chosen, why = emotion_engines.chosen(network)
    print(f"engine {chosen}: {why}")
    texts = distinct_texts(options.data, options.texts)
    table = compare(network, texts, list(dict.fromkeys(("float32", "bfloat16", chosen))))
    table = table.assign(
        texts=len(texts),
        source="GoEmotions train.tsv" if options.data else "generated",
        cpu=f"{platform.processor() or platform.machine()} x{torch.get_num_threads()}",
        versions=" ".join(f"{name} {version(name)}" for name in ("torch", "transformers")),
    )
    write_csv(RESULTS, table)
    print(table.iloc[:, :8].to_string(index=False))


def distinct_texts(data: Path | None, n: int) -> list[str]:
    """The first `n` distinct texts, in their order."""
    texts = load_split(data, "train").texts if data else generate(4 * n, seed=0).texts
    return list(dict.fromkeys(texts))[:n]


def compare(network: emotion_engines.Network, texts: list[str], engines: list[str]) -> pd.DataFrame:
    """A row for each engine and each way to go without one."""
    passes = {engine: network.passes(engine) for engine in engines}
    per_text = dict.fromkeys((*PEERS, *engines), 0.0)
    logits: dict[str, list[np.ndarray]] = {name: [] for name in per_text}
    for part in tqdm(np.array_split(np.arange(len(texts)), PARTS), desc="parts"):
        mine = [texts[row] for row in part]
        for name in per_text:
            shown = mine if PEERS.get(name) != 1 else mine[::10]
            start = time.perf_counter()
            if name in PEERS:
                found = as_they_come(network.model, shown, PEERS[name])
            else:
                found = network.logits(shown, passes[name])
            per_text[name] += (time.perf_counter() - start) / len(shown) / PARTS
            logits[name].append(found)
    first = next(iter(PEERS))
    expected = network.model.probabilities(np.concatenate(logits[first]))
    rows = []
    for engine in engines:
        prob = network.model.probabilities(np.concatenate(logits[engine]))
        flips = network.model.decide(prob) != network.model.decide(expected)
        rows += [
            {
                "what": f"engine {engine}",
                "against": peer,
                "their_ms_per_text": 1000 * per_text[peer],
                "our_ms_per_text": 1000 * per_text[engine],
                "ratio": per_text[peer] / per_text[engine],
                "flips": flips.mean(),
                "texts_with_flips": flips.any(axis=1).mean(),
                "moved_most": np.abs(prob - expected).max(),
            }
            for peer in PEERS
        ]
    return pd.DataFrame(rows)


def as_they_come(model: BERTEmotionClassifier, texts: list[str], size: int) -> np.ndarray:
    """Logits (N, L) of batches in the order of the texts, padded to the longest of each."""
    run, found = eager_pass(model), []
    for start in range(0, len(texts), size):
        encoded = [encode(model.tokenizer, text) for text in texts[start : start + size]]
        batch = model.tokenizer.pad(encoded, return_tensors="np")
        found.append(run(batch["input_ids"], batch["attention_mask"]))
    return np.concatenate(found)


if __name__ == "__main__":
    main()
