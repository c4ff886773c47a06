"""Training the text expert in batches of like length against batches as they come.

    python benchmarks/like_lengths.py --data DIR [--root DIR] [--seeds 3]

DIR is as for real_memes.py, whose configuration is trained with but for `max_length` and the
markers, which are as by default: texts of 5 to 128 tokens, most of them read by machines. Two
epochs a side and seed, the sides take turns. Writes results/like_lengths.csv: medians of the
seconds of training alone, their ratio, and AUROC on the carved test with its deviation from seed to
seed.
"""

import argparse
import platform
import tempfile
import time
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from sklearn.metrics import roc_auc_score
from text_recipes import CONFIG, margins
from tqdm import tqdm
from transformers import set_seed

from lib.artifacts import write_csv
from lib.config import Settings
from lib.data.datasets import MemeShards, shard_paths
from lib.data.packing.pack import pack
from lib.data.sources import examples_for
from lib.modeling.encoders import TextEncoder
from lib.modeling.expert_inputs import expert_inputs
from lib.modeling.expert_trainer import make_trainer, train_on

RESULTS = Path(__file__).parent / "results/like_lengths.csv"
SIDES = {"batches as they come": False, "batches of like length": True}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--root", type=Path, default=Settings().root / "runs/text_recipes")
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    given = {"data": options.data, "root": options.root, "max_length": 128, "text_markers": "keep"}
    settings = Settings.from_file(CONFIG, **given)
    if not (settings.shards / "made_from.json").exists():
        pack(examples_for(settings), settings.step3, mode="full", seed=0, workers=settings.workers)
    test = MemeShards(shard_paths(settings.shards, "test"), pictures=False)
    rows = [
        {"side": name, **trained(settings.model_copy(update={"seed": seed}), like, test)}
        for seed in tqdm(range(options.seeds), desc="seeds")
        for name, like in SIDES.items()
    ]
    table = (
        pd.DataFrame(rows)
        .groupby("side", sort=False)
        .agg(
            seconds=("seconds", "median"),
            auroc=("auroc", "mean"),
            auroc_std=("auroc", lambda found: found.std(ddof=0)),
            seeds=("auroc", "size"),
        )
    )
    table.insert(1, "as_they_come_over_it", table["seconds"].iloc[0] / table["seconds"])
    table = table.reset_index().assign(
        threads=torch.get_num_threads(),
        cpu=platform.machine(),
        versions=" ".join(f"{name} {version(name)}" for name in ("torch", "transformers")),
    )
    write_csv(RESULTS, table)
    print(table.to_string(index=False))


def trained(settings: Settings, like: bool, test: MemeShards) -> dict[str, float]:
    """Seconds of one training, and AUROC on test."""
    set_seed(settings.seed)
    inputs = expert_inputs("text_expert", settings, evaluate=False)
    inputs = inputs if like else replace(inputs, lengths=None)
    with tempfile.TemporaryDirectory() as folder:
        trainer = make_trainer("text_expert", settings, inputs, Path(folder))
        start = time.perf_counter()
        train_on(trainer, None)
        seconds = time.perf_counter() - start
    found = margins(TextEncoder(inputs.model.eval(), inputs.processor), test.texts)
    return {"seconds": seconds, "auroc": roc_auc_score(np.array(test.labels), found)}


if __name__ == "__main__":
    main()
