"""Clients that ask a running service all at once, each for memes whose answers it knows."""

import asyncio
import base64
import json
import os
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import httpx

RUBBISH = {
    "no JSON": (b"{", "application/json", 400),
    "no picture": (b'{"text": "a", "image": "AAAA"}', "application/json", 422),
    "neither": (b"{}", "application/json", 422),
    "no form": (b"rubbish", "multipart/form-data; boundary=b", 400),
    "no such kind": (b"a", "text/plain", 415),
    "too large": (b"x" * 1_000_001, "application/json", 413),
}


class Known(NamedTuple):
    """A meme and the probability that a direct call gives."""

    text: str
    picture: bytes
    prob_hate: float

    def body(self) -> bytes:
        coded = base64.b64encode(self.picture).decode()
        return json.dumps({"text": self.text, "image": coded}).encode()


@dataclass
class Report:
    """What the clients saw: how many answers were right, and everything that was not as it should.

    `usage` holds (resident bytes, open files) of the service, taken every second.
    """

    right: int = 0
    statuses: Counter = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    usage: list[tuple[int, int]] = field(default_factory=list)


def usage_of(process: int) -> tuple[int, int]:
    """Resident bytes and open files of a process."""
    pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGESIZE"), len(os.listdir(f"/proc/{process}/fd"))


async def load(
    url: str, process: int, memes: Sequence[Known], clients: int, seconds: float
) -> Report:
    """Let `clients` ask for `seconds`; a tenth of them sends rubbish, and some of it never ends."""
    report, until = Report(), time.monotonic() + seconds
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    async with httpx.AsyncClient(base_url=url, limits=limits, timeout=60) as http:
        bad = max(2, clients // 10)
        asking = [_asks(http, report, memes, i, until) for i in range(clients - bad)]
        asking += [_sends_rubbish(http, report, i, until) for i in range(bad // 2)]
        asking += [_hangs(url, report, i, until) for i in range(bad - bad // 2)]
        watching = asyncio.create_task(_watch(report, process))
        await asyncio.gather(*asking)
        watching.cancel()
    return report


async def _watch(report: Report, process: int) -> None:
    while True:
        report.usage.append(usage_of(process))
        await asyncio.sleep(1)


async def _asks(http: httpx.AsyncClient, report: Report, memes, turn: int, until: float) -> None:
    while time.monotonic() < until:
        meme, start = memes[turn % len(memes)], time.monotonic()
        turn += 7
        while True:
            got = await http.post("/predict", content=meme.body(), headers=_kind())
            report.statuses[got.status_code] += 1
            if got.status_code != 503:
                break
            await asyncio.sleep(float(got.headers["retry-after"]))
        report.seconds.append(time.monotonic() - start)
        answer = got.json()
        if got.status_code != 200:
            report.wrong.append(f"{got.status_code}: {answer}")
        elif (answer["text"], abs(answer["prob_hate"] - meme.prob_hate) < 1e-5) != (
            meme.text,
            True,
        ):
            report.wrong.append(f"{meme.text}, {meme.prob_hate}: {answer}")
        else:
            report.right += 1


async def _sends_rubbish(http: httpx.AsyncClient, report: Report, turn: int, until: float) -> None:
    while time.monotonic() < until:
        name = list(RUBBISH)[turn % len(RUBBISH)]
        turn += 1
        body, kind, status = RUBBISH[name]
        got = await http.post("/predict", content=body, headers=_kind(kind))
        report.statuses[got.status_code] += 1
        # Where too much is waiting, rubbish is not looked at either.
        if got.status_code != status and "retry-after" not in got.headers:
            report.wrong.append(f"{name}: {got.status_code}: {got.text}")


async def _hangs(url: str, report: Report, turn: int, until: float) -> None:
    """Send a part of a request and wait to be let go, or leave in the middle of it."""
    parts = (
        b"",
        b"POST /predict HT",
        b"POST /predict HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n"
        b'content-length: 99\r\n\r\n{"text": "half',
    )
    host, _, port = url.removeprefix("http://").partition(":")
    while time.monotonic() < until:
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(parts[turn % 3])
        turn += 1
        if turn % 2:
            got = await asyncio.wait_for(reader.read(), timeout=30)
            if turn % 3 == 0 and b"408" not in got:
                report.wrong.append(f"half a body: {got!r}")
        writer.close()
        report.statuses["let go"] += 1
        await asyncio.sleep(0.05)


def _kind(name: str = "application/json") -> dict[str, str]:
    return {"content-type": name}
