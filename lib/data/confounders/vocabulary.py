"""The words and pictograms of the generated memes, read from `vocabulary.yaml`."""

import functools
import json
from importlib import resources
from pathlib import Path

import yaml

_WORDS = yaml.safe_load(
    resources.files(__package__).joinpath("vocabulary.yaml").read_text(encoding="utf-8")
)
PICTOGRAMS: dict[str, list[str]] = _WORDS["pictograms"]
PHRASINGS: dict[str, list[str]] = _WORDS["phrasings"]
TIMES: list[str] = _WORDS["times"]
PLACES: list[str] = _WORDS["places"]
STEMS: list[str] = _WORDS["stems"]
ENDINGS: list[str] = _WORDS["endings"]


def caption_of(pictogram: str) -> str:
    """A caption of a pictogram, made of its search terms."""
    icon = icons()[pictogram]
    name = icon["label"].lower()
    left_out = {name, *_WORDS["left_out_of_captions"]}
    terms = [term for term in icon["search"]["terms"] if term not in left_out]
    return ", ".join([f"a {name}", *terms[:3]])


@functools.cache
def icons() -> dict:
    """The icon package's metadata by the name of the pictogram."""
    return json.loads(fontawesome("metadata/icons.json").read_text(encoding="utf-8"))


def fontawesome(name: str) -> Path:
    """A file of the icon package."""
    return Path(str(resources.files("fontawesomefree"))) / "static/fontawesomefree" / name
