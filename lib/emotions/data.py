"""Texts with their emotions, and the files they come in.

The 28 labels and the file layout are GoEmotions' (Demszky et al. 2020, "GoEmotions: A Dataset of
Fine-Grained Emotions").
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

# label -> how many of the 43,410 training comments of GoEmotions carry it
LABEL_COUNTS = {
    "admiration": 4130,
    "amusement": 2328,
    "anger": 1567,
    "annoyance": 2470,
    "approval": 2939,
    "caring": 1087,
    "confusion": 1368,
    "curiosity": 2191,
    "desire": 641,
    "disappointment": 1269,
    "disapproval": 2022,
    "disgust": 793,
    "embarrassment": 303,
    "excitement": 853,
    "fear": 596,
    "gratitude": 2662,
    "grief": 77,
    "joy": 1452,
    "love": 2086,
    "nervousness": 164,
    "optimism": 1581,
    "pride": 111,
    "realization": 1110,
    "relief": 153,
    "remorse": 545,
    "sadness": 1326,
    "surprise": 1060,
    "neutral": 14219,
}
LABELS = tuple(LABEL_COUNTS)


@dataclass(frozen=True)
class EmotionData:
    """Texts with their emotions: `labels` is multi-hot, shape (N, L), one column per `names`."""

    source: str
    names: tuple[str, ...]
    texts: list[str]
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.texts)

    def take(self, rows: np.ndarray, source: str) -> "EmotionData":
        """Return the rows where the boolean mask (N,) is true, under the name `source`."""
        texts = [text for text, kept in zip(self.texts, rows, strict=True) if kept]
        return replace(self, source=source, texts=texts, labels=self.labels[rows])


def read_labels(path: str | Path) -> tuple[str, ...]:
    """Read `labels.txt`: one label name a line; the line's index is the label's id in the TSV.

    Raises ValueError if the file is empty, has an empty line, or names a label twice.
    """
    names = tuple(line.strip() for line in _lines(Path(path)))
    if not all(names) or not names or len(set(names)) < len(names):
        raise ValueError(f"{path} must name each label once, one a line")
    return names


def read_tsv(path: str | Path, names: Sequence[str] = LABELS) -> EmotionData:
    """Read a GoEmotions file: text, tab, comma-separated label ids, tab, comment id.

    Raises FileNotFoundError, or ValueError naming file and line if a line has not three fields,
    an empty text, or an id that is no index into `names`, or if the file holds no line.
    """
    path = Path(path)
    texts, rows = [], []
    for number, line in enumerate(_lines(path), start=1):
        text, row = _parse(line, len(names), f"{path}, line {number}")
        texts.append(text)
        rows.append(row)
    if not rows:
        raise ValueError(f"{path} is empty; expected lines of text, label ids and comment id")
    return EmotionData(path.name, tuple(names), texts, np.stack(rows))


def _lines(path: Path) -> list[str]:
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; it is one of GoEmotions' TSV files")
    try:
        # Not splitlines(): comments hold line separators that Python would split at.
        lines = path.read_bytes().decode("utf-8").removeprefix("\ufeff").split("\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 (byte {error.start}); convert it first") from None
    return [line.removesuffix("\r") for line in (lines if lines[-1] else lines[:-1])]


def _parse(line: str, n_labels: int, where: str) -> tuple[str, np.ndarray]:
    fields = line.split("\t")
    if len(fields) != 3:
        raise ValueError(
            f"{where}: {len(fields)} tab-separated fields instead of text, label ids, comment id"
        )
    text, ids, _ = fields
    if not text.strip():
        raise ValueError(f"{where}: the text is empty")
    row = np.zeros(n_labels, dtype=np.uint8)
    for item in ids.split(","):
        if not (item.isascii() and item.isdigit()):
            raise ValueError(f"{where}: label id '{item}' is not a number; separate ids by commas")
        if int(item) >= n_labels:
            raise ValueError(f"{where}: label id {item} is out of range 0 to {n_labels - 1}")
        row[int(item)] = 1
    return text, row
