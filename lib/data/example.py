"""What every reader yields: an example to pack, or a row that was rejected; and lost texts."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image


@dataclass(frozen=True)
class Example:
    """One meme on its way into a shard.

    `image` is a file, a picklable function that draws the picture (generated memes), or None for a
    meme of which there is no picture. `asr` is a transcript of its sound.
    `labels` follow `label_taxonomy.json`. Examples of a data set that share `group` never straddle
    two splits, with `group_spans` those of all data sets; `split` is the publisher's own, None
    where there is none.
    """

    id: str
    dataset: str
    image: Path | Callable[[], Image.Image] | None
    ocr: str
    caption: str
    labels: Mapping[str, Any]
    lang: str = "en"
    group: str | None = None
    split: str | None = None
    extra: Mapping[str, Any] | None = None
    asr: str = ""
    group_spans: bool = False


@dataclass(frozen=True)
class Rejected:
    """A row that no example could be made of: packing counts and lists it.

    `where` names the row to a person ("data_manifest.jsonl:12"); `id` is "" where it has none.
    """

    where: str
    reason: str
    id: str = ""


@dataclass(frozen=True)
class Unmatched:
    """The ids of a file of texts that no meme has, of how many there are in it."""

    file: str
    ids: tuple[str, ...]
    of: int
