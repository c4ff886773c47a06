"""An ordered map over worker processes that end with their parent, or over those of a cluster."""

import os
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any

import joblib

from lib.data.processes import end_with_parent, named_if_killed, started_ray

# Of Ray's workers, which give back lists, each is handed so many items at a time.
_AHEAD = 64


def ordered_map(workers: int, ray: str | None = None) -> Callable[[Callable, Iterable], Iterable]:
    """An ordered map over `workers` processes; none are started for one.

    With `ray`, the address of a cluster or "local" to start one here, they are Ray's.
    Raises what `started_ray` raises.
    """
    if ray is not None:
        return _map_on_ray(max(workers, 1), ray)
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

    def mapped(function: Callable, items: Iterable) -> Iterator[Any]:
        with named_if_killed("pack again with fewer `workers`; what is packed stays"):
            yield from parallel(joblib.delayed(function)(item) for item in items)

    return mapped


def _map_on_ray(workers: int, address: str) -> Callable[[Callable, Iterable], Iterable]:
    started_ray(None if address == "local" else address)
    from ray.util.joblib import register_ray

    register_ray()

    def mapped(function: Callable, items: Iterable) -> Iterator[Any]:
        items = iter(items)
        with joblib.Parallel(workers, backend="ray", batch_size=4) as parallel:
            while block := list(islice(items, _AHEAD * workers)):
                yield from parallel(joblib.delayed(function)(item) for item in block)

    return mapped
