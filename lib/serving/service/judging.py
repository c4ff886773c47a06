"""From what was sent to its answers: memes are read beside the model, then wait for it."""

import asyncio
import contextlib
import functools
import importlib.util
import io
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from fastapi import HTTPException
from PIL import Image

from lib.data.pictures import FORMATS, MAX_PIXELS
from lib.serving.classifier import MemeClassifier
from lib.serving.memes import Meme, length_of, read_meme
from lib.serving.service.logs import LOGGER, where
from lib.serving.service.metrics import Metrics
from lib.serving.service.model_thread import Answer, ModelThread
from lib.serving.service.requests import Fault, Sent
from lib.serving.service.settings import ServiceSettings

NO_OCR = (
    "without a text it is read off the picture, which this service cannot: give a text, or have it "
    "installed there: pip install 'calibrated-memes[ocr]'"
)


class Judging:
    """Takes memes in up to `queue` at once, has them read, and judged by one thread.

    `seen` is told of all answers.
    """

    def __init__(
        self,
        classifier: MemeClassifier,
        settings: ServiceSettings,
        seen: Callable[[Sequence[Answer]], None],
    ) -> None:
        self._settings, self._seen = settings, seen
        self.metrics = Metrics(lambda: self.accepted)
        self.accepted = 0
        self._reading = 0
        self._readers = ThreadPoolExecutor(settings.readers, "reader")
        # Reading a text off a picture takes longest, and one at a time is all it can do.
        self._ocr = ThreadPoolExecutor(1, "ocr")
        wait = settings.max_wait_ms / 1000
        self._model = ModelThread(
            classifier.judge, settings.max_batch, wait, lambda: self._reading, self.metrics.batch
        )

    def start(self) -> None:
        """Begin to judge; to be called where the loop runs that `answer` is awaited in."""
        self._loop = asyncio.get_running_loop()
        self._model.start()

    @property
    def ready(self) -> bool:
        return self._model.alive

    def close(self) -> None:
        """Finish what was accepted."""
        for pool in (self._readers, self._ocr):
            pool.shutdown()
        self._model.close()

    async def answer(self, sent: Sequence[Sent | Fault]) -> list[Answer | Fault]:
        """The answer of each meme, in order, or why it has none.

        Raises HTTPException 503 where there is no room for all of them.
        """
        memes = [item for item in sent if isinstance(item, Sent)]
        self._take_in(len(memes))
        tasks = [asyncio.create_task(self._one(item)) for item in memes]
        for task in tasks:
            # Not in the task, which ends unbegun where it is cancelled at once.
            task.add_done_callback(self._let_out)
        try:
            if tasks:
                await asyncio.wait(tasks, timeout=self._settings.request_timeout)
            answers = iter([self._result(task) for task in tasks])
        finally:
            for task in tasks:
                task.cancel()
        found = [next(answers) if isinstance(item, Sent) else item for item in sent]
        self._count(found)
        return found

    def ask(self, text: str | None, image: bytes | None) -> Answer:
        """The answer on one meme, for a caller in a thread of its own.

        Raises ValueError saying why there is none, TimeoutError where there is no room or no time.
        """
        asked = asyncio.run_coroutine_threadsafe(self.answer([Sent(text, image)]), self._loop)
        try:
            (found,) = asked.result()
        except HTTPException as error:
            raise TimeoutError(error.detail) from None
        if not isinstance(found, Fault):
            return found
        raise TimeoutError(found.said) if found.status == 504 else ValueError(found.said)

    def _take_in(self, memes: int) -> None:
        if not self.ready:
            raise HTTPException(503, "the model is not running; see the service's log")
        if self.accepted + memes > self._settings.queue:
            again = {"Retry-After": str(self._settings.retry_after)}
            raise HTTPException(503, "too many memes are waiting; try again", again)
        self.accepted += memes

    async def _one(self, sent: Sent) -> Answer | Fault:
        try:
            meme = await self._read(sent)
            if isinstance(meme, Fault):
                return meme
            return await asyncio.wrap_future(self._model.submit(meme))
        except ArithmeticError as error:
            return Fault(500, str(error))
        except Exception as error:
            LOGGER.error("a meme was not judged", extra={"facts": where(error)})
            return Fault(500, f"judging this meme failed ({type(error).__name__})")

    def _let_out(self, _: "asyncio.Task[Answer | Fault]") -> None:
        self.accepted -= 1

    async def _read(self, sent: Sent) -> Meme | Fault:
        by_ocr = sent.text is None and sent.image is not None
        if by_ocr and not _ocr_is_installed():
            return Fault(501, NO_OCR)
        # A batch does not wait for what takes seconds.
        self._reading += not by_ocr
        loop, pool = asyncio.get_running_loop(), self._ocr if by_ocr else self._readers
        try:
            return await loop.run_in_executor(pool, self._meme, sent)
        except (ValueError, OSError) as error:
            return Fault(422, " ".join(str(error).split()))
        finally:
            self._reading -= not by_ocr

    def _meme(self, sent: Sent) -> Meme:
        """Read a meme within the limits of this service, which may be lower than anywhere else."""
        most = self._settings.max_text
        if isinstance(sent.text, str) and (length := length_of(sent.text)) > most:
            raise ValueError(f"text has {length:,} characters; at most {most:,} are taken")
        if sent.image is not None and self._settings.max_pixels < MAX_PIXELS:
            _refuse_large(sent.image, self._settings.max_pixels)
        return read_meme(sent.text, sent.image)

    def _result(self, task: "asyncio.Task[Answer | Fault]") -> Answer | Fault:
        if task.done():
            return task.result()
        return Fault(504, f"no answer within {self._settings.request_timeout:g} seconds")

    def _count(self, found: Sequence[Answer | Fault]) -> None:
        self._seen([item for item in found if not isinstance(item, Fault)])
        for item in found:
            if isinstance(item, Fault):
                self.metrics.faults.labels(item.status).inc()
            else:
                self.metrics.decisions.labels(item["decision"]).inc()


def _refuse_large(picture: bytes, most: int) -> None:
    """Raise ValueError for more pixels than `most`, told by the file's head alone."""
    size = (0, 0)
    # What cannot be opened is refused, in the words of all doors, when it is read.
    with contextlib.suppress(Exception), Image.open(io.BytesIO(picture), formats=FORMATS) as image:
        size = image.size
    if size[0] * size[1] > most:
        raise ValueError(f"picture: more than {most} pixels; make it smaller")


@functools.cache
def _ocr_is_installed() -> bool:
    return all(importlib.util.find_spec(name) for name in ("rapidocr", "onnxruntime"))


def facts_of(found: Sequence[Any]) -> dict[str, Any]:
    """What the log says of a request's memes: how many, their decisions and faults."""
    names = [f"fault_{x.status}" if isinstance(x, Fault) else str(x["decision"]) for x in found]
    return {"memes": len(found)} | {name: names.count(name) for name in sorted(set(names))}
