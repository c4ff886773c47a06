"""PrideMM (Shah et al., 2024): its files, and what its labels mean in the unified schema."""

import itertools
from collections.abc import Iterator
from pathlib import Path

from lib.data.example import Example, Rejected
from lib.data.readers.files import require_found, table_rows, tables_with
from lib.data.readers.rows import Row, examples_of, first_text, missing_field, stem
from lib.data.taxonomy import DatasetMapping, flag

MAPPING = DatasetMapping(
    note="target is filled in for hateful memes alone",
    fields={
        "hate": flag("abuse_hate"),
        "target": {
            "0": {"target_type": "undirected"},
            "1": {"target_type": "individual"},
            "2": {"target_type": "community"},
            "3": {"target_type": "organisation"},
        },
    },
)


def read(folder: str | Path) -> Iterator[Example | Rejected]:
    """Read PrideMM (Shah et al., 2024): a table with the columns `name, text, split, hate, target`.

    Raises FileNotFoundError if there is no such table.
    """
    folder = Path(folder)
    columns = ("name", "text", "split", "hate", "target")
    tables = tables_with(folder, columns)
    require_found(tables, folder, f"PrideMM.csv with the columns {', '.join(columns)}")

    def rows() -> Iterator[Row | Rejected]:
        for where, row in itertools.chain.from_iterable(map(table_rows, tables)):
            problem = row if isinstance(row, str) else missing_field(row, "name")
            if problem:
                yield Rejected(where, problem)
                continue
            own = {field: row.get(field) for field in ("hate", "target", "stance", "humour")}
            image = folder / "Images" / row["name"]
            split = row["split"].strip().lower() or None
            yield Row(where, stem(row["name"]), image, own, first_text(row, "text"), split=split)

    return examples_of("pridemm", MAPPING, folder, rows())
