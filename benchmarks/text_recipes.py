"""How recipes of the text expert differ on real memes, each over five seeds.

    python benchmarks/text_recipes.py --data DIR [--root DIR] [--seeds 5]

DIR is as for real_memes.py, whose configuration is the first recipe; each other one changes the
settings it names. Test is what Step 3 carves, the same for all. Writes results/text_recipes.csv:
AUROC and log-loss on test after temperature scaling on val, the ECE before it, means over the
seeds, and the paired difference in AUROC to the first recipe with a 95% interval over
resampled groups of memes, scores averaged over the seeds. What is trained lies under the root, so
that the same command goes on after a kill.
"""

import argparse
import hashlib
import json
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from lib.artifacts import write_csv
from lib.calibration import (
    bootstrap_difference,
    classification_metrics,
    fit_temperature,
    prob_hate,
)
from lib.config import Settings
from lib.data.datasets import MemeShards, shard_paths
from lib.data.packing.pack import pack
from lib.data.sources import examples_for
from lib.modeling.encoders import TextEncoder
from lib.modeling.experts import expert_job, train_expert
from lib.modeling.model_files import load_expert

RESULTS = Path(__file__).parent / "results"
CONFIG = Path(__file__).parent.parent / "configs/real_memes.yaml"
RECIPES = {
    "as configured": {},
    "one rate for all layers": {"layer_decay": 1.0},
    "label smoothing 0.1": {"label_smoothing": 0.1},
    "class weights": {"class_weights": True},
    "epoch of the least log-loss before calibration": {"select_by": "log_loss"},
    "epoch of the best AUROC": {"select_by": "auroc"},
    "epoch of the best macro-F1": {"select_by": "macro_f1"},
    "3 epochs": {"text_epochs": 3},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--root", type=Path, default=Settings().root / "runs/text_recipes")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--recipes", nargs="+", choices=RECIPES, default=list(RECIPES))
    options = parser.parse_args()
    base = Settings.from_file(CONFIG, data=options.data, root=options.root)
    if not (base.shards / "made_from.json").exists():
        pack(examples_for(base), base.step3, mode="full", seed=0, workers=base.workers)
    splits = ("val", "test")
    memes = {s: MemeShards(shard_paths(base.shards, s), pictures=False) for s in splits}
    runs: dict[str, list[dict[str, np.ndarray]]] = {name: [] for name in options.recipes}
    for seed in tqdm(range(options.seeds), desc="seeds"):
        for name in options.recipes:
            runs[name].append(margins_of(base, name, seed, memes))
        table = rows_of(runs, memes)
        write_csv(RESULTS / "text_recipes.csv", table)
    print(table.to_string(index=False, float_format="%.4f"))


def margins_of(
    base: Settings, name: str, seed: int, memes: dict[str, MemeShards]
) -> dict[str, np.ndarray]:
    """What the expert of a recipe and seed says of val and test, trained where it is missing."""
    changed = {"seed": seed, "overwrite": True, **RECIPES[name]}
    settings = base.model_copy(update=changed)
    job = json.dumps(expert_job("text_expert", settings), sort_keys=True)
    kept = base.root / f"{hashlib.sha256(job.encode()).hexdigest()[:16]}.npz"
    if not kept.exists():
        encoder = TextEncoder(*load_expert(train_expert("text_expert", settings).folder))
        found = {split: margins(encoder, memes[split].texts) for split in memes}
        np.savez(kept, **found)
    return dict(np.load(kept))


@torch.inference_mode()
def margins(encoder: TextEncoder, texts: list[str]) -> np.ndarray:
    """Logit of hate minus that of non-hate, (N,)."""
    parts = []
    for start in range(0, len(texts), 64):
        logits = encoder(encoder.prepare(texts[start : start + 64]), False)["text_logits"]
        parts.append((logits[:, 1] - logits[:, 0]).double().numpy())
    return np.concatenate(parts)


def rows_of(runs: dict[str, list[dict]], memes: dict[str, MemeShards]) -> pd.DataFrame:
    """A row a recipe, as the module says."""
    labels = {split: np.array(memes[split].labels) for split in memes}
    groups = {split: np.array(memes[split].groups) for split in memes}
    rows, averaged = [], {}
    for name, seeds in runs.items():
        judged = []
        for found in seeds:
            t = fit_temperature(found["val"], labels["val"]).temperature
            after, before = (
                classification_metrics(prob_hate(found["test"], at), labels["test"])
                for at in (t, 1.0)
            )
            judged.append(
                {"auroc": after["auroc"], "log_loss": after["nll"], "ece": after["ece"]}
                | {"log_loss_uncalibrated": before["nll"], "ece_uncalibrated": before["ece"]}
            )
        table = pd.DataFrame(judged)
        averaged[name] = {s: np.mean([found[s] for found in seeds], axis=0) for s in memes}
        row = {"recipe": name, "seeds": len(seeds), "n_test": len(labels["test"]), **table.mean()}
        row |= {
            "auroc_std": table["auroc"].std(ddof=0),
            "log_loss_std": table["log_loss"].std(ddof=0),
        }
        first = next(iter(averaged.values()))
        for column, parts in {"auroc_gap": ["test"], "auroc_gap_val_and_test": list(memes)}.items():
            own, base, y, names = (
                np.concatenate([of[split] for split in parts])
                for of in (averaged[name], first, labels, groups)
            )
            gap = bootstrap_difference(prob_hate(own), prob_hate(base), y, "auroc", groups=names)
            row |= {column: gap.point, f"{column}_low": gap.low, f"{column}_high": gap.high}
        rows.append(row)
    return pd.DataFrame(rows)


if __name__ == "__main__":
    warnings.filterwarnings("ignore", message=".*are longer than max_length")
    main()
