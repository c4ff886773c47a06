"""What a request asks: the memes of a multipart form or of JSON, a fault for each that is none.

A client's words are never taken as a path: a picture comes as its bytes.
"""

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fastapi import HTTPException, Request
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

FIELDS = ("text", "image")
# Bytes; a larger document is read beside the loop that serves everybody.
_LARGE = 200_000


@dataclass(frozen=True)
class Sent:
    """A meme as it was sent: `text` of any type, to be checked where all doors check it."""

    text: Any
    image: bytes | None


@dataclass(frozen=True)
class Fault:
    """Why a meme has no answer, with the status that a request of it alone has."""

    status: int
    said: str

    def as_json(self) -> dict[str, Any]:
        return {"error": self.said, "status": self.status}


async def one_meme(request: Request) -> Sent | Fault:
    """The meme of `/predict`; HTTPException where the request cannot be read at all."""
    if _is_form(request):
        form = await _form(request, files=2)
        repeated = [name for name in FIELDS if len(form[name]) > 1]
        if repeated:
            return Fault(422, f"{repeated[0]} is given twice; /predict takes one meme")
        return _from_form(*(form[name][0] if form[name] else None for name in FIELDS))
    return _from_json(await _json(request), "")


async def many_memes(request: Request, at_most: int) -> list[Sent | Fault]:
    """The memes of `/predict_batch`, in order; HTTPException where it cannot be read at all."""
    if _is_form(request):
        form = await _form(request, files=at_most)
        found = _paired(form["text"], form["image"])
        _check_number(len(found), at_most)
    else:
        content = await _json(request)
        if not isinstance(content, list):
            raise HTTPException(422, f"expected a JSON list of memes, got {_kind(content)}")
        # Before they are looked at: a small body may list millions.
        _check_number(len(content), at_most)
        found = [_from_json(item, f"meme {place}: ") for place, item in enumerate(content)]
    return found


def _check_number(memes: int, at_most: int) -> None:
    if memes > at_most:
        raise HTTPException(422, f"{memes} memes; at most {at_most} a request are taken")


def _is_form(request: Request) -> bool:
    packed = request.headers.get("content-encoding", "identity").strip().lower()
    if packed != "identity":
        raise HTTPException(415, "the body is compressed (Content-Encoding); send it as it is")
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind not in ("multipart/form-data", "application/json"):
        raise HTTPException(
            415, "send multipart/form-data with text and image, or application/json"
        )
    return kind == "multipart/form-data"


class _WholeForm(MultiPartParser):
    """A form that has to end, and is kept in memory: nothing of a meme is written to the disk."""

    spool_max_size = 2**62
    ended = False

    def on_end(self) -> None:
        self.ended = True

    def on_part_end(self) -> None:
        part = self._current_part
        if part.file is not None:
            super().on_part_end()
            return
        # The parser would read as Latin-1 what is no UTF-8, and judge that.
        self.items.append((part.field_name, bytes(part.data).decode("utf-8")))


async def _form(request: Request, files: int) -> dict[str, list[Any]]:
    """The values of each field, pictures as bytes."""
    # How large a part may be is the business of `limits`, which counts the whole request.
    limits = {"max_files": files, "max_fields": files, "max_part_size": 2**62}
    parser = _WholeForm(request.headers, request.stream(), **limits)
    try:
        form = await parser.parse()
    except MultiPartException as error:
        raise HTTPException(400, f"not a multipart form: {error.message}") from None
    except UnicodeError:
        raise HTTPException(400, "not a multipart form: a field or its name is not UTF-8") from None
    if not parser.ended:
        raise HTTPException(400, "not a multipart form: its last boundary is missing")
    found: dict[str, list[Any]] = {name: [] for name in FIELDS}
    for name, value in form.multi_items():
        if name not in found:
            raise HTTPException(422, f"there is no such field; known are {' and '.join(FIELDS)}")
        # A browser sends a nameless, empty file where none was chosen.
        if isinstance(value, UploadFile) and (value.size or value.filename):
            found[name].append(await value.read())
        elif not isinstance(value, UploadFile):
            found[name].append(value)
    await form.close()
    return found


def _paired(texts: list[Any], images: list[Any]) -> list[Sent | Fault]:
    if texts and images and len(texts) != len(images):
        raise HTTPException(
            422, f"{len(texts)} texts but {len(images)} images; give one each, in the same order"
        )
    n = max(len(texts), len(images))
    pairs = zip(texts or [None] * n, images or [None] * n, strict=True)
    return [_from_form(text, image) for text, image in pairs]


def _from_form(text: Any, image: Any) -> Sent | Fault:
    if isinstance(text, bytes):
        return Fault(422, "text is a file; send it as a plain field")
    if isinstance(image, str):
        return Fault(422, "image is a plain field; send it as a file")
    return Sent(text, image)


async def _json(request: Request) -> Any:
    body = await request.body()
    try:
        if len(body) > _LARGE:
            return await run_in_threadpool(_read_json, body)
        return _read_json(body)
    except (ValueError, RecursionError) as error:
        said = "too deeply nested" if isinstance(error, RecursionError) else _where(error)
        raise HTTPException(400, f"not JSON ({said})") from None


class _Twice(dict[str, Any]):
    """An object in which a name stands twice, so that nobody knows what is meant."""


def _read_json(body: bytes) -> Any:
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        return found if len(found) == len(pairs) else _Twice(found)

    return json.loads(body, object_pairs_hook=once)


def _where(error: ValueError) -> str:
    """The fault without the document, which other messages of Python's quote."""
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg} at {error.pos}"
    return "not UTF-8" if isinstance(error, UnicodeDecodeError) else "a number is too long"


def _from_json(item: Any, place: str) -> Sent | Fault:
    if not isinstance(item, Mapping):
        return Fault(422, f"{place}expected an object with text and image, got {_kind(item)}")
    if any(name not in FIELDS for name in item):
        return Fault(422, f"{place}there is no such field; known are {' and '.join(FIELDS)}")
    if isinstance(item, _Twice):
        return Fault(422, f"{place}a field is given twice; give each once")
    image = item.get("image")
    if image is None:
        return Sent(item.get("text"), None)
    if not isinstance(image, str):
        return Fault(422, f"{place}image is {_kind(image)}, expected the file's bytes in base64")
    try:
        return Sent(item.get("text"), base64.b64decode("".join(image.split()), validate=True))
    except ValueError:
        return Fault(422, f"{place}image is not base64; send the file's bytes in it, no path")


def _kind(value: Any) -> str:
    if value is None:
        return "nothing"
    kinds = {dict: "an object", list: "a list", str: "a string", bool: "true or false"}
    return next((said for kind, said in kinds.items() if isinstance(value, kind)), "a number")
