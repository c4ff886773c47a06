"""Memes in WebDataset shards: tar files in which the members of one meme follow each other."""

import contextlib
import gzip
import json
import tarfile
import warnings
import zlib
from collections.abc import Iterator, Mapping
from itertools import groupby, islice
from typing import Any, NamedTuple, Self

from webdataset.tariterators import base_plus_ext

from lib.serving.scoring.places import file_of, is_address, opened
from lib.serving.scoring.rows import BLOCK, NOT_READ, USUAL_NAMES, Columns, Row

SUFFIXES = (".tar", ".tar.gz", ".tgz")
PICTURES = (
    *("jpg", "jpeg", "jpe", "jfif", "mpo", "png", "apng"),
    *("webp", "gif", "bmp", "tif", "tiff", "avif"),
)
# What a tar file that is cut off or garbled raises; other faults of reading are the network's.
BROKEN = (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile)
# So many keys are remembered: where members are scattered the first ones come again too.
_MOST_MET = 10_000
# The types' names are unknown to mypy.
_tarfile: Any = tarfile
# A header that is garbled, cut off or missing; a sound archive ends with blocks of zeros.
_NO_HEADER = (
    _tarfile.InvalidHeaderError,
    _tarfile.TruncatedHeaderError,
    _tarfile.EmptyHeaderError,
)


class _Header(tarfile.TarInfo):
    """A header that tells its archive if it is none: `TarFile.next` takes that for the end."""

    @classmethod
    def fromtarfile(cls, archive: Any) -> Self:
        try:
            return super().fromtarfile(archive)
        except _NO_HEADER as error:
            archive.torn = error
            raise


class Part(NamedTuple):
    """Some memes of a shard: so many from the byte `start` on, None for all to the end."""

    start: int = 0
    memes: int | None = None


def is_shard(place: str) -> bool:
    return file_of(place).lower().endswith(SUFFIXES)


def parts_of(shard: str) -> Iterator[Part]:
    """A shard in parts of `BLOCK` memes, so that several workers can read it.

    A shard at an address, or compressed, is one part: it can only be read from end to end.
    Raises ValueError where the members of a meme do not follow each other.
    """
    if is_address(shard) or not shard.lower().endswith(".tar"):
        yield Part()
        return
    start, count = 0, 0
    # Whoever reads the last part meets what is broken again, and says so.
    with contextlib.suppress(*BROKEN), _opened(shard) as tar:
        for offset in _starts(shard, tar):
            if count == BLOCK:
                yield Part(start, count)
                start, count = offset, 0
            count += 1
    yield Part(start)


def shard_rows(shard: str, part: Part, columns: Columns) -> Iterator[Row]:
    """The memes of a part of a shard.

    A picture is a member such as `key.jpg` or `key.png`, else the only one such as
    `key.thumb.jpg`; the text is `key.txt`, or a field of `key.json` of a usual name; the id is that
    file's `id`, or the key. Where the shard is broken the last row has a `fault`, and so has the
    meme before it if it lacks a member that the one before that has. Raises OSError where it cannot
    be read, and ValueError where the members of a meme do not follow each other.
    """
    given, usual = 0, set[str]()
    try:
        with _opened(shard, part.start) as tar:
            for key, members in _samples(shard, tar):
                if _torn(tar) and not usual <= members.keys():
                    yield Row(key, fault="the shard breaks off before all of this meme was read")
                else:
                    yield _row(key, members, columns)
                usual = set(members)
                given += 1
                if given == part.memes:
                    return
            _refuse_torn(tar)
    except BROKEN as error:
        yield Row(shard, fault=f"the shard is broken here ({error}); what follows is lost")


def warn_of_text(shard: str, field: str) -> None:
    """Warn if none of a shard's first `BLOCK` memes has the field of texts that was asked for.

    Raises what `shard_rows` does.
    """
    seen, n = dict[str, None](), 0
    with contextlib.suppress(*BROKEN), _opened(shard) as tar:
        for _, members in islice(_samples(shard, tar), BLOCK):
            n += 1
            with contextlib.suppress(ValueError, RecursionError):
                name = _member(members, "json")
                seen |= dict.fromkeys(_fields(members[name]) if name else {})
    if n and field not in seen:
        warnings.warn(
            f"{shard}: of its first {n} memes none has the field '{field}' in a .json; they "
            f"have {', '.join(seen) or 'none'}: texts without one are read off the pictures. Name "
            "theirs with --text-column",
            stacklevel=2,
        )


@contextlib.contextmanager
def _opened(shard: str, start: int = 0) -> Iterator[tarfile.TarFile]:
    with opened(shard) as file:
        file.seek(start)
        mode: Any = "r:" if file_of(shard).lower().endswith(".tar") else "r|gz"
        with tarfile.open(fileobj=file, mode=mode, tarinfo=_Header) as tar:
            yield tar


def _members(shard: str, tar: tarfile.TarFile) -> Iterator[tuple[str, tarfile.TarInfo]]:
    """Key and header of each file.

    Raises ValueError where a key that had its turn comes again with another member.
    """
    kept: Any = tar
    met: dict[str, set[str]] = {}
    last = None
    while (member := tar.next()) is not None:
        # Else the archive would keep every header it has met.
        kept.members.clear()
        key, suffix = base_plus_ext(member.name)
        hidden = member.name.rpartition("/")[2].startswith(".")  # as a Mac packs beside each file
        if (member.isfile() or _is_link(member)) and key is not None and not hidden:
            key = key.removeprefix("./")
            if key != last and suffix not in met.get(key, {suffix}):
                raise ValueError(
                    f"{shard}: the members of '{key}' do not follow each other: '.{suffix}' comes "
                    "after another meme's; pack it in the order of names (GNU tar: --sort=name)"
                )
            if key in met or len(met) < _MOST_MET:
                met.setdefault(key, set()).add(suffix)
            last = key
            yield key, member


def _is_link(member: tarfile.TarInfo) -> bool:
    return member.islnk() or member.issym()


def _starts(shard: str, tar: tarfile.TarFile) -> Iterator[int]:
    """The byte at which each meme's first header begins."""
    last = None
    for key, member in _members(shard, tar):
        if key != last:
            yield member.offset
            last = key


def _samples(shard: str, tar: tarfile.TarFile) -> Iterator[tuple[str, dict[str, Any]]]:
    """Key and members of each meme, these by their suffixes in small letters; None for a link."""
    for key, members in groupby(_members(shard, tar), key=lambda found: found[0]):
        found = {}
        for _, member in members:
            suffix = base_plus_ext(member.name)[1] or ""
            # What it leads to may lie anywhere before it, where a stream cannot go back to.
            content = None if _is_link(member) else tar.extractfile(member)
            found[suffix.lower()] = content.read() if content else None
        yield key, found


def _torn(tar: tarfile.TarFile) -> Exception | None:
    return getattr(tar, "torn", None)


def _refuse_torn(tar: tarfile.TarFile) -> None:
    """Raise ReadError where the archive ended with no end of one, but with a fault."""
    if error := _torn(tar):
        raise tarfile.ReadError(str(error))


def _member(members: Mapping[str, bytes], *suffixes: str) -> str | None:
    """The member of one of these suffixes, the first that is there, or the only `x.suffix`.

    Raises ValueError where several are as good.
    """
    if exact := next((suffix for suffix in suffixes if suffix in members), None):
        return exact
    longer = [name for name in members if name.rpartition(".")[2] in suffixes]
    if len(longer) > 1:
        raise ValueError(f"several members could be meant: {', '.join(longer)}")
    return longer[0] if longer else None


def _row(key: str, members: Mapping[str, bytes], columns: Columns) -> Row:
    try:
        suffix, words, fields = (_member(members, *of) for of in (PICTURES, ("txt",), ("json",)))
    except ValueError as error:
        return Row(key, fault=str(error))
    for link in (found for found in (suffix, words, fields) if found and members[found] is None):
        said = f"{key}.{link} is a link; pack the file itself (tar --hard-dereference -h)"
        return Row(key, fault=said)
    image = None if suffix is None else f"{key}.{suffix}"
    picture = None if suffix is None else members[suffix]
    try:
        meta = _fields(members[fields]) if fields else {}
    except (ValueError, RecursionError) as error:
        return Row(key, image, fault=f"{key}.json: {error}")
    text = None
    if columns.text != NOT_READ:
        names = [columns.text] if columns.text else USUAL_NAMES["text"]
        given = [meta[name] for name in names if meta.get(name) is not None]
        # The first that has words, else one that is empty.
        text = next((word for word in given if str(word).strip()), given[0] if given else None)
        if columns.text is None and words:
            text = members[words].decode("utf-8-sig", errors="surrogateescape")
    id_ = meta.get(columns.id or "id")
    return Row(key if id_ is None else str(id_), image, picture, text)


def _fields(content: bytes | None) -> dict[str, Any]:
    """The object of a .json; of a link none. Raises ValueError where it is none."""
    meta = {} if content is None else json.loads(content)
    if not isinstance(meta, dict):
        raise ValueError("not an object")
    return meta
