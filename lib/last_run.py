"""Whether a whole run would change nothing, as make asks of a target.

Compared are the settings, the code with the versions of all packages, the data that the run reads
and what it left: each file of it by its content, a large one or one of the user's data by its size
and date.
"""

import hashlib
import importlib.metadata
import json
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from lib.artifacts import read_json, write_json
from lib.config import MODELS, ROOT, Settings

CODE = ("*.py", "*.yaml", "*.html", "*.css", "*.js")
# Bytes; a larger file is told by its size and date.
READ_UP_TO = 1_000_000


def unchanged(settings: Settings) -> bool:
    """Whether the last whole run of this mode had these settings and nothing has changed since.

    Never with `overwrite`: whoever gives it wants something done.
    """
    file = _file(settings)
    if settings.overwrite or not file.exists():
        return False
    try:
        return read_json(file, "")["state"] == state(settings)
    except (ValueError, KeyError, TypeError, OSError):
        return False


def keep_state(settings: Settings, read: str | None = None) -> None:
    """Say that a whole run of these settings has just ended.

    `read` is what `read_by` said before it began (by default now): what was changed meanwhile is no
    part of it.
    """
    write_json(_file(settings), {"state": state(settings, read)})


def state(settings: Settings, read: str | None = None) -> str:
    """SHA-256 of all that a run depends on, `read_by` as of now by default, and of all it left."""
    digest = hashlib.sha256((read or read_by(settings)).encode())
    for file in _files(_left(settings)):
        small = file.stat().st_size <= READ_UP_TO
        digest.update(str(file).encode() + file.read_bytes() if small else _by_date(file))
    return digest.hexdigest()


def read_by(settings: Settings) -> str:
    """SHA-256 of all that a run depends on."""
    digest = hashlib.sha256(settings.model_dump_json().encode())
    digest.update(json.dumps([sys.version, sorted(_versions())]).encode())
    for file in _files(_code()):
        digest.update(f"{file.relative_to(ROOT)}\0".encode() + file.read_bytes())
    for file in _files(_given(settings)):
        digest.update(_by_date(file))
    return digest.hexdigest()


def _file(settings: Settings) -> Path:
    return settings.run_folder / "finished.json"


def _versions() -> Iterator[tuple[str, str]]:
    for found in importlib.metadata.distributions():
        yield found.name, found.version


def _code() -> Iterator[Path]:
    for pattern in CODE:
        yield from (ROOT / "lib").rglob(pattern)
    yield from ROOT.glob("Step_*/*.ipynb")


def _given(settings: Settings) -> Iterator[Path]:
    """The user's data, and backbones that are folders."""
    yield from (settings.root / "Datasets", settings.root / "Step_2")
    if settings.data:
        yield settings.data
    for model in (settings.text_model, settings.vision_model, settings.dual_encoder):
        yield from [Path(model)] if model and Path(model).is_dir() else []


def _left(settings: Settings) -> Iterator[Path]:
    """What the steps of this mode alone write; what Step 8's doors keep is none of it."""
    root, step3 = settings.root, settings.step3
    yield from (settings.taxonomy, settings.settings_file)
    yield from (path for path in step3.glob("*") if path != step3 / "full")
    yield from (settings.features, *map(settings.model_folder, MODELS))
    yield from root.glob(f"Step_[3-7]/*_{settings.mode}.*")
    yield settings.artifact(8, "predictions.csv")
    yield from settings.run_folder.glob("*.ipynb")


def _files(paths: Iterable[Path]) -> list[Path]:
    """The files among and below some paths, each once, in order; links are followed."""
    found = set()
    for path in paths:
        inside = _inside(path) if path.is_dir() else [path]
        found |= {file for file in inside if file.is_file()}
    return sorted(found)


def _inside(folder: Path) -> Iterator[Path]:
    real = folder.resolve()
    # A link to a folder above would lead round and round, or through all of the disk.
    seen = {str(real), *map(str, real.parents)}
    for place, folders, names in os.walk(folder, followlinks=True):
        seen.add(os.path.realpath(place))
        folders[:] = [n for n in folders if os.path.realpath(Path(place, n)) not in seen]
        yield from (Path(place, name) for name in names)


def _by_date(file: Path) -> bytes:
    stat = file.stat()
    return f"{file}\0{stat.st_size}\0{stat.st_mtime_ns}".encode()
