"""Pictures in a folder and those below it, with their texts where there are any."""

import functools
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from lib.serving.scoring import tars
from lib.serving.scoring.rows import Row
from lib.serving.scoring.told import Memes, text_files

PICTURES = tuple(f".{suffix}".encode() for suffix in tars.PICTURES)
# Endings of what is called a picture and is none here, beside those that Pillow knows.
_OTHERS = (
    *(".heic", ".heif", ".hif", ".jxl", ".svg", ".svgz", ".pdf", ".eps", ".ai"),
    *(".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".raf"),
)
# The second as some cameras and old systems write it.
TEXTS = (b".txt", b".TXT")


class Found(NamedTuple):
    """A file: its path relative to the folder, and the suffix of the text beside a picture.

    Or a folder that cannot be looked into, and why.
    """

    path: bytes
    text_beside: str | None = None
    fault: str | None = None


def folder_rows(folder: str, reads_texts: bool = True) -> Iterator[Row]:
    """The memes below a folder, in the order of their pictures' paths a folder at a time.

    The text of `a.jpg` is that of `a.txt` beside it, or of the line with its path as `id` in the
    folder's `ocr.jsonl`; in a data folder's `Datasets/` what Step 3 takes, `Step_2/ocr.jsonl` or
    the manifest, by the id that the manifest gives the picture, with the manifest's language and
    the transcript of `Step_2/asr.jsonl`. Without one it is read off the picture. The id is the
    picture's path; the manifest's where several of its lines have one picture, and of its lines
    without one, which come last. Without `reads_texts` each picture is one row and all texts are
    read. What begins with a dot is no picture; folders that are links are looked into like others.
    Raises ValueError as `Memes` does.
    """
    memes = Memes(text_files(folder) if reads_texts else [])
    for found in pictures_in(folder):
        name = os.fsdecode(found.path)
        if found.fault:
            yield Row(name, name, fault=found.fault)
            continue
        told, beside = memes.of(name), found.text_beside if reads_texts else None
        if len(told) > 1:
            # What lies beside a picture of several is no more than the text of those without one.
            for meme in told:
                own = None if meme.text is not None else beside
                yield _picture(folder, name, own, meme.text)._replace(id=meme.id)
        else:
            yield _picture(folder, name, beside, told[0].text if told else None)
    yield from (meme.row(folder) for meme in memes.others())


def _picture(folder: str, name: str, beside: str | None, text: str | None) -> Row:
    """The row of a picture, by its path as id; the text that lies beside it comes first."""
    picture = os.path.join(folder, name)
    if beside:
        file = Path(picture).with_suffix(beside)
        try:
            text = file.read_text(encoding="utf-8-sig", errors="surrogateescape")
        except OSError as error:
            return Row(name, name, fault=f"{file.name} cannot be read: {error.strerror}")
    return Row(name, name, picture, text)


def pictures_in(folder: str, left_out: Counter[str] | None = None) -> Iterator[Found]:
    """The pictures below a folder in a fixed order, told by their endings.

    In `left_out` the files are counted, by their endings, that are pictures by name only.
    """
    left_out = Counter() if left_out is None else left_out
    return _pictures_below(os.fsencode(folder), b"", left_out)


def _pictures_below(
    folder: bytes, inside: bytes, left_out: Counter[str], above: tuple[bytes, ...] = ()
) -> Iterator[Found]:
    here = os.path.realpath(os.path.join(folder, inside))
    if here in above:
        # A link back to where it lies: its pictures have their turn already.
        return
    try:
        files, folders = _names(here, left_out)
    except OSError as error:
        if not inside:
            raise
        yield Found(inside, fault=f"this folder cannot be looked into: {error.strerror}")
        return
    texts = pc.filter(files, pc.ends_with(files, b".txt", ignore_case=True))
    for start in range(0, len(files), 4096):
        names = files.slice(start, 4096).to_pylist()
        for name, suffix in zip(names, _beside(names, texts), strict=True):
            if name.lower().endswith(PICTURES):
                yield Found(os.path.join(inside, name), suffix)
    for name in folders:
        yield from _pictures_below(folder, os.path.join(inside, name), left_out, (*above, here))


@functools.cache
def _left_out() -> frozenset[str]:
    """The endings of pictures that are not taken."""
    known = Image.registered_extensions()
    pictures = (end for end, kind in known.items() if "image/" in Image.MIME.get(kind, ""))
    return frozenset((*pictures, *_OTHERS))


def _beside(names: list[bytes], texts: pa.Array) -> list[str | None]:
    """The suffix of the text that lies beside each file, `texts` being those of its folder."""
    found: list[str | None] = [None] * len(names)
    if not len(texts):
        return found
    stems = [os.path.splitext(name)[0] for name in names]
    for suffix in reversed(TEXTS):
        there = pc.is_in(pa.array([stem + suffix for stem in stems], pa.binary()), texts)
        found = [
            suffix.decode() if is_there else before
            for is_there, before in zip(there.to_pylist(), found, strict=True)
        ]
    return found


def _names(folder: bytes, left_out: Counter[str]) -> tuple[pa.Array, list[bytes]]:
    """The sorted names of the files and of the folders in a folder; `left_out` is added to.

    Those of files are an array of Arrow, a fifth of a list's size: a folder may hold millions.
    """
    chunks, names, folders = [], [], []
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith(b"."):
                continue
            if entry.is_dir():
                folders.append(entry.name)
            elif entry.name.lower().endswith((*PICTURES, b".txt")):
                names.append(entry.name)
            elif (ending := os.fsdecode(os.path.splitext(entry.name)[1]).lower()) in _left_out():
                left_out[ending] += 1
            if len(names) == 65_536:
                chunks.append(pa.array(names, pa.binary()))
                names.clear()
    files = pa.chunked_array([*chunks, pa.array(names, pa.binary())], pa.binary()).combine_chunks()
    if isinstance(files, pa.ChunkedArray):
        files = pa.concat_arrays(files.chunks) if files.num_chunks else pa.array([], pa.binary())
    return files.take(pc.sort_indices(files)), sorted(folders)
