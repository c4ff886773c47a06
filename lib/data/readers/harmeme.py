"""HarMeme (Pramanick et al., 2021): its files, and what its labels mean in the unified schema."""

from collections.abc import Iterator
from pathlib import Path

from lib.data.example import Example, Rejected
from lib.data.readers.files import json_lines, require_found
from lib.data.readers.rows import Row, examples_of, first_text, missing_field
from lib.data.taxonomy import DatasetMapping, targets

MAPPING = DatasetMapping(
    note="very and somewhat harmful together are 1, as in the data set's two-class task",
    fields={
        "labels": {
            "not harmful": {"abuse_hate": 0, "target_type": "none"},
            "somewhat harmful": {"abuse_hate": 1},
            "very harmful": {"abuse_hate": 1},
            **targets(
                individual="individual",
                organization="organisation",
                community="community",
                society="society",
            ),
        }
    },
)


def read(folder: str | Path) -> Iterator[Example | Rejected]:
    """Read HarMeme (Pramanick et al., 2021), `Annotations/{Harm-C,Harm-P}/{train,val,test}*.jsonl`.

    Of two versions of one file (`train.jsonl`, `train_v1.jsonl`) the later name counts. An empty
    label leaves the meme unlabelled.
    Raises FileNotFoundError if neither part is there.
    """
    folder = Path(folder)
    files = {
        (part, split): max(found)
        for part in ("Harm-C", "Harm-P")
        for split in ("train", "val", "test")
        if (found := sorted(folder.rglob(f"{part}/{split}*.jsonl")))
    }
    require_found(
        files, folder, "Annotations/Harm-C/train.jsonl or Annotations/Harm-P/train_v1.jsonl"
    )

    def rows() -> Iterator[Row | Rejected]:
        for (part, split), path in files.items():
            for where, row in json_lines(path, f"{part}/{path.name}"):
                problem = (
                    row
                    if isinstance(row, str)
                    else missing_field(row, "id", "image", "labels", "text")
                )
                if problem:
                    yield Rejected(where, problem)
                    continue
                image = folder / "images" / row["image"]
                own = {"labels": row["labels"]}
                yield Row(where, str(row["id"]), image, own, first_text(row, "text"), split=split)

    return examples_of("harmeme", MAPPING, folder, rows())
