"""Objects in JSON Lines, and files of text that are in no encoding that is read here."""

import codecs
import json
from collections.abc import Iterator
from typing import Any, BinaryIO

_WIDE = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE, codecs.BOM_UTF32_BE)


def json_objects(name: object, stream: BinaryIO) -> Iterator[tuple[int, dict[str, Any] | str]]:
    """The number of each line that is not blank, from 1, and its object or why it is none.

    Raises ValueError for a file in UTF-16 or UTF-32, of which no line can be read.
    """
    for number, line in enumerate(stream, start=1):
        if number == 1:
            refuse_wide(name, line)
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            yield number, f"line {number}: not JSON: {error}"
            continue
        yield number, row if isinstance(row, dict) else f"line {number}: not a JSON object"


def refuse_wide(name: object, start: bytes) -> None:
    """Raise ValueError where a file that starts like this is in UTF-16 or UTF-32."""
    # Without a mark at its start every other byte of Latin letters is a zero.
    if start.startswith(_WIDE) or b"\0" in start[:4]:
        raise ValueError(
            f"{name} is not in UTF-8 but in UTF-16 or UTF-32, as some editors, spreadsheets and "
            "PowerShell's > write; save it as UTF-8"
        )
