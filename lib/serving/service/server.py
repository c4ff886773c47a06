"""uvicorn, which says when it serves, and at its end lets go of a page that is open somewhere."""

from collections.abc import Mapping
from typing import Any

import uvicorn

from lib.serving.service.logs import LOGGER


class Server(uvicorn.Server):
    """Logs `facts` when it listens, and ends the streams of open pages before it ends.

    Each of these would be waited for as long as it likes.
    """

    def __init__(self, config: uvicorn.Config, facts: Mapping[str, str | int]) -> None:
        super().__init__(config)
        self._facts = facts

    async def startup(self, *args: Any, **options: Any) -> None:
        await super().startup(*args, **options)
        LOGGER.info("serving", extra={"facts": self._facts})

    async def shutdown(self, *args: Any, **options: Any) -> None:
        app: Any = self.config.app
        if page := getattr(app.state, "page", None):
            page.stop_event.set()
        await super().shutdown(*args, **options)
