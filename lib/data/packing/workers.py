"""An ordered map over worker processes that end with their parent."""

import os
from collections.abc import Callable, Iterable

import joblib

from lib.data.processes import end_with_parent


def ordered_map(workers: int) -> Callable[[Callable, Iterable], Iterable]:
    """An ordered map over `workers` processes; none are started for one."""
    if workers <= 1:
        return map
    parallel = joblib.Parallel(
        workers,
        return_as="generator",
        batch_size=4,
        pre_dispatch="32 * n_jobs",
        initializer=end_with_parent,
        initargs=(os.getpid(),),
    )
    return lambda function, items: parallel(joblib.delayed(function)(item) for item in items)
