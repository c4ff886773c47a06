"""What the emotion scripts share: options, exit codes, logits computed once."""

import argparse
import hashlib
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

# Threads that spin while they wait made a training step 9 times slower on a busy machine.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import torch
import transformers
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lib.artifacts import atomic_path, read_json
from lib.calibration import Interval, bootstrap_ci
from lib.config import Settings
from lib.emotions.classifier import BERTEmotionClassifier
from lib.emotions.commands import script_command
from lib.emotions.data import EmotionData
from lib.emotions.f1 import multilabel_f1
from lib.emotions.splits import load_split

AVERAGES = ("macro", "micro")
MODEL = Settings().root / "models" / "emotion_classifier"
EXIT_CODES = "exit codes: 0 done (or the gate passed), 1 the gate failed, 2 bad input"


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        # Without the usage, which takes several lines.
        sys.exit(_complain(f"{message}; --help tells the options"))


def parser(description: str) -> argparse.ArgumentParser:
    """Return a parser with --model, the one option of every script."""
    made = _Parser(description=description, epilog=EXIT_CODES)
    made.add_argument(
        "--model", type=Path, default=MODEL, help="checkpoint folder (models/emotion_classifier)"
    )
    return made


def add_data_options(made: argparse.ArgumentParser) -> None:
    """Add --data and --seed."""
    made.add_argument(
        "--data",
        type=Path,
        help="folder with GoEmotions' train.tsv, dev.tsv, labels.txt; without it sentences are "
        "generated",
    )
    made.add_argument("--seed", type=int, default=0, help="of the randomness and the sentences")


def run(main: Callable[[], int]) -> None:
    """Exit with what `main` returns, or with 2 and one line if the input is at fault.

    A learning rate with which training diverges is such an input.
    """
    transformers.utils.logging.disable_progress_bar()
    try:
        sys.exit(main())
    except (OSError, ValueError, FloatingPointError) as error:
        sys.exit(_complain(str(error)))


def _complain(message: str) -> int:
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    return 2


def load_for(folder: Path, data: Path | None) -> BERTEmotionClassifier:
    """Load the checkpoint; refuse to judge one that learned from files by generated sentences."""
    model = BERTEmotionClassifier.load(folder, data=data)
    marker, train = folder / "training.json", script_command("train_emotion_model", folder, data)
    if data is None and marker.exists() and read_json(marker, train).get("mode") == "full":
        raise ValueError(f"{folder} was trained on files; name their folder with --data")
    return model


def read_split(args: argparse.Namespace, model: BERTEmotionClassifier, split: str) -> EmotionData:
    """Return a split of --data whose labels are the checkpoint's."""
    data = load_split(args.data, split, args.seed)
    if data.names != model.names:
        differing = sorted(set(data.names) ^ set(model.names)) or "their order"
        raise ValueError(
            f"{args.model / 'config.json'}: id2label differs from the labels of {data.source} "
            f"({differing}); train on these labels first"
        )
    return data


def announce(args: argparse.Namespace, **roles: EmotionData) -> None:
    """Say which data play which role."""
    for role, data in roles.items():
        place = f" in {args.data}" if args.data else ""
        print(f"{role.replace('_', ' ')}: {data.source}{place} ({len(data)} texts)")


def cached_logits(folder: Path, model: BERTEmotionClassifier, data: EmotionData) -> np.ndarray:
    """Return raw logits (N, L), kept under `folder`/logits by a fingerprint of weights and texts.

    Temperature and thresholds do not count, so that a new cut costs no new pass.
    """
    digest = hashlib.sha256(weights_fingerprint(model).encode())
    digest.update("\0".join(data.texts).encode())
    file = folder / "logits" / f"{digest.hexdigest()[:16]}.npy"
    if not file.exists():
        with atomic_path(file) as new, new.open("wb") as stream:
            np.save(stream, model.logits(data.texts, progress=True))
    return np.load(file, allow_pickle=False)


def f1_interval(decided: np.ndarray, labels: np.ndarray, args: argparse.Namespace) -> Interval:
    """Return the F1 of each of AVERAGES, arrays (2,), for decisions and labels (N, L)."""

    def f1(rows: np.ndarray) -> np.ndarray:
        return np.array([multilabel_f1(decided[rows], labels[rows], a) for a in AVERAGES])

    return row_interval(f1, len(labels), args.resamples, args.seed)


def row_interval(
    statistic: Callable[[np.ndarray], np.ndarray], n: int, resamples: int, seed: int
) -> Interval:
    """Return the 95% bootstrap interval of a statistic of resampled row numbers (N,)."""
    # bootstrap_ci resamples a binary problem; rows of one class stand for examples of many labels.
    return bootstrap_ci(
        np.arange(n), np.zeros(n), lambda rows, _: statistic(rows.astype(int)), resamples, seed
    )


def weights_fingerprint(model: BERTEmotionClassifier) -> str:
    """SHA-256 over the parameters' bytes, shortened to 16 digits."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.named_parameters()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy())
    return digest.hexdigest()[:16]


def described(model: BERTEmotionClassifier) -> str:
    """Say the stored temperature and thresholds in one phrase."""
    cuts = model.prediction_threshold
    low, high = cuts.min().item(), cuts.max().item()
    told = f"{low:.6g}" if low == high else f"{low:.4f} to {high:.4f}, one per label"
    return f"temperature {model.temperature.item():.6g}, threshold {told}"


def save_figure(file: Path, draw: Callable[[Axes], object]) -> None:
    """Save what `draw` draws on an Axes as a PNG."""
    figure = Figure(figsize=(7, 5), layout="constrained")
    draw(figure.subplots())
    with atomic_path(file) as new:
        figure.savefig(new, dpi=120)
