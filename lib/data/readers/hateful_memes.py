"""Hateful Memes (Kiela et al., 2020): its files, and what its labels mean in the unified schema."""

from collections.abc import Iterator
from pathlib import Path

from lib.data.example import Example, Rejected
from lib.data.readers.files import files_named, json_lines, require_found
from lib.data.readers.rows import Row, examples_of, first_text, missing_field
from lib.data.taxonomy import DatasetMapping, flag, targets

MAPPING = DatasetMapping(
    note="label 1 is hateful; gold_pc of the fine-grained annotations names the protected "
    "category attacked, several make the target multiple",
    fields={
        "label": flag("abuse_hate"),
        "gold_pc": {
            "pc_empty": {},
            **targets(
                religion="religion",
                race="race",
                sex="gender",
                nationality="nationality",
                disability="disability",
            ),
        },
    },
)


def read(folder: str | Path) -> Iterator[Example | Rejected]:
    """Read Hateful Memes (Kiela et al., 2020), phase 1 or 2, its `img` and `*.jsonl` files.

    dev and dev_seen and dev_unseen are val, and a row that two of them share counts once; rows of
    test files may lack a label. Fine-grained annotations (Mathias et al., 2021), JSON lines under
    a folder `annotations`, give the target.
    Raises FileNotFoundError if there is no `*.jsonl` file of these names.
    """
    folder = Path(folder)
    files = {
        split: [path for name in names for path in files_named(folder, f"{name}.jsonl")]
        for split, names in {
            "train": ["train"],
            "val": ["dev_seen", "dev_unseen", "dev"],
            "test": ["test_seen", "test_unseen", "test"],
        }.items()
    }
    require_found(any(files.values()), folder, "train.jsonl, dev_seen.jsonl, test_seen.jsonl, …")
    categories = {
        str(row["id"]): row["gold_pc"]
        for path in sorted(folder.rglob("annotations/*.json"))
        for _, row in json_lines(path)
        if isinstance(row, dict) and {"id", "gold_pc"} <= set(row)
    }

    def rows() -> Iterator[Row | Rejected]:
        for split, path in ((split, path) for split, paths in files.items() for path in paths):
            for where, row in json_lines(path):
                problem = row if isinstance(row, str) else missing_field(row, "id", "img", "text")
                if problem:
                    yield Rejected(where, problem)
                    continue
                name = str(row["id"])
                own = {"label": row.get("label"), "gold_pc": categories.get(name)}
                image = path.parent / row["img"]
                yield Row(where, name, image, own, first_text(row, "text"), split=split)

    return examples_of("hateful_memes", MAPPING, folder, rows())
