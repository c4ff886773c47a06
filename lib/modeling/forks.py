"""Calls side by side, in processes that share the memory of the one they are forked from."""

import contextlib
import ctypes
import multiprocessing
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import torch

from lib.data.processes import named_if_killed
from lib.modeling.device import default_device

# Of prctl(2): the signal that a process is sent when its parent ends.
_PR_SET_PDEATHSIG = 1

# What the forked processes call. It comes to them with the memory: features are not copied.
_function: Callable[..., Any]


def in_forks(
    function: Callable[..., Any], jobs: Sequence[tuple[Any, ...]], workers: int
) -> Iterator[Any]:
    """What `function(*job)` returns for each job, in order, `workers` of them at a time.

    PyTorch has one thread for each, and then gives the same numbers with any number of workers.
    Where memory cannot be forked (an accelerator is used, or the system is not Linux) the jobs run
    one after the other in this process. An error of a job is raised here in its turn, and so is an
    interruption; either ends the others at once.
    Raises RuntimeError where a process was killed.
    """
    workers = min(workers, len(jobs))
    if workers < 2 or default_device() != "cpu" or sys.platform != "linux":
        with _one_thread():
            for job in jobs:
                yield function(*job)
        return
    global _function
    _function = function
    fork = multiprocessing.get_context("fork")
    others = set(multiprocessing.active_children())
    with ProcessPoolExecutor(workers, fork, _begin) as pool:
        futures = [pool.submit(_call, job) for job in jobs]
        own = set(multiprocessing.active_children()) - others
        try:
            with named_if_killed("run again with fewer `workers`"):
                for future in futures:
                    yield future.result()
        except BaseException:
            # The pool would wait for what runs, and for what it has queued, which may take hours.
            for process in own:
                process.kill()
            pool.shutdown(cancel_futures=True)
            raise


def _begin() -> None:
    """One thread, and an end with the process that forked this one, were it killed."""
    torch.set_num_threads(1)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _call(job: tuple[Any, ...]) -> Any:
    return _function(*job)


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
