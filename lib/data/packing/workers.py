"""An ordered map over worker processes that end with their parent."""

import os
import threading
import time
from collections.abc import Callable, Iterable

import joblib


def ordered_map(workers: int) -> Callable[[Callable, Iterable], Iterable]:
    """An ordered map over `workers` processes; none are started for one."""
    if workers <= 1:
        return map
    parallel = joblib.Parallel(
        workers,
        return_as="generator",
        batch_size=4,
        pre_dispatch="32 * n_jobs",
        initializer=_end_with_parent,
        initargs=(os.getpid(),),
    )
    return lambda function, items: parallel(joblib.delayed(function)(item) for item in items)


def _end_with_parent(parent: int) -> None:
    """End this worker when its parent is gone: killed, that cannot send the word to stop."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
