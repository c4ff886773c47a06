"""Readers: one per public data set, each yielding `Example` in the unified label schema."""

import csv
import functools
import hashlib
import io
import itertools
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lib.taxonomy import UNIFIED

MANIFEST = Path("Step_2/data_manifest.jsonl")
OCR = Path("Step_2/ocr.jsonl")


@dataclass(frozen=True)
class Example:
    """One meme on its way into a shard.

    `image` is a file, or a picklable function that draws the picture (generated memes).
    `labels` follow `label_taxonomy.json`. Examples that share `group` never straddle two splits;
    `split` is the publisher's own, None where there is none.
    """

    id: str
    dataset: str
    image: Path | Callable[[], Image.Image]
    ocr: str
    caption: str
    labels: Mapping[str, Any]
    lang: str = "en"
    group: str | None = None
    split: str | None = None
    extra: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Rejected:
    """A row that no example could be made of: packing counts and lists it.

    `where` names the row to a person ("data_manifest.jsonl:12"); `id` is "" where it has none.
    """

    where: str
    reason: str
    id: str = ""


class _ManifestRow(BaseModel):
    model_config = ConfigDict(extra="allow", coerce_numbers_to_str=True)

    id: str = Field(min_length=1)
    dataset: str = Field(min_length=1)
    image: str = Field(min_length=1)
    labels: dict[str, Any]
    caption: str | None = None
    lang: str | None = None
    split: Literal["train", "val", "test"] | None = None
    text: str | None = None


class _OcrRow(BaseModel):
    model_config = ConfigDict(extra="allow", coerce_numbers_to_str=True)

    id: str = Field(min_length=1)
    text: str


def read_manifest(data_dir: str | Path) -> Iterator[Example | Rejected]:
    """Read a user's own `Datasets/`, `Step_2/data_manifest.jsonl` and `Step_2/ocr.jsonl`.

    The overlaid text is the OCR line's; without one (or without `ocr.jsonl`) the manifest's own
    `text`. Labels hold `abuse_hate` or the own fields of a data set that `UNIFIED` maps. A row that
    breaks this is yielded as `Rejected` with file, line, field and reason.
    Raises FileNotFoundError without a manifest, and ValueError if an id occurs twice or a file is
    not text: then no row can be trusted.
    """
    data_dir = Path(data_dir)
    if not (data_dir / MANIFEST).is_file():
        raise FileNotFoundError(
            f"{data_dir / MANIFEST} does not exist; a data folder holds Datasets/ and {MANIFEST}"
        )
    texts: dict[str, str] = {}
    if (data_dir / OCR).is_file():
        for where, row in _read_rows(data_dir / OCR, _OcrRow):
            if isinstance(row, _OcrRow):
                texts[row.id] = row.text
            else:
                yield Rejected(where, row)
    for where, row in _read_rows(data_dir / MANIFEST, _ManifestRow):
        if isinstance(row, _ManifestRow):
            yield _example(row, where, data_dir / "Datasets", texts)
        else:
            yield Rejected(where, row)


def _example(
    row: _ManifestRow, where: str, datasets: Path, texts: Mapping[str, str]
) -> Example | Rejected:
    image = PurePosixPath(row.image)
    if image.is_absolute() or ".." in image.parts:
        return Rejected(where, f"field image: {row.image!r} leads out of Datasets/", row.id)
    try:
        labels = UNIFIED.map_labels(row.dataset, row.labels)
    except ValueError as error:
        return Rejected(where, str(error), row.id)
    return Example(
        id=row.id,
        dataset=row.dataset,
        image=datasets / image,
        ocr=texts.get(row.id, row.text or ""),
        caption=row.caption or "",
        labels=labels,
        lang=row.lang or "en",
        split=row.split,
    )


def _read_rows(path: Path, schema: type[BaseModel]) -> Iterator[tuple[str, BaseModel | str]]:
    """Yield where each JSON line stands and its row, or the reason it is none."""
    lines_of: dict[str, int] = {}
    with path.open("rb") as stream:
        for number, line in enumerate(stream, start=1):
            if not line.strip():
                continue
            where = f"{path.name}:{number}"
            try:
                row = schema.model_validate(json.loads(line))
            except ValidationError as error:
                problem = error.errors(include_url=False)[0]
                field = ".".join(map(str, problem["loc"])) or "row"
                yield where, f"field {field}: {problem['msg']}"
                continue
            except (ValueError, RecursionError) as error:
                yield where, f"not a line of JSON: {error}"
                continue
            if row.id in lines_of:
                raise ValueError(
                    f"{path}: field id: {row.id!r} stands on line {lines_of[row.id]} and again on "
                    f"line {number}; give every row an id of its own"
                )
            lines_of[row.id] = number
            yield where, row


# ------------------------------------------------------------------------- public data sets


@dataclass(frozen=True)
class _Row:
    """One row of a data set's own files; `own` are its labels as the publisher spells them."""

    where: str
    name: str
    image: Path
    own: Mapping[str, Any]
    text: str = ""
    caption: str = ""
    split: str | None = None


def read_hateful_memes(folder: str | Path) -> Iterator[Example | Rejected]:
    """Read Hateful Memes (Kiela et al., 2020), phase 1 or 2, its `img` and `*.jsonl` files.

    dev and dev_seen and dev_unseen are val, and a row that two of them share counts once; rows of
    test files may lack a label. Fine-grained annotations (Mathias et al., 2021), JSON lines under
    a folder `annotations`, give the target.
    Raises FileNotFoundError if there is no `*.jsonl` file of these names.
    """
    folder = Path(folder)
    files = {
        split: [path for name in names for path in _named(folder, f"{name}.jsonl")]
        for split, names in {
            "train": ["train"],
            "val": ["dev_seen", "dev_unseen", "dev"],
            "test": ["test_seen", "test_unseen", "test"],
        }.items()
    }
    _require(any(files.values()), folder, "train.jsonl, dev_seen.jsonl, test_seen.jsonl, …")
    categories = {
        str(row["id"]): row["gold_pc"]
        for path in sorted(folder.rglob("annotations/*.json"))
        for _, row in _json_lines(path)
        if isinstance(row, dict) and {"id", "gold_pc"} <= set(row)
    }

    def rows() -> Iterator[_Row | Rejected]:
        for split, path in ((split, path) for split, paths in files.items() for path in paths):
            for where, row in _json_lines(path):
                problem = row if isinstance(row, str) else _missing(row, "id", "img", "text")
                if problem:
                    yield Rejected(where, problem)
                    continue
                name = str(row["id"])
                own = {"label": row.get("label"), "gold_pc": categories.get(name)}
                image = path.parent / row["img"]
                yield _Row(where, name, image, own, _text(row, "text"), split=split)

    return _examples("hateful_memes", folder, rows())


def read_mmhs150k(folder: str | Path) -> Iterator[Example | Rejected]:
    """Read MMHS150K (Gomez et al., 2020): `MMHS150K_GT.json`, `img_resized`, `img_txt`, `splits`.

    The overlaid text is that of `img_txt`, empty where a tweet has none; the tweet itself stands
    in the caption. A majority of the three annotators decides.
    Raises FileNotFoundError without `MMHS150K_GT.json`, ValueError if it is not a JSON object.
    """
    folder = Path(folder)
    truth = _one(folder, "MMHS150K_GT.json")
    tweets = _json_file(truth)
    if not isinstance(tweets, dict):
        raise ValueError(f"{truth} must hold a JSON object of tweets by their id")
    split_of = {
        tweet: split
        for split in ("train", "val", "test")
        for path in _named(folder, f"{split}_ids.txt")
        for tweet in path.read_text(encoding="utf-8").split()
    }

    def rows() -> Iterator[_Row | Rejected]:
        for tweet, row in tweets.items():
            where = f"{truth.name}:{tweet}"
            problem = _missing(row, "tweet_text", "labels")
            if problem is None and not isinstance(row["labels"], list):
                problem = f"field labels must be a list, not {row['labels']!r}"
            if problem:
                yield Rejected(where, problem, _id("mmhs150k", tweet))
                continue
            try:
                overlaid = _overlaid_text(truth.parent / "img_txt" / f"{tweet}.json")
            except ValueError as error:
                yield Rejected(where, str(error), _id("mmhs150k", tweet))
                continue
            yield _Row(
                where,
                tweet,
                truth.parent / "img_resized" / f"{tweet}.jpg",
                {"labels": row["labels"]},
                text=overlaid,
                caption=_text(row, "tweet_text"),
                split=split_of.get(tweet),
            )

    return _examples("mmhs150k", folder, rows())


def _overlaid_text(path: Path) -> str:
    if not path.is_file():
        return ""
    content = _json_file(path)
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold a JSON object with img_text")
    return _text(content, "img_text")


def read_mami(folder: str | Path) -> Iterator[Example | Rejected]:
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
        for path in _tables(folder, text_columns, delimiter="\t")
        if "trial" not in path.stem.lower()
    ]
    _require(tables, folder, f"training.csv or Test.csv with the columns {', '.join(text_columns)}")
    header = ("file_name", *label_columns)
    test_labels = [
        row for path in _named(folder, "test_labels.txt") for row in _table(path, "\t", header)
    ]
    labels_of = {row["file_name"]: row for _, row in test_labels if isinstance(row, dict)}

    def rows() -> Iterator[_Row | Rejected]:
        yield from (Rejected(where, row) for where, row in test_labels if isinstance(row, str))
        for path in tables:
            split = "test" if "test" in path.stem.lower() else "train"
            for where, row in _table(path, "\t"):
                problem = row if isinstance(row, str) else _missing(row, "file_name")
                if problem:
                    yield Rejected(where, problem)
                    continue
                name = row["file_name"]
                labelled = row if "misogynous" in row else labels_of.get(name, {})
                own = {column: labelled.get(column) for column in label_columns}
                text = _text(row, "Text Transcription")
                yield _Row(where, _stem(name), path.parent / name, own, text, split=split)

    return _examples("mami", folder, rows())


def read_harmeme(folder: str | Path) -> Iterator[Example | Rejected]:
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
    _require(files, folder, "Annotations/Harm-C/train.jsonl or Annotations/Harm-P/train_v1.jsonl")

    def rows() -> Iterator[_Row | Rejected]:
        for (part, split), path in files.items():
            for where, row in _json_lines(path, f"{part}/{path.name}"):
                problem = (
                    row if isinstance(row, str) else _missing(row, "id", "image", "labels", "text")
                )
                if problem:
                    yield Rejected(where, problem)
                    continue
                image = folder / "images" / row["image"]
                own = {"labels": row["labels"]}
                yield _Row(where, str(row["id"]), image, own, _text(row, "text"), split=split)

    return _examples("harmeme", folder, rows())


def read_multioff(folder: str | Path) -> Iterator[Example | Rejected]:
    """Read MultiOFF (Suryawanshi et al., 2020): `{Training,Validation,Testing}_meme_dataset.csv`.

    Raises FileNotFoundError if none of the three is there.
    """
    folder = Path(folder)
    splits = {"Training": "train", "Validation": "val", "Testing": "test"}
    files = {
        path: split
        for name, split in splits.items()
        for path in _named(folder, f"{name}_meme_dataset.csv")
    }
    _require(files, folder, "Training_meme_dataset.csv, Validation_… and Testing_…")

    def rows() -> Iterator[_Row | Rejected]:
        for path, split in files.items():
            for where, row in _table(path):
                problem = row if isinstance(row, str) else _missing(row, "image_name", "label")
                if problem:
                    yield Rejected(where, problem)
                    continue
                name = row["image_name"]
                image = folder / "Labelled Images" / name
                own = {"label": row["label"]}
                yield _Row(where, _stem(name), image, own, _text(row, "sentence"), split=split)

    return _examples("multioff", folder, rows())


_OFFENCE = ("not_offensive", "slight", "very_offensive", "hateful_offensive")


def read_memotion(folder: str | Path) -> Iterator[Example | Rejected]:
    """Read Memotion 7k (Sharma et al., 2020): `labels.csv` and `images`, and the test of 2,000.

    The corrected text counts, the machine's where there is none. The test's labels are codes such
    as `-1_1100_1020`, whose last group is humour, sarcasm, offence and motivation in degrees.
    Raises FileNotFoundError if there is neither a training nor a test table.
    """
    folder = Path(folder)
    training = _tables(folder, ("image_name", "offensive"))
    tests = _tables(folder, ("Image_name", "corrected_text"))
    _require(training or tests, folder, "labels.csv, or a test table with Image_name")
    codes = {
        row["Image_name"]: row["Labels"]
        for path in _tables(folder, ("Image_name", "Labels"))
        for _, row in _table(path)
        if isinstance(row, dict)
    }
    texts = ("text_corrected", "corrected_text", "text_ocr", "ocr_extracted_text")

    def rows() -> Iterator[_Row | Rejected]:
        for path, split in [(p, "train") for p in training] + [(p, "test") for p in tests]:
            for where, row in _table(path):
                row = row if isinstance(row, str) else {k.lower(): v for k, v in row.items()}
                problem = row if isinstance(row, str) else _missing(row, "image_name")
                if problem:
                    yield Rejected(where, problem)
                    continue
                name = row["image_name"]
                offence = row["offensive"] if split == "train" else _offence(codes.get(name, ""))
                # Training and test pictures are numbered apart
                id_ = _stem(name) if split == "train" else f"test-{_stem(name)}"
                image = path.parent / "images" / name
                yield _Row(
                    where, id_, image, {"offensive": offence}, _text(row, *texts), split=split
                )

    return _examples("memotion", folder, rows())


def _offence(code: str) -> str | None:
    """The degree of offence in a code; a code that is none is returned as it is, to be rejected."""
    degrees = code.split("_")[-1]
    if not code:
        return None
    known = len(degrees) == 4 and degrees[2] in "0123"
    return _OFFENCE[int(degrees[2])] if known else code


def read_pridemm(folder: str | Path) -> Iterator[Example | Rejected]:
    """Read PrideMM (Shah et al., 2024): a table with the columns `name, text, split, hate, target`.

    Raises FileNotFoundError if there is no such table.
    """
    folder = Path(folder)
    columns = ("name", "text", "split", "hate", "target")
    tables = _tables(folder, columns)
    _require(tables, folder, f"PrideMM.csv with the columns {', '.join(columns)}")

    def rows() -> Iterator[_Row | Rejected]:
        for where, row in itertools.chain.from_iterable(map(_table, tables)):
            problem = row if isinstance(row, str) else _missing(row, "name")
            if problem:
                yield Rejected(where, problem)
                continue
            own = {field: row.get(field) for field in ("hate", "target", "stance", "humour")}
            image = folder / "Images" / row["name"]
            split = row["split"].strip().lower() or None
            yield _Row(where, _stem(row["name"]), image, own, _text(row, "text"), split=split)

    return _examples("pridemm", folder, rows())


_FOLDER_LABELS = {
    "hate": ("label", "hate"),
    "no hate": ("label", "no hate"),
    "individual": ("target", "individual"),
    "community": ("target", "community"),
    "organization": ("target", "organization"),
    "undirected": ("target", "undirected"),
}


def read_crisishatemm(folder: str | Path) -> Iterator[Example | Rejected]:
    """Read CrisisHateMM (Bhandari et al., 2023): pictures in folders named for their label.

    Folders `Hate Speech` and `No Hate Speech` give the label, `individual`, `community` and
    `organization` the target of what is hateful; a picture in two folders has both. Folders with
    train, eval or test in their name give the split; tables with `index` and `text` the text.
    Raises FileNotFoundError if there is no picture.
    """
    folder = Path(folder)
    pictures = [p for p in sorted(folder.rglob("*")) if p.suffix.lower() in _PICTURES]
    _require(pictures, folder, "pictures in folders 'Hate Speech' and 'No Hate Speech'")
    texts = {
        row["index"]: row["text"]
        for path in _tables(folder, ("index", "text"))
        for _, row in _table(path)
        if isinstance(row, dict)
    }

    def rows() -> Iterator[_Row]:
        merged: dict[str, _Row] = {}
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
            merged[path.stem] = _Row(place.as_posix(), path.stem, path, own, text, split=split)
        yield from merged.values()

    return _examples("crisishatemm", folder, rows())


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


# --------------------------------------------------------------------- what the readers share

_PICTURES = {".jpg", ".jpeg", ".png", ".gif", ".webp", ".bmp"}


def _examples(
    dataset: str, folder: Path, rows: Iterable[_Row | Rejected]
) -> Iterator[Example | Rejected]:
    """Turn rows into examples, each id once; rows that contradict each other are all rejected."""
    find = _finder(folder)
    kept: dict[str, tuple[_Row, dict[str, Any]]] = {}
    clashes: dict[str, Rejected] = {}
    for row in rows:
        if isinstance(row, Rejected):
            yield row
            continue
        id_ = _id(dataset, row.name)
        if not row.image.is_relative_to(folder) or ".." in row.image.parts:
            yield Rejected(row.where, f"the picture {row.image.name!r} lies out of the folder", id_)
            continue
        try:
            labels = UNIFIED.map_labels(dataset, row.own)
        except ValueError as error:
            yield Rejected(row.where, str(error), id_)
            continue
        before, known = kept.setdefault(id_, (row, labels))
        if before is row or labels["abuse_hate"] is None:
            continue
        if known["abuse_hate"] is None or (labels == known and _later(row.split, before.split)):
            kept[id_] = (row, labels)
        elif labels != known:
            reason = f"{row.where} says {dict(row.own)}, {before.where} says {dict(before.own)}"
            clashes[id_] = Rejected(row.where, f"contradictory labels for one id: {reason}", id_)
    for id_, (row, labels) in kept.items():
        if id_ in clashes:
            yield clashes[id_]
            continue
        yield Example(
            id=id_,
            dataset=dataset,
            image=find(row.image),
            ocr=row.text,
            caption=row.caption,
            labels=labels,
            split=row.split,
            extra={"own_labels": dict(row.own)},
        )


def _later(split: str | None, other: str | None) -> bool:
    """Whether a row that stands in both splits is kept in `split`: no test row is trained on."""
    order = (None, "train", "val", "test")
    return split in order and other in order and order.index(split) > order.index(other)


def _id(dataset: str, name: str) -> str:
    """A tar member's name; where a character had to go, a hash keeps two names apart."""
    safe = re.sub(r"[^A-Za-z0-9_-]", "_", name)
    if safe != name:
        safe += "-" + hashlib.sha256(name.encode()).hexdigest()[:8]
    return f"{dataset}-{safe}"


def _finder(folder: Path) -> Callable[[Path], Path]:
    """Find a picture where it should be, else anywhere below `folder` under its own name."""

    @functools.cache
    def places() -> dict[str, list[Path]]:
        found: dict[str, list[Path]] = {}
        for path in sorted(folder.rglob("*")):
            if path.suffix.lower() in _PICTURES:
                found.setdefault(path.name, []).append(path)
        return found

    def find(path: Path) -> Path:
        if path.is_file():
            return path
        elsewhere = places().get(path.name, [])
        return elsewhere[0] if len(elsewhere) == 1 else path

    return find


def _stem(name: str) -> str:
    return str(PurePosixPath(name).with_suffix("")) if name else name


def _text(row: Mapping[str, Any], *columns: str) -> str:
    """The first of `columns` that holds a text; empty cells and the words for nothing hold none."""
    texts = (str(row.get(column) or "").strip() for column in columns)
    return next((text for text in texts if text and text.lower() not in {"nan", "none"}), "")


def _missing(row: Any, *fields: str) -> str | None:
    """What a row lacks of `fields`; a text may be empty, a name or an id may not."""
    if not isinstance(row, dict):
        return f"the row must be an object, not {row!r}"
    for field in fields:
        value = row.get(field)
        if value is None or (value == "" and "text" not in field):
            return f"field {field}: missing"
        if field in ("img", "image") and not isinstance(value, str):
            return f"field {field}: {value!r} is no file name"
    return None


def _require(found: Any, folder: Path, wanted: str) -> None:
    if not found:
        raise FileNotFoundError(f"{folder} does not hold {wanted}; check the path of the data set")


def _named(folder: Path, name: str) -> list[Path]:
    """The files of that name that lie least deep in `folder`."""
    patterns = (name, f"*/{name}", f"**/{name}")
    return next((found for p in patterns if (found := sorted(folder.glob(p)))), [])


def _one(folder: Path, name: str) -> Path:
    found = _named(folder, name)
    _require(found, folder, name)
    return found[0]


def _json_file(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from None


def _json_lines(path: Path, shown: str | None = None) -> Iterator[tuple[str, dict | str]]:
    """Yield where each line stands and its object, or the reason it is none."""
    with path.open("rb") as stream:
        for number, line in enumerate(stream, start=1):
            if not line.strip():
                continue
            where = f"{shown or path.name}:{number}"
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                yield where, f"not a line of JSON: {error}"
                continue
            yield where, row if isinstance(row, dict) else f"not a JSON object: {row!r}"


def _tables(folder: Path, columns: Sequence[str], delimiter: str = ",") -> list[Path]:
    """The CSV files below `folder` whose header holds all `columns`."""
    return [
        path
        for path in sorted(folder.rglob("*.csv"))
        if set(columns) <= set(_header(path, delimiter))
    ]


def _header(path: Path, delimiter: str) -> list[str]:
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as stream:
        return [name.strip() for name in next(csv.reader(stream, delimiter=delimiter), [])]


def _table(
    path: Path, delimiter: str = ",", header: Sequence[str] | None = None
) -> Iterator[tuple[str, dict[str, str] | str]]:
    """Yield where each row ends and its fields by column, or the reason it is malformed.

    Raises ValueError naming the line from which the file is no table.
    """
    content = path.read_bytes()
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ValueError(f"{path}: line {line}: {error}; save the table as UTF-8") from None
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    try:
        columns = header or [name.strip() for name in next(reader, [])]
        for values in reader:
            where = f"{path.name}:{reader.line_num}"
            if len(values) == len(columns):
                yield where, dict(zip(columns, values, strict=True))
            elif values:
                yield where, f"{len(values)} fields, expected {len(columns)}: {list(columns)}"
    except csv.Error as error:
        raise ValueError(
            f"{path}: line {reader.line_num}: {error}; is a quote left open?"
        ) from None


# A data set's name -> the reader of its folder
READERS: dict[str, Callable[[Path], Iterator[Example | Rejected]]] = {
    "hateful_memes": read_hateful_memes,
    "mmhs150k": read_mmhs150k,
    "mami": read_mami,
    "harmeme": read_harmeme,
    "multioff": read_multioff,
    "memotion": read_memotion,
    "pridemm": read_pridemm,
    "crisishatemm": read_crisishatemm,
}
