"""Tell the emotions of the texts in a file: a row of calibrated probabilities for each."""

import argparse
import contextlib
import csv
import os
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import BinaryIO

import emotion_cli
import emotion_engines
import numpy as np
from tqdm.auto import tqdm

from lib.artifacts import atomic_path
from lib.emotions.answer_files import SUFFIXES, Write, answer_file
from lib.emotions.classifier import BERTEmotionClassifier
from lib.emotions.passes import Pass
from lib.emotions.text_files import SUFFIXES as READ
from lib.emotions.text_files import TextRow, read_texts

# Texts held at a time: so many that batches of like length need next to no padding.
CHUNK = 8192


def options() -> argparse.Namespace:
    made = emotion_cli.parser(
        "Tell the emotions of each text in a file. Rows that hold no text that can be read go to "
        "<out>.rejected.csv with line and reason."
    )
    made.add_argument("file", nargs="?", help=f"{', '.join(READ)}; - for lines of standard input")
    made.add_argument("--out", type=Path, help=f"the file to write: {', '.join(SUFFIXES)}")
    made.add_argument(
        "--column",
        default="text",
        help="the column of the texts (default text); of .csv and .tsv without header its number",
    )
    made.add_argument(
        "--engine",
        choices=("auto", *emotion_engines.ENGINES),
        default="auto",
        help="what runs the network; auto is the one that --measure chose, or else float32",
    )
    made.add_argument(
        "--measure",
        action="store_true",
        help="time every engine on the half of dev that calibration used, refuse those that decide "
        "otherwise, keep the fastest",
    )
    emotion_cli.add_data_options(made)
    args = made.parse_args()
    if not args.measure and (args.file is None or args.out is None):
        made.error("give a file of texts and --out, or --measure")
    if args.file is not None and args.out is None:
        made.error("--out is missing: the file to write")
    if args.out is not None:
        check_paths(made, args)
    return args


def check_paths(made: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """End with one line if the files named could not be read or written."""
    if args.out.suffix not in SUFFIXES:
        made.error(f"--out {args.out}: the suffix is none of {', '.join(SUFFIXES)}")
    if args.out.is_dir():
        made.error(f"--out {args.out} is a folder")
    if args.file in (None, "-"):
        return
    if not Path(args.file).is_file():
        made.error(f"{args.file} does not exist or is no file")
    if Path(args.file).suffix.lower() not in READ:
        made.error(f"{args.file}: the suffix is none of {', '.join(READ)}")
    if any(same(args.file, path) for path in (args.out, rejected_path(args.out))):
        made.error(f"{args.file} would be overwritten; choose another --out")


def same(one: str | Path, other: str | Path) -> bool:
    return os.path.realpath(one) == os.path.realpath(other)


def rejected_path(out: Path) -> Path:
    """Where the rows go that could not be read."""
    return out.with_name(f"{out.stem}.rejected.csv")


def predict(
    rows: Iterator[TextRow],
    network: emotion_engines.Network,
    passes: list[Pass],
    write: Write,
    refuse: csv.writer,
) -> tuple[int, int]:
    """Judge the rows chunk by chunk; return how many were judged, and how many refused."""
    model, judged, refused = network.model, 0, 0
    rows = iter(tqdm(rows, desc="texts", unit=" texts"))
    while chunk := list(islice(rows, CHUNK)):
        sound = [row for row in chunk if row.fault is None]
        refuse.writerows((row.line, row.id, row.fault) for row in chunk if row.fault is not None)
        prob = model.probabilities(network.logits([row.text for row in sound], passes))
        told = [[model.names[at] for at in np.flatnonzero(row)] for row in model.decide(prob)]
        write([row.id for row in sound], told, prob)
        judged, refused = judged + len(sound), refused + len(chunk) - len(sound)
    return judged, refused


@contextlib.contextmanager
def opened(file: str) -> Iterator[BinaryIO]:
    """The file's bytes, or those of standard input."""
    if file == "-":
        yield sys.stdin.buffer
    else:
        with Path(file).open("rb") as stream:
            yield stream


def predict_file(args: argparse.Namespace, network: emotion_engines.Network, engine: str) -> None:
    """Write the answers and the refused rows, each file at once."""
    passes, rejected = network.passes(engine), rejected_path(args.out)
    with (
        opened(args.file) as stream,
        answer_file(args.out, network.model.names) as write,
        atomic_path(rejected) as new,
    ):
        with new.open("w", encoding="utf-8", newline="") as listed:
            refuse = csv.writer(listed, lineterminator="\n")
            refuse.writerow(("line", "id", "reason"))
            rows = read_texts(args.file, stream, args.column)
            judged, refused = predict(rows, network, passes, write, refuse)
        if judged + refused == 0:
            raise ValueError(f"{args.file} holds no row")
    given = "standard input" if args.file == "-" else args.file
    print(f"{judged} texts of {given} judged with {engine}: {args.out}")
    print(f"{refused} rows refused, with their reasons: {rejected}")


def measure(args: argparse.Namespace, network: emotion_engines.Network) -> None:
    """Measure on the half of dev that thresholds were chosen on, and say what was found."""
    tune = emotion_cli.read_split(args, network.model, "tune")
    emotion_cli.announce(args, measured_on=tune)
    table = emotion_engines.measure(network, tune.texts)
    print(table.to_string(index=False, na_rep="", float_format="{:.4g}".format))
    print(
        f"refused is what flips more than {emotion_engines.MOST_FLIPS:.1%} of the decisions or "
        f"moves a probability by more than {emotion_engines.MOST_MOVED}"
    )


def main() -> int:
    args = options()
    if args.measure:
        model = emotion_cli.load_for(args.model, args.data)
    else:
        model = BERTEmotionClassifier.load(args.model, data=args.data)
    network = emotion_engines.Network(model, args.model)
    if args.measure:
        measure(args, network)
    if args.file is None:
        return 0
    engine = args.engine
    if engine == "auto":
        engine, why = emotion_engines.chosen(network, args.data)
        print(f"engine {engine}: {why}")
    predict_file(args, network, engine)
    return 0


if __name__ == "__main__":
    emotion_cli.run(main)
