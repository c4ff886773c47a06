"""What comes next is read by a thread while the caller is busy with what came before."""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Read = TypeVar("Read")


def read_ahead(
    read: Callable[[Item], Read], items: Iterable[Item]
) -> Generator["Future[Read]", None, None]:
    """What `read` will have made of each item, in order, begun one item ahead of the caller.

    A future holds what it raised, too. It pays where `read` lets go of Python's lock, as decoding
    pictures does. A caller that may stop halfway has to close it: left to the garbage collector it
    would wait for its thread wherever that runs, and within the start of another for ever.
    """
    # A thread of its own for each call: none is left behind that a forked process would wait for.
    reader = ThreadPoolExecutor(1, "reader")
    try:
        coming: deque[Future[Read]] = deque()
        for item in items:
            coming.append(reader.submit(read, item))
            if len(coming) > 1:
                yield coming.popleft()
        while coming:
            yield coming.popleft()
    finally:
        # A caller that gives up does not wait for what was not begun.
        reader.shutdown(cancel_futures=True)
