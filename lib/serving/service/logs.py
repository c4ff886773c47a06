"""One line of JSON a request, without a word or pixel of its memes, and one for all else."""

import json
import logging
import re
import sys
import time
import traceback
import uuid
from typing import Any

from fastapi.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lib.serving.service.metrics import Metrics

LOGGER = logging.getLogger("memes.service")
# Where handlers leave what the line shall say of a request.
FACTS = "memes.facts"
_NUMBER = re.compile(r"[A-Za-z0-9._-]{1,64}")


class JsonLines(logging.Formatter):
    """A record as an object: time, level, event, and what it was given as `extra={"facts": …}`."""

    def format(self, record: logging.LogRecord) -> str:
        line = {"time": self.formatTime(record), "level": record.levelname.lower()}
        line |= {"event": record.getMessage()} | getattr(record, "facts", {})
        if record.exc_info and record.exc_info[1] is not None:
            line |= where(record.exc_info[1])
        return json.dumps(line, default=str)


def where(error: BaseException) -> dict[str, str]:
    """An exception's kind and place; what it says may quote a meme."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f"{frames[-1].filename}:{frames[-1].lineno}" if frames else ""
    return {"error": type(error).__name__, "at": place}


def log_as_json() -> None:
    """Let all loggers write lines of JSON to the standard error stream, warnings too."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.captureWarnings(True)
    LOGGER.setLevel(logging.INFO)


class RequestLog:
    """Numbers each request, times and counts it, and answers 500 where something broke."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start, number = time.perf_counter(), _number(scope)
        facts: dict[str, Any] = scope.setdefault(FACTS, {})
        status = 0

        async def numbered(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message.setdefault("headers", []).append((b"x-request-id", number.encode()))
            await send(message)

        try:
            await self._app(scope, receive, numbered)
        except Exception as error:
            facts |= where(error)
            if status == 0:
                answer = JSONResponse({"error": "something broke; it is in the service's log"}, 500)
                await answer(scope, receive, numbered)
        finally:
            self._tell(scope, number, status, time.perf_counter() - start)

    def _tell(self, scope: Scope, number: str, status: int, seconds: float) -> None:
        path = _path(scope)
        self._metrics.requests.labels(path, status).inc()
        self._metrics.request_seconds.labels(path).observe(seconds)
        facts = {"id": number, "method": scope["method"], "path": path, "status": status}
        facts |= {"ms": round(1000 * seconds, 1)} | scope[FACTS]
        level = logging.ERROR if status >= 500 and status != 503 else logging.INFO
        LOGGER.log(level, "request", extra={"facts": facts})


def _number(scope: Scope) -> str:
    """The client's own number of the request if it is one, else a new one."""
    given = next((v for name, v in scope["headers"] if name == b"x-request-id"), b"")
    number = given.decode("latin-1")
    return number if _NUMBER.fullmatch(number) else uuid.uuid4().hex


def _path(scope: Scope) -> str:
    """The path of a route; what else a client asks for could hold anything."""
    # What is refused before it is routed has none yet.
    known = [getattr(route, "path", "") for route in scope["app"].routes]
    route = scope["path"] if scope["path"] in known else "other"
    return str(getattr(scope.get("route"), "path", route))
