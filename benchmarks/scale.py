"""What the data side takes at scale: near duplicates, opening and fingerprinting shards.

    python benchmarks/scale.py [--hashes 1000000 10000000] [--memes 1000000] [--gigabytes 1]

Each line is measured in a process of its own and printed; writes results/scale.csv. Memory is what
the process has grown by at its peak; of opening, what it holds beside the mapped index.
"""

import argparse
import json
import multiprocessing
import os
import platform
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import webdataset as wds

from lib.artifacts import fingerprint, write_csv, write_json
from lib.data import shard_index
from lib.data.datasets import MemeShards
from lib.data.near_duplicates import near_groups
from lib.data.shard_index import SCHEMA, Indexed, shards_fingerprint
from lib.data.splits import assign_splits
from lib.data.ties import Item, Ties, find_duplicates

RESULTS = Path(__file__).parent / "results/scale.csv"
COPIES, PER_SHARD = 20_000, 256


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hashes", type=int, nargs="+", default=[1_000_000])
    parser.add_argument("--memes", type=int, default=1_000_000)
    parser.add_argument("--gigabytes", type=float, default=1.0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        large = (Path(folder) / "large", given.gigabytes)
        lines = [
            (f"near duplicates, a template with {COPIES:,} copies", "under 10 s", copies),
            (f"splits, a template with {COPIES:,} copies", "under 10 s", splits),
            *(
                (f"near duplicates, {n:,} distinct hashes", "10 million under 30 min", distinct, n)
                for n in given.hashes
            ),
            ("reading shards for the index, 2,000 memes", "once", reading, Path(folder) / "read"),
            (
                f"opening shards of {given.memes:,} memes",
                "under 2 s",
                opening,
                Path(folder) / "open",
            ),
            (f"fingerprint of {given.gigabytes:g} GB, all bytes", "once", hashing, *large),
            (f"fingerprint of {given.gigabytes:g} GB, by dates", "at once", dated, large[0]),
        ]
        in_new_process(write_index, Path(folder) / "open", given.memes)
        rows = [measured(*line) for line in lines]
    table = pd.DataFrame(rows)
    table["cpu"] = f"{platform.processor() or platform.machine()} x{os.cpu_count()}"
    write_csv(RESULTS, table)


def in_new_process(function: Callable, *arguments):
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, arguments)


def measured(what: str, wanted: str, function: Callable, *arguments) -> dict:
    row = {"what": what, **in_new_process(function, *arguments), "wanted": wanted}
    print("{what:50} {seconds:8.2f} s {cpu_seconds:8.2f} s of processor".format(**row), end="")
    print("{megabytes:8.0f} MB   {wanted}".format(**row), flush=True)
    return row


def timed(run: Callable[[], object]) -> dict[str, float]:
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    before = megabytes("status", "VmRSS")
    start, start_cpu = time.perf_counter(), time.process_time()
    run()
    seconds, cpu = time.perf_counter() - start, time.process_time() - start_cpu
    peak = megabytes("status", "VmHWM") - before
    return {"seconds": seconds, "cpu_seconds": cpu, "megabytes": peak}


def megabytes(file: str, name: str) -> float:
    lines = (Path("/proc/self") / file).read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) / 1e3


def around_a_centre(n: int, bits: int = 6) -> np.ndarray:
    """Distinct hashes that each differ from one in six bits, from each other in up to twelve."""
    flips = np.random.default_rng(0).random((n + n // 10, 64)).argsort(axis=1)[:, :bits]
    return np.unique(np.bitwise_xor.reduce(np.uint64(1) << flips.astype(np.uint64), axis=1))[:n]


def copies() -> dict[str, float]:
    hashes = around_a_centre(COPIES)
    return timed(lambda: near_groups(hashes))


def splits() -> dict[str, float]:
    """All that packing asks of these copies and four times as many other memes."""
    others = np.random.default_rng(1).integers(0, 2**63, 4 * COPIES).astype(np.uint64)
    hashes = np.concatenate([around_a_centre(COPIES), others])
    items = [
        Item(str(i), "memes", i % 2, f"text {i}", picture)
        for i, picture in enumerate(hashes.tolist())
    ]

    def run() -> None:
        ties = Ties(items)
        find_duplicates(items, ties)
        assign_splits(items, ties=ties)

    return timed(run)


def distinct(n: int) -> dict[str, float]:
    rng = np.random.default_rng(0)
    hashes = np.unique(rng.integers(0, 2**64, n, dtype=np.uint64, endpoint=False))
    return timed(lambda: near_groups(hashes))


def meme(i: int) -> tuple[str, dict]:
    labels = {"abuse_hate": i % 2, "offensive": None, "target_type": None}
    meta = {"id": f"meme-{i}", "dataset": "memes", "labels": labels, "split": "train"}
    words = " ".join(["word"] * 16)
    text = f"[OCR] {words} {i} [/OCR] [CAP] [/CAP] <lang=en>"
    return text, meta | {"group": f"meme-{i}", "lang": "en", "width": 640, "height": 480}


def shards_of(folder: Path, n: int, per_shard: int, picture: bytes) -> list[Path]:
    folder.mkdir()
    paths = [folder / f"shard-{k:06d}.tar" for k in range(n // per_shard)]
    for k, path in enumerate(paths):
        with wds.TarWriter(str(path)) as tar:
            for i in range(k * per_shard, (k + 1) * per_shard):
                text, meta = meme(i)
                parts = {"png": picture, "txt": text.encode(), "json": json.dumps(meta).encode()}
                tar.write({"__key__": meta["id"]} | parts)
    return paths


def reading(folder: Path) -> dict[str, float]:
    paths = shards_of(folder, 2000, 250, bytes(100_000))
    return timed(lambda: MemeShards(paths))


def write_index(folder: Path, n: int) -> None:
    """Shards whose index is there; the pictures, which nobody opens here, are not."""
    folder.mkdir()
    shards = {}
    for k in range(n // PER_SHARD):
        rows = [row_of(i) for i in range(k * PER_SHARD, (k + 1) * PER_SHARD)]
        name = f"shard-{k:06d}.tar"
        (folder / name).write_bytes(b"")
        shards[name] = Indexed(pa.RecordBatch.from_pylist(rows, schema=SCHEMA), "0" * 64)
    shard_index._write(folder / shard_index.INDEX, shards)
    dates = {name: shard_index._date_of(folder / name) for name in shards}
    write_json(folder / shard_index.DATES, dates)


def row_of(i: int) -> dict:
    text, meta = meme(i)
    place = {"key": meta["id"], "offset": 1000 * i, "size": 900}
    label = meta["labels"]["abuse_hate"]
    own = {"id": meta["id"], "label": label, "group": meta["group"], "text": text}
    return own | place | {"meta": json.dumps(meta).encode()}


def opening(folder: Path) -> dict[str, float]:
    paths = sorted(folder.glob("shard-*.tar"))
    opened: list = []

    def run() -> None:
        opened.append(MemeShards(paths))
        opened.append(opened[0].labels)

    before = megabytes("smaps_rollup", "Anonymous")
    found = timed(run)
    return found | {"megabytes": megabytes("smaps_rollup", "Anonymous") - before}


def large_shards(folder: Path, gigabytes: float) -> list[Path]:
    return shards_of(folder, 40, 10, os.urandom(int(gigabytes * 25e6)))


def hashing(folder: Path, gigabytes: float) -> dict[str, float]:
    paths = large_shards(folder, gigabytes)
    return timed(lambda: fingerprint(*paths))


def dated(folder: Path) -> dict[str, float]:
    paths = sorted(folder.glob("shard-*.tar"))
    assert shards_fingerprint(paths) == fingerprint(*paths)
    return timed(lambda: shards_fingerprint(paths))


if __name__ == "__main__":
    main()
