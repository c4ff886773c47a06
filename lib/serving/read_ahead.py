"""The next piece of work is read by a thread while the caller is busy with this one."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Read = TypeVar("Read")


def read_ahead(read: Callable[[Item], Read], items: Iterable[Item]) -> Iterator[Read]:
    """What `read` makes of each item, in order, one more of them than the caller has taken.

    What it raises is raised where the item's turn comes. It pays where `read` lets go of Python's
    lock, as decoding pictures does.
    """
    # A thread of its own for each call: none is left behind that a forked process would wait for.
    with ThreadPoolExecutor(1, "reader") as reader:
        coming: deque[Future[Read]] = deque()
        for item in items:
            coming.append(reader.submit(read, item))
            if len(coming) > 1:
                yield coming.popleft().result()
        while coming:
            yield coming.popleft().result()
