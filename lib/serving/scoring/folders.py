"""Pictures in a folder and those below it, with their texts where there are any."""

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from lib.data.text import combined_text
from lib.serving.scoring import tars
from lib.serving.scoring.rows import Row

PICTURES = tuple(f".{suffix}".encode() for suffix in tars.PICTURES)
# The second as some cameras and old systems write it.
TEXTS = (b".txt", b".TXT")
MANIFEST, ASR = "data_manifest.jsonl", "asr.jsonl"
# What the fields of a line are, where it holds more than an overlaid text.
_FIELDS = {
    MANIFEST: {"image": "image", "text": "ocr", "lang": "lang"},
    ASR: {"text": "asr"},
}


class Found(NamedTuple):
    """A file: its path relative to the folder, and the suffix of the text beside a picture.

    Or a folder that cannot be looked into, and why.
    """

    path: bytes
    text_beside: str | None = None
    fault: str | None = None


def folder_rows(folder: str, reads_texts: bool = True) -> Iterator[Row]:
    """The pictures below a folder, in the order of their paths a folder at a time.

    The text of `a.jpg` is that of `a.txt` beside it, or of the line with its path as `id` in the
    folder's `ocr.jsonl`; in a data folder's `Datasets/` what Step 3 takes, `Step_2/ocr.jsonl` or
    the manifest, by the id that the manifest gives the picture, with the manifest's language and
    the transcript of `Step_2/asr.jsonl`. Without one, or without `reads_texts`, it is read off the
    picture. What begins with a dot is no picture; folders that
    are links are looked into like others.
    """
    texts = _texts(folder) if reads_texts else {}
    for found in pictures_in(folder):
        name = os.fsdecode(found.path)
        if found.fault:
            yield Row(name, name, fault=found.fault)
            continue
        picture = os.path.join(folder, name)
        text = texts.get(name)
        if found.text_beside and reads_texts:
            beside = Path(picture).with_suffix(found.text_beside)
            try:
                text = beside.read_text(encoding="utf-8-sig", errors="surrogateescape")
            except OSError as error:
                yield Row(name, name, fault=f"{beside.name} cannot be read: {error.strerror}")
                continue
        yield Row(name, name, picture, text)


def text_files(folder: str) -> list[Path]:
    """The files that hold texts of the folder's pictures: what is there of them."""
    names = ["ocr.jsonl"]
    if Path(folder).name == "Datasets":
        names += [f"../Step_2/{name}" for name in (MANIFEST, "ocr.jsonl", ASR)]
    return [file for file in (Path(folder) / name for name in names) if file.is_file()]


def _texts(folder: str) -> dict[str, str]:
    """The texts by the path of their picture, which may be its id, the last file's of several."""
    memes: dict[str, dict[str, str]] = {}
    for file in text_files(folder):
        names = _FIELDS.get(file.name, {"text": "ocr"})
        for row in _objects(file):
            meme = memes.setdefault(str(row["id"]), {})
            words = {names[field]: _word(row.get(field)) for field in names}
            meme |= {name: word for name, word in words.items() if word is not None}
    return {
        # As Step 3 reads it: "./a.png" and "a.png" are one picture.
        PurePosixPath(meme.get("image", id_)).as_posix(): _packed(meme)
        for id_, meme in memes.items()
        if "ocr" in meme or "asr" in meme
    }


def _word(value: Any) -> str | None:
    """A field as Step 3 takes it: words, or a number's digits; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, str | int | float) or value != value:
        return None
    return str(value)


def _packed(meme: Mapping[str, str]) -> str:
    """The text as it is, or as Step 3 packs it where that has more to say."""
    text, lang, asr = (meme.get(name) or "" for name in ("ocr", "lang", "asr"))
    if text.startswith("[OCR]") or not (asr.strip() or lang not in ("", "en")):
        return text
    return combined_text(text, lang=lang or "en", asr=asr)


def _objects(file: Path) -> Iterator[dict[str, Any]]:
    """The lines with an id; what is none is left to those who wrote it."""
    with file.open("rb") as stream:
        for line in stream:
            with contextlib.suppress(ValueError, RecursionError):
                row = json.loads(line)
                if isinstance(row, dict) and "id" in row:
                    yield row


def pictures_in(folder: str) -> Iterator[Found]:
    """The pictures below a folder in a fixed order."""
    return _pictures_below(os.fsencode(folder), b"")


def _pictures_below(folder: bytes, inside: bytes, above: tuple[bytes, ...] = ()) -> Iterator[Found]:
    here = os.path.realpath(os.path.join(folder, inside))
    if here in above:
        # A link back to where it lies: its pictures have their turn already.
        return
    try:
        files, folders = _names(here)
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
        yield from _pictures_below(folder, os.path.join(inside, name), (*above, here))


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


def _names(folder: bytes) -> tuple[pa.Array, list[bytes]]:
    """The sorted names of the files and of the folders in a folder.

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
            if len(names) == 65_536:
                chunks.append(pa.array(names, pa.binary()))
                names.clear()
    files = pa.chunked_array([*chunks, pa.array(names, pa.binary())], pa.binary()).combine_chunks()
    if isinstance(files, pa.ChunkedArray):
        files = pa.concat_arrays(files.chunks) if files.num_chunks else pa.array([], pa.binary())
    return files.take(pc.sort_indices(files)), sorted(folders)
