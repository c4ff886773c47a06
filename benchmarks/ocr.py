"""What it costs to read the text off real memes instead of being given it.

    python benchmarks/ocr.py --data DIR --root DIR [--dataset religious_hate] [--memes 300]

`--data` is a folder as Step 3 reads it, whose manifest gives the texts as people typed them;
`--root` a finished full run on it, which must have learned from none of the memes asked: they are
those of its val, test and heldout splits, as many as there are, at most `--memes`. Each is judged
twice by the same `MemeClassifier`, with its text given and with its text read; what is drawn anew
for the intervals is whole memes, so both see the same. Character errors count over letters and
digits in lower case. Writes results/ocr.csv: numbers alone, no text and no picture.
"""

import argparse
import platform
import re
import statistics
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd
from symspellpy.editdistance import DistanceAlgorithm, EditDistance
from tqdm import tqdm

from lib.artifacts import read_json, write_csv
from lib.calibration import bootstrap_ci, bootstrap_difference
from lib.config import Settings
from lib.data.example import Example
from lib.data.ocr import read_text
from lib.data.pictures import load_picture
from lib.data.readers.manifest import read_manifest
from lib.serving import MemeClassifier

RESULTS = Path(__file__).parent / "results/ocr.csv"
UNSEEN = ("test", "heldout", "val")
PLAIN = re.compile(r"[^a-z0-9]+")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--dataset", default="religious_hate")
    parser.add_argument("--memes", type=int, default=300)
    options = parser.parse_args()
    settings = Settings(mode="full", root=options.root)
    memes = unseen(options.data, settings, options.dataset)[: options.memes]
    if not memes:
        parser.error(f"{options.root} has no unseen memes of {options.dataset} in {options.data}")
    print(f"{len(memes)} memes of {options.dataset} that the models have not learned from")
    read, seconds = read_all(memes)
    table = compared(MemeClassifier.load(settings.root, "full"), memes, read)
    errors = [character_errors(m.ocr, text) for m, text in zip(memes, read, strict=True)]
    wrong, length = map(sum, zip(*errors, strict=True))
    table = table.assign(
        n=len(memes),
        hate=np.mean([m.labels["abuse_hate"] for m in memes]),
        character_error_rate=wrong / length,
        median_character_error_rate=statistics.median(w / max(1, n) for w, n in errors),
        without_text=sum(not text for text in read),
        ms_per_picture=1000 * statistics.median(seconds),
        cpu=platform.processor() or platform.machine(),
        versions=" ".join(f"{name} {version(name)}" for name in ("onnxruntime", "rapidocr")),
    )
    write_csv(RESULTS, table)
    print(table.drop(columns=["cpu", "versions"]).T.to_string())


def unseen(data: Path, settings: Settings, dataset: str) -> list[Example]:
    """The labelled memes with a text and a picture that no model of the run was trained on.

    Those of val, which chose the heads, come last.
    """
    splits = read_json(settings.step3 / "splits.json", "a full run")
    found = [
        row
        for row in read_manifest(data)
        if isinstance(row, Example)
        and row.dataset == dataset
        and splits.get(row.id) in UNSEEN
        and row.labels.get("abuse_hate") is not None
        and row.image is not None
        and row.ocr.strip()
    ]
    return sorted(found, key=lambda row: UNSEEN.index(splits[row.id]))


def read_all(memes: list[Example]) -> tuple[list[str], list[float]]:
    """The text read off each picture, and the seconds that took; the first one also loads."""
    read_text(load_picture(memes[0].image))
    texts, seconds = [], []
    for meme in tqdm(memes, desc="reading"):
        picture = load_picture(meme.image)
        start = time.perf_counter()
        texts.append(read_text(picture))
        seconds.append(time.perf_counter() - start)
    return texts, seconds


def compared(classifier: MemeClassifier, memes: list[Example], read: list[str]) -> pd.DataFrame:
    """AUROC of fusion and of the text expert with either text, and the paired difference."""
    labels = np.array([m.labels["abuse_hate"] for m in memes])
    pictures = [m.image for m in memes]
    given, by_ocr = (
        classifier.predict_batch(texts, pictures) for texts in ([m.ocr for m in memes], read)
    )
    probs = {
        ("fusion", "given"): [a["prob_hate"] for a in given],
        ("fusion", "read"): [a["prob_hate"] for a in by_ocr],
        ("fusion", "without"): [a["rests_on"]["without_text"] for a in given],
        ("text expert", "given"): [a["experts"]["text_expert"] for a in given],
        ("text expert", "read"): [a["experts"]["text_expert"] for a in by_ocr],
    }
    rows = []
    for model in ("fusion", "text expert"):
        row = {"model": model}
        for name in ("given", "read", "without"):
            if prob := probs.get((model, name)):
                found = bootstrap_ci(np.array(prob), labels, "auroc")
                row |= {f"auroc_{name}": found.point, f"{name}_low": found.low}
                row |= {f"{name}_high": found.high}
        both = [np.array(probs[model, name]) for name in ("read", "given")]
        change = bootstrap_difference(*both, labels, "auroc")
        row |= {"read_minus_given": change.point, "change_low": change.low}
        row |= {"change_high": change.high}
        rows.append(row)
    same = np.mean([a["label"] == b["label"] for a, b in zip(given, by_ocr, strict=True)])
    return pd.DataFrame(rows).assign(same_label=same)


def character_errors(given: str, read: str) -> tuple[int, int]:
    """Letters and digits to insert, delete or replace, and how many there are."""
    plain = [PLAIN.sub(" ", text.lower()).strip() for text in (given, read)]
    distance = EditDistance(DistanceAlgorithm.LEVENSHTEIN).compare(*plain, 10**6)
    return distance, len(plain[0])


if __name__ == "__main__":
    main()
