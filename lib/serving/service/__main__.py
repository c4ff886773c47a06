"""Serve a classifier over HTTP: `python -m lib.serving.service --port 8000 --mode pilot`."""

import atexit
import contextlib
import os
import signal
import socket
import sys

from lib.data.processes import alone
from lib.serving.service.settings import ServiceSettings


def main() -> None:
    """Load the models, then serve until SIGTERM or Ctrl-C; both finish what was accepted."""
    # Also while the models are loaded, and again when uvicorn hands the signal back.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        settings = ServiceSettings.from_command_line()
        serve(settings)
    except (ValueError, OSError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
    except ModuleNotFoundError as error:
        needs = "page" if error.name == "gradio" else "serve"
        said = f"{error.name} is not installed; do so with: pip install 'calibrated-memes[{needs}]'"
        print(f"error: {said}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(0)


def serve(settings: ServiceSettings) -> None:
    """Serve until a signal ends it.

    Raises ValueError or FileNotFoundError where the models or their decisions are missing or do not
    fit each other, OSError where the port is taken, ModuleNotFoundError without the extra `serve`.
    """
    import uvicorn

    from lib.serving import MemeClassifier
    from lib.serving.service.app import create_app
    from lib.serving.service.limits import MOST_HEAD, ImpatientProtocol
    from lib.serving.service.logs import log_as_json
    from lib.serving.service.server import Server

    with _alone_on(settings.host, settings.port), _listening(settings) as listener:
        classifier = MemeClassifier.load(settings.root, settings.mode, settings.device)
        # The first meme takes longest, and a model that cannot judge shall not start.
        classifier.predict("monday again", None)
        log_as_json()
        config = uvicorn.Config(
            create_app(classifier, settings),
            http=type("Protocol", (ImpatientProtocol,), {"patience": settings.read_timeout}),
            h11_max_incomplete_event_size=MOST_HEAD,
            access_log=False,
            log_config=None,
            server_header=False,
            timeout_graceful_shutdown=int(settings.read_timeout + settings.request_timeout) + 1,
        )
        host, port = listener.getsockname()[:2]
        facts: dict[str, str | int] = {"mode": settings.mode, "host": host, "port": port}
        if settings.page:
            at = f"[{host}]" if ":" in host else host
            facts["page"] = f"http://{at}:{port}/page"
        Server(config, facts).run(sockets=[listener])


def _alone_on(host: str, port: int) -> contextlib.AbstractContextManager[None]:
    """Keep other services of this machine from the address while this one loads its models.

    The system lets several be bound to a port on which none listens yet.
    """
    if port == 0:  # any that is free
        return contextlib.nullcontext()
    return alone(
        f"{host}-{port}",
        f"cannot listen on {host}:{port} (another service starts or runs there); choose another "
        "port",
    )


def _listening(settings: ServiceSettings) -> socket.socket:
    """A socket bound to host and port; uvicorn begins to listen on it when all is ready."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((settings.host, settings.port))
    except OSError as error:
        listener.close()
        place = f"{settings.host}:{settings.port}"
        other = "host" if isinstance(error, socket.gaierror) else "port"
        raise OSError(
            f"cannot listen on {place} ({error.strerror}); choose another {other}"
        ) from None
    return listener


def _leave(code: int) -> None:
    """End the process with what was registered for its end, and no more.

    Python itself would then take torch apart, object by object, for seconds.
    """
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):
            stream.flush()
    os._exit(code)


if __name__ == "__main__":
    try:
        main()
    except SystemExit as ended:
        if ended.code and not isinstance(ended.code, int):  # words, which Python prints
            raise
        _leave(ended.code or 0)
