"""CrisisHateMM (Bhandari et al., 2023): its files, and its labels in the unified schema."""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from lib.data.example import Example, Rejected
from lib.data.readers.files import require_found, table_rows, tables_with
from lib.data.readers.rows import PICTURE_SUFFIXES, Row, examples_of
from lib.data.taxonomy import DatasetMapping, targets

MAPPING = DatasetMapping(
    note="the folder names say hate or not, and whom directed hate is aimed at",
    fields={
        "label": {
            "no hate": {"abuse_hate": 0, "target_type": "none"},
            "hate": {"abuse_hate": 1},
        },
        "target": targets(
            undirected="undirected",
            individual="individual",
            community="community",
            organization="organisation",
        ),
    },
)

_FOLDER_LABELS = {
    "hate": ("label", "hate"),
    "no hate": ("label", "no hate"),
    "individual": ("target", "individual"),
    "community": ("target", "community"),
    "organization": ("target", "organization"),
    "undirected": ("target", "undirected"),
}


def read(folder: str | Path) -> Iterator[Example | Rejected]:
    """Read CrisisHateMM (Bhandari et al., 2023): pictures in folders named for their label.

    Folders `Hate Speech` and `No Hate Speech` give the label, `individual`, `community` and
    `organization` the target of what is hateful; a picture in two folders has both. Folders with
    train, eval or test in their name give the split; tables with `index` and `text` the text.
    Raises FileNotFoundError if there is no picture.
    """
    folder = Path(folder)
    pictures = [p for p in sorted(folder.rglob("*")) if p.suffix.lower() in PICTURE_SUFFIXES]
    require_found(pictures, folder, "pictures in folders 'Hate Speech' and 'No Hate Speech'")
    texts = {
        row["index"]: row["text"]
        for path in tables_with(folder, ("index", "text"))
        for _, row in table_rows(path)
        if isinstance(row, dict)
    }

    def rows() -> Iterator[Row]:
        merged: dict[str, Row] = {}
        for path in pictures:
            place = path.relative_to(folder)
            own, split = _labels_of_folders(place.parts[:-1])
            before = merged.get(path.stem)
            if before is not None and not _contradict(before.own, own):
                own = {key: own[key] or before.own[key] for key in own}
                split = split or before.split
            elif before is not None:
                yield before
            text = texts.get(path.stem, texts.get(path.name, ""))
            merged[path.stem] = Row(place.as_posix(), path.stem, path, own, text, split=split)
        yield from merged.values()

    return examples_of("crisishatemm", MAPPING, folder, rows())


def _contradict(one: Mapping[str, str | None], other: Mapping[str, str | None]) -> bool:
    return any(one[key] and other[key] and one[key] != other[key] for key in one)


def _labels_of_folders(names: Sequence[str]) -> tuple[dict[str, str | None], str | None]:
    own: dict[str, str | None] = {"label": None, "target": None}
    split = None
    for name in names:
        words = re.sub(r"[\W_]+", " ", name.lower().replace("organis", "organiz")).split()
        plain = " ".join(word for word in words if word != "speech")
        if plain in _FOLDER_LABELS:
            field, value = _FOLDER_LABELS[plain]
            own[field] = value
        for word, meaning in (
            ("train", "train"),
            ("eval", "val"),
            ("val", "val"),
            ("test", "test"),
        ):
            if any(part.startswith(word) for part in words):
                split = meaning
    if own["target"] and own["label"] is None:
        own["label"] = "hate"
    return own, split
