"""Changes to a meme's text or picture at three severities. To add one, add it to its table."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lib.data import picture_attacks as pictures
from lib.data import text_attacks as texts

SEVERITIES = (1, 2, 3)

# The shares of words that an accident hits, and a trick, which is used all through a text at worst.
ACCIDENT, TRICK = (0.1, 0.25, 0.5), (0.25, 0.5, 1.0)

# Those edited under its old name are others.
CODE = tuple(Path(str(file)) for file in (texts.__file__, pictures.__file__, __file__))


@dataclass(frozen=True)
class Perturbation:
    """A change of a text or picture: `change(item, rng, level)`.

    `levels` are by severity; what has no degrees stands at the last one alone. What takes the
    meaning away may change the label of a meme, and is judged apart.
    """

    change: Callable[[Any, np.random.Generator, float], Any]
    levels: Mapping[int, float]
    may_change_label: bool = False

    def __call__(self, item: Any, rng: np.random.Generator, severity: int) -> Any:
        return self.change(item, rng, self.levels[severity])


def _by_severity(change: Callable[..., Any], *levels: float, label: bool = False) -> Perturbation:
    return Perturbation(change, dict(zip(SEVERITIES, levels, strict=True)), label)


def _nothing_left(text: str, rng: np.random.Generator, share: float) -> str:
    return " ".join(word for word in text.split() if texts.is_marker(word))


TEXT_PERTURBATIONS: dict[str, Perturbation] = {
    "text: typos": _by_severity(texts.typos, *ACCIDENT),
    "text: misread": _by_severity(texts.misreadings, *ACCIDENT),
    "text: words joined": _by_severity(texts.joined_words, *ACCIDENT),
    "text: watermark": _by_severity(texts.watermark, 1, 2, 4),
    "text: case": _by_severity(texts.changed_case, *TRICK),
    "text: homoglyphs": _by_severity(texts.homoglyphs, *TRICK),
    "text: leetspeak": _by_severity(texts.leetspeak, *TRICK),
    "text: zero-width": _by_severity(texts.zero_width, *TRICK),
    "text: letters spaced": _by_severity(texts.spaced_letters, *TRICK),
    "text: words lost": _by_severity(texts.lost_words, *ACCIDENT, label=True),
    "text: removed": Perturbation(_nothing_left, {3: 1.0}, may_change_label=True),
}
IMAGE_PERTURBATIONS: dict[str, Perturbation] = {
    "image: JPEG": _by_severity(pictures.jpeg, 25, 15, 7),
    "image: blur": _by_severity(pictures.blur, 1, 3, 6),
    "image: noise": _by_severity(pictures.noise, 0.08, 0.18, 0.38),
    "image: brightness": _by_severity(pictures.brightness, 0.1, 0.3, 0.5),
    "image: resize": _by_severity(pictures.resize, 0.6, 0.4, 0.25),
    "image: crop": _by_severity(pictures.crop, 0.05, 0.1, 0.2),
    "image: flip": _by_severity(pictures.flip, 1, 2, 3),
    "image: screenshot": _by_severity(pictures.screenshot, 0.1, 0.2, 0.4),
    "image: caption": _by_severity(pictures.caption, 0.1, 0.2, 0.3),
    "image: grey": _by_severity(pictures.grey, 1 / 3, 2 / 3, 1, label=True),
    "image: removed": Perturbation(pictures.removed, {3: 1.0}, may_change_label=True),
}
