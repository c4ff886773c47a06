"""What a client may take of the service: bytes and seconds, counted while a request arrives."""

import asyncio
import contextlib
import socket
from typing import Any

from fastapi import HTTPException
from fastapi.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.auto import AutoHTTPProtocol

from lib.serving.service.settings import ServiceSettings

# Bytes of a request's head, or of what else is no body, that may wait for more. Uvicorn passes the
# limit on to h11; httptools has none.
MOST_HEAD = 64 * 1024
_HAS_LIMIT = not hasattr(AutoHTTPProtocol, "on_headers_complete")


class Limits:
    """Refuses a body while it arrives, before anybody parses or keeps it.

    A body that is too large gets a 413, one that takes longer than `read_timeout` a 408, one that
    breaks off a 400, and a 503 any that would make all bodies together exceed `max_held_mb`.
    """

    def __init__(self, app: ASGIApp, settings: ServiceSettings) -> None:
        self._app, self._settings = app, settings
        self.held = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        body = _Body(self, receive)
        try:
            self.check(_declared(scope), 0)
            await self._app(scope, body.receive, send)
        except HTTPException as error:
            await _refuse(error, scope, receive, send)
        finally:
            self.held -= body.size

    def check(self, size: int, more: int) -> None:
        """Raise HTTPException if a body of `size` bytes, `more` of them new, is too much."""
        if size > self._settings.max_upload:
            most = f"{self._settings.max_upload_mb:g} MB"
            raise HTTPException(413, f"the request is too large; at most {most} are taken")
        if self.held + more > self._settings.max_held:
            again = {"Retry-After": str(self._settings.retry_after)}
            raise HTTPException(503, "too much is being sent at once; try again", again)

    @property
    def read_timeout(self) -> float:
        return self._settings.read_timeout


class _Body:
    """The body of one request as it comes in."""

    def __init__(self, limits: Limits, receive: Receive) -> None:
        self._limits, self._receive = limits, receive
        self._deadline = asyncio.get_running_loop().time() + limits.read_timeout
        self._whole = False
        self.size = 0

    async def receive(self) -> Message:
        if self._whole:
            # What comes now is the client's leaving, whenever that is.
            return await self._receive()
        try:
            async with asyncio.timeout_at(self._deadline):
                message = await self._receive()
        except TimeoutError:
            took = f"{self._limits.read_timeout:g} seconds"
            raise HTTPException(
                408, f"the request did not arrive within {took}", {"Connection": "close"}
            ) from None
        if message["type"] == "http.disconnect":
            raise HTTPException(400, "the request broke off")
        more = len(message.get("body", b""))
        self._limits.check(self.size + more, more)
        self.size += more
        self._limits.held += more
        self._whole = not message.get("more_body", False)
        return message


def _declared(scope: Scope) -> int:
    """The bytes that a request says it has, 0 where it says nothing."""
    length = next((v for name, v in scope["headers"] if name == b"content-length"), b"0")
    return int(length) if length.isdigit() else 0


async def _refuse(error: HTTPException, scope: Scope, receive: Receive, send: Send) -> None:
    response = JSONResponse({"error": error.detail}, error.status_code, error.headers)
    await response(scope, receive, send)


class ImpatientProtocol(AutoHTTPProtocol):  # type: ignore[misc, valid-type]
    """Uvicorn's HTTP, which lets go of clients that begin no request, half a one, or read nothing.

    Uvicorn itself waits for the head of a request for ever, and keeps all of it. `patience` are
    the seconds for it, and for an answer to be taken; a head of more than `MOST_HEAD` bytes that is
    not whole gets a 400.
    """

    patience = 10.0

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._timer: asyncio.TimerHandle | None = None
        # Bytes since the last head, piece of a body or request that was whole.
        self._unread = 0
        self._expect_a_head()
        # Answers that nobody takes: the kernel gives up on them.
        with contextlib.suppress(AttributeError, OSError):
            milliseconds = int(self.patience * 1000)
            transport.get_extra_info("socket").setsockopt(
                socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, milliseconds
            )

    def connection_lost(self, error: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        super().connection_lost(error)

    def data_received(self, data: bytes) -> None:
        self._unread += len(data)
        # The parser calls what stands below, and with it the count begins anew.
        super().data_received(data)
        if _HAS_LIMIT or self._unread <= MOST_HEAD or self.transport.is_closing():
            return
        if self._is_idle():
            self.send_400_response("The head of the request is too large.")
        else:  # an answer is on its way, which no other may break into
            self.transport.abort()

    def on_headers_complete(self) -> None:
        self._unread = 0
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._unread = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._unread = 0
        super().on_message_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._expect_a_head()

    def _expect_a_head(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self.loop.call_later(self.patience, self._let_go)

    def _let_go(self) -> None:
        if self._is_idle():
            self.transport.abort()

    def _is_idle(self) -> bool:
        return self.cycle is None or self.cycle.response_complete
