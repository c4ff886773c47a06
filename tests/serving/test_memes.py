import pytest
from PIL import Image

from lib.data.text import MARKERS, combined_text, packed
from lib.serving.memes import MOST_TEXT, packed_texts, read_meme


def test_texts_that_need_no_reading_are_packed_as_with_their_picture():
    texts = ["monday again", "", "[OCR] soup [/OCR] [CAP] [/CAP] <lang=en>"]
    picture = Image.new("RGB", (8, 8))
    assert packed_texts(texts) == [read_meme(text, picture).text for text in texts]


@pytest.mark.parametrize("text", [None, 3, "\ud800", "a" * (MOST_TEXT + 1)])
def test_one_text_to_be_read_or_refused_leaves_all_to_the_reader(text):
    assert packed_texts(["monday", text]) is None


@pytest.mark.parametrize("length", [MOST_TEXT - 20, MOST_TEXT, MOST_TEXT + 1])
def test_a_text_and_its_packed_form_are_taken_or_refused_alike(length):
    for text in ("x" * length, combined_text("x" * length, lang="zh-Hant-TW")):
        if length <= MOST_TEXT:
            assert read_meme(text, None).text == packed(text)
        else:
            with pytest.raises(ValueError, match="text has 20,001 characters; at most 20,000"):
                read_meme(text, None)


@pytest.mark.parametrize("filling", [*MARKERS, "<lang=en>", "\n", " "])
def test_a_packed_text_has_a_length_without_words_too(filling):
    text = "[OCR] " + f"{filling} " * MOST_TEXT
    with pytest.raises(ValueError, match=r"text has [\d,]+ characters; at most 20,000"):
        read_meme(text, None)
