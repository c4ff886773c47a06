"""Measure what runs the models fastest here: `python -m lib.serving.engines --mode full`."""

import argparse
import sys
from pathlib import Path

import pandas as pd

from lib.config import Settings
from lib.serving.engines.kept import engine_folder
from lib.serving.engines.measuring import Gate, measure

COLUMNS = ("memes_per_second", "milliseconds_alone", "flips", "probability")


def main() -> None:
    """Measure each runtime, gate it on decisions, and keep the fastest that passes."""
    parser = argparse.ArgumentParser(prog="python -m lib.serving.engines", description=__doc__)
    parser.add_argument("--mode", choices=("pilot", "full"), default="pilot")
    parser.add_argument("--root", type=Path, help="folder of the run; default: the project's")
    parser.add_argument("--memes", type=int, default=512, help="of val (pilot: train), at most")
    parser.add_argument("--flips", type=float, default=0.0, help="share that may be decided anew")
    parser.add_argument("--probability", type=float, default=0.01, help="largest difference")
    options = parser.parse_args()
    try:
        if options.memes < 1:
            raise ValueError(f"--memes is {options.memes}, expected 1 or more")
        settings = Settings.model_validate({"mode": options.mode, "root": options.root})
        settings.guide()
        kept = measure(settings, options.memes, Gate(options.flips, options.probability))
    except (ValueError, OSError, ModuleNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    table = pd.DataFrame(kept["measured"]).reindex(
        columns=["encoder", "runtime", *COLUMNS, "refused"]
    )
    print(table.to_string(index=False, float_format="{:.4g}".format, na_rep=""))
    print("kept:", ", ".join(f"{name} by {runtime}" for name, runtime in kept["choice"].items()))
    print(f"written: {engine_folder(settings) / 'engine.json'}")


if __name__ == "__main__":
    main()
