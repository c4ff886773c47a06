"""Train divided into folds of whole groups, for models that say what they think of unseen memes."""

from collections.abc import Sequence

import numpy as np
from sklearn.model_selection import StratifiedGroupKFold

from lib.config import Settings
from lib.data.datasets import MemeShards, shard_paths


def folds_of_train(settings: Settings) -> np.ndarray:
    """The fold of each packed train meme, ints (N,): whole groups, labels in proportion.

    Raises ValueError if a label or the groups are too few for the folds.
    """
    memes = MemeShards(shard_paths(settings.shards, "train"), pictures=False)
    return assign_folds(memes.labels, memes.groups, settings.folds, settings.seed)


def assign_folds(labels: Sequence[int], groups: Sequence[str], folds: int, seed: int) -> np.ndarray:
    """The fold of each of N memes, ints (N,): whole groups, labels in proportion.

    Raises ValueError if a class has fewer groups than there are folds, or a fold would leave one
    class only to train on.
    """
    y = np.asarray(labels)
    for label in (0, 1):
        n = len({group for group, own in zip(groups, y, strict=True) if own == label})
        if n < folds:
            raise ValueError(
                f"fusion_features needs {folds} groups of label {label} in train, one a fold, and "
                f"there are {n}: set fusion_features=experts" + f", or folds={n}" * (n > 1)
            )
    fold = np.zeros(len(y), dtype=int)
    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    for k, (_, held) in enumerate(splitter.split(y, y, groups)):
        fold[held] = k
    for k in range(folds):
        if len(set(y[fold != k])) < 2:
            raise ValueError(
                f"without fold {k} train has one label only; set fusion_features=experts"
            )
    return fold


def head_rows(settings: Settings) -> np.ndarray:
    """With "held_out" the rows of train that the head learns from: `richest_fold`."""
    memes = MemeShards(shard_paths(settings.shards, "train"), pictures=False)
    fold = assign_folds(memes.labels, memes.groups, settings.folds, settings.seed)
    return np.flatnonzero(fold == richest_fold(memes.labels, memes.groups, fold))


def check_examples_left(rows: Sequence[int], name: str, settings: Settings) -> None:
    """Raise ValueError if an expert that is not shown one fold is left no example, `rows`."""
    if not rows:
        raise ValueError(
            f"all train memes with a picture are in one of {settings.folds} folds, so that the "
            f"{name} of the others has none to learn from; give more pictures that share nothing, "
            "or set fusion_features=experts"
        )


def richest_fold(labels: Sequence[int], groups: Sequence[str], fold: np.ndarray) -> int:
    """The fold of both labels that has most groups, each counted by its share, or the first such.

    That is 1 / sum of the squared shares (Simpson 1949, Measurement of diversity): a fold may be
    one large group of near duplicates and little else, of which a head would learn one template.
    Raises ValueError if no fold has both labels.
    """
    y, names = np.asarray(labels), np.asarray(groups)
    both = [k for k in range(fold.max() + 1) if len(set(y[fold == k])) == 2]
    if not both:
        raise ValueError(
            "no fold of train has memes of both labels, which a head needs to learn from; set "
            "fusion_features=experts, or fewer folds"
        )
    shares = [np.unique(names[fold == k], return_counts=True)[1] / (fold == k).sum() for k in both]
    return both[int(np.argmax([1 / (share**2).sum() for share in shares]))]
