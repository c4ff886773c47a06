"""A user's text and picture as the models are shown them: read, checked, letterboxed.

Every door goes through here: the same meme is the same input, and the same error, behind each.
"""

from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias

from PIL import Image

from lib.data.pictures import blank_picture, letterbox, load_picture
from lib.data.text import packed, words_of

Picture: TypeAlias = str | Path | bytes | Image.Image

# Characters; models read the first 128 tokens at most, and a longer text is none of a meme.
MOST_TEXT = 20_000
# Characters: what the markers and the language of a packed text come to at most.
_MOST_MARKERS = 64


class Meme(NamedTuple):
    """A meme that the models can be shown.

    `text` has the packed form, `image` is RGB and letterboxed, plain grey where there is none.
    `text_from` says whether the text was given or read off the picture.
    """

    text: str
    image: Image.Image
    text_from: Literal["given", "picture"]

    @property
    def words(self) -> str:
        """The overlaid text without the markers of the packed form."""
        return words_of(self.text)


def read_meme(text: str | None, picture: Picture | None) -> Meme:
    """Read a meme; without a text (None) it is read off the picture.

    `picture` is a file's path, its content as bytes, or a PIL image. A text that begins with
    `[OCR]` is in the packed form already.
    Raises FileNotFoundError naming a picture that is not there, and ValueError saying what is wrong
    with the text, with the picture, or that there is neither; also where a text is to be read and
    the extra `ocr` is not installed.
    """
    if text is not None:
        _check(text)
    if picture is None and not (text or "").strip():
        raise ValueError("neither text nor picture: give at least one of them")
    if not isinstance(picture, str | PathLike | bytes | Image.Image | None):
        raise ValueError(
            f"the picture is {type(picture).__name__}, expected a path, bytes or a PIL image, or "
            "None where there is none"
        )
    if picture is None:
        return Meme(packed(text or ""), blank_picture(), "given")
    image = load_picture(picture)
    if text is not None:
        return Meme(packed(text), letterbox(image), "given")
    # Here, since whoever gives the texts needs nothing of what reads them.
    from lib.data.ocr import read_text

    return Meme(packed(read_text(image)), letterbox(image), "picture")


def packed_texts(texts: Sequence[str | None]) -> list[str] | None:
    """The packed form of texts as `read_meme` gives it; None if it would read or refuse any."""
    try:
        for text in texts:
            _check(text)
    except ValueError:
        return None
    return [packed(text or "") for text in texts]


def length_of(text: str) -> int:
    """The characters of a text that `MOST_TEXT` limits: a packed one counts as it did unpacked."""
    if not text.startswith("[OCR]"):
        return len(text)
    # Else a text of nothing but markers or blanks would have no length at all.
    least = len(text) - _MOST_MARKERS
    return least if least > MOST_TEXT else max(least, len(words_of(text)))


def _check(text: str | None) -> None:
    if not isinstance(text, str):
        raise ValueError(f"text is {type(text).__name__}, expected a string, or None to read it")
    if (length := length_of(text)) > MOST_TEXT:
        raise ValueError(f"text has {length:,} characters; at most {MOST_TEXT:,} are taken")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"text is not valid Unicode: half a character (a lone surrogate) at {error.start}"
        ) from None
