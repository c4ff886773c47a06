import numpy as np
import pytest
from PIL import Image

from lib.data.altered_pictures import ALTERATIONS, altered
from lib.data.pictures import blank_picture


@pytest.fixture
def picture():
    pixels = np.random.default_rng(0).integers(0, 255, (12, 16, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize((64, 48))


def test_a_meme_is_altered_alike_whenever_it_is_met(picture):
    sample = {"id": "m1", "text": "again", "image": picture, "label": 1}
    one, again = altered(sample), altered(sample)
    assert one["image"].tobytes() == again["image"].tobytes() != picture.tobytes()
    assert (one["image"].size, one["image"].mode) == (picture.size, "RGB")
    assert sample["image"] is picture
    assert {k: one[k] for k in ("id", "text", "label")} == {"id": "m1", "text": "again", "label": 1}


def test_other_memes_are_altered_otherwise_by_all_there_is(picture, monkeypatch):
    met = []
    watched = {
        lambda image, rng, level, change=change: met.append((change, level)) or image: levels
        for change, levels in ALTERATIONS.items()
    }
    monkeypatch.setattr("lib.data.altered_pictures.ALTERATIONS", watched)
    for place in range(200):
        altered({"id": f"m{place}", "image": picture})
    for change, (least, most) in ALTERATIONS.items():
        levels = [level for kind, level in met if kind is change]
        assert 25 < len(levels) < 80
        assert least <= min(levels) < np.mean([least, most]) < max(levels) <= most


def test_what_stands_for_no_picture_stays():
    sample = {"id": "m1", "image": blank_picture()}
    assert altered(sample)["image"].tobytes() == sample["image"].tobytes()
