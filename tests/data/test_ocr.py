"""What is read off a picture, offline, and what is said without the extra."""

import re
import socket
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import matplotlib
import pytest
from PIL import Image, ImageDraw, ImageFont

from lib.data import ocr
from lib.data.confounders.design import generate
from lib.data.ocr import read_text
from lib.serving.memes import read_meme

pytest.importorskip("rapidocr", reason="the extra ocr is not installed")
FONT = Path(matplotlib.get_data_path(), "fonts/ttf/DejaVuSans-Bold.ttf")


def sign(*lines: tuple[tuple[int, int], str], size: tuple[int, int] = (480, 360), height: int = 30):
    picture = Image.new("RGB", size, (90, 120, 160))
    draw = ImageDraw.Draw(picture)
    for place, line in lines:
        draw.text(place, line, font=ImageFont.truetype(FONT, height), fill="white")
    return picture


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def refuse(*_):
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def test_the_words_of_a_generated_meme_are_read_and_stay_the_same_in_threads(capfd):
    meme = generate(1, seed=3)[0]
    picture = meme.image()
    with ThreadPoolExecutor(2) as threads:
        texts = list(threads.map(read_text, [picture, picture]))
    assert [text.lower() for text in texts] == [meme.ocr.lower()] * 2
    assert capfd.readouterr() == ("", "")


def test_lines_are_in_reading_order_and_the_stamp_of_a_site_is_left_out():
    picture = sign(
        ((10, 10), "FIRST LEFT"),
        ((270, 14), "THEN RIGHT"),
        ((60, 200), "AND BELOW"),
        ((20, 320), "memes.example.com"),
    )
    assert read_text(picture) == "FIRST LEFT THEN RIGHT AND BELOW"


def test_two_panels_are_read_one_after_the_other():
    picture = sign(
        *(((10, 20 + 36 * row), word) for row, word in enumerate(["one day", "the cat"])),
        *(((280, 20 + 36 * row), word) for row, word in enumerate(["came to", "the dog"])),
    )
    assert read_text(picture).lower() == "one day the cat came to the dog"


@pytest.mark.parametrize("size", [(1, 1), (3, 2000), (64, 48), (5000, 1), (1, 3000)])
def test_a_picture_without_words_has_an_empty_text(size):
    assert read_text(Image.new("RGB", size, "white")) == ""


def test_a_large_picture_is_read_in_a_smaller_size():
    picture = sign(((300, 300), "WRITTEN LARGE"), size=(4000, 3000), height=300)
    assert read_text(picture) == "WRITTEN LARGE"


def test_a_text_read_off_the_picture_is_said_to_be():
    meme = read_meme(None, sign(((20, 40), "MONDAY AGAIN")))
    assert (meme.words, meme.text_from) == ("MONDAY AGAIN", "picture")


def test_without_the_extra_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "rapidocr", None)
    ocr.engine_of_ocr.cache_clear()
    with pytest.raises(ValueError, match=re.escape("pip install 'calibrated-memes[ocr]'")):
        read_text(Image.new("RGB", (64, 64)))
    ocr.engine_of_ocr.cache_clear()


def test_a_model_that_is_not_packaged_is_no_reason_to_download(monkeypatch, tmp_path):
    with pytest.raises(ValueError, match=r"has no model \*_det_\*\.onnx; install it again"):
        ocr._packaged(tmp_path, "det")
