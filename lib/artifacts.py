"""Files the steps hand to each other: deterministic bytes, written whole or not at all."""

import contextlib
import functools
import hashlib
import json
import os
import re
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

import pandas as pd

SIGNIFICANT_DIGITS = 9

# The scratch folder of a write: name of the artifact, machine, process, random letters
_SCRATCH = re.compile(r"\.(?P<name>.+)\.(?P<machine>[0-9a-f]{12})-(?P<process>\d+)-\w{8}")
# Of a machine that cannot be asked whether its process lives, a scratch folder this old is dead
_DEAD_AFTER = 24 * 3600.0
_own_scratch: set[Path] = set()
_swept: set[Path] = set()
_scratch_lock = threading.Lock()


@contextlib.contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary sibling of `path` that takes its name on success and goes on failure.

    The temporary name may be filled as a file or made into a folder; a folder replaces a folder.
    Whoever may read what the process writes by its umask may read it.
    What killed processes left in the folder goes with a process's first write into it.
    Raises whatever the body raises; `path` then keeps its previous content.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = _new_scratch(path)
    new = scratch / path.name
    try:
        yield new
        _let_others_read(new)
        if path.is_dir():
            # No folder can be renamed over a full one: park the old one until the new one stands.
            path.rename(scratch / "replaced")
        os.replace(new, path)
    finally:
        if (scratch / "replaced").exists() and not path.exists():
            # Interrupted between the two renames
            (scratch / "replaced").rename(path)
        shutil.rmtree(scratch, ignore_errors=True)
        _own_scratch.discard(scratch)


def _new_scratch(path: Path) -> Path:
    folder, owner = path.parent.resolve(), f"{_machine()}-{os.getpid()}"
    # A thread that sweeps must not meet the folder of another that is not known to be ours yet
    with _scratch_lock:
        # Another process may sweep at the same time, or the folder may not be listed
        with contextlib.suppress(OSError):
            _sweep(folder)
        scratch = Path(tempfile.mkdtemp(prefix=f".{path.name}.{owner}-", dir=folder))
        _own_scratch.add(scratch)
    return scratch


def _let_others_read(new: Path) -> None:
    """Give files the mode of the umask: safetensors writes them for their owner alone."""
    for file in [new, *new.rglob("*")] if new.is_dir() else [new]:
        if file.is_file() and not file.is_symlink():
            file.chmod(0o666 & ~_umask())


@functools.cache
def _umask() -> int:
    # It can only be read by setting it
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def _sweep(folder: Path) -> None:
    """Remove the scratch folders in `folder` whose process is gone, once a process."""
    if folder in _swept:
        return
    _swept.add(folder)
    for scratch in [folder / entry for entry in os.listdir(folder)]:
        owner = _SCRATCH.fullmatch(scratch.name)
        if owner is None or not scratch.is_dir() or _lives(scratch, owner):
            continue
        new, path = scratch / owner["name"], folder / owner["name"]
        if (scratch / "replaced").exists() and new.exists() and not path.exists():
            # Killed between the two renames: the old folder was parked, the new one was whole
            new.rename(path)
        shutil.rmtree(scratch, ignore_errors=True)


def _lives(scratch: Path, owner: re.Match[str]) -> bool:
    if owner["machine"] != _machine():
        parts = [scratch, *scratch.rglob("*")]
        newest = max((part.lstat().st_mtime for part in parts if part.exists()), default=0.0)
        return time.time() - newest < _DEAD_AFTER
    process = int(owner["process"])
    if process == os.getpid():
        # A process of this number may have been killed in a container's life before this one
        return scratch in _own_scratch
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


@functools.cache
def _machine() -> str:
    """This host, this time it was started, and this container: where process numbers mean one."""
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text())
        parts.append(os.readlink("/proc/self/ns/pid"))
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:12]


def write_text(path: str | Path, text: str) -> None:
    """Write `text` as UTF-8 with Unix line ends, atomically."""
    with atomic_path(path) as new:
        new.write_text(text, encoding="utf-8", newline="\n")


def write_json(path: str | Path, content: Any) -> None:
    """Write JSON with sorted keys, two spaces of indent and floats of nine significant digits.

    Raises ValueError if a float is not finite: JSON has no word for it, so pass None instead.
    """
    text = json.dumps(
        as_written(content), sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False
    )
    write_text(path, text + "\n")


def write_csv(path: str | Path, frame: pd.DataFrame) -> None:
    """Write a table with a header, without its index, floats with nine significant digits."""
    with atomic_path(path) as new, new.open("w", encoding="utf-8", newline="") as file:
        append_csv(file, frame, header=True)


def append_csv(file: TextIO, frame: pd.DataFrame, header: bool) -> None:
    """Write the rows of a table as `write_csv` does, for tables that are written in parts."""
    digits = f"%.{SIGNIFICANT_DIGITS}g"
    frame.to_csv(file, header=header, index=False, float_format=digits, lineterminator="\n")


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
    if there.get("mode") == "full" and there != as_written(made_from):
        raise FileExistsError(
            f"{marker.parent} was made by a full run from {there}; this run would replace it with "
            f"{dict(made_from)}. To replace it set overwrite=true (lib.run: -p overwrite true, "
            "other programs: --overwrite); to keep both give another root"
        )


def as_written(value: Any) -> Any:
    """What JSON gives back of a value that `write_json` wrote: compare this with what was read."""
    if isinstance(value, Mapping):
        return {str(k): as_written(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [as_written(v) for v in value]
    if isinstance(value, Path):
        return value.as_posix()
    if hasattr(value, "tolist"):
        return as_written(value.tolist())
    return float(f"{value:.{SIGNIFICANT_DIGITS}g}") if isinstance(value, float) else value
