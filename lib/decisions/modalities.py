"""Whether the models use both modalities: what they lose when one of them says nothing any more.

Texts or pictures are shuffled among the memes, or each is replaced by a blank one, and the models
judge again at the temperatures and thresholds as they are. Shuffling keeps what a modality looks
like and breaks its tie to the label and to the other modality; it permutes features and encodes
nothing (the permutation importance of Breiman 2001, a modality at a time). A blank text is the
packed text without words, a blank picture the padding's grey: one of each is encoded.
"""

import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch

from lib.artifacts import write_csv
from lib.calibration import bootstrap_difference, classification_metrics, prob_hate
from lib.commands import again
from lib.config import MODELS, Settings
from lib.data.datasets import MemeShards, shard_paths
from lib.data.pictures import blank_picture
from lib.data.text import combined_text
from lib.decisions.bundle import DecisionBundle
from lib.decisions.nearest import features_of
from lib.decisions.pairs import pair_table
from lib.modeling.features import Features
from lib.modeling.fusion import FusionModel, load_fusion
from lib.modeling.prediction_table import groups_of, read_predictions
from lib.modeling.predictions import feature_logits

INTACT = "intact"
CHANGES = ("texts shuffled", "pictures shuffled", "text dropped", "picture dropped")

# Memes that are judged again, of shards spread over the split.
MOST = 3_000

METRICS = ("auroc", "macro_f1")
ENDS = ("lost", "lost_low", "lost_high")
COLUMNS = (
    *("change", "model", "n"),
    *(name for m in METRICS for name in (m, *(f"{m}_{end}" for end in ENDS))),
)


class Modalities(NamedTuple):
    """What shows whether both modalities are used: `pair_table` and `modality_table`."""

    pairs: pd.DataFrame
    effects: pd.DataFrame


def modalities(settings: Settings, decision: DecisionBundle) -> Modalities:
    """Write `pairs_<m>.csv` and `modalities_<m>.csv` of Step 7 for the report split; both tables.

    Features are read from the cache of Step 6; of at most `MOST` memes they are encoded where they
    are not there. Raises FileNotFoundError naming a missing step, and ValueError where predictions
    or models are not those of the packed memes.
    """
    shards = shard_paths(settings.shards, settings.report_split)
    frame = read_predictions(settings, settings.report_split)
    memes = MemeShards(shards)
    if memes.ids != frame["id"].tolist():
        raise ValueError(
            f"the predictions are not of the memes packed in '{settings.report_split}'; "
            f"evaluate again: {again(6)}"
        )
    pairs = pair_table(frame, memes, settings.seed)
    fusion = load_fusion(settings.models)
    features = features_of(settings, fusion, spread(shards, settings.shard_size))
    kept = min(MOST, len(features))
    features = features.take(np.arange(kept) * len(features) // kept)
    rows = np.flatnonzero(frame["id"].isin(set(features.ids)))
    effects = modality_table(fusion, features, frame.iloc[rows], decision, settings.seed)
    write_csv(settings.artifact(7, "pairs.csv"), pairs)
    write_csv(settings.artifact(7, "modalities.csv"), effects)
    return Modalities(pairs, effects)


def spread(shards: list[Path], shard_size: int, most: int = MOST) -> list[Path]:
    """Every so many of the shards, at least one, that together hold at most some `most` memes."""
    n = min(len(shards), max(1, most // shard_size))
    return [shards[row] for row in np.arange(n) * len(shards) // n]


def modality_table(
    fusion: FusionModel,
    features: Features,
    frame: pd.DataFrame,
    decision: DecisionBundle,
    seed: int = 0,
    n_resamples: int = 1000,
) -> pd.DataFrame:
    """The three models on N memes as they are and under each of `CHANGES`, `COLUMNS`.

    `frame` (N,) holds the memes' labels and groups. `<metric>_lost` is how much lower AUROC and
    macro-F1 are than on the intact memes, with the 95% interval of the paired difference over
    resampled groups or memes; what is undefined, for one class only, is empty.
    """
    labels, groups = frame["label"].to_numpy(), groups_of(frame)
    intact = _prob(fusion, features, decision)
    rows = []
    for change in (INTACT, *CHANGES):
        prob = (
            intact
            if change == INTACT
            else _prob(fusion, changed(fusion, features, change, seed), decision)
        )
        for model in MODELS:
            cut = decision.thresholds[model]
            values = _metrics(prob[model], labels, cut)
            row = {"change": change, "model": model, "n": len(labels)} | values
            for metric in METRICS if change != INTACT else ():
                found = bootstrap_difference(
                    intact[model],
                    prob[model],
                    labels,
                    metric,
                    n_resamples,
                    seed,
                    thresholds=(cut, cut),
                    groups=groups,
                )
                names = (f"{metric}_{end}" for end in ENDS)
                row |= dict(zip(names, (found.point, found.low, found.high), strict=True))
            rows.append(row)
    return pd.DataFrame(rows, columns=list(COLUMNS))


def changed(fusion: FusionModel, features: Features, change: str, seed: int = 0) -> Features:
    """The features under one of `CHANGES`; the other modality's stay as they are."""
    modality = "text" if change.startswith("text") else "vision"
    if change.endswith("shuffled"):
        others = features.take(np.random.default_rng(seed).permutation(len(features)))
        arrays = {n: a for n, a in others.arrays.items() if n.startswith(f"{modality}_")}
    else:
        arrays = {n: a.expand(len(features), *a.shape[1:]) for n, a in _blank(fusion, modality)}
    return features.with_arrays(**arrays)


def _blank(fusion: FusionModel, modality: str) -> list[tuple[str, torch.Tensor]]:
    """What the encoders see in one blank text or picture, (1, ...) each."""
    tokens = fusion.head.reads_tokens
    with torch.inference_mode():
        if modality == "text":
            found = fusion.encoders.encode_texts([combined_text("")], tokens)
        else:
            found = fusion.encoders.encode_images([blank_picture()], tokens)
    return [(name, array.cpu()) for name, array in found.items()]


def _prob(
    fusion: FusionModel, features: Features, decision: DecisionBundle
) -> dict[str, np.ndarray]:
    """Calibrated p(hate) (N,) of each model."""
    logits = feature_logits(fusion.head, features)
    return {m: prob_hate(logits[m].double(), decision.temperatures[m]) for m in MODELS}


def _metrics(prob: np.ndarray, labels: np.ndarray, cut: float) -> dict[str, float]:
    with warnings.catch_warnings():
        # Of one class only, which the table leaves empty.
        warnings.simplefilter("ignore")
        found = classification_metrics(prob, labels, cut)
    return {metric: found[metric] for metric in METRICS}
