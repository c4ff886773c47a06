"""Processes: workers that end with whoever started them, Ray's, and one that must be alone."""

import contextlib
import logging
import os
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout


def end_with_parent(parent: int) -> None:
    """End this worker when its parent is gone: killed, that cannot send the word to stop."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@contextlib.contextmanager
def alone(name: str, refusal: str) -> Iterator[None]:
    """Keep this user's other processes from what `name` stands for on this machine.

    Raises ValueError with `refusal` where one has it already.
    """
    # Not beside what is written, which a process that is refused leaves as it was.
    file = Path(tempfile.gettempdir(), f"calibrated-memes-{os.getuid()}-{name}.lock")
    lock = FileLock(file, blocking=False)
    try:
        lock.acquire()
    except Timeout:
        raise ValueError(refusal) from None
    try:
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def named_if_killed(advice: str) -> Iterator[None]:
    """Raise RuntimeError with `advice` where a worker process was killed."""
    try:
        yield
    except BrokenProcessPool:
        raise RuntimeError(
            f"a worker process was killed, for want of memory perhaps: {advice}"
        ) from None


def started_ray(address: str | None) -> Any:
    """The library Ray, connected to the cluster at `address`, or to one started here for None.

    Raises ImportError saying what to install, ConnectionError where there is no cluster.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError:
        raise ImportError("Ray is an extra: pip install 'calibrated-memes[ray]'") from None
    if not ray.is_initialized():
        try:
            ray.init(address or "local", log_to_driver=False, logging_level=logging.ERROR)
        except Exception as error:  # Ray raises plain ones
            raise ConnectionError(f"no Ray at {address or 'this machine'}: {error}") from None
    return ray
