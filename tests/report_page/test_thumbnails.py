import base64
import io

from PIL import Image

from lib.data.datasets import MemeShards, shard_paths
from lib.report_page.thumbnails import SIDE, data_uri, suspects_thumbnails, thumbnails


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


def test_suspects_of_train_are_found_by_their_id(run):
    memes = MemeShards(shard_paths(run.shards, "train"))
    pictured = [memes.ids[row] for row in memes.with_picture]
    asked = ["nowhere", pictured[3], pictured[0], pictured[1]]
    found = suspects_thumbnails(run, asked, most=2)
    assert list(found) == [1, 2]
    assert found[2] == data_uri(memes[memes.with_picture[0]]["image"])
    assert suspects_thumbnails(run, []) == {}
