"""One row of an input: what it is called, and where its text and picture are."""

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import NamedTuple, TypeVar

# Rows that are judged together: a killed run loses one such block a worker. Batches of texts of
# like length are made within it, so that answers do not depend on who judges which block.
BLOCK = 64

# Characters of a name or a reason in the output, so that neither holds a picture.
MOST_WORDS = 2000

Item = TypeVar("Item")


class Row(NamedTuple):
    """A meme of an input, not read yet.

    `image` names its picture in the output; `picture` is where that is read from: a path, an
    address with `://`, or its content. `text` None is read off the picture. `fault` says why a row
    is none.
    """

    id: str
    image: str | None = None
    picture: str | bytes | None = None
    text: str | None = None
    fault: str | None = None


class Columns(NamedTuple):
    """The names of a table's columns, None for the usual ones; NOT_READ for a column to ignore."""

    text: str | None = None
    image: str | None = None
    id: str | None = None


NOT_READ = "none"
USUAL = Columns()
# Names that a column has where none was given, the first that is there.
USUAL_NAMES = {
    "text": ("text", "ocr", "ocr_text"),
    "image": ("image", "image_path", "img", "img_path", "path", "file", "filename", "file_name"),
    "id": ("id",),
}


def blocks_of(items: Iterable[Item], size: int = BLOCK) -> Iterator[list[Item]]:
    """The items in lists of `size`, the last one shorter."""
    items = iter(items)
    while block := list(islice(items, size)):
        yield block
