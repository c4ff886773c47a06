"""MAMI (Fersini et al., 2022): its files, and what its labels mean in the unified schema."""

from collections.abc import Iterator
from pathlib import Path

from lib.data.example import Example, Rejected
from lib.data.readers.files import files_named, require_found, table_rows, tables_with
from lib.data.readers.rows import Row, examples_of, first_text, missing_field, stem
from lib.data.taxonomy import DatasetMapping, flag

MAPPING = DatasetMapping(
    note="misogynous is hate against women; shaming, stereotype, objectification and "
    "violence say of which kind and have no unified label",
    fields={"misogynous": flag("abuse_hate", target_type="gender")},
)


def read(folder: str | Path) -> Iterator[Example | Rejected]:
    """Read MAMI (Fersini et al., 2022): tab-separated `training.csv` and `Test.csv`.

    Pictures lie beside their table. Without the headerless `test_labels.txt` the test is
    unlabelled. The trial table repeats training rows and is not read.
    Raises FileNotFoundError if no table has the columns `file_name` and `Text Transcription`.
    """
    folder = Path(folder)
    text_columns = ("file_name", "Text Transcription")
    label_columns = ("misogynous", "shaming", "stereotype", "objectification", "violence")
    tables = [
        path
        for path in tables_with(folder, text_columns, delimiter="\t")
        if "trial" not in path.stem.lower()
    ]
    require_found(
        tables, folder, f"training.csv or Test.csv with the columns {', '.join(text_columns)}"
    )
    header = ("file_name", *label_columns)
    test_labels = [
        row
        for path in files_named(folder, "test_labels.txt")
        for row in table_rows(path, "\t", header)
    ]
    labels_of = {row["file_name"]: row for _, row in test_labels if isinstance(row, dict)}

    def rows() -> Iterator[Row | Rejected]:
        yield from (Rejected(where, row) for where, row in test_labels if isinstance(row, str))
        for path in tables:
            split = "test" if "test" in path.stem.lower() else "train"
            for where, row in table_rows(path, "\t"):
                problem = row if isinstance(row, str) else missing_field(row, "file_name")
                if problem:
                    yield Rejected(where, problem)
                    continue
                name = row["file_name"]
                labelled = row if "misogynous" in row else labels_of.get(name, {})
                own = {column: labelled.get(column) for column in label_columns}
                text = first_text(row, "Text Transcription")
                yield Row(where, stem(name), path.parent / name, own, text, split=split)

    return examples_of("mami", MAPPING, folder, rows())
