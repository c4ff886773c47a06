"""A few packed memes as files, for the demonstration of Step 8."""

from itertools import islice
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from lib.config import Settings
from lib.data.datasets import MemeShards, shard_paths
from lib.serving.memes import MOST_TEXT, length_of


class Demo(NamedTuple):
    """A few memes as a user would have them: a picture file and its text."""

    text: list[str]
    image_path: list[Path]
    image: list[Image.Image]


def demo_memes(settings: Settings, n: int = 6) -> Demo:
    """Save the pictures of the first n packed memes to `Step_8/demo/` and return them.

    Memes with a longer text than `predict` takes are passed over.
    """
    memes = MemeShards(shard_paths(settings.shards, settings.report_split))
    every = (memes[place] for place in range(len(memes)))
    short = (sample for sample in every if length_of(sample["text"]) <= MOST_TEXT)
    samples = list(islice(short, n))
    folder = settings.root / "Step_8" / "demo"
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{place}.png" for place in range(len(samples))]
    for path, sample in zip(paths, samples, strict=True):
        sample["image"].save(path)
    return Demo([s["text"] for s in samples], paths, [s["image"] for s in samples])
