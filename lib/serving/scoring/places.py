"""Where the files of an input lie: paths of this machine, and addresses that fsspec knows."""

import contextlib
import os
from collections.abc import Iterator
from typing import BinaryIO

import fsspec
from fsspec.core import OpenFile, get_compression
from fsspec.implementations.local import LocalFileSystem


def is_address(place: str) -> bool:
    """Whether a place is an address for fsspec instead of a path of this machine."""
    return "://" in place


def file_of(place: str) -> str:
    """The file that a place names: of an address what stands before a query, or in an archive.

    >>> file_of("https://host/s.tar?signed=1"), file_of("zip://memes.csv::s3://all.zip")
    ('https://host/s.tar', 'zip://memes.csv')
    """
    if not is_address(place):
        return place
    return next(part for part in place.split("::") if is_address(part)).partition("?")[0]


@contextlib.contextmanager
def opened(place: str, compression: str | None = None) -> Iterator[BinaryIO]:
    """A file to be read; `compression` "infer" unpacks it as its name says.

    Raises OSError naming the place and what is wrong with it.
    """
    if is_address(place):
        with named_errors(place):
            file = fsspec.open(place, "rb", compression=compression)
    else:
        # In a path `fsspec.open` would take "::" for the way into an archive.
        unpacked = get_compression(place, compression)
        file = OpenFile(LocalFileSystem(), place, "rb", unpacked)
    with contextlib.ExitStack() as left:
        with named_errors(place):
            stream = left.enter_context(file)
        yield stream


@contextlib.contextmanager
def named_errors(place: str) -> Iterator[None]:
    """Give the errors of an address their reason: fsspec often says no more than the address.

    Raises OSError also where a library is missing that the address needs.
    """
    try:
        yield
    except ImportError as error:
        raise OSError(f"{place}: {error}") from error
    except OSError as error:
        if not is_address(place) or error.errno is not None:
            raise
        kind = FileNotFoundError if isinstance(error, FileNotFoundError) else OSError
        raise kind(f"{place}: {_reason(error)}") from error


def _reason(error: OSError) -> str:
    cause = error.__cause__
    # As aiohttp says what the server has answered.
    status = getattr(cause, "status", None)
    if status not in (None, 404):
        return f"the server answers {status} {getattr(cause, 'message', '')}".rstrip()
    if isinstance(cause, OSError) and cause.errno is not None:
        return os.strerror(cause.errno) if cause.errno > 0 else str(cause.strerror)
    if cause is not None and status is None:
        return str(cause) or type(cause).__name__
    return "not found" if isinstance(error, FileNotFoundError) else str(error)
