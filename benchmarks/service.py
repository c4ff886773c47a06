"""Memes a second over HTTP: this service, Ray Serve and LitServe around the same `MemeClassifier`.

    python benchmarks/service.py [--root DIR] [--mode pilot] [--rounds 4] [--seconds 4]

Each server is a process of its own on this machine, deployed as its documentation shows with
batching switched on, at most 16 memes: the peers wait 10 ms for them, this service its own 30. Ray
Serve is measured as it comes, that is with one CPU a replica, and with all of them. Eight clients
in this process ask each in turn, over connections that stay open; all servers wait while one is
measured. `model` calls `predict_batch` on the same bytes in batches of 16, in a process of its own:
the floor of any server around it, unless reading the pictures hides behind the model. Saturation is
32 clients.
Needs a finished run (`make pilot`) under the root and the extra `bench`. Writes
results/service.csv: medians over the rounds and their ratios.
"""

import argparse
import base64
import contextlib
import http.client
import io
import json
import multiprocessing
import os
import platform
import queue
import socket
import statistics
import subprocess
import sys
import threading
import time
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import litserve
import pandas as pd
import psutil
from tqdm import tqdm

from lib.artifacts import write_csv
from lib.config import ROOT, Settings
from lib.data.datasets import MemeShards, shard_paths
from lib.serving import MemeClassifier
from lib.serving.memes import read_meme

RESULTS = Path(__file__).parent / "results/service.csv"
CLIENTS, SATURATED, BATCH, WAIT = 8, 32, 16, 0.01
# Seconds for all servers to start.
PATIENCE = 300


class Address(NamedTuple):
    port: int
    path: str = "/predict"


def bodies_of(settings: Settings, n: int = 32) -> list[bytes]:
    """Packed memes as requests, their pictures JPEG of a meme's usual size."""
    memes = MemeShards(shard_paths(settings.shards, settings.report_split))
    bodies = []
    for place in range(min(n, len(memes))):
        file = io.BytesIO()
        memes[place]["image"].resize((640, 640)).save(file, "JPEG", quality=85)
        coded = base64.b64encode(file.getvalue()).decode()
        bodies.append(json.dumps({"text": memes[place]["text"], "image": coded}).encode())
    return bodies


def decoded(request: dict) -> tuple[str, bytes]:
    return request["text"], base64.b64decode(request["image"])


class WithLitServe(litserve.LitAPI):
    """`MemeClassifier` in LitServe, which starts a process for it and sends it this object."""

    def __init__(self, root: Path, mode: str) -> None:
        super().__init__(max_batch_size=BATCH, batch_timeout=WAIT)
        self.run = (root, mode)

    def setup(self, device):
        self.classifier = MemeClassifier.load(*self.run, "cpu")

    def decode_request(self, request):
        return decoded(request)

    def batch(self, inputs):
        return inputs

    def predict(self, batch):
        return self.classifier.predict_batch(*zip(*batch, strict=True))

    def unbatch(self, output):
        return output

    def encode_response(self, output):
        return output


def serve_with_litserve(root: Path, mode: str, port: int) -> None:
    litserve.LitServer(WithLitServe(root, mode), accelerator="cpu").run(
        port=port, log_level="warning", generate_client_file=False
    )


def serve_with_ray(root: Path, mode: str, port: int) -> None:
    """Two deployments of one Ray: /one has one CPU, as it comes, and /all has all of them."""
    import ray
    from ray import serve

    @serve.deployment(max_ongoing_requests=100)
    class Memes:
        # Ray takes this class along by its value, so it must not need this file.
        def __init__(self):
            from lib.serving import MemeClassifier

            self.classifier = MemeClassifier.load(root, mode, "cpu")

        @serve.batch(max_batch_size=BATCH, batch_wait_timeout_s=WAIT)
        async def judge(self, memes):
            return self.classifier.predict_batch(*zip(*memes, strict=True))

        async def __call__(self, request):
            from base64 import b64decode

            sent = await request.json()
            return await self.judge((sent["text"], b64decode(sent["image"])))

    cpus = os.cpu_count() or 1
    ray.init(num_cpus=1 + cpus, include_dashboard=False, log_to_driver=False)
    serve.start(http_options={"port": port})
    for name, share in (("one", 1), ("all", cpus)):
        replica = Memes.options(ray_actor_options={"num_cpus": share})
        serve.run(replica.bind(), name=name, route_prefix=f"/{name}")
    time.sleep(3600)


def serve_model(root: Path, mode: str, bodies: list[bytes], asked, told) -> None:
    """Seconds a meme of `predict_batch`, and of the model on memes already read, when asked."""
    classifier = MemeClassifier.load(root, mode, "cpu")
    memes = [decoded(json.loads(body)) for body in bodies]
    texts, pictures = zip(*memes, strict=True)
    read = [read_meme(*meme) for meme in memes]
    calls = {
        "predict_batch": lambda: classifier.predict_batch(texts[:BATCH], pictures[:BATCH], BATCH),
        "judge": lambda: classifier.judge(read[:BATCH]),
    }
    for call in calls.values():
        call()
    told.put("ready")
    while (what := asked.get())[0]:
        start, done = time.perf_counter(), 0
        while time.perf_counter() - start < what[1]:
            calls[what[0]]()
            done += min(BATCH, len(memes))
        told.put(done / (time.perf_counter() - start))


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return taken.getsockname()[1]


def ask(address: Address, body: bytes, connection: http.client.HTTPConnection) -> None:
    """One request; RuntimeError where it is not answered."""
    connection.request("POST", address.path, body, {"content-type": "application/json"})
    response = connection.getresponse()
    answer = response.read()
    if response.status != 200 or b"prob_hate" not in answer:
        raise RuntimeError(f"{address}: {response.status} {answer[:200]!r}")


def keep_asking(
    address: Address, bodies: list[bytes], turn: int, until: float, done: queue.SimpleQueue
) -> None:
    """One client: a request after the other over one connection, until it is time."""
    connection = http.client.HTTPConnection("127.0.0.1", address.port, timeout=60)
    answered = 0
    try:
        while time.perf_counter() < until:
            ask(address, bodies[turn % len(bodies)], connection)
            answered, turn = answered + 1, turn + 5
    finally:
        connection.close()
        done.put(answered)


def throughput(address: Address, bodies: list[bytes], clients: int, seconds: float) -> float:
    """Memes a second with so many clients at once."""
    done: queue.SimpleQueue = queue.SimpleQueue()
    start = time.perf_counter()
    asking = [
        threading.Thread(target=keep_asking, args=(address, bodies, turn, start + seconds, done))
        for turn in range(clients)
    ]
    for thread in asking:
        thread.start()
    for thread in asking:
        thread.join()
    return sum(done.get_nowait() for _ in asking) / (time.perf_counter() - start)


def wait_for(address: Address, body: bytes) -> None:
    deadline, fault = time.monotonic() + PATIENCE, None
    while time.monotonic() < deadline:
        try:
            ask(address, body, http.client.HTTPConnection("127.0.0.1", address.port, timeout=60))
            return
        except (OSError, RuntimeError, http.client.HTTPException) as error:
            fault = error
            time.sleep(0.5)
    raise TimeoutError(f"{address} did not answer: {fault}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, default=Settings().root)
    parser.add_argument("--mode", choices=("pilot", "full"), default="pilot")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=4)
    options = parser.parse_args()
    bodies = bodies_of(Settings(mode=options.mode, root=options.root))
    measured = measure(options, bodies)
    print_and_write(measured)


def measure(options: argparse.Namespace, bodies: list[bytes]) -> dict[str, list[float]]:
    """Memes a second of each server and of the model itself, one a round."""
    run = (options.root, options.mode)
    spawn = multiprocessing.get_context("spawn")
    asked, told = spawn.Queue(), spawn.Queue()
    lit, ray, own = free_port(), free_port(), free_port()
    servers = {"service": Address(own), "LitServe": Address(lit)}
    servers |= {"Ray Serve, as it comes": Address(ray, "/one")}
    servers |= {"Ray Serve, all CPUs": Address(ray, "/all")}
    processes = [
        spawn.Process(target=serve_model, args=(*run, bodies, asked, told)),
        spawn.Process(target=serve_with_litserve, args=(*run, lit)),
        spawn.Process(target=serve_with_ray, args=(*run, ray)),
    ]
    command = [sys.executable, "-m", "lib.serving.service", "--port", str(own)]
    command += ["--root", str(run[0]), "--mode", run[1], "--device", "cpu"]
    service = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)
    try:
        for process in processes:
            process.start()
        told.get(timeout=PATIENCE)
        for address in servers.values():
            wait_for(address, bodies[0])
        return rounds(options, bodies, servers, asked, told)
    finally:
        # LitServe's workers outlive the process that started them.
        workers = psutil.Process().children(recursive=True)
        service.terminate()
        for process in processes:
            process.terminate()
            process.join()
        for worker in workers:
            with contextlib.suppress(psutil.NoSuchProcess):
                worker.kill()


def rounds(options: argparse.Namespace, bodies, servers, asked, told) -> dict[str, list[float]]:
    """All of them in turn, a round more than counted: the first one warms up."""
    found: dict[str, list[float]] = {}
    for turn in tqdm(range(options.rounds + 1), desc="rounds"):
        speed = {
            name: throughput(address, bodies, CLIENTS, options.seconds)
            for name, address in servers.items()
        }
        for name in ("predict_batch", "judge"):
            asked.put((name, options.seconds))
            speed[f"model: {name}"] = told.get()
            speed["service, saturated"] = throughput(
                servers["service"], bodies, SATURATED, options.seconds
            )
        for name, value in speed.items() if turn else ():
            found.setdefault(name, []).append(value)
    asked.put((None, 0))
    return found


def print_and_write(measured: dict[str, list[float]]) -> None:
    median = {name: statistics.median(values) for name, values in measured.items()}
    clients = {name: CLIENTS for name in median} | {"service, saturated": SATURATED}
    packages = ("fastapi", "litserve", "ray", "torch", "transformers", "uvicorn")
    table = pd.DataFrame(
        {
            "what": name,
            "clients": 0 if name.startswith("model") else clients[name],
            "memes_per_second": median[name],
            "service_over_it": median["service"] / median[name],
            "its_time_over_predict_batch": median["model: predict_batch"] / median[name],
            "its_time_over_judge": median["model: judge"] / median[name],
        }
        for name in median
    ).assign(
        cpu=platform.processor() or platform.machine(),
        cores=os.cpu_count(),
        versions=" ".join(f"{name} {version(name)}" for name in packages),
    )
    write_csv(RESULTS, table)
    print(table.drop(columns=["cpu", "cores", "versions"]).to_string(index=False))


if __name__ == "__main__":
    main()
