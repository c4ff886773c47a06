"""Readers: one per public data set, each yielding `Example` in the unified label schema."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image


@dataclass(frozen=True)
class Example:
    """One meme on its way into a shard.

    `image` is a file, or a picklable function that draws the picture (generated memes).
    `labels` follow `label_taxonomy.json`. Examples that share `group` never straddle two splits;
    `split` is the publisher's own, None where there is none.
    """

    id: str
    dataset: str
    image: Path | Callable[[], Image.Image]
    ocr: str
    caption: str
    labels: Mapping[str, Any]
    lang: str = "en"
    group: str | None = None
    split: str | None = None
    extra: Mapping[str, Any] | None = None
