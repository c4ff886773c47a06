"""What the files of a folder say of its pictures: which memes have one, and their texts."""

import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from lib.data.text import combined_text
from lib.serving.scoring.json_lines import json_objects
from lib.serving.scoring.rows import Row

MANIFEST, ASR = "data_manifest.jsonl", "asr.jsonl"
# What the fields of a line are, where it holds more than an overlaid text.
_FIELDS = {
    MANIFEST: {"image": "image", "text": "ocr", "lang": "lang"},
    ASR: {"text": "asr"},
}


class Told(NamedTuple):
    """A meme as the files tell of it: `file` is the manifest, or the one that first has its id.

    Without an `image` its picture is that of which `id` is the path, if there is one.
    """

    id: str
    file: Path
    image: str | None
    text: str | None

    @property
    def listed(self) -> bool:
        """Whether it stands in a manifest, and is a row whether it has a picture or not."""
        return self.file.name == MANIFEST

    def row(self, folder: str) -> Row:
        """The row of a listed meme of which no picture was met in the folder."""
        if self.image is None:
            return Row(self.id, text=self.text)
        path = PurePosixPath(self.image)
        place = f"{Path(folder).name}/"
        if path.is_absolute():
            fault = f"{MANIFEST}: field image is an absolute path; give it relative to {place}"
            return Row(self.id, self.image, fault=fault)
        if ".." in path.parts:
            fault = f"{MANIFEST}: field image leads out of {place}"
            return Row(self.id, self.image, fault=fault)
        return Row(self.id, self.image, os.path.join(folder, path), self.text)


def text_files(folder: str) -> list[Path]:
    """The files that hold texts of the folder's pictures: what is there of them."""
    place = Path(folder)
    files = [place / "ocr.jsonl"]
    if place.name == "Datasets":
        # Not "..", which of a link leads to where its target lies.
        files += [place.parent / "Step_2" / name for name in (MANIFEST, "ocr.jsonl", ASR)]
    return [file for file in files if file.is_file()]


class Memes:
    """The memes that files tell of, by the path of their picture; each is taken out once.

    Raises ValueError for a file that is not in UTF-8, and an id that stands twice in a manifest.
    """

    def __init__(self, files: Sequence[Path]) -> None:
        self._lost: list[Told] = []
        self._broken: dict[Path, list[int]] = {}
        self._by_picture: dict[str, list[Told]] = {}
        for meme in self._read(files):
            # As Step 3 reads it: "./a.png" and "a.png" are one picture.
            there = self._by_picture.setdefault(PurePosixPath(meme.image or meme.id).as_posix(), [])
            listed = bool(there) and there[0].listed
            if listed and meme.listed:
                there.append(meme)
            elif listed:
                self._lost.append(meme)
            else:
                self._lost += there
                there[:] = [meme]

    def of(self, picture: str) -> list[Told]:
        """The memes of a picture, whose path is given relative to the folder."""
        return self._by_picture.pop(picture, [])

    def others(self) -> Iterator[Told]:
        """The memes of a manifest that have not been taken, in its order."""
        for memes in self._by_picture.values():
            for meme in memes:
                if meme.listed:
                    yield meme

    def warn(self) -> None:
        """Say what of the files is no meme of the folder, once all pictures have been met."""
        for file, (count, first) in self._broken.items():
            said = f"{file}: {count} lines are no JSON object with an id, line {first} first"
            warnings.warn(f"{said}; they are left out", stacklevel=2)
        left = [meme for memes in self._by_picture.values() for meme in memes if not meme.listed]
        lost: dict[Path, list[str]] = {}
        for meme in (*self._lost, *left):
            lost.setdefault(meme.file, []).append(meme.id)
        for file, ids in lost.items():
            said = f"{file}: {len(ids)} ids stand for no meme of the folder, {ids[0]!r} first"
            warnings.warn(f"{said}; their texts are not used", stacklevel=2)

    def _read(self, files: Sequence[Path]) -> Iterator[Told]:
        found: dict[str, dict[str, str]] = {}
        first_in: dict[str, Path] = {}
        for file in files:
            names = _FIELDS.get(file.name, {"text": "ocr"})
            for number, id_, row in self._lines(file):
                if file.name == MANIFEST:
                    if first_in.get(id_) == file:
                        raise ValueError(
                            f"{file}: field id: {id_!r} stands on line {number} and before; give "
                            "every row an id of its own"
                        )
                    # Behind those before it, so that memes are in the manifest's order.
                    first_in.pop(id_, None)
                first_in.setdefault(id_, file)
                words = {names[field]: _word(row.get(field)) for field in names}
                meme = found.setdefault(id_, {})
                meme |= {name: word for name, word in words.items() if word is not None}
        # Taken out one by one: there may be millions.
        for id_, file in first_in.items():
            meme = found.pop(id_)
            text = _packed(meme) if "ocr" in meme or "asr" in meme else None
            yield Told(id_, file, meme.get("image") or None, text)

    def _lines(self, file: Path) -> Iterator[tuple[int, str, dict[str, Any]]]:
        with file.open("rb") as stream:
            for number, row in json_objects(file, stream):
                if isinstance(row, dict) and (id_ := _word(row.get("id"))):
                    yield number, id_, row
                else:
                    self._broken.setdefault(file, [0, number])[0] += 1


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
