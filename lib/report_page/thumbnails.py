"""Small pictures of the memes that the page carries, as data URIs."""

import base64
import io
from collections.abc import Sequence

from PIL import Image
from tqdm import tqdm

from lib.commands import again
from lib.config import Settings
from lib.data.datasets import MemeShards, shard_paths

PICTURES = 300
SUSPECTS = 60
# Enough to read most overlaid texts, at some 6 kB each.
SIDE = 240
QUALITY = 55


def thumbnails(
    settings: Settings, places: Sequence[int], ids: Sequence[str], most: int = PICTURES
) -> dict[int, str]:
    """Pictures of the first `most` memes that have one: {number in the page: data URI}.

    `places` are the memes' rows in the reported split, `ids` their ids. Empty where the shards are
    not there. Raises ValueError where the shards hold other memes at these rows.
    """
    try:
        memes = MemeShards(shard_paths(settings.shards, settings.report_split))
    except FileNotFoundError:
        return {}
    pictured = set(memes.with_picture)
    wanted = [(number, row) for number, row in enumerate(places) if row in pictured][:most]
    found = {}
    for number, row in tqdm(wanted, desc="thumbnails", unit=" memes"):
        meme = memes[row]
        if meme["id"] != ids[number]:
            raise ValueError(
                f"{settings.shards / settings.report_split} does not hold the memes of the "
                f"predictions; evaluate again: {again(6)}"
            )
        found[number] = data_uri(meme["image"])
    return found


def suspects_thumbnails(
    settings: Settings, ids: Sequence[str], most: int = SUSPECTS
) -> dict[int, str]:
    """Pictures of the first `most` of these train memes that have one: {place in `ids`: data URI}.

    What is not among the packed train memes has none.
    """
    try:
        memes = MemeShards(shard_paths(settings.shards, "train"))
    except FileNotFoundError:
        return {}
    row_of = {memes.ids[row]: row for row in memes.with_picture} if len(ids) else {}
    wanted = [(place, row_of[each]) for place, each in enumerate(ids) if each in row_of][:most]
    return {place: data_uri(memes[row]["image"]) for place, row in wanted}


def data_uri(picture: Image.Image) -> str:
    """A picture as WebP of at most 240 pixels a side, in a `data:` URI."""
    small = picture.convert("RGB")
    small.thumbnail((SIDE, SIDE))
    written = io.BytesIO()
    small.save(written, "WEBP", quality=QUALITY, method=4)
    return "data:image/webp;base64," + base64.b64encode(written.getvalue()).decode()
