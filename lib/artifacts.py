"""Files the steps hand to each other: deterministic bytes, written whole or not at all."""

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

DECIMALS = 6


@contextlib.contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary sibling of `path` that takes its name on success and goes on failure.

    The temporary name may be filled as a file or made into a folder; a folder replaces a folder.
    Raises whatever the body raises; `path` then keeps its previous content.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    new = scratch / path.name
    try:
        yield new
        if path.is_dir():
            # No folder can be renamed over a full one: park the old one until the new one stands.
            path.rename(scratch / "replaced")
        os.replace(new, path)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def write_text(path: str | Path, text: str) -> None:
    """Write `text` as UTF-8 with Unix line ends, atomically."""
    with atomic_path(path) as new:
        new.write_text(text, encoding="utf-8", newline="\n")


def write_json(path: str | Path, content: Any) -> None:
    """Write JSON with sorted keys, two spaces of indent and floats rounded to six decimals.

    Raises ValueError if a float is not finite: JSON has no word for it, so pass None instead.
    """
    text = json.dumps(
        _rounded(content), sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False
    )
    write_text(path, text + "\n")


def write_csv(path: str | Path, frame: pd.DataFrame) -> None:
    """Write a table with a header, without its index, floats with six decimals."""
    write_text(path, frame.to_csv(index=False, float_format=f"%.{DECIMALS}f", lineterminator="\n"))


def read_json(path: str | Path, made_by: str) -> Any:
    """Read an artifact of an earlier step.

    Raises FileNotFoundError naming `made_by`, the command that writes the file, and ValueError if
    the file is not JSON.
    """
    path = Path(path)
    require(path, made_by)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON ({error}); write it again: {made_by}") from None


def require(path: str | Path, made_by: str) -> Path:
    """Return `path`, or raise FileNotFoundError naming `made_by`, the command that makes it."""
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; make it with: {made_by}")
    return path


def fingerprint(*paths: str | Path, digits: int = 16) -> str:
    """SHA-256 over names and bytes of files, folders in sorted order, shortened to `digits`.

    Names count relative to each argument, so a copied folder keeps its fingerprint.
    Raises FileNotFoundError if a path does not exist.
    """
    digest = hashlib.sha256()
    for path in map(Path, paths):
        files = sorted(f for f in path.rglob("*") if f.is_file()) if path.is_dir() else [path]
        for file in files:
            name = file.relative_to(path).as_posix() if path.is_dir() else file.name
            with file.open("rb") as stream:
                content = hashlib.file_digest(stream, "sha256").hexdigest()
            digest.update(f"{name}\0{content}\n".encode())
    return digest.hexdigest()[:digits]


def guard_overwrite(marker: str | Path, made_from: Mapping[str, Any], overwrite: bool) -> None:
    """Refuse to replace what a full run made from something else.

    `marker` is the JSON file a writer leaves beside its output, holding the `made_from` of that
    time; it must hold a field "mode". Pilot output may be replaced by anything.
    Raises FileExistsError naming both origins and the ways out.
    """
    marker = Path(marker)
    if overwrite or not marker.exists():
        return
    there = json.loads(marker.read_text(encoding="utf-8"))
    if there.get("mode") == "full" and there != _rounded(dict(made_from)):
        raise FileExistsError(
            f"{marker.parent} was made by a full run from {there}; this run would replace it with "
            f"{dict(made_from)}. To replace it set overwrite=true; to keep both give another root"
        )


def _rounded(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _rounded(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(v) for v in value]
    if isinstance(value, Path):
        return value.as_posix()
    if hasattr(value, "tolist"):
        return _rounded(value.tolist())
    return round(value, DECIMALS) if isinstance(value, float) else value
