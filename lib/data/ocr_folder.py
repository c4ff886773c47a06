"""Fill `Step_2/ocr.jsonl` of a folder of memes: `python -m lib.data.ocr_folder --data DIR`.

Rows are only ever added at its end, one a picture that has none, so that a killed run goes on where
it was and what is there, by whatever tool, stays as it is.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import NamedTuple

import joblib
from tqdm import tqdm

from lib.artifacts import write_text
from lib.data.example import Example
from lib.data.growing_jsonl import growing_jsonl
from lib.data.loose_pictures import DRAFT, is_utf8, loose_pictures
from lib.data.ocr import engine_of_ocr, read_text
from lib.data.packing.workers import ordered_map
from lib.data.pictures import load_picture
from lib.data.readers.manifest import MANIFEST, OCR, ids_in, read_manifest

REJECTED = OCR.with_name("ocr.rejected.jsonl")
# So many names stand in the message; the file has them all.
_NAMED = 5
# Each holds models of its own, about 300 MB.
_MOST_WORKERS = 4


class Task(NamedTuple):
    """A meme, the file of its picture, and its text as far as it is given."""

    id: str
    picture: Path
    given: str


class Read(NamedTuple):
    """A meme's text, or the reason why its picture could not be read."""

    id: str
    text: str
    reason: str


class Filled(NamedTuple):
    """What a run did: pictures read, how many had no text, those rejected, and those left alone."""

    read: int
    without_text: int
    rejected: list[Read]
    had_row: int
    had_text: int


def fill_folder(data_dir: str | Path, workers: int = 1, given_too: bool = False) -> Filled:
    """Add a row to `Step_2/ocr.jsonl` for each picture of the folder that has none.

    With a manifest its pictures are read; those of memes whose text the manifest gives only if
    `given_too` says so, as a row of `ocr.jsonl` takes the place of that text. Without one every
    picture in `Datasets/` is read, or in the folder itself, and a draft of a manifest is written. A
    picture without text gets an empty text; one that is missing or broken is listed in
    `Step_2/ocr.rejected.jsonl`, and the next run tries again.
    Raises ValueError if the extra `ocr` is not installed, an id stands twice, or another run is
    filling the file, and FileNotFoundError if the folder holds no picture.
    """
    data_dir = Path(data_dir)
    if not data_dir.is_dir():
        raise FileNotFoundError(f"{data_dir}: there is no such folder")
    engine_of_ocr()
    memes = _memes(data_dir)
    with growing_jsonl(data_dir / OCR) as add:
        known = ids_in(data_dir / OCR)
        missing = [meme for meme in memes if meme.id not in known]
        tasks = [meme for meme in missing if given_too or not meme.given]
        rejected, empty = [], 0
        found = ordered_map(min(workers, len(tasks)))(_read, tasks)
        for row in tqdm(found, total=len(tasks), desc="reading pictures", unit="picture"):
            if row.reason:
                rejected.append(row)
            else:
                empty += not row.text
                add({"id": row.id, "text": row.text})
    _list_rejected(data_dir / REJECTED, rejected)
    n_read, had_row = len(tasks) - len(rejected), len(memes) - len(missing)
    return Filled(n_read, empty, rejected, had_row, len(missing) - len(tasks))


def _memes(data_dir: Path) -> list[Task]:
    if not (data_dir / MANIFEST).exists():
        return [Task(name, path, "") for name, path in loose_pictures(data_dir).items()]
    rows = (row for row in read_manifest(data_dir) if isinstance(row, Example))
    return [Task(row.id, row.image, row.ocr) for row in rows if isinstance(row.image, Path)]


def _read(task: Task) -> Read:
    if not is_utf8(task.id):
        return Read(task.id, "", f"{task.id!a}: the file's name is not UTF-8; rename it")
    try:
        return Read(task.id, read_text(load_picture(task.picture)), "")
    except (ValueError, OSError) as error:
        return Read(task.id, "", str(error))


def _list_rejected(path: Path, rejected: list[Read]) -> None:
    if not rejected:
        path.unlink(missing_ok=True)
        return
    rows = (json.dumps({"id": row.id, "reason": row.reason}) for row in rejected)
    write_text(path, "".join(row + "\n" for row in rows))


def main(arguments: list[str] | None = None) -> int:
    """Fill a folder's `Step_2/ocr.jsonl`; 2 if that cannot be done at all."""
    parser = argparse.ArgumentParser(prog="python -m lib.data.ocr_folder", description=main.__doc__)
    parser.add_argument("--data", required=True, type=Path, metavar="DIR", help="the folder")
    parser.add_argument(
        "--workers",
        type=int,
        default=min(joblib.cpu_count(), _MOST_WORKERS),
        help=f"processes that read; default: one a core, {_MOST_WORKERS} at most",
    )
    parser.add_argument(
        "--all", action="store_true", help="read also where the manifest gives a text"
    )
    options = parser.parse_args(arguments)
    try:
        filled = fill_folder(options.data, options.workers, options.all)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    _report(options.data, filled)
    return 0


def _report(data_dir: Path, filled: Filled) -> None:
    print(
        f"{data_dir / OCR}: {filled.read} pictures read, {filled.without_text} of them without "
        f"text; {filled.had_row} had a row before"
    )
    if filled.had_text:
        print(f"{filled.had_text} memes have a text in {MANIFEST}; --all reads them too")
    if not (data_dir / MANIFEST).exists():
        print(
            f"labels are needed: set abuse_hate to 0 or 1 on each line of {data_dir / DRAFT}, "
            f"then rename it to {MANIFEST.name}"
        )
    if filled.rejected:
        names = "; ".join(row.reason for row in filled.rejected[:_NAMED])
        print(
            f"{len(filled.rejected)} pictures could not be read ({data_dir / REJECTED}): {names}",
            file=sys.stderr,
        )


if __name__ == "__main__":
    sys.exit(main())
