"""Train, dev and test; dev divided into a half to tune on and a half to report on."""

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np

from lib.emotions.data import LABELS, EmotionData, read_labels, read_tsv
from lib.emotions.generated import generate

SPLITS = ("train", "dev", "tune", "report", "test")


def load_split(data: str | Path | None, split: str, seed: int = 0) -> EmotionData:
    """Return one split of the GoEmotions files in folder `data`, or of the generated set if None.

    "train", "dev" and "test" are the files of that name. "tune" and "report" are the two halves of
    dev: cuts and temperatures are chosen on the one and reported on the other.
    Raises FileNotFoundError if a file is missing and ValueError if `split` is unknown or a line
    is malformed.
    """
    if split not in SPLITS:
        raise ValueError(f"split '{split}' is unknown; choose one of {', '.join(SPLITS)}")
    file = "dev" if split in ("tune", "report") else split
    whole = _generated_split(file, seed) if data is None else _file_split(Path(data), file)
    if file == split:
        return whole
    tuned = _tune_half(whole)
    if tuned.all():
        raise ValueError(f"{whole.source} holds one distinct text; its two halves need one each")
    return whole.take(tuned if split == "tune" else ~tuned, f"{whole.source}, {split} half")


def _file_split(folder: Path, file: str) -> EmotionData:
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is no folder; --data wants one with train.tsv, dev.tsv")
    named = folder / "labels.txt"
    names = read_labels(named) if named.exists() else LABELS
    return read_tsv(folder / f"{file}.tsv", names)


def _tune_half(whole: EmotionData) -> np.ndarray:
    """Deal the distinct texts out to two halves, label by label from the rarest; (N,) booleans.

    Each half so gets half of the few examples of a rare label, and equal texts stay together.
    """
    frequency = whole.labels.sum(axis=0)
    rarest = np.where(whole.labels > 0, frequency, len(whole) + 1).min(axis=1)
    rank: dict[str, tuple[int, str]] = {}
    for text, count in zip(whole.texts, rarest, strict=True):
        key = text.strip().lower()
        rank.setdefault(key, (count, hashlib.sha256(key.encode()).hexdigest()))
    tuned = set(sorted(rank, key=rank.__getitem__)[::2])
    return np.array([text.strip().lower() in tuned for text in whole.texts], dtype=bool)


GENERATED_SIZES = {"train": 1800, "dev": 1200, "test": 1200}


def _generated_split(file: str, seed: int) -> EmotionData:
    seed_of_file = 3 * seed + list(GENERATED_SIZES).index(file)
    made = generate(GENERATED_SIZES[file], seed_of_file)
    return replace(made, source=f"generated sentences, {file}")
