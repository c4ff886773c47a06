"""MMHS150K (Gomez et al., 2020): its files, and what its labels mean in the unified schema."""

from collections.abc import Iterator
from pathlib import Path

from lib.data.example import Example, Rejected
from lib.data.readers.files import file_named, files_named, json_file
from lib.data.readers.rows import Row, examples_of, first_text, meme_id, missing_field
from lib.data.taxonomy import DatasetMapping

MAPPING = DatasetMapping(
    note="labels of three annotators: hateful where at least two say so; the target is the "
    "one that most of these name, multiple where they tie",
    fields={
        "labels": {
            "0": {"abuse_hate": 0, "target_type": "none"},
            "1": {"abuse_hate": 1, "target_type": "race"},
            "2": {"abuse_hate": 1, "target_type": "gender"},
            "3": {"abuse_hate": 1, "target_type": "sexuality"},
            "4": {"abuse_hate": 1, "target_type": "religion"},
            "5": {"abuse_hate": 1, "target_type": "other"},
        }
    },
    combine="majority",
)


def read(folder: str | Path) -> Iterator[Example | Rejected]:
    """Read MMHS150K (Gomez et al., 2020): `MMHS150K_GT.json`, `img_resized`, `img_txt`, `splits`.

    The overlaid text is that of `img_txt`, empty where a tweet has none; the tweet itself stands
    in the caption. A majority of the three annotators decides.
    Raises FileNotFoundError without `MMHS150K_GT.json`, ValueError if it is not a JSON object.
    """
    folder = Path(folder)
    truth = file_named(folder, "MMHS150K_GT.json")
    tweets = json_file(truth)
    if not isinstance(tweets, dict):
        raise ValueError(f"{truth} must hold a JSON object of tweets by their id")
    split_of = {
        tweet: split
        for split in ("train", "val", "test")
        for path in files_named(folder, f"{split}_ids.txt")
        for tweet in path.read_text(encoding="utf-8").split()
    }

    def rows() -> Iterator[Row | Rejected]:
        for tweet, row in tweets.items():
            where = f"{truth.name}:{tweet}"
            problem = missing_field(row, "tweet_text", "labels")
            if problem is None and not isinstance(row["labels"], list):
                problem = f"field labels must be a list, not {row['labels']!r}"
            if problem:
                yield Rejected(where, problem, meme_id("mmhs150k", tweet))
                continue
            try:
                overlaid = _overlaid_text(truth.parent / "img_txt" / f"{tweet}.json")
            except ValueError as error:
                yield Rejected(where, str(error), meme_id("mmhs150k", tweet))
                continue
            yield Row(
                where,
                tweet,
                truth.parent / "img_resized" / f"{tweet}.jpg",
                {"labels": row["labels"]},
                text=overlaid,
                caption=first_text(row, "tweet_text"),
                split=split_of.get(tweet),
            )

    return examples_of("mmhs150k", MAPPING, folder, rows())


def _overlaid_text(path: Path) -> str:
    if not path.is_file():
        return ""
    content = json_file(path)
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold a JSON object with img_text")
    return first_text(content, "img_text")
