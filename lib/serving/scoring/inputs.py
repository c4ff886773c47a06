"""What is to be scored: folders, tables and shards told apart and cut into tasks."""

import hashlib
import os
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import fsspec
from braceexpand import braceexpand
from tqdm import tqdm

from lib.artifacts import fingerprint
from lib.serving.scoring import folders, tables, tars, told
from lib.serving.scoring.places import is_address, named_errors
from lib.serving.scoring.rows import NOT_READ, Columns, Row, blocks_of

KINDS = "a folder of pictures, a .csv, .tsv, .jsonl or .parquet file, or .tar shards"


class Task(NamedTuple):
    """A piece of work for one worker; in the order of names they make up the input.

    It holds its `rows`, or the `part` of a `shard` in which they are.
    """

    name: str
    columns: Columns
    rows: Sequence[Row] = ()
    shard: str | None = None
    part: tars.Part = tars.Part()

    def read(self) -> Iterator[Row]:
        """The rows in order; what `shard_rows` raises."""
        if self.shard is None:
            yield from self.rows
        else:
            yield from tars.shard_rows(self.shard, self.part, self.columns)


class Input(NamedTuple):
    """What was asked to be scored: `kind` is "folder", "table" or "shards"."""

    kind: str
    places: list[str]
    columns: Columns

    @classmethod
    def of(cls, asked: Sequence[str], columns: Columns) -> "Input":
        """Tell what a folder, a table or shards are; these may be several, with brace patterns.

        Raises FileNotFoundError for what is not there, ValueError for what is none of these.
        """
        places = [place for pattern in asked for place in _expanded(pattern)]
        local = [place for place in places if not is_address(place)]
        for place in local:
            if not place or not Path(place).exists():
                raise FileNotFoundError(f"{place or repr(place)} does not exist; give {KINDS}")
        if len(places) == 1 and local and Path(places[0]).is_dir():
            return cls._folder(places[0], columns)
        if places and all(tars.is_shard(place) for place in places):
            return cls._shards(places, columns)
        if len(places) == 1 and tables.suffix_of(places[0]) in tables.SUFFIXES:
            return cls("table", places, columns)
        raise ValueError(f"{' '.join(asked)}: cannot be scored; give {KINDS}")

    @classmethod
    def _folder(cls, folder: str, columns: Columns) -> "Input":
        if all((Path(folder) / name).is_dir() for name in ("Datasets", "Step_2")):
            folder = str(Path(folder) / "Datasets")
        shards = sorted(str(path) for path in Path(folder).iterdir() if tars.is_shard(path.name))
        files = told.text_files(folder)
        texts_alone = not shards and any(file.name == told.MANIFEST for file in files)
        left_out = Counter[str]()
        pictures = folders.pictures_in(folder, left_out)
        if texts_alone or any(found.fault is None for found in pictures):
            _refuse_names(columns, "a folder of pictures has no columns", ("text", "image", "id"))
            if shards:
                said = f"{folder}: its pictures are scored, and none of its {len(shards)} shards; "
                warnings.warn(said + f"for these name them, such as {shards[0]}", stacklevel=3)
            return cls("folder", [folder], columns)
        if not shards:
            suffixes = " or ".join(tars.SUFFIXES)
            others = f"; not taken are {_counted(left_out)}" if left_out else ""
            raise ValueError(f"{folder} holds no pictures and no {suffixes} shards{others}")
        return cls._shards(shards, columns)

    @classmethod
    def _shards(cls, places: list[str], columns: Columns) -> "Input":
        _refuse_names(columns, "the picture of a shard's meme is its member", ("image",))
        return cls("shards", places, columns)

    @property
    def in_memory(self) -> bool:
        """Whether it lies in this process's memory, where no other can read it."""
        return any(place.startswith("memory://") for place in self.places)

    def described(self) -> tuple[str, int | None]:
        """A fingerprint, and how many rows there are, None where only reading them would tell.

        Tables are hashed, and where they lie counts; of pictures in a folder and of shards names,
        sizes and dates do.
        Raises OSError for a place that cannot be looked at, and what `table_rows` raises.
        """
        if self.kind == "table":
            return _of_table(self.places[0], self.columns)
        if self.kind == "folder":
            return _of_folder(self.places[0], self.columns.text is None)
        if self.columns.text not in (None, NOT_READ):
            tars.warn_of_text(self.places[0], self.columns.text)
        digest = hashlib.sha256()
        for shard in tqdm(self.places, "looking at shards", unit=" shards", delay=2):
            digest.update(f"{shard}\0{_state_of(shard)}\n".encode())
        return digest.hexdigest()[:16], None

    def tasks(self) -> Iterator[Task]:
        """All of it, piece by piece; raises what reading a table or a folder does."""
        if self.kind == "shards":
            for number, shard in enumerate(self.places):
                for place, part in enumerate(tars.parts_of(shard)):
                    name = f"{number:07d}-{place:07d}"
                    yield Task(name, self.columns, shard=shard, part=part)
            return
        for number, block in enumerate(blocks_of(self._rows())):
            yield Task(f"{number:07d}", self.columns, block)

    def _rows(self) -> Iterator[Row]:
        if self.kind == "table":
            return tables.named_rows(self.places[0], self.columns)
        return folders.folder_rows(self.places[0], self.columns.text is None)


def _refuse_names(columns: Columns, why: str, parts: Sequence[str]) -> None:
    for part in parts:
        asked = getattr(columns, part)
        if asked is not None and (part, asked) != ("text", NOT_READ):
            raise ValueError(f"--{part}-column {asked} does not apply here: {why}")


def _expanded(pattern: str) -> list[str]:
    found = [pattern] if Path(pattern).exists() else braceexpand(pattern)
    return [place.removeprefix("file://") for place in found]


def _of_table(address: str, columns: Columns) -> tuple[str, int]:
    n = unnamed = 0
    for row in tables.table_rows(address, columns):
        n += 1
        unnamed += not row.id
    if not n:
        raise ValueError(f"{address} has no rows")
    if unnamed:
        before = tables.before_number(address, columns)
        warnings.warn(
            f"{address}: {unnamed:,} of {n:,} rows have no id that can be read; the scores call "
            f"each '{before}N', N being its number from 0, as in the column row",
            stacklevel=3,
        )
    # Pictures are named from its folder on: in another one the same names are other pictures.
    if is_address(address):
        made_from = f"{address}\0{_state_of(address)}"
    else:
        made_from = f"{os.path.abspath(os.path.dirname(address))}\0{fingerprint(address)}"
    return hashlib.sha256(os.fsencode(made_from)).hexdigest()[:16], n


def _of_folder(folder: str, reads_texts: bool) -> tuple[str, int]:
    digest, n = hashlib.sha256(), 0
    files = told.text_files(folder)
    for file in files:
        digest.update(fingerprint(file).encode())
    memes = told.Memes(files if reads_texts else [])
    left_out = Counter[str]()
    for found in folders.pictures_in(folder, left_out):
        of_it = 1 if found.fault else max(len(memes.of(os.fsdecode(found.path))), 1)
        n += of_it
        path = os.path.join(os.fsencode(folder), found.path)
        digest.update(found.path + f"\0{_date_of(path)}\n".encode())
        if of_it > 1:
            digest.update(f"{of_it} memes".encode())
        if found.text_beside:
            beside = os.path.splitext(path)[0] + found.text_beside.encode()
            digest.update(_date_of(beside).encode())
    for meme in memes.others():
        n += 1
        picture = meme.row(folder).picture
        digest.update(f"{n} {picture and _date_of(picture)}\n".encode())
    memes.warn()
    if not n:
        raise ValueError(f"{folder} holds no pictures, and its manifest no meme")
    if left_out:
        said = f"{folder}: left out are {_counted(left_out)}; to have them judged save them as PNG"
        warnings.warn(said, stacklevel=2)
    return digest.hexdigest()[:16], n


def _counted(left_out: Counter[str]) -> str:
    """How many files of each ending there are."""
    return ", ".join(f"{n:,} {ending}" for ending, n in left_out.most_common())


def _date_of(path: Any) -> str:
    try:
        status = os.stat(path)
    except OSError as error:  # a dangling link is a row, and rejected as one
        return str(error.errno)
    except ValueError:  # no file can have this name
        return "none"
    return f"{status.st_size} {status.st_mtime_ns}"


def _state_of(address: str) -> str:
    """What tells whether the file at an address has changed."""
    if not is_address(address):
        return _date_of(address)
    with named_errors(address):
        system, path = fsspec.url_to_fs(address)
        return str(system.ukey(path))
