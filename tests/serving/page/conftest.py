"""A page of the tiny models, served, and a browser that may ask nobody else."""

import os
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lib.config import Settings
from lib.serving import MemeClassifier


@pytest.fixture(scope="module")
def classifier(full_root: Settings) -> MemeClassifier:
    return MemeClassifier.load(full_root.root, full_root.mode)


@pytest.fixture(scope="module")
def page_url(classifier, tmp_path_factory) -> Iterator[str]:
    """The page's address, on an application that has nothing else."""
    pytest.importorskip("gradio", reason="the extra page is not installed")
    os.environ["GRADIO_TEMP_DIR"] = str(tmp_path_factory.mktemp("uploads"))
    import uvicorn
    from fastapi import FastAPI

    from lib.serving.page import PATH, mount

    app = mount(FastAPI(), classifier, max_upload_mb=0.5)
    # An open page holds a connection for as long as it likes.
    config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}{PATH}/"
        server.should_exit = True
        thread.join()


@pytest.fixture
def opened(chromium, page_url) -> Iterator[Callable]:
    """Open the page; no error and no request to another host may come of it."""
    contexts, problems = [], []
    own = page_url.rsplit("/", 2)[0]

    def open_page(**options):
        context = chromium.new_context(**options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(30_000)
        page.on("console", lambda m: problems.append(m.text) if m.type == "error" else None)
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("request", lambda request: problems.append(request.url))
        page.goto(page_url)
        page.wait_for_selector("#verdict p")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert [what for what in problems if not what.startswith((own, "data:", "blob:"))] == []


@pytest.fixture
def upload() -> Callable:
    """Drop a file on a page and wait until it is read."""

    def drop(page, path: Path) -> None:
        page.set_input_files("#picture input[type=file]", path)
        page.wait_for_selector("#verdict h2, #verdict .meme-fault")

    return drop
