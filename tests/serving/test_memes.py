import pytest
from PIL import Image

from lib.serving.memes import MOST_TEXT, packed_texts, read_meme


def test_texts_that_need_no_reading_are_packed_as_with_their_picture():
    texts = ["monday again", "", "[OCR] soup [/OCR] [CAP] [/CAP] <lang=en>"]
    picture = Image.new("RGB", (8, 8))
    assert packed_texts(texts) == [read_meme(text, picture).text for text in texts]


@pytest.mark.parametrize("text", [None, 3, "\ud800", "a" * (MOST_TEXT + 1)])
def test_one_text_to_be_read_or_refused_leaves_all_to_the_reader(text):
    assert packed_texts(["monday", text]) is None
