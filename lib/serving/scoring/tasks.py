"""One task judged, wherever it runs: its rows read, the bad ones set apart, the others scored."""

import functools
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import pyarrow as pa
import torch

from lib.data.pictures import blank_picture
from lib.data.text import packed
from lib.serving.classifier import MemeClassifier
from lib.serving.memes import Meme, read_meme
from lib.serving.scoring.inputs import Task
from lib.serving.scoring.places import is_address, opened
from lib.serving.scoring.rows import MOST_WORDS, Row, blocks_of

BATCH = 16

# What names a row; `shard` is null where there are none.
NAMED = {"id": pa.string(), "shard": pa.string(), "image": pa.string()}
ANSWER = {
    "prob_hate": pa.float64(),
    "label": pa.int8(),
    "threshold": pa.float64(),
    "decision": pa.string(),
    "review": pa.bool_(),
    "text_expert_prob": pa.float64(),
    "vision_expert_prob": pa.float64(),
    "without_text": pa.float64(),
    "without_picture": pa.float64(),
    "text_from": pa.string(),
    "text_length": pa.int32(),
}
REASON = {"reason": pa.string()}
# A row of a task has an answer or a reason why it has none.
SCHEMA = pa.schema(NAMED | ANSWER | REASON)


class Model(NamedTuple):
    """Which classifier a worker loads, in the terms of `MemeClassifier.load`, and its threads.

    `job` is the fingerprint of what the scores are made from: a worker that has judged by other
    models loads these.
    """

    root: Path
    mode: Literal["pilot", "full"]
    device: str | None
    engine: str | None
    threads: int
    job: str = ""


def scored(task: Task, model: Model) -> pa.Table:
    """The rows of a task in order, with the columns of `SCHEMA`.

    Raises what `MemeClassifier.load` raises, and OSError for a shard that cannot be read.
    """
    shard = None if task.shard is None else _written(task.shard)
    # A notebook that scores in its own process has its threads back afterwards.
    before = torch.get_num_threads()
    torch.set_num_threads(model.threads)
    try:
        classifier = _loaded(model)
        records = [
            {"shard": shard} | record
            for block in blocks_of(task.read())
            for record in judged(block, classifier)
        ]
    finally:
        torch.set_num_threads(before)
    return pa.Table.from_pylist(records, SCHEMA)


def judged(rows: Sequence[Row], classifier: MemeClassifier) -> list[dict[str, Any]]:
    """An answer, or the reason why there is none, for each row of a block."""
    records: list[dict[str, Any]] = [
        {"id": _written(row.id), "image": row.image and _written(row.image)} for row in rows
    ]
    memes = {}
    for place, row in enumerate(rows):
        try:
            memes[place] = _read(row)
        except Exception as error:  # whatever is wrong with one row must not cost the others
            records[place]["reason"] = _reason(error)
    # Texts of like length together: the models pad each to the longest of its batch.
    for places in blocks_of(sorted(memes, key=lambda place: len(memes[place].text)), BATCH):
        found = _answers([memes[place] for place in places], classifier)
        for place, answer in zip(places, found, strict=True):
            records[place] |= answer
    return records


@functools.lru_cache(1)
def _loaded(model: Model) -> MemeClassifier:
    # Here, as it takes longer than all else that is imported.
    from transformers.utils import logging

    warnings.filterwarnings("ignore", module="PIL")
    # A bar of each worker would break the run's own.
    logging.disable_progress_bar()
    try:
        return MemeClassifier.load(model.root, model.mode, model.device, model.engine)
    finally:
        logging.enable_progress_bar()


def _read(row: Row) -> Meme:
    if row.fault is not None:
        raise ValueError(row.fault)
    picture = row.picture
    if isinstance(picture, str) and is_address(picture):
        with opened(picture) as file:
            picture = file.read()
    return read_meme(row.text, picture)


def _answers(memes: Sequence[Meme], classifier: MemeClassifier) -> list[dict[str, Any]]:
    try:
        return [_columns(answer) for answer in classifier.judge(memes)]
    except Exception as error:  # one meme that the models cannot take must not cost the others
        # Raises where it is the models that are at fault.
        classifier.judge([Meme(packed(""), blank_picture(), "given")])
        if len(memes) == 1:
            return [{"reason": _reason(error)}]
        return [_answers([meme], classifier)[0] for meme in memes]


def _columns(answer: dict[str, Any]) -> dict[str, Any]:
    experts = {f"{name}_prob": prob for name, prob in answer["experts"].items()}
    found = answer | experts | answer["rests_on"] | {"text_length": len(answer["text"])}
    return {name: found[name] for name in ANSWER}


def _reason(error: Exception) -> str:
    if isinstance(error, OSError | ValueError) and str(error):
        return _written(str(error))
    return _written(f"{type(error).__name__}: {error}")


def _written(text: str) -> str:
    """The text as it can be written: what is no Unicode in it is spelt out, and its end cut off."""
    words = text.encode("utf-8", errors="backslashreplace").decode()
    return words if len(words) <= MOST_WORDS else f"{words[:MOST_WORDS]}…"
