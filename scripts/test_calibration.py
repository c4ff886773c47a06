"""Gate: does the saved emotion classifier, as it stands, beat every constant prediction?"""

import argparse
from pathlib import Path

import emotion_cli
import numpy as np

from lib.emotions.classifier import BERTEmotionClassifier
from lib.emotions.data import read_tsv
from lib.emotions.f1 import best_constant_f1
from lib.emotions.splits import SPLITS


def options() -> argparse.Namespace:
    made = emotion_cli.parser(
        "Measure the checkpoint with its stored temperature and thresholds. The gate passes if "
        "macro- and micro-F1 both reach --min-f1 and the lower end of each 95%% interval lies "
        "above the best constant prediction."
    )
    emotion_cli.add_data_options(made)
    which = made.add_mutually_exclusive_group()
    which.add_argument(
        "--split",
        choices=SPLITS,
        default="report",
        help="default report: the half of dev that "
        "calibration never sees; test is opened only by this option",
    )
    which.add_argument("--file", type=Path, help="a TSV file of GoEmotions' layout instead")
    made.add_argument("--min-f1", type=float, default=0.10)
    made.add_argument("--resamples", type=int, default=1000, help="of the bootstrap")
    return made.parse_args()


def passes(decided: np.ndarray, labels: np.ndarray, args: argparse.Namespace) -> bool:
    """Print each F1 of decisions (N, L) beside its bars, and tell whether it clears them."""
    cleared = True
    found = emotion_cli.f1_interval(decided, labels, args)
    for average, f1, low, high in zip(
        emotion_cli.AVERAGES, found.point, found.low, found.high, strict=True
    ):
        constant = best_constant_f1(labels, average)
        enough = f1 >= args.min_f1 and low > constant
        cleared &= enough
        print(
            f"{average}-F1 {f1:.4f} [{low:.4f}, {high:.4f}], best constant {constant:.4f}, "
            f"minimum {args.min_f1:.2f}: {'ok' if enough else 'TOO LOW'}"
        )
    return cleared


def main() -> int:
    args = options()
    if args.file:
        model = BERTEmotionClassifier.load(args.model, data=args.data)
        data = read_tsv(args.file, model.names)
    else:
        model = emotion_cli.load_for(args.model, args.data)
        data = emotion_cli.read_split(args, model, args.split)
    emotion_cli.announce(args, measured_on=data)
    print(f"checkpoint: {emotion_cli.described(model)}")
    logits = emotion_cli.cached_logits(args.model, model, data)
    passed = passes(model.decide(model.probabilities(logits)), data.labels, args)
    print("gate passed" if passed else "gate FAILED")
    return 0 if passed else 1


if __name__ == "__main__":
    emotion_cli.run(main)
