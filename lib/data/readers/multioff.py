"""MultiOFF (Suryawanshi et al., 2020): its files, and its labels in the unified schema."""

from collections.abc import Iterator
from pathlib import Path

from lib.data.example import Example, Rejected
from lib.data.readers.files import files_named, require_found, table_rows
from lib.data.readers.rows import Row, examples_of, first_text, missing_field, stem
from lib.data.taxonomy import DatasetMapping

MAPPING = DatasetMapping(
    note="its one label, offensive, means abuse of a person or group; the negative one is "
    "spelt Non-offensiv in the files",
    fields={
        "label": {
            "offensive": {"abuse_hate": 1, "offensive": 1},
            "non-offensiv": {"abuse_hate": 0, "offensive": 0, "target_type": "none"},
            "non-offensive": {"abuse_hate": 0, "offensive": 0, "target_type": "none"},
        }
    },
)


def read(folder: str | Path) -> Iterator[Example | Rejected]:
    """Read MultiOFF (Suryawanshi et al., 2020): `{Training,Validation,Testing}_meme_dataset.csv`.

    Raises FileNotFoundError if none of the three is there.
    """
    folder = Path(folder)
    splits = {"Training": "train", "Validation": "val", "Testing": "test"}
    files = {
        path: split
        for name, split in splits.items()
        for path in files_named(folder, f"{name}_meme_dataset.csv")
    }
    require_found(files, folder, "Training_meme_dataset.csv, Validation_… and Testing_…")

    def rows() -> Iterator[Row | Rejected]:
        for path, split in files.items():
            for where, row in table_rows(path):
                problem = row if isinstance(row, str) else missing_field(row, "image_name", "label")
                if problem:
                    yield Rejected(where, problem)
                    continue
                name = row["image_name"]
                image = folder / "Labelled Images" / name
                own = {"label": row["label"]}
                yield Row(where, stem(name), image, own, first_text(row, "sentence"), split=split)

    return examples_of("multioff", MAPPING, folder, rows())
