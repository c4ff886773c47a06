"""What lies where in packed shards: read once, then memory-mapped by all who open them.

Beside the shards of a folder stand `index.arrow`, one record batch a shard with a row a meme, and
`index.dates`, the size and date of each shard that the index was read from. A shard of another date
is hashed again, and read again if its bytes are not those of the index. So shards may be added,
replaced and copied by hand.
"""

import hashlib
import json
import tarfile
import warnings
from collections.abc import Container, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
from tqdm import tqdm

from lib.artifacts import atomic_path
from lib.commands import again

INDEX, DATES = "index.arrow", "index.dates"

# Offset and size of the PNG in the shard are null where a meme has no picture.
SCHEMA = pa.schema(
    {
        "key": pa.string(),
        "id": pa.string(),
        "label": pa.int8(),
        "group": pa.string(),
        "text": pa.string(),
        "meta": pa.binary(),
        "offset": pa.int64(),
        "size": pa.int64(),
    }
)


class Indexed(NamedTuple):
    """A shard's rows, of `SCHEMA`, and the SHA-256 of its bytes."""

    rows: pa.RecordBatch
    sha256: str


def open_index(shards: Iterable[str | Path]) -> list[Indexed]:
    """The rows of each shard, memory-mapped; what is missing in the index is read and added.

    Raises FileNotFoundError where a shard is missing, ValueError naming shard, member and fault
    where one is broken.
    """
    paths = [Path(shard) for shard in shards]
    folders = dict.fromkeys(path.parent for path in paths)
    found = {}
    for folder in folders:
        names = {path.name for path in paths if path.parent == folder}
        found[folder] = _Folder(folder, names).opened(sorted(names))
    return [found[path.parent][path.name] for path in paths]


def shards_fingerprint(shards: Iterable[str | Path], digits: int = 16) -> str:
    """`lib.artifacts.fingerprint` of shards, their bytes read only where a date has changed."""
    paths = [Path(shard) for shard in shards]
    digest = hashlib.sha256()
    for path, indexed in zip(paths, open_index(paths), strict=True):
        digest.update(f"{path.name}\0{indexed.sha256}\n".encode())
    return digest.hexdigest()[:digits]


def verify_shards(shards: str | Path) -> list[str]:
    """What is wrong with the shards under a folder, all bytes of them read; empty if nothing is.

    Raises FileNotFoundError if there is no index to compare with.
    """
    wanted = (f"*/{INDEX}", "*/shard-*.tar")
    folders = sorted({path.parent for name in wanted for path in Path(shards).glob(name)})
    if not any((folder / INDEX).exists() for folder in folders):
        raise FileNotFoundError(
            f"no {INDEX} in the folders of {shards}; pack them with: {again(3)}"
        )
    faults = []
    for folder in folders:
        known = _Folder(folder).known
        names = known.keys() | {path.name for path in folder.glob("shard-*.tar")}
        for name in tqdm(sorted(names), f"verifying {folder.name}", unit=" shards", delay=2):
            path = folder / name
            if not path.exists():
                faults.append(f"{path} is missing; pack again: {again(3)}")
            elif name not in known:
                faults.append(f"{path} is not in {INDEX}; the next step that opens it adds it")
            elif _hashed(path) != known[name].sha256:
                faults.append(f"{path} does not hold the bytes it was indexed with")
    return faults


class _Folder:
    """The index of one folder: what it knows of all its shards, or of some."""

    def __init__(self, folder: Path, names: Container[str] | None = None) -> None:
        self.folder = folder
        self.known: dict[str, Indexed] = {}
        self.dates: dict[str, list[int]] = {}
        try:
            with pa.memory_map(str(folder / INDEX)) as file, pa.ipc.open_file(file) as reader:
                entries = json.loads(reader.schema.metadata[b"shards"])
                if reader.schema.equals(SCHEMA):
                    self.known = {
                        name: Indexed(reader.get_batch(number), sha256)
                        for number, (name, sha256) in enumerate(entries)
                        if names is None or name in names
                    }
            self.dates = dict(json.loads((folder / DATES).read_text()))
        except (OSError, ValueError, TypeError, KeyError):
            # Missing, torn or of another version: read anew
            pass

    def opened(self, names: Sequence[str]) -> Mapping[str, Indexed]:
        """What is known of these shards, after reading those that are new or changed."""
        dates = {name: _date_of(self.folder / name) for name in names}
        doubtful = [
            name
            for name, date in dates.items()
            if name not in self.known or self.dates.get(name) != date
        ]
        if not doubtful:
            return self.known
        changed = {}
        for name in tqdm(doubtful, f"indexing {self.folder.name}", unit=" shards", delay=5):
            path = self.folder / name
            sha256 = _hashed(path)
            if name not in self.known or self.known[name].sha256 != sha256:
                changed[name] = Indexed(_rows_of(path), sha256)
        self._keep(changed, dates)
        # What was just written is mapped instead of held
        mapped = _Folder(self.folder, names).known
        known = {**self.known, **changed}
        return {
            n: mapped[n] if n in mapped and mapped[n].sha256 == k.sha256 else k
            for n, k in known.items()
        }

    def _keep(self, changed: Mapping[str, Indexed], dates: Mapping[str, list[int]]) -> None:
        """Write the index; where the folder cannot be written, it serves this process alone."""
        shards = {**_Folder(self.folder).known, **changed} if changed else {}
        there = {name: shards[name] for name in sorted(shards) if (self.folder / name).exists()}
        kept = {**self.dates, **dates}
        kept = {name: kept[name] for name in sorted(kept) if (self.folder / name).exists()}
        try:
            if changed:
                _write(self.folder / INDEX, there)
            with atomic_path(self.folder / DATES) as new:
                new.write_text(json.dumps(kept) + "\n")
        except OSError as error:
            warnings.warn(
                f"the index of {self.folder} cannot be kept ({error.strerror}): every step and "
                "worker will read the shards anew",
                stacklevel=2,
            )


def _write(path: Path, shards: Mapping[str, Indexed]) -> None:
    entries = json.dumps([[name, indexed.sha256] for name, indexed in shards.items()])
    with (
        atomic_path(path) as new,
        pa.ipc.new_file(str(new), SCHEMA.with_metadata({"shards": entries})) as writer,
    ):
        for indexed in shards.values():
            writer.write_batch(indexed.rows)


def _date_of(path: Path) -> list[int]:
    status = path.stat()
    return [status.st_size, status.st_mtime_ns]


def _hashed(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _rows_of(shard: Path) -> pa.RecordBatch:
    """Read the headers, texts and metadata of a shard."""
    parts: dict[str, dict[str, tarfile.TarInfo]] = {}
    try:
        with tarfile.open(shard) as tar:
            for member in tar:
                key, _, kind = member.name.partition(".")
                parts.setdefault(key, {})[kind] = member
        _require_end(shard)
    except tarfile.TarError as error:
        fault = str(error).splitlines()[0]
        raise ValueError(f"{shard}: broken shard ({fault}); pack again: {again(3)}") from None
    rows = []
    with shard.open("rb") as stream:
        for key, members in parts.items():
            require_parts(members, f"{shard}:{key}")
            text, content = (_content(stream, members["txt"]), _content(stream, members["json"]))
            meta = decode_metadata(content, f"{shard}:{key}.json")
            picture = members.get("png")
            rows.append(
                {
                    "key": key,
                    "id": str(meta["id"]),
                    "label": int(meta["labels"]["abuse_hate"]),
                    "group": str(meta.get("group") or f"alone {meta['id']}"),
                    "text": text.decode("utf-8"),
                    "meta": content,
                    "offset": picture and picture.offset_data,
                    "size": picture and picture.size,
                }
            )
    return pa.RecordBatch.from_pylist(rows, schema=SCHEMA)


def _require_end(shard: Path) -> None:
    """A shard cut off between two members reads as one of fewer memes, but for its end."""
    with shard.open("rb") as stream:
        stream.seek(-min(tarfile.BLOCKSIZE, shard.stat().st_size), 2)
        if stream.read().strip(tarfile.NUL):
            raise tarfile.ReadError("it ends before its end mark")


def _content(stream: Any, member: tarfile.TarInfo) -> bytes:
    stream.seek(member.offset_data)
    return stream.read(member.size)


def decode_metadata(content: bytes, where: str) -> dict[str, Any]:
    """Decode a packed JSON; ValueError names `where` and the missing or impossible field."""
    try:
        meta = json.loads(content)
        label = meta["labels"]["abuse_hate"]
        meta["id"]
    except KeyError as error:
        raise ValueError(f"{where}: field {error} is missing; pack again: {again(3)}") from None
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"{where}: not the packed JSON ({error}); pack again: {again(3)}"
        ) from None
    if label not in (0, 1):
        raise ValueError(f"{where}: labels.abuse_hate is {label!r}, expected 0 or 1")
    return meta


def require_parts(parts: Mapping[str, Any], where: str) -> None:
    """ValueError names `where` if a meme has no text or no metadata."""
    missing = [kind for kind in ("txt", "json") if kind not in parts]
    if missing:
        raise ValueError(f"{where}: no .{missing[0]} beside it; pack again: {again(3)}")
