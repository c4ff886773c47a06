"""Pairs of memes of which one is hateful and the other is not: does the hateful one score higher?

Memes of the same text need the picture to be told apart, memes of the same picture the text: the
benign confounders of Kiela et al. (2020), "The Hateful Memes Challenge". A pair is won where the
hateful meme has the greater difference of logits, and half won where both are equal; pair accuracy
is the share that is won, over all pairs of a hateful and a harmless meme.

    same text     equal packed texts that have words
    same picture  generated memes: the same pictogram of a group; other memes: pictures of one group
                  whose perceptual hashes differ by at most 6 of 64 bits, directly or by others

The text expert reads the text alone, so that its score of a text is the mean over all memes that
have it (batches of other lengths change the last digits): on same-text pairs it is right in
exactly one half. Intervals are over resampled groups.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from tqdm import tqdm

from lib.calibration import Interval
from lib.calibration.intervals import draw_units, interval_of
from lib.config import MODELS
from lib.data.datasets import MemeShards
from lib.data.near_duplicates import near_groups
from lib.data.pictures import picture_hash
from lib.data.text import words_of
from lib.decisions.resampled_counts import rates
from lib.modeling.prediction_table import FEWEST_GROUPS, logits_of

KINDS = ("same text", "same picture")

# Under so many pairs their share says too little.
PAIR_MINIMUM = 30

# To hash a picture takes some 5 ms; of more the groups that come first are looked at.
MOST_HASHED = 1_000

COLUMNS = ("kind", "model", "pairs", "groups", "pair_accuracy", "low", "high", "verdict")


def pair_table(frame: pd.DataFrame, memes: MemeShards, seed: int = 0) -> pd.DataFrame:
    """Pair accuracy of the three models on both kinds of pairs, `COLUMNS`.

    `frame` holds the predictions of `memes`, in this order. Under 30 pairs the verdict is
    "insufficient" and there is no accuracy; among fewer than ten groups there is no interval.
    """
    texts = memes.texts
    keys = dict(zip(KINDS, (text_keys(texts), picture_keys(memes)), strict=True))
    rows = []
    for kind, key in keys.items():
        for model in MODELS:
            score = _scores(frame, model, texts)
            rows.append({"kind": kind, "model": model} | _row(frame, score, key, seed))
    return pd.DataFrame(rows, columns=list(COLUMNS))


def text_keys(texts: Sequence[str]) -> np.ndarray:
    """The number, int (N,), that memes of the same text share; -1 where there are no words."""
    words = np.array([bool(words_of(text)) for text in texts], dtype=bool)
    return np.where(words, pd.factorize(np.array(texts, dtype=object))[0], -1)


def picture_keys(memes: MemeShards) -> np.ndarray:
    """The number, int (N,), that memes of the same picture share; -1 where it is not known.

    A perceptual hash is taken only of pictures of groups that hold both labels.
    """
    groups, labels, metas = np.array(memes.groups), np.array(memes.labels), memes.metas
    drawn = [(g, m["pictogram"]) if "pictogram" in m else None for g, m in _each(groups, metas)]
    keys = pd.factorize(pd.Series(drawn, dtype=object))[0].astype(np.int64)
    both = pd.Series(labels).groupby(groups).transform("nunique").to_numpy() > 1
    pictured = np.zeros(len(groups), dtype=bool)
    pictured[memes.with_picture] = True
    rest = np.flatnonzero((keys < 0) & both & pictured)
    # Whole groups, in the order of their first meme.
    order = np.argsort(pd.factorize(groups[rest])[0], kind="stable")[:MOST_HASHED]
    rows = rest[order]
    hashes = [picture_hash(memes[row]["image"]) for row in tqdm(rows, "hashing", delay=2)]
    seen = np.array([found is not None for found in hashes], dtype=bool)
    near = near_groups(np.array([found for found in hashes if found is not None], dtype=np.uint64))
    pair = pd.MultiIndex.from_arrays([near, groups[rows[seen]]])
    keys[rows[seen]] = keys.max(initial=-1) + 1 + pd.factorize(pair)[0]
    return keys


def pair_accuracy(
    score: np.ndarray, labels: np.ndarray, key: np.ndarray, groups: np.ndarray, seed: int = 0
) -> tuple[Interval, int, int]:
    """Pair accuracy with its interval, the number of pairs, and of groups that have some.

    `score` (N,) is to be higher where `labels` (N,) is 1; pairs are of equal `key` (N,), -1 is
    none. A pair belongs to the group of its key's first meme. Without pairs all is NaN.
    """
    table = pd.DataFrame({"score": score, "label": labels, "key": key, "group": groups})
    table = table[table["key"] >= 0]
    # Mann and Whitney's U of each key, from ranks among its memes.
    ranks = table.groupby("key")["score"].rank()
    by_key = table.assign(rank=ranks.where(table["label"] == 1, 0.0)).groupby("key")
    n, hateful = by_key["label"].size(), by_key["label"].sum()
    pairs = (hateful * (n - hateful)).to_numpy()
    won = (by_key["rank"].sum() - hateful * (hateful + 1) / 2).to_numpy()
    of_group = pd.DataFrame({"group": by_key["group"].first(), "won": won, "pairs": pairs})
    sums = of_group[of_group["pairs"] > 0].groupby("group")[["won", "pairs"]].sum()
    return _interval(sums.to_numpy(float), seed), int(pairs.sum()), len(sums)


def _interval(sums: np.ndarray, seed: int, n_resamples: int = 1000) -> Interval:
    """Won pairs over all pairs from both (G, 2) of each group, which are resampled.

    Where all are won, or none, the interval is that of `rates`.
    """
    if not len(sums):
        return Interval(np.nan, np.nan, np.nan)
    point = float(sums[:, 0].sum() / sums[:, 1].sum())
    if len(sums) < FEWEST_GROUPS:
        return Interval(point, np.nan, np.nan)
    rng = np.random.Generator(np.random.SFC64(seed))
    drawn = [counts @ sums for counts in draw_units(len(sums), n_resamples, rng)]
    won, pairs = np.concatenate([sums.sum(axis=0, keepdims=True), *drawn]).T
    return interval_of(point, rates(won, pairs, len(sums), seed=seed)[1:], 0.95)


def _row(frame: pd.DataFrame, score: np.ndarray, key: np.ndarray, seed: int) -> dict[str, Any]:
    labels, groups = frame["label"].to_numpy(), frame["group"].to_numpy()
    found, pairs, of_groups = pair_accuracy(score, labels, key, groups, seed)
    row = {"pairs": pairs, "groups": of_groups}
    if pairs < PAIR_MINIMUM:
        return row | {"verdict": "insufficient"}
    ends = {"pair_accuracy": found.point, "low": found.low, "high": found.high}
    return row | ends | {"verdict": ""}


def _scores(frame: pd.DataFrame, model: str, texts: Sequence[str]) -> np.ndarray:
    """The difference of a model's logits (N,), the text expert's one number a text."""
    logits = logits_of(frame, model).to_numpy()
    margin = pd.Series(logits[:, 1] - logits[:, 0])
    if model == "text_expert":
        margin = margin.groupby(np.array(texts, dtype=object)).transform("mean")
    return margin.to_numpy()


def _each(groups: np.ndarray, metas: Sequence[Mapping[str, Any]]) -> Any:
    return zip(groups.tolist(), metas, strict=True)
