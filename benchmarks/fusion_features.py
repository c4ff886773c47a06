"""Which fusion head wins on real memes, and what it has to learn from: every head, four ways.

    python benchmarks/fusion_features.py --data DIR [--root DIR] [--ways WAY ...]

DIR and root are as for real_memes.py, whose packed memes and experts of the first seed are taken up
where they lie there already. Each way of `fusion_features` has encoders and training features of
its own; on them every head without token states is trained, as Step 5 would. "held_out" has experts
of its own too, trained without the memes that its heads learn from. "out_of_fold_altered" is
out-of-fold with `altered_pictures`: the heads learn from every training meme twice, the second time
with a noisy, blurred, coarse or badly compressed picture. With `--ways` the rows of the others stay
in the table. The rival is always the text expert trained on all of train, which a user would serve
else.

Writes results/fusion_features.csv, a row a way and head: the calibrated loss on the half of val
that selects, by which "auto" chooses; AUROC on test and on val and test together, and what it is
above the text expert's, with paired intervals that resample groups.
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
from real_memes import settings_of, share_what_no_seed_changes, trained_predictions
from sklearn.metrics import roc_auc_score
from tqdm import tqdm

from lib.artifacts import write_csv
from lib.calibration import bootstrap_difference, prob_hate
from lib.config import Settings
from lib.data.datasets import shard_paths
from lib.data.sources import examples_for
from lib.modeling.encoders import EXPERTS
from lib.modeling.experts import train_expert
from lib.modeling.features import Features, encode_shards
from lib.modeling.fusion_inputs import encode_for_fusion, load_encoders
from lib.modeling.fusion_training import candidates, fusion_config, head_scores, train_fusion
from lib.modeling.heads import FusionHead
from lib.modeling.predictions import feature_logits

RESULTS = Path(__file__).parent / "results/fusion_features.csv"
WAYS = {
    "experts": {"fusion_features": "experts"},
    "out_of_fold": {"fusion_features": "out_of_fold"},
    "out_of_fold_altered": {"fusion_features": "out_of_fold", "altered_pictures": True},
    "held_out": {"fusion_features": "held_out"},
}
JUDGED = {"test": ("test",), "val_and_test": ("val", "test")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--root", type=Path, default=Settings().root / "runs/real_memes")
    parser.add_argument("--ways", nargs="+", choices=list(WAYS), default=list(WAYS))
    options = parser.parse_args()
    first = settings_of(options, "seed-0", model_seed=0)
    predictions = trained_predictions(first, examples_for(first))
    rival = {split: rows for split, rows in predictions.groupby("split", sort=False)}
    rows = [
        row
        for way in options.ways
        for row in heads_of(way, settings_for(way, first, options), rival)
    ]
    table = with_rows_kept(pd.DataFrame(rows))
    write_csv(RESULTS, table)
    print(table.to_string(index=False, float_format="%.3f"))


def with_rows_kept(table: pd.DataFrame) -> pd.DataFrame:
    """The new rows among those of the ways that were not measured this time, in the ways' order."""
    if RESULTS.exists():
        kept = pd.read_csv(RESULTS)
        table = pd.concat([kept[~kept["features"].isin(table["features"])], table])
    return table.sort_values("features", key=lambda way: way.map(list(WAYS).index), kind="stable")


def settings_for(way: str, first: Settings, options: argparse.Namespace) -> Settings:
    """The settings of a way; its experts are trained if they are not those of the first run."""
    if way != "held_out":
        return first.model_copy(update=WAYS[way])
    settings = settings_of(options, way, model_seed=0).model_copy(update=WAYS[way])
    share_what_no_seed_changes(first, settings)
    for name in EXPERTS:
        if not (settings.model_folder(name) / "made_from.json").exists():
            train_expert(name, settings)
    return settings


def heads_of(way: str, settings: Settings, rival: dict[str, pd.DataFrame]) -> list[dict]:
    """A row a head, trained and judged as Steps 5 and 6 do."""
    encoders = load_encoders(settings)
    train, val = encode_for_fusion(settings, encoders)
    seen = {
        split: encode_shards(shard_paths(settings.shards, split), encoders, settings.features)
        for split in JUDGED["val_and_test"]
    }
    rows = []
    for choice in tqdm(candidates(train), desc=way):
        config = fusion_config(train, settings, **choice)
        trained = train_fusion(train, config, settings, val, bar=False)
        row = {"features": way, **choice, "memes_learned_from": len(train)}
        row |= {"loss_on_select": head_scores(trained.head, val)["calibrated_loss"]}
        rows.append(row | against_text(trained.head, seen, rival))
    return rows


def against_text(
    head: FusionHead, seen: dict[str, Features], rival: dict[str, pd.DataFrame]
) -> dict:
    """AUROC of a head, and what it is above the text expert's, on test and on val and test."""
    prob = {
        split: prob_hate(feature_logits(head, found)["mm_fusion"]) for split, found in seen.items()
    }
    row = {}
    for name, splits in JUDGED.items():
        memes = pd.concat([rival[split] for split in splits])
        own = np.concatenate([prob[split] for split in splits])
        columns = ["text_expert_logit_0", "text_expert_logit_1"]
        text = prob_hate(memes[columns].to_numpy())
        y, groups = memes["label"].to_numpy(), memes["group"].to_numpy()
        gap = bootstrap_difference(own, text, y, "auroc", groups=groups)
        row |= {f"auroc_{name}": roc_auc_score(y, own), f"minus_text_{name}": gap.point}
        row |= {f"minus_text_{name}_low": gap.low, f"minus_text_{name}_high": gap.high}
    return row


if __name__ == "__main__":
    main()
