"""Where tasks run: in this process, in worker processes, or on Ray."""

import logging
import os
import pickle
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import joblib
import pyarrow as pa

from lib.data.processes import end_with_parent, named_if_killed, started_ray
from lib.serving.scoring.inputs import Task
from lib.serving.scoring.tasks import Model, scored


class Done(NamedTuple):
    """The name of a task and the table of its rows."""

    name: str
    rows: pa.Table


class Cluster(NamedTuple):
    """A Ray cluster: its address (None starts one here) and the GPUs that a worker is given."""

    address: str | None = None
    gpus: float = 0.0


class Slice(NamedTuple):
    """How many tasks Ray is given at a time, and bytes: its lists lie in the driver's memory."""

    tasks: int = 10_000
    size: int = 2**30


SLICE = Slice()


def run_tasks(
    tasks: Iterable[Task], model: Model, workers: int, cluster: Cluster | None = None
) -> Iterator[Done]:
    """Judge tasks, each worker with a model of its own; they come as they are done.

    With a `cluster` the workers are actors of Ray Data, else processes of this machine, or this
    process itself for one. At most a few tasks a worker are read ahead from `tasks`, on Ray what
    `SLICE` allows.
    Raises what `scored` raises, and RuntimeError where a worker was killed.
    """
    if cluster is not None:
        yield from _on_ray(tasks, model, workers, cluster)
    elif workers == 1:
        yield from (_done(task, model) for task in tasks)
    else:
        yield from _in_processes(tasks, model, workers)


def _in_processes(tasks: Iterable[Task], model: Model, workers: int) -> Iterator[Done]:
    parallel = joblib.Parallel(
        workers,
        return_as="generator_unordered",
        batch_size=1,
        pre_dispatch="3 * n_jobs",
        initializer=end_with_parent,
        initargs=(os.getpid(),),
    )
    advice = "the same command with fewer --workers goes on where this one stopped"
    with named_if_killed(advice):
        yield from parallel(joblib.delayed(_done)(task, model) for task in tasks)


def _on_ray(tasks: Iterable[Task], model: Model, workers: int, cluster: Cluster) -> Iterator[Done]:
    for waiting in _slices(tasks):
        yield from _slice_on_ray(waiting, model, workers, cluster)


def _slices(tasks: Iterable[Task]) -> Iterator[list[dict[str, bytes]]]:
    """The tasks as Ray Data takes them, as many at a time as `SLICE` allows."""
    # Pickled here to know its size; what is unpickled on either side is this program's own.
    waiting: list[dict[str, bytes]] = []
    held = 0
    for task in tasks:
        waiting.append({"task": pickle.dumps(task)})
        held += len(waiting[-1]["task"])
        if len(waiting) >= SLICE.tasks or held >= SLICE.size:
            yield waiting
            waiting, held = [], 0
    if waiting:
        yield waiting


def _slice_on_ray(
    waiting: list[dict[str, bytes]], model: Model, workers: int, cluster: Cluster
) -> Iterator[Done]:
    started_ray(cluster.address)
    import ray.data

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    # Its lines would break the run's own bar.
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    # A block a task: what is done comes back at once, and a failed worker costs one task.
    memes = ray.data.from_items(waiting, override_num_blocks=len(waiting)).map_batches(
        _Scorer,
        fn_constructor_args=(model,),
        batch_size=1,
        num_cpus=model.threads,
        num_gpus=cluster.gpus or None,
        compute=ray.data.ActorPoolStrategy(size=min(workers, len(waiting))),
    )
    for row in memes.iter_rows():
        yield pickle.loads(row["done"])


class _Scorer:
    """What an actor of Ray Data keeps between tasks: which model it is, loaded at the first."""

    def __init__(self, model: Model) -> None:
        self.model = model

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        done = [_done(pickle.loads(task), self.model) for task in batch["task"]]
        return {"done": [pickle.dumps(one) for one in done]}


def workers_of(cluster: Cluster | None, threads: int, device: str = "cpu") -> int:
    """As many workers as have `threads` cores each, of this machine or of the cluster.

    Without a cluster one alone where the models run on an accelerator, which all would share.
    """
    if cluster is None and device != "cpu":
        return 1
    if cluster is None:
        return max(joblib.cpu_count() // threads, 1)
    return max(int(started_ray(cluster.address).cluster_resources().get("CPU", 1)) // threads, 1)


def _done(task: Task, model: Model) -> Done:
    return Done(task.name, scored(task, model))
