"""Batch scoring: workers against each other, and the memory of a long run against a short one.

    python benchmarks/scoring.py [--root DIR] [--mode pilot] [--memes 1920] [--rows 1000 10000]

Two workers against one, a thread each, through `python -m lib.serving.score` on the run's own
memes as JPEG files. A worker's model has a thread, and what reads its pictures another: one worker
is measured on one core, which is what two have each, and on both. They take turns, and what a run
of one block a worker takes is taken off. Then the largest memory of whole runs on a table that
repeats those memes, on tiny models of the real architectures, since a run of a million rows on real
ones takes half a day: the process and its workers, in proportional set size. Writes
results/scoring.csv.
"""

import argparse
import importlib.util
import platform
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from statistics import median

import pandas as pd
import psutil
from tqdm import tqdm

from lib.artifacts import write_csv
from lib.config import ROOT, Settings
from lib.data.datasets import MemeShards, shard_paths
from lib.serving.scoring.rows import BLOCK

RESULTS = Path(__file__).parent / "results/scoring.csv"
HOURS_OF_A_BILLION = 1e9 / 3600
# How many workers, and on how many cores.
WORKERS = {"1 worker on 1 core": (1, 1), "1 worker on 2 cores": (1, 2), "2 workers": (2, 2)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, default=Settings().root)
    parser.add_argument("--mode", choices=("pilot", "full"), default="pilot")
    parser.add_argument("--memes", type=int, default=1_920)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--rows", type=int, nargs=2, default=(1_000, 10_000))
    parser.add_argument("--tiny", type=Path, help="a finished full run of tiny models")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        settings = Settings(root=options.root, mode=options.mode)
        memes = save_memes(settings, work)
        rows = throughput(settings, memes, options.memes, options.repeats, work)
        tiny = options.tiny or tiny_run(work / "tiny")
        rows += memory(Settings(root=tiny, mode="full"), memes, options.rows, work)
    table = pd.DataFrame(rows).assign(
        cpu=platform.processor() or platform.machine(),
        versions=" ".join(f"{name} {version(name)}" for name in ("joblib", "pyarrow", "torch")),
    )
    write_csv(RESULTS, table)
    print(table.drop(columns=["cpu", "versions"]).to_string(index=False))


def save_memes(settings: Settings, work: Path) -> pd.DataFrame:
    """Text and picture file of the packed memes that the run reports on."""
    memes = MemeShards(shard_paths(settings.shards, settings.report_split))
    rows = []
    for place in range(min(len(memes), 100)):
        meme = memes[place]
        meme["image"].save(work / f"{place}.jpg", quality=90)
        rows.append({"text": meme["text"], "image": f"{place}.jpg"})
    return pd.DataFrame(rows)


def table_of(memes: pd.DataFrame, n: int, work: Path) -> Path:
    """A table of n rows that repeats the memes."""
    file = work / f"{n}.csv"
    if not file.exists():
        with file.open("w", newline="") as stream:
            for start in range(0, n, len(memes)):
                memes[: n - start].to_csv(stream, index=False, header=start == 0)
    return file


def throughput(
    settings: Settings, memes: pd.DataFrame, n: int, repeats: int, work: Path
) -> list[dict]:
    """Memes a second of one worker and of two, and their ratio to one on a core of its own."""
    seconds: dict[tuple[str, int], list[float]] = {}
    for _ in tqdm(range(repeats), desc="rounds"):
        for what, (workers, cores) in WORKERS.items():
            # A run of one block a worker is what starting costs.
            for size in (workers * BLOCK, n):
                table = table_of(memes, size, work)
                taken, _ = run(settings, table, workers, work, cores)
                seconds.setdefault((what, size), []).append(taken)
    rows: list[dict] = []
    for what, (workers, cores) in WORKERS.items():
        begun = workers * BLOCK
        rate = (n - begun) / (median(seconds[what, n]) - median(seconds[what, begun]))
        row = {"what": what, "rows": n, "memes_per_second": rate}
        row["ratio_to_first"] = rate / (rows or [row])[0]["memes_per_second"]
        row["core_hours_per_billion"] = HOURS_OF_A_BILLION / (rate / cores)
        rows.append(row)
    return rows


def memory(
    settings: Settings, memes: pd.DataFrame, sizes: tuple[int, int], work: Path
) -> list[dict]:
    """The largest memory of a short run and of a long one."""
    rows: list[dict] = []
    for n in sizes:
        seconds, peak = run(settings, table_of(memes, n, work), 2, work)
        row = {"what": "memory, tiny models, 2 workers", "rows": n, "peak_mb": peak / 1e6}
        rows.append(row | {"ratio_to_first": peak / 1e6 / (rows or [row])[0]["peak_mb"]})
        print(f"{n:,} rows: {seconds:.0f} s, {peak / 1e6:.0f} MB", file=sys.stderr)
    return rows


def run(
    settings: Settings, table: Path, workers: int, work: Path, cores: int = 2
) -> tuple[float, int]:
    """Seconds of a whole run, and the largest memory of its processes together, in bytes."""
    out = work / "scores.parquet"
    command = [sys.executable, "-m", "lib.serving.score", table, "--out", out, "--overwrite"]
    command += ["--root", settings.root, "--mode", settings.mode, "--workers", workers]
    out.unlink(missing_ok=True)
    start, peak = time.perf_counter(), 0
    log = work / "log"
    with (
        log.open("w") as said,
        subprocess.Popen(
            [str(word) for word in command], cwd=ROOT, stdout=said, stderr=said
        ) as one,
    ):
        psutil.Process(one.pid).cpu_affinity(psutil.Process().cpu_affinity()[:cores])
        while one.poll() is None:
            peak = max(peak, memory_of(one.pid))
            time.sleep(0.5)
    if one.returncode:
        raise SystemExit(log.read_text())
    return time.perf_counter() - start, peak


def memory_of(process: int) -> int:
    """Proportional set size of a process and its children: what they share counts once."""
    total = 0
    try:
        family = psutil.Process(process)
        for one in (family, *family.children(recursive=True)):
            total += one.memory_full_info().pss
    except psutil.Error:
        pass
    return total


def tiny_run(root: Path) -> Path:
    """A finished full run of tiny models, as the tests have it."""
    from lib.run import run_steps

    spec = importlib.util.spec_from_file_location("conftest", ROOT / "tests/conftest.py")
    models = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(models)
    root.mkdir()
    run_steps(
        {
            "mode": "full",
            "root": str(root),
            "dataset": "confounders",
            "n_memes": 150,
            "fusion_members": 1,
            "fusion_seeds": 1,
            "folds": 2,
            "fusion_epochs": 1,
            "text_epochs": 1,
            "vision_epochs": 1,
            "workers": 0,
            "text_model": str(models._tiny_deberta(root / "deberta")),
            "vision_model": str(models._tiny_siglip(root / "siglip")),
        },
        last=7,
    )
    return root


if __name__ == "__main__":
    main()
