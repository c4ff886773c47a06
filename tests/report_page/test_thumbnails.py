import base64
import io

from PIL import Image

from lib.data.datasets import MemeShards, shard_paths
from lib.report_page.thumbnails import SIDE, data_uri, thumbnails


def test_a_picture_is_a_small_webp_of_its_shape():
    uri = data_uri(Image.new("RGBA", (800, 400), "red"))
    head, _, body = uri.partition(",")
    picture = Image.open(io.BytesIO(base64.b64decode(body)))
    assert head == "data:image/webp;base64" and picture.size == (SIDE, SIDE // 2)
    assert len(uri) < 1000


def test_the_first_memes_with_a_picture_are_taken(run):
    ids = MemeShards(shard_paths(run.shards, "test"), pictures=False).ids
    without = ids.index("test1")
    places = [without, 5, 0, 9]
    assert list(thumbnails(run, places, [ids[k] for k in places], most=2)) == [1, 2]
