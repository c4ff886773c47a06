"""Errors of addresses: what is wrong with one, as well as its name."""

import functools
import http.server
import threading

import pytest

from lib.serving.scoring.places import opened


class _Server(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_GET(self):
        if self.path == "/kept.png":
            return self.send_error(403)
        return super().do_GET()

    do_HEAD = do_GET


@pytest.fixture
def address(tmp_path):
    pytest.importorskip("aiohttp", reason="what fsspec reads http with is not installed")
    (tmp_path / "there.txt").write_text("monday")
    handler = functools.partial(_Server, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_file_at_an_address_is_read(address):
    with opened(f"{address}/there.txt") as file:
        assert file.read() == b"monday"


@pytest.mark.parametrize(
    ("name", "said"), [("gone.png", "not found"), ("kept.png", "the server answers 403 Forbidden")]
)
def test_an_address_says_what_the_server_answers(address, name, said):
    with pytest.raises(OSError) as raised, opened(f"{address}/{name}"):
        pass
    assert str(raised.value) == f"{address}/{name}: {said}"


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("http://127.0.0.1:9/x.png", "Connection refused"),
        ("memory://nowhere/x.png", "not found"),
    ],
)
def test_an_address_where_nothing_answers_says_so(place, said):
    if place.startswith("http"):
        pytest.importorskip("aiohttp", reason="what fsspec reads http with is not installed")
    with pytest.raises(FileNotFoundError) as raised, opened(place):
        pass
    assert str(raised.value) == f"{place}: {said}"


def test_an_error_of_who_reads_stays_as_it_is(address):
    with pytest.raises(OSError, match=r"^mine$"), opened(f"{address}/there.txt"):
        raise OSError("mine")


def test_a_library_that_an_address_needs_is_named(monkeypatch):
    def lacking(*_, **__):
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr("fsspec.open", lacking)
    with pytest.raises(OSError, match=r"^s3://a/b\.tar: Install s3fs"), opened("s3://a/b.tar"):
        pass
