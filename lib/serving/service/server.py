"""uvicorn, which at its end lets go of a page that is open somewhere."""

from typing import Any

import uvicorn


class Server(uvicorn.Server):
    """Ends the streams of open pages first: each would be waited for as long as it likes."""

    async def shutdown(self, *args: Any, **options: Any) -> None:
        app: Any = self.config.app
        if page := getattr(app.state, "page", None):
            page.stop_event.set()
        await super().shutdown(*args, **options)
