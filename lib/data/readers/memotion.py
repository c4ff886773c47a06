"""Memotion 7k (Sharma et al., 2020): its files, and what its labels mean in the unified schema."""

from collections.abc import Iterator
from pathlib import Path

from lib.data.example import Example, Rejected
from lib.data.readers.files import require_found, table_rows, tables_with
from lib.data.readers.rows import Row, examples_of, first_text, missing_field, stem
from lib.data.taxonomy import DatasetMapping

MAPPING = DatasetMapping(
    note="hateful_offensive alone is hate; slight and very_offensive offend without it",
    fields={
        "offensive": {
            "not_offensive": {"abuse_hate": 0, "offensive": 0, "target_type": "none"},
            "slight": {"abuse_hate": 0, "offensive": 1},
            "very_offensive": {"abuse_hate": 0, "offensive": 1},
            "hateful_offensive": {"abuse_hate": 1, "offensive": 1},
        }
    },
)

_OFFENCE = ("not_offensive", "slight", "very_offensive", "hateful_offensive")


def read(folder: str | Path) -> Iterator[Example | Rejected]:
    """Read Memotion 7k (Sharma et al., 2020): `labels.csv` and `images`, and the test of 2,000.

    The corrected text counts, the machine's where there is none. The test's labels are codes such
    as `-1_1100_1020`, whose last group is humour, sarcasm, offence and motivation in degrees.
    Raises FileNotFoundError if there is neither a training nor a test table.
    """
    folder = Path(folder)
    training = tables_with(folder, ("image_name", "offensive"))
    tests = tables_with(folder, ("Image_name", "corrected_text"))
    require_found(training or tests, folder, "labels.csv, or a test table with Image_name")
    codes = {
        row["Image_name"]: row["Labels"]
        for path in tables_with(folder, ("Image_name", "Labels"))
        for _, row in table_rows(path)
        if isinstance(row, dict)
    }
    texts = ("text_corrected", "corrected_text", "text_ocr", "ocr_extracted_text")

    def rows() -> Iterator[Row | Rejected]:
        for path, split in [(p, "train") for p in training] + [(p, "test") for p in tests]:
            for where, row in table_rows(path):
                if isinstance(row, dict):
                    row = {column.lower(): value for column, value in row.items()}
                problem = row if isinstance(row, str) else missing_field(row, "image_name")
                if problem:
                    yield Rejected(where, problem)
                    continue
                name = row["image_name"]
                offence = row["offensive"] if split == "train" else _offence(codes.get(name, ""))
                # Training and test pictures are numbered apart
                id_ = stem(name) if split == "train" else f"test-{stem(name)}"
                image = path.parent / "images" / name
                yield Row(
                    where, id_, image, {"offensive": offence}, first_text(row, *texts), split=split
                )

    return examples_of("memotion", MAPPING, folder, rows())


def _offence(code: str) -> str | None:
    """The degree of offence in a code; a code that is none is returned as it is, to be rejected."""
    degrees = code.split("_")[-1]
    if not code:
        return None
    known = len(degrees) == 4 and degrees[2] in "0123"
    return _OFFENCE[int(degrees[2])] if known else code
