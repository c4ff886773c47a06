"""The training memes nearest to a meme, by the features that fusion's encoders see in both.

Near is what `lib.modeling.stacking.Neighbours` calls so: text and picture features are centred by
the mean of the training memes, scaled to length 1 and put side by side; the cosine is that of the
whole. Features come from the cache of Steps 5 and 6, and nothing is encoded here.
"""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from lib.commands import again
from lib.config import Settings
from lib.data.datasets import shard_paths
from lib.modeling.device import default_device
from lib.modeling.feature_cache import FeatureCache
from lib.modeling.features import Features, encode_shards
from lib.modeling.fusion import FusionModel, load_fusion
from lib.modeling.stacking import SPACE, Neighbours

NEAREST = 3
COLUMNS = tuple(
    f"nearest_{place}_{what}"
    for place in range(1, NEAREST + 1)
    for what in ("id", "label", "cosine")
)

# Training memes that are compared with each meme, every so many of them (shards are in random
# order): at most `MOST`, and fewer where there would be more than `PAIRS` pairs, some 10 s on two
# cores, but never under `LEAST`.
MOST, LEAST = 20_000, 1_000
PAIRS = 500_000_000

# Cosines are kept to four digits: further ones depend on how many memes are compared at a time.
DIGITS = 4
_ROWS = 1024


class NearestMemes:
    """The `NEAREST` training memes to each meme of a split, of at most `most` that are compared.

    By default those are as many as `compared_with` says.
    """

    def __init__(self, train: Features, memes: Features, most: int | None = None) -> None:
        n = min(most or compared_with(len(memes)), len(train))
        self._kept = np.arange(n) * len(train) // n
        self._memes, self._ids = memes, [train.ids[row] for row in self._kept]
        text, vision = (train.arrays[name][self._kept] for name in SPACE)
        labels = train.labels[torch.from_numpy(self._kept)]
        self._labels = labels.numpy()
        self._neighbours = Neighbours(n, text.shape[1], vision.shape[1])
        self._neighbours.to(default_device())
        self._neighbours.keep(text, vision, labels)

    def frame(self, ids: Sequence[str], start: int) -> pd.DataFrame:
        """`COLUMNS` of the memes `ids` (N,), which stand from row `start` on; never a meme itself.

        Where there are fewer training memes, the last columns are empty. Raises ValueError where
        the cached features are of other memes.
        """
        if self._memes.ids[start : start + len(ids)] != list(ids):
            raise ValueError(
                f"the cached features are not of the predicted memes; evaluate again: {again(6)}"
            )
        parts = [
            self._nearest(slice(begin, min(begin + _ROWS, start + len(ids))))
            for begin in range(start, start + len(ids), _ROWS)
        ]
        return pd.concat(parts, ignore_index=True)

    def _nearest(self, rows: slice) -> pd.DataFrame:
        text, vision = (self._memes.arrays[name][rows] for name in SPACE)
        cosines, places = self._neighbours.nearest(text, vision, NEAREST + 1)
        own = np.array(self._memes.ids[rows], dtype=object)
        found = np.array(self._ids, dtype=object)[places]
        # A stable sort moves the meme itself behind the others, which keep their order.
        order = np.argsort(found == own[:, None], axis=1, kind="stable")[:, :NEAREST]
        itself = np.take_along_axis(found, order, 1) == own[:, None]
        columns: dict[str, Any] = {}
        for rank in range(NEAREST):
            if rank >= order.shape[1]:
                columns |= dict.fromkeys(COLUMNS[3 * rank : 3 * rank + 3], np.nan)
                continue
            at = (np.arange(len(own)), order[:, rank])
            values = (found[at], self._labels[places[at]], cosines[at].astype(float).round(DIGITS))
            for name, value in zip(COLUMNS[3 * rank :], values, strict=False):
                columns[name] = pd.Series(value).mask(itself[:, rank])
        return pd.DataFrame(columns, index=range(len(own)))[list(COLUMNS)]


def nearest_memes(settings: Settings) -> NearestMemes | None:
    """The nearest training memes of the reported split; None, with a warning, where the cache has
    not all features or the models are missing or not those they were trained with."""
    try:
        fusion = load_fusion(settings.models)
    except (OSError, ValueError) as error:
        _warn(str(error))
        return None
    splits = dict.fromkeys(("train", settings.report_split))
    found = {}
    for split in splits:
        shards = shard_paths(settings.shards, split)
        if not all_cached(settings, fusion, shards):
            _warn(f"the features of '{split}' are not cached; evaluate again: {again(6)}")
            return None
        found[split] = features_of(settings, fusion, shards)
    return NearestMemes(found["train"], found[settings.report_split])


def compared_with(memes: int) -> int:
    """How many training memes so many memes are compared with at most."""
    return max(LEAST, min(MOST, PAIRS // max(memes, 1)))


def all_cached(settings: Settings, fusion: FusionModel, shards: Sequence[Path]) -> bool:
    """Whether the cache has what fusion's encoders see in the memes of all these shards."""
    cache = FeatureCache(settings.features, fusion.encoders, shards, fusion.head.reads_tokens)
    return all(cache.file(name, s).exists() for name in fusion.encoders.sources for s in shards)


def features_of(settings: Settings, fusion: FusionModel, shards: Sequence[Path]) -> Features:
    """What fusion's encoders see in these shards' memes; what is not cached is encoded."""
    return encode_shards(
        shards,
        fusion.encoders,
        settings.features,
        fusion.head.reads_tokens,
        workers=settings.workers,
    )


def _warn(reason: str) -> None:
    warnings.warn(f"the nearest training memes are left out: {reason}", stacklevel=3)
