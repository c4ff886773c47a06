"""Judge one meme from the command line: `python -m lib.serving --text '...' --image meme.png`."""

import argparse
import json
import sys
from pathlib import Path

from lib.serving import MemeClassifier


def main() -> None:
    """Judge one meme from the command line and print the answer as JSON."""
    parser = argparse.ArgumentParser(prog="python -m lib.serving", description=main.__doc__)
    parser.add_argument("--text", help="the overlaid text; without it, it is read off the picture")
    parser.add_argument("--image", type=Path, help="the picture's file; without it the text alone")
    parser.add_argument("--mode", choices=("pilot", "full"), default="pilot")
    parser.add_argument("--root", type=Path, help="folder of the run; default: the project's")
    options = parser.parse_args()
    try:
        classifier = MemeClassifier.load(options.root, options.mode)
        answer = classifier.predict(options.text, options.image)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    print(json.dumps(answer, indent=2))


if __name__ == "__main__":
    main()
