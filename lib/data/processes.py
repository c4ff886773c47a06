"""Workers elsewhere: processes that end with whoever started them, and Ray's."""

import contextlib
import logging
import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures.process import BrokenProcessPool
from typing import Any


def end_with_parent(parent: int) -> None:
    """End this worker when its parent is gone: killed, that cannot send the word to stop."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


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
