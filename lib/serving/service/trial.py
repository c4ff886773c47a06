"""The service beside a notebook: started in a thread, asked from Python or by curl, and ended."""

import importlib.util
import json
import shlex
import tempfile
import threading
import time
import urllib.request
import uuid
from pathlib import Path
from typing import Any

from lib.serving.classifier import MemeClassifier

NEEDS = "the service needs the extra: pip install 'calibrated-memes[serve]'"


class TrialService:
    """A service of `classifier` on a free port of this machine, until `close`.

    Without the extra `serve` there is none, and what is asked of it says so.
    """

    def __init__(self, classifier: MemeClassifier) -> None:
        self.address = ""
        if all(map(importlib.util.find_spec, ("fastapi", "uvicorn", "multipart"))):
            self._start(classifier)

    def _start(self, classifier: MemeClassifier) -> None:
        import uvicorn

        from lib.serving.service.app import create_app
        from lib.serving.service.settings import ServiceSettings

        # What is tried here is no traffic: it is not counted among the run's histograms.
        self._folder = tempfile.TemporaryDirectory()
        app = create_app(classifier, ServiceSettings(root=Path(self._folder.name)))
        config = uvicorn.Config(app, port=0, log_config=None, access_log=False)
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, name="service", daemon=True)
        self._thread.start()
        while not self._server.started:
            if not self._thread.is_alive():
                raise OSError("the service did not start")
            time.sleep(0.01)
        port = self._server.servers[0].sockets[0].getsockname()[1]
        self.address = f"http://127.0.0.1:{port}"

    def ask(self, text: str, picture: str | Path) -> dict[str, Any]:
        """The service's answer on one meme, sent as a form."""
        if not self.address:
            return {"error": NEEDS}
        mark = uuid.uuid4().hex
        parts = {
            'name="text"': text.encode(),
            'name="image"; filename="meme"': Path(picture).read_bytes(),
        }
        body = b"".join(
            f"--{mark}\r\nContent-Disposition: form-data; {name}\r\n\r\n".encode() + part + b"\r\n"
            for name, part in parts.items()
        )
        request = urllib.request.Request(
            f"{self.address}/predict",
            body + f"--{mark}--\r\n".encode(),
            {"Content-Type": f"multipart/form-data; boundary={mark}"},
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.loads(answer.read())

    def curl(self, text: str, picture: str | Path) -> str:
        """The command that asks the same on a command line."""
        if not self.address:
            return shlex.join(["echo", NEEDS])
        # With -F a text ends at a semicolon, and one that begins with @ names a file.
        form = ["--form-string", f"text={text}", "-F", f"image=@{picture}"]
        return shlex.join(["curl", "-s", *form, f"{self.address}/predict"])

    def close(self) -> None:
        """End it, once it has answered what it was asked."""
        if self.address:
            self._server.should_exit = True
            self._thread.join()
            self._folder.cleanup()
            self.address = ""
