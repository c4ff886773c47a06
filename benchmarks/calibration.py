"""The calibration core against its peers: ratios, both sides alternating in one process.

    OMP_NUM_THREADS=1 python benchmarks/calibration.py

Where NumPy finds AVX-512, everything is measured a second time in a process that must do without:
its AVX-512 sort is five times slower than its AVX2 sort on some processors and faster on others,
and the ratios must hold on both. Prints the table and writes
`benchmarks/results/calibration_<processor>.csv`. Needs the extra `bench`.
"""

import argparse
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path

import mpmath
import numpy as np
import pandas as pd
import torch
from netcal.scaling import TemperatureScaling
from probmetrics.calibrators import TemperatureScalingCalibrator
from probmetrics.distributions import CategoricalLogits
from scipy.special import expit, softmax
from sklearn.calibration import _TemperatureScaling, calibration_curve
from sklearn.metrics import (
    f1_score,
    precision_recall_curve,
    precision_recall_fscore_support,
    roc_auc_score,
)
from torchmetrics.functional.classification import binary_calibration_error
from tqdm import tqdm

from lib.artifacts import write_csv
from lib.calibration import (
    auroc_interval,
    best_threshold,
    bootstrap_ci,
    decision_intervals,
    expected_calibration_error,
    fit_temperature,
    joint_search,
    sweep_thresholds,
)

RESULTS = Path(__file__).resolve().parent / "results"
PEERS = ("numpy", "scipy", "scikit-learn", "netcal", "probmetrics", "torchmetrics", "torch")
SEED = 0

# The vector instructions whose sort is slow on some processors, as NumPy calls them.
AVX512 = "X86_V4 AVX512_ICL"
SWITCH = "NPY_DISABLE_CPU_FEATURES"

# Every objective of `best_threshold` with its options.
OBJECTIVES = {
    "f1": {},
    "macro_f1": {},
    "f_beta": {"beta": 2.0},
    "balanced_accuracy": {},
    "cost": {"costs": (3.0, 1.0)},
    "precision_at_recall": {"floor": 0.8},
    "recall_at_precision": {"floor": 0.8},
}


@dataclass(frozen=True)
class Comparison:
    """Ours against a peer: the ratio of their times must be at least (or at most) `bound`."""

    what: str
    against: str
    ours: Callable[[], object]
    peer: Callable[[], object]
    bound: float | None
    at_most: bool = False
    rounds: int = 7


def measure(comparison: Comparison, repeat: int) -> dict[str, object]:
    """Alternate the two sides, so that a busy machine slows both, and take medians of all calls.

    In each round the quicker side is called up to 100 times, in no more time than the slower takes:
    its first calls after seconds of the other find their code and data gone from the cache.
    """
    sides = (comparison.ours, comparison.peer)
    warm = [min(clock(side)[0], clock(side)[0]) for side in sides]
    calls = [min(max(int(max(warm) / own), 1), 100) for own in warm]
    times: tuple[list, list] = ([], [])
    for _ in range(comparison.rounds * repeat):
        for side, count, own in zip(sides, calls, times, strict=True):
            own += [clock(side) for _ in range(count)]
    (ours, ours_cpu), (peer, peer_cpu) = (
        map(statistics.median, zip(*t, strict=True)) for t in times
    )
    return row(comparison, ours, peer, ours_cpu, peer_cpu)


def clock(call: Callable[[], object]) -> tuple[float, float]:
    """Wall-clock and processor seconds of one call."""
    wall, cpu = time.perf_counter(), time.process_time()
    call()
    return time.perf_counter() - wall, time.process_time() - cpu


def row(
    c: Comparison, ours: float, peer: float, ours_cpu: float, peer_cpu: float
) -> dict[str, object]:
    """One line of the table: peer / ours, or ours / peer where `at_most` bounds our cost.

    A bound must hold for the wall clock and for processor time. The one is what a user waits for;
    the other does not count the time that other programs held the processor, which hits long calls
    harder than short ones.
    """
    ratios = (ours / peer, ours_cpu / peer_cpu) if c.at_most else (peer / ours, peer_cpu / ours_cpu)
    met = c.bound is None or all(r <= c.bound if c.at_most else r >= c.bound for r in ratios)
    return {
        "what": c.what,
        "against": c.against,
        "ours_ms": 1e3 * ours,
        "peer_ms": 1e3 * peer,
        "ratio": ratios[0],
        "cpu_ratio": ratios[1],
        "bound": "" if c.bound is None else f"{'<=' if c.at_most else '>='} {c.bound:g}",
        "met": "" if c.bound is None else "yes" if met else "NO",
    }


def binary_sample(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Overconfident two-class logits (n, 2), whose best temperature is 1.7, and labels (n,)."""
    rng = np.random.default_rng(SEED)
    z = rng.normal(0, 2, (n, 2))
    return z, (rng.random(n) < expit((z[:, 1] - z[:, 0]) / 1.7)).astype(np.int64)


def temperature_lines(n: int, bounds: tuple[float, float]) -> Iterator[Comparison]:
    z, y = binary_sample(n)
    p = softmax(z, axis=1)
    logits, labels = CategoricalLogits(torch.tensor(z)), torch.tensor(y)
    what, rounds = f"fit_temperature, N = {n:,}", 9 if n < 100_000 else 5
    peers = {
        "scikit-learn _TemperatureScaling": lambda: _TemperatureScaling().fit(z, y),
        "netcal TemperatureScaling": lambda: TemperatureScaling().fit(p, y),
        "probmetrics TemperatureScalingCalibrator": lambda: (
            TemperatureScalingCalibrator().fit_torch(logits, labels)
        ),
    }
    for (against, peer), bound in zip(peers.items(), (*bounds, None), strict=True):
        yield Comparison(what, against, lambda: fit_temperature(z, y), peer, bound, rounds=rounds)


def threshold_lines(n: int) -> Iterator[Comparison]:
    z, y = binary_sample(n)
    p = expit(z[:, 1] - z[:, 0])

    grid = sweep_thresholds(p, y)["threshold"]

    def sweep_loop() -> None:
        for threshold in grid:
            precision_recall_fscore_support(y, p >= threshold, average="binary", zero_division=0)

    for objective, options in OBJECTIVES.items():
        yield Comparison(
            f"best_threshold, {objective}, N = {n:,}",
            "scikit-learn precision_recall_curve",
            partial(best_threshold, p, y, objective, **options),
            lambda: precision_recall_curve(y, p),
            25,
            rounds=7 if objective == "f1" else 3,
        )
    yield Comparison(
        f"best_threshold, f1, N = {n:,}",
        "one numpy.sort of the scores",
        lambda: best_threshold(p, y),
        lambda: np.sort(p),
        2,
        at_most=True,
        rounds=15,
    )
    yield Comparison(
        f"sweep_thresholds, {len(grid)} points, N = {n:,}",
        "loop of scikit-learn precision_recall_fscore_support",
        lambda: sweep_thresholds(p, y),
        sweep_loop,
        300,
        rounds=3,
    )


def joint_lines() -> Iterator[Comparison]:
    """28 labels and 5,427 examples, GoEmotions' test set: 1.17 labels an example, steeply uneven.

    The logits are single precision, as a model returns them.
    """
    rng = np.random.default_rng(SEED)
    rate = np.geomspace(0.3, 0.003, 28)
    y = (rng.random((5_427, 28)) < 1.17 * rate / rate.sum()).astype(np.int64)
    z = (rng.normal(-1, 1.2, y.shape) + 2 * y).astype(np.float32)
    temperatures, thresholds = np.arange(1.0, 16), np.linspace(0.2, 1, 9)

    def loop(score: Callable[[np.ndarray], object]) -> None:
        for t in temperatures:
            p = expit(z / t)
            for threshold in thresholds:
                score(p >= threshold)

    def macro(decided: np.ndarray) -> None:
        f1_score(y, decided, average="macro", zero_division=0)

    def by_label(decided: np.ndarray) -> None:
        for truth, decision in zip(y.T, decided.T, strict=True):
            f1_score(truth, decision, zero_division=0)

    def ours() -> object:
        return joint_search(z, y, temperatures, thresholds)

    what = "joint_search, 15 x 9, 28 labels, N = 5,427"
    for peer, score, bound in (
        ("loop of scikit-learn f1_score", lambda decided: macro(decided.astype(int)), 3_000),
        ("the same, decisions left boolean", macro, None),
        ("the same, label by label", by_label, None),
    ):
        yield Comparison(what, peer, ours, partial(loop, score), bound, rounds=3)
    yield Comparison(
        what,
        "one numpy.sort of the columns",
        ours,
        lambda: np.sort(z, axis=0),
        5,
        at_most=True,
        rounds=15,
    )


def bootstrap_lines(n: int, n_resamples: int) -> Iterator[Comparison]:
    z, y = binary_sample(n)
    p = expit(z[:, 1] - z[:, 0])

    def loop() -> None:
        rng = np.random.default_rng(SEED)
        for _ in range(n_resamples):
            i = rng.integers(0, n, n)
            scores, labels = p[i], y[i]
            f1_score(labels, scores >= 0.5)
            rate, mean = calibration_curve(labels, scores, n_bins=15)
            count = np.histogram(scores, 15, (0, 1))[0]
            np.abs(rate - mean) @ count[count > 0] / n

    def ours() -> None:
        bootstrap_ci(p, y, "f1", n_resamples)
        bootstrap_ci(p, y, "ece", n_resamples)

    what = f"bootstrap_ci of F1 and ECE, {n_resamples:,} resamples, N = {n:,}"
    yield Comparison(
        what, "loop of scikit-learn f1_score and calibration_curve", ours, loop, 130, rounds=3
    )


def step_7_lines(n: int, n_resamples: int) -> Iterator[Comparison]:
    """Temperature and threshold, and the bootstrap intervals of both, fitted anew in each."""
    z, y = binary_sample(n)
    margins = z[:, 1] - z[:, 0]

    def ours() -> None:
        temperature = float(fit_temperature(margins, y).temperature)
        best_threshold(expit(margins / temperature), y)
        decision_intervals(margins, y, temperature, n_resamples)

    def best(p: np.ndarray, labels: np.ndarray) -> float:
        precision, recall, cuts = precision_recall_curve(labels, p)
        f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-300)
        return cuts[np.argmax(f1[:-1])]

    def theirs() -> None:
        p = _TemperatureScaling().fit(z, y).predict(z)[:, 1]
        best(p, y)
        rng = np.random.default_rng(SEED)
        for _ in range(n_resamples):
            i = rng.integers(0, n, n)
            _TemperatureScaling().fit(z[i], y[i])
            best(p[i], y[i])

    yield Comparison(
        f"Step 7's fit and intervals, {n_resamples:,} resamples, N = {n:,}",
        "scikit-learn _TemperatureScaling and precision_recall_curve",
        ours,
        theirs,
        50,
        rounds=2,
    )


def auroc_lines(n: int) -> Iterator[Comparison]:
    z, y = binary_sample(n)
    p, groups = expit(z[:, 1] - z[:, 0]), np.arange(n) // 3
    yield Comparison(
        f"auroc_interval in groups of 3, N = {n:,}",
        "one scikit-learn roc_auc_score",
        lambda: auroc_interval(p, y, groups=groups),
        lambda: roc_auc_score(y, p),
        4,
        at_most=True,
        rounds=3,
    )


def error_lines(n: int) -> Iterator[Comparison]:
    z, y = binary_sample(n)
    p = expit(z[:, 1] - z[:, 0])
    scores, labels = torch.tensor(p), torch.tensor(y)
    yield Comparison(
        f"expected_calibration_error, N = {n:,}",
        "torchmetrics binary_calibration_error",
        lambda: expected_calibration_error(p, y),
        lambda: binary_calibration_error(scores, labels, n_bins=15),
        None,
    )


def accuracy_row(n: int) -> dict[str, object]:
    """The relative error of T against bisection of the likelihood's derivative in 40 digits."""
    z, y = binary_sample(n)
    t = fit_temperature(z, y).temperature
    with mpmath.workdps(40):
        margins = [mpmath.mpf(m) for m in (z[:, 1] - z[:, 0]) * (2 * y - 1)]
        low, high = mpmath.mpf(t) * 0.999, mpmath.mpf(t) * 1.001
        for _ in range(60):
            middle = (low + high) / 2
            # Below the optimal T the margins' weighted sum is negative.
            below = sum(m / (1 + mpmath.exp(m / middle)) for m in margins) < 0
            low, high = (middle, high) if below else (low, middle)
        error = float(abs(t / low - 1))
    return {
        "what": f"fit_temperature, relative error of T, N = {n:,}",
        "against": "mpmath bisection in 40 digits",
        "ratio": error,
        "bound": "<= 1e-09",
        "met": "yes" if error <= 1e-9 else "NO",
    }


def width_row(n: int, n_resamples: int) -> dict[str, object]:
    """How far the width of the AUROC's interval is from that of its bootstrap."""
    z, y = binary_sample(n)
    p = expit(z[:, 1] - z[:, 0])
    ours, peer = auroc_interval(p, y), bootstrap_ci(p, y, "auroc", n_resamples)
    error = float(abs((ours.high - ours.low) / (peer.high - peer.low) - 1))
    return {
        "what": f"auroc_interval, relative error of its width, N = {n:,}",
        "against": f"bootstrap_ci, {n_resamples:,} resamples",
        "ratio": error,
        "bound": "<= 0.05",
        "met": "yes" if error <= 0.05 else "NO",
    }


def processor() -> str:
    """The processor's name, family and model, from the system where it tells.

    A cloud calls processors of several generations "AMD EPYC".
    """
    info = Path("/proc/cpuinfo")
    text = info.read_text() if info.exists() else ""
    name, family, model = (
        re.search(rf"^{field}\s*:\s*(.+)$", text, re.MULTILINE)
        for field in ("model name", "cpu family", "model")
    )
    if not (name and family and model):
        return platform.processor() or platform.machine()
    return f"{name[1].strip()} family {family[1]} model {model[1]}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--repeat", type=int, default=1, help="times as many rounds (default 1)")
    parser.add_argument("--into", type=Path, help="write the rows of this process alone")
    arguments = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))
    warnings.simplefilter("ignore")
    found = measured(arguments.repeat)
    if arguments.into:
        found.to_pickle(arguments.into)
        return
    frames = [found]
    if np._core._multiarray_umath.__cpu_features__.get(AVX512.split()[0]):
        frames.append(without_avx512(arguments.repeat))
    frame = pd.concat(frames, ignore_index=True)
    frame["processor"] = f"{processor()}, {os.cpu_count()} cores"
    frame["versions"] = " ".join(f"{name}={version(name)}" for name in PEERS)
    name = re.sub(r"\W+", "_", processor()).strip("_").lower()
    write_csv(RESULTS / f"calibration_{name}.csv", frame)
    columns = ["what", "against", "ours_ms", "peer_ms", "ratio", "cpu_ratio", "bound", "met"]
    for setting, part in frame.groupby("numpy", sort=False):
        print(f"NumPy {setting}")
        print(part[columns].to_string(index=False, float_format=lambda v: f"{v:.4g}"))


def measured(repeat: int) -> pd.DataFrame:
    """All rows of the table, with the vector instructions that this process has."""
    lines = [
        *temperature_lines(10_000, (8, 10)),
        *temperature_lines(1_000_000, (7, 3.5)),
        *threshold_lines(1_000_000),
        *joint_lines(),
        *bootstrap_lines(10_000, 1_000),
        *step_7_lines(100_000, 100),
        *auroc_lines(1_000_000),
        *error_lines(1_000_000),
    ]
    rows = [measure(line, repeat) for line in tqdm(lines, desc="comparisons")]
    frame = pd.DataFrame([*rows, width_row(20_000, 2_000), accuracy_row(500)])
    off = os.environ.get(SWITCH)
    frame.insert(0, "numpy", f"without {off}" if off else "as it is")
    return frame


def without_avx512(repeat: int) -> pd.DataFrame:
    """The same rows from a process in which NumPy does without AVX-512."""
    with tempfile.TemporaryDirectory() as folder:
        rows = Path(folder) / "rows.pkl"
        command = [sys.executable, __file__, "--repeat", str(repeat), "--into", str(rows)]
        subprocess.run(command, env={**os.environ, SWITCH: AVX512}, check=True)
        return pd.read_pickle(rows)


if __name__ == "__main__":
    main()
