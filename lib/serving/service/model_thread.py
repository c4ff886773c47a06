"""One thread for the model: memes wait in a queue and are judged in batches as they come."""

import math
import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, NamedTuple

from lib.serving.memes import Meme

Answer = dict[str, Any]
Judge = Callable[[Sequence[Meme]], list[Answer]]


class _Waiting(NamedTuple):
    meme: Meme
    answer: "Future[Answer]"


class ModelThread:
    """Shows memes to `judge`, at most `max_batch` at once, in the order in which they came.

    A batch that is not full waits up to `max_wait` seconds, but only while `coming()` says that
    more memes are on their way: one alone is judged at once. `seen(memes, seconds)` is told of each
    batch.
    """

    def __init__(
        self,
        judge: Judge,
        max_batch: int,
        max_wait: float,
        coming: Callable[[], int],
        seen: Callable[[int, float], None],
    ) -> None:
        self._judge, self._max_batch, self._max_wait = judge, max_batch, max_wait
        self._coming, self._seen = coming, seen
        self._waiting: queue.SimpleQueue[_Waiting | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="model", daemon=True)

    def start(self) -> None:
        self._thread.start()

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def submit(self, meme: Meme) -> "Future[Answer]":
        """The answer to come; cancelled, the meme is not judged unless it is in a batch already.

        It raises what the model raised on this meme alone, and ArithmeticError for an answer that
        is no number. Bounding the queue is the caller's part, who knows what was accepted.
        """
        waiting = _Waiting(meme, Future())
        self._waiting.put(waiting)
        return waiting.answer

    def close(self) -> None:
        """Judge what was submitted, then end."""
        self._waiting.put(None)
        self._thread.join()

    def _run(self) -> None:
        ended = False
        while not ended:
            batch, ended = self._batch()
            # From here on a future cannot be cancelled any more.
            batch = [w for w in batch if w.answer.set_running_or_notify_cancel()]
            if batch:
                self._answer(batch)

    def _batch(self) -> tuple[list[_Waiting], bool]:
        """The next memes, and whether they are the last."""
        batch: list[_Waiting] = []
        deadline = math.inf
        while len(batch) < self._max_batch:
            try:
                item = self._waiting.get(timeout=self._patience(batch, deadline))
            except queue.Empty:
                break
            if item is None:
                return batch, True
            if not batch:
                deadline = time.monotonic() + self._max_wait
            batch.append(item)
        return batch, False

    def _patience(self, batch: Sequence[_Waiting], deadline: float) -> float | None:
        if not batch:
            return None
        return max(0.0, deadline - time.monotonic()) if self._coming() > 0 else 0.0

    def _answer(self, batch: Sequence[_Waiting]) -> None:
        start = time.perf_counter()
        try:
            answers = self._judge([w.meme for w in batch])
            for waiting, answer in zip(batch, answers, strict=True):
                _settle(waiting.answer, answer)
        except Exception as error:
            # One of them may be at fault, or all together too large for the memory.
            for waiting in batch:
                self._alone(waiting, error if len(batch) == 1 else None)
        self._seen(len(batch), time.perf_counter() - start)

    def _alone(self, waiting: _Waiting, known: Exception | None) -> None:
        if waiting.answer.done():
            return
        try:
            if known is not None:
                raise known
            _settle(waiting.answer, self._judge([waiting.meme])[0])
        except Exception as error:
            waiting.answer.set_exception(error)


def _settle(future: "Future[Answer]", answer: Answer) -> None:
    if _finite(answer):
        future.set_result(answer)
    else:
        future.set_exception(ArithmeticError("the model's answer is not a finite number"))


def _finite(value: Any) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, dict):
        return all(map(_finite, value.values()))
    return all(map(_finite, value)) if isinstance(value, list) else True
