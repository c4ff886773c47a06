import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from importlib.util import find_spec

import httpx
import pytest

from lib.serving.service import __main__ as program
from lib.serving.service.limits import MOST_HEAD
from tests.serving.bad_inputs import noise, saved
from tests.serving.service.load import Known, load, usage_of

SECRET = "when the fridge is opened again"


@pytest.fixture(scope="module")
def root(full_root, tmp_path_factory):
    """A root of its own, so that its histograms are nobody else's."""
    folder = tmp_path_factory.mktemp("served")
    for name in ("models", "Step_7"):
        (folder / name).symlink_to(full_root.root / name)
    return folder


class Served:
    """A service in a process of its own, until `stop`."""

    def __init__(self, root, log, *options):
        self.log = log
        command = [sys.executable, "-m", "lib.serving.service", "--root", root, "--mode", "full"]
        command += ["--port", "0", "--device", "cpu", "--max-upload-mb", "1", *options]
        self.process = subprocess.Popen(command, stderr=log.open("w"), stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + 120
        while (line := self.event("serving")) is None:
            assert self.process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
        self.port, self.url = line["port"], f"http://127.0.0.1:{line['port']}"
        while True:
            try:
                assert httpx.get(f"{self.url}/readyz").status_code == 200
                return
            except httpx.ConnectError:
                time.sleep(0.05)

    def lines(self):
        return [json.loads(x) for x in self.log.read_text().splitlines() if x.startswith("{")]

    def event(self, name):
        return next((line for line in self.lines() if line["event"] == name), None)

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)


@pytest.fixture(scope="module")
def served(root, tmp_path_factory):
    log = tmp_path_factory.mktemp("log") / "service.log"
    service = Served(root, log, "--read-timeout", "1.5")
    yield service
    service.process.kill()
    service.process.wait()


@pytest.fixture(scope="module")
def known(classifier):
    """Memes that the models tell apart, with their probabilities."""
    memes = []
    for place in range(12):
        text = f"{SECRET} {'and again ' * (place % 5)}{place}"
        picture = saved(noise(40 + 20 * place, 90 - 5 * place), "JPEG")
        memes.append(Known(text, picture, classifier.predict(text, picture)["prob_hate"]))
    return memes


def said_to(port, *parts, wait=0.0):
    """What the service answers to these bytes until it closes the connection."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        for part in parts:
            connection.sendall(part)
            time.sleep(wait)
        got = b""
        while more := connection.recv(65536):
            got += more
        return got


HEAD = b"POST /predict HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n"


@pytest.mark.parametrize(
    ("sent", "said"),
    [
        ([b""], b""),
        ([b"POST /pre"], b""),
        ([HEAD], b""),
        ([HEAD + b'content-length: 99\r\n\r\n{"text"'], b"408"),
        ([HEAD + b'transfer-encoding: chunked\r\n\r\n5\r\n{"tex\r\n'], b"408"),
        ([HEAD + b"content-length: 99999999\r\n\r\n"], b"413"),
        ([b"GET /healthz HTTP/1.1\r\nhost: a\r\n\r\nGET /hea"], b"alive"),
        ([b"\x16\x03\x01\x02\0\x01\0\x01\xfc"], b"400"),
    ],
)
def test_who_hangs_is_let_go(served, sent, said):
    before = usage_of(served.process.pid)[1]
    assert said in said_to(served.port, *sent)
    assert usage_of(served.process.pid)[1] <= before + 2


def test_a_head_without_an_end_is_not_kept(served):
    said = said_to(served.port, HEAD + b"cookie: ", b"a" * (MOST_HEAD + 1 - len(HEAD) - 8))
    assert said.startswith(b"HTTP/1.1 400")
    # The other parser, h11, has words of its own.
    assert b"too large" in said or find_spec("httptools") is None


def test_a_long_head_may_come_in_pieces(served):
    head = HEAD.replace(b"POST /predict", b"GET /healthz") + b"cookie: " + b"a" * 20_000
    got = said_to(served.port, head, b"a" * 20_000, b"\r\n\r\n")
    assert got.startswith(b"HTTP/1.1 200")


def test_bodies_and_heads_before_it_are_no_part_of_a_head(served):
    body = b'{"text": "monday"}' + b" " * MOST_HEAD
    ask = HEAD + f"cookie: {'a' * 30_000}\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body
    got = said_to(served.port, ask * 3, ask, b"GET /healthz HTTP/1.1\r\nhost: a\r\n\r\n")
    assert got.count(b"HTTP/1.1 200") == 5


def test_a_body_without_a_length_is_counted_while_it_arrives(served):
    chunk = b"10000\r\n" + b"x" * 65536 + b"\r\n"
    got = said_to(served.port, HEAD + b"transfer-encoding: chunked\r\n\r\n", *[chunk] * 20)
    assert b"413" in got.partition(b"\r\n")[0]


def test_a_slow_drip_is_a_hanging_client(served):
    head = HEAD + b"content-length: 99\r\n\r\n"
    assert b"408" in said_to(served.port, head, *[b"{"] * 3, wait=0.6).partition(b"\r\n")[0]


def test_many_clients_at_once_get_their_own_answers(served, known):
    report = asyncio.run(load(served.url, served.process.pid, known, clients=20, seconds=3))
    assert report.wrong == []
    assert report.right == len(report.seconds) >= 20
    assert report.statuses["let go"] >= 1
    assert {400, 422} & set(report.statuses)


def test_the_log_has_a_line_a_request_and_no_meme(served, known):
    number = "mine-0123"
    httpx.post(
        f"{served.url}/predict",
        content=known[0].body(),
        headers={"content-type": "application/json", "x-request-id": number},
    )
    httpx.get(f"{served.url}/{SECRET.replace(' ', '%20')}")
    line = next(x for x in served.lines() if x.get("id") == number)
    assert line["path"] == "/predict"
    assert line["status"] == 200
    assert line["memes"] == 1
    text = served.log.read_text()
    assert "fridge" not in text
    assert known[0].body()[80:120].decode() not in text


def test_a_signal_ends_it_after_what_was_accepted(served, root, known):
    answers = []

    def ask():
        body = json.dumps([json.loads(known[turn % 12].body()) for turn in range(64)]).encode()
        headers, path = {"content-type": "application/json"}, f"{served.url}/predict_batch"
        answers.append(httpx.post(path, content=body, headers=headers, timeout=60))

    asking = threading.Thread(target=ask)
    asking.start()
    while "memes_accepted 0.0" in httpx.get(f"{served.url}/metrics").text:
        time.sleep(0.005)
    assert answers == []
    assert served.stop() == 0
    asking.join()
    assert answers[0].status_code == 200
    for turn, answer in enumerate(answers[0].json()):
        assert answer["prob_hate"] == pytest.approx(known[turn % 12].prob_hate, abs=1e-5)
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{served.url}/healthz")
    assert json.loads((root / "Step_8/histograms_full.json").read_text())["n"] >= 64


def started(monkeypatch, capsys, *options, environment=()):
    """Exit code and message of the program."""
    for name, value in environment:
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "argv", ["service", *map(str, options)])
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    with pytest.raises(SystemExit) as ended:
        program.main()
    said = capsys.readouterr().err
    return ended.value.code, said[said.find("error:") :]


def test_without_its_files_it_does_not_start_and_says_why(full_root, monkeypatch, capsys, tmp_path):
    root = tmp_path / "copy"
    for folder in ("models", "Step_7"):
        shutil.copytree(full_root.root / folder, root / folder)
    start = ("--mode", "full", "--root", root, "--port", "0")
    (root / "models/full/mm_fusion/history.json").write_text("[]")
    code, said = started(monkeypatch, capsys, *start)
    assert code == 2
    assert "mm_fusion is not the model" in said
    assert said.count("\n") == 1
    (root / "Step_7/decision_full.json").unlink()
    code, said = started(monkeypatch, capsys, *start)
    assert (code, "decision_full.json does not exist" in said) == (2, True)
    code, said = started(monkeypatch, capsys, *start[:2], "--root", tmp_path / "none")
    assert (code, "does not exist" in said) == (2, True)


@pytest.mark.parametrize(
    ("options", "environment", "said"),
    [
        (["--port", "70000"], (), "error: --port=70000: "),
        (["--queue", "10"], (), "error: max_items 64 do not fit into a queue of 10"),
        (["--mode", "half"], (), "error: --mode=half: "),
        (["--max-held-mb", "inf"], (), "error: --max-held-mb=inf: "),
        (["--read-timeout", "inf"], (), "error: --read-timeout=inf: "),
        ([], [("MEMES_MAX_HELD_MB", "nan")], "error: MEMES_MAX_HELD_MB=nan: "),
        ([], [("MEMES_QUEUE", "none")], "error: MEMES_QUEUE=none: "),
        ([], [("MEMES_TOKEN", "short")], "error: MEMES_TOKEN: "),
        ([], [("MEMES_TOKEN", "")], "error: MEMES_TOKEN is empty"),
        (["--page"], [("MEMES_TOKEN", "long enough")], "error: a browser cannot send the token"),
    ],
)
def test_impossible_settings_are_named(monkeypatch, capsys, options, environment, said):
    code, message = started(monkeypatch, capsys, *options, environment=environment)
    assert (code, message[: len(said)]) == (2, said)
    assert message.count("\n") == 1
    assert "short" not in message


def test_with_nothing_to_finish_a_signal_ends_it_without_a_word_beside_its_log(root, tmp_path):
    service = Served(root, tmp_path / "log")
    assert service.stop() == 0
    served_from = (tmp_path / "log").read_text().partition('{"time"')
    assert [x for x in "".join(served_from[1:]).splitlines() if not x.startswith("{")] == []


def test_a_page_that_is_open_somewhere_does_not_hold_up_the_end(root, tmp_path):
    pytest.importorskip("gradio", reason="the extra page is not installed")
    # What is not let go would be waited for longer than `stop` waits.
    service = Served(root, tmp_path / "log", "--page", "--read-timeout", "100")
    with httpx.stream("GET", f"{service.url}/page/gradio_api/heartbeat/tab") as beats:
        assert "ALIVE" in next(beats.iter_lines())
        assert service.stop() == 0


def test_a_port_that_is_taken_is_named(full_root, monkeypatch, capsys):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        code, said = started(
            monkeypatch, capsys, "--port", port, "--root", full_root.root, "--mode", "full"
        )
    assert code == 2
    assert said.startswith(f"error: cannot listen on 127.0.0.1:{port}")


def test_a_host_that_is_none_is_named(full_root, monkeypatch, capsys):
    code, said = started(
        monkeypatch, capsys, "--host", "no such host", "--root", full_root.root, "--mode", "full"
    )
    assert code == 2
    assert said.startswith("error: cannot listen on no such host:8000")
    assert said.endswith("choose another host\n")


def test_a_port_of_a_service_that_is_loading_still_is_refused(full_root, monkeypatch, capsys):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with program._alone_on("127.0.0.1", port):
        code, said = started(
            monkeypatch, capsys, "--port", port, "--root", full_root.root, "--mode", "full"
        )
    assert code == 2
    assert said.startswith(f"error: cannot listen on 127.0.0.1:{port} (another service")


@pytest.mark.slow
def test_two_hundred_clients_for_a_minute(root, known, tmp_path):
    seconds = float(os.environ.get("LOAD_SECONDS", "60"))
    service = Served(root, tmp_path / "log", "--read-timeout", "5")
    report = asyncio.run(load(service.url, service.process.pid, known, 200, seconds))
    assert service.process.poll() is None
    assert report.wrong == []
    assert report.right == len(report.seconds) > 200
    assert set(report.statuses) <= {200, 400, 408, 413, 415, 422, 503, "let go"}
    settled, last = report.usage[len(report.usage) // 2], report.usage[-1]
    assert last[0] <= 1.1 * settled[0], "resident bytes"
    time.sleep(8)  # for the kept connections
    idle = usage_of(service.process.pid)[1]
    assert idle <= 60, "open files"
    print(f"{report.right} right, {report.statuses}, {settled} then {last}, idle {idle} files")
    assert service.stop() == 0
