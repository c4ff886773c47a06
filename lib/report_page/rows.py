"""Which memes the page carries: errors first, the surest before the others, up to a bound.

The error table is read `CHUNK` rows at a time and only the best rows so far are held, so that its
texts take the same memory whatever the number of memes.
"""

from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from lib.artifacts import require
from lib.calibration import prob_hate
from lib.commands import again
from lib.config import MODELS, Settings
from lib.data.text import words_of
from lib.decisions.bundle import DecisionBundle
from lib.decisions.policy import CHOSEN
from lib.decisions.slices import LENGTHS as SLICE_LENGTHS
from lib.decisions.slices import LONGEST, MOST_VALUES
from lib.decisions.spreadsheets import for_spreadsheets
from lib.modeling.prediction_table import logits_of
from lib.report_page.counts import places
from lib.report_page.embedding import safe_json

CHUNK = 16_384
ROWS = 5_000
# Of texts and of what else is told of a meme: the first lengths at which all rows fit are taken.
LENGTHS = ((400, 160), (240, 80), (160, 60), (110, 40))
# Numbers and commas of a row, and the code and comma of a filter in it.
ROW_BYTES, FILTER_BYTES = 30, 3

NAMES = ("group", "dataset", "language", "target_type")
KNOWN = {"index", "id", "text", "label", "error_type"} | {
    f"{model}_{kind}" for model in MODELS for kind in ("prob", "pred")
}


class Rows(NamedTuple):
    """What the page says of its memes, column by column, and their rows in the reported split."""

    content: dict[str, Any]
    places: list[int]


def page_rows(
    settings: Settings, report: pd.DataFrame, decision: DecisionBundle, room: int
) -> Rows:
    """The memes of the page from `errors_<m>.csv`, judged by the predictions in `report`.

    Fusion's errors at its threshold come first, by their distance from the label, then the other
    memes, nearest to the threshold first; at most `ROWS`, and what fits into `room` bytes. Every
    further column of the table is told; those of few values are filters.
    Raises FileNotFoundError without an error table, ValueError where it is of other predictions or
    of another decision.
    """
    path = require(settings.artifact(7, "errors.csv"), again(7))
    judged = _judged(report, decision)
    best, start = pd.DataFrame(), 0
    for chunk in pd.read_csv(path, dtype=str, keep_default_na=False, chunksize=CHUNK):
        of_chunk = judged.iloc[start : start + len(chunk)]
        if "id" not in chunk or not _same_ids(chunk["id"], of_chunk["id"]):
            raise ValueError(f"{path} is not of the saved predictions; write it again: {again(7)}")
        _refuse_other_decision(chunk, of_chunk, decision, path)
        others = [name for name in chunk if name not in KNOWN.union(judged.columns)]
        beside = chunk[["text", *others]].set_index(of_chunk.index)
        # The apostrophe that keeps a spreadsheet from running a cell is none of the meme's.
        beside = beside.apply(lambda column: column.str.removeprefix("'"))
        of_chunk = of_chunk.join(beside)
        best = pd.concat([best, of_chunk]).nlargest(ROWS, "priority", keep="first")
        start += len(chunk)
    if start != len(judged):
        raise ValueError(f"{path} is not of the saved predictions; write it again: {again(7)}")
    kept = _within(room, best)
    return Rows(_content(kept), kept.index.tolist())


def no_rows() -> dict[str, Any]:
    """The content of a page without memes."""
    return _content(pd.DataFrame(columns=[*("id", "text", "label"), *_of_models()]))


def _same_ids(written: pd.Series, ids: pd.Series) -> bool:
    safe = for_spreadsheets(ids.to_frame())["id"]
    return len(written) == len(ids) and written.tolist() in (ids.tolist(), safe.tolist())


def _refuse_other_decision(
    written: pd.DataFrame, judged: pd.DataFrame, decision: DecisionBundle, path: Path
) -> None:
    """Raise ValueError unless these rows of the error table are what `decision` makes of them."""
    preds, probs = ([f"{model}_{kind}" for model in MODELS] for kind in ("pred", "prob"))
    policy = decision.policy.decide(judged[f"{CHOSEN}_prob"])
    decided = judged[preds].assign(decision=policy).astype(str)
    same = written.reindex(columns=list(decided)).to_numpy() == decided.to_numpy()
    # A temperature may be edited without a decision that turns. Probabilities are written with nine
    # digits, and another machine's last bit may differ.
    told = written.reindex(columns=probs).apply(pd.to_numeric, errors="coerce")
    if not same.all() or not np.allclose(told, judged[probs], rtol=1e-6, atol=1e-9):
        raise ValueError(
            f"{path} is of another decision than the temperatures, thresholds and policy beside "
            f"it, and other tables of Step 7 may be, too. To fit anew: {again(7)}; to keep what "
            "was edited by hand, run all cells of Step_7/step7_analysis.ipynb with `decision = "
            "DecisionBundle.load(settings)` in place of the fit and save of its section 2"
        )


def _judged(report: pd.DataFrame, decision: DecisionBundle) -> pd.DataFrame:
    """id, label, each model's p(hate), its place and decision, and the order of the page."""
    frame = report[["id", "label"]].reset_index(drop=True)
    labels = frame["label"].to_numpy()
    for model in MODELS:
        prob = prob_hate(logits_of(report, model), decision.temperatures[model])
        frame[f"{model}_prob"], frame[f"{model}_place"] = prob, places(prob)
        frame[f"{model}_pred"] = (prob >= decision.thresholds[model]).astype(int)
        if model == CHOSEN:
            wrong = frame[f"{model}_pred"].to_numpy() != labels
            near = 1 - np.abs(prob - decision.thresholds[model])
            frame["priority"] = np.where(wrong, 2 + np.abs(prob - labels), near)
    return frame


def _within(room: int, best: pd.DataFrame) -> pd.DataFrame:
    """As many rows as fit into `room` bytes, texts cut as short as that needs."""
    beside = _beside(best)
    words = best.assign(text=best["text"].map(words_of))
    if "confidence" in words:
        # Measured, even where so few memes are in the page that it takes few values.
        words["confidence"] = words["confidence"].map(_rounded)
    for longest_text, longest in LENGTHS:
        told = words.assign(text=[_short(text, longest_text) for text in words["text"]])
        told[beside] = told[beside].map(partial(_short, most=longest))
        written = told[["id", "text"]].join(_details(told))
        written = written.map(lambda cell: len(safe_json(cell).encode()))
        sizes = written.sum(axis=1) + ROW_BYTES + FILTER_BYTES * len(_filters(told))
        if sizes.sum() <= room:
            break
    return told[sizes.cumsum() <= room]


def _content(rows: pd.DataFrame) -> dict[str, Any]:
    """Columns rather than rows, so that no name is written twice; filters as codes of values."""
    return {
        "id": rows["id"].tolist(),
        "text": rows["text"].tolist(),
        "label": rows["label"].tolist(),
        "p": {model: rows[f"{model}_place"].tolist() for model in MODELS},
        "frozen": {model: rows[f"{model}_pred"].tolist() for model in MODELS},
        "filters": [_coded(name, rows[name]) for name in _filters(rows)],
        "details": {_words(str(name)): told.tolist() for name, told in _details(rows).items()},
    }


def _of_models() -> list[str]:
    return [f"{model}_{kind}" for model in MODELS for kind in ("place", "pred")]


def _beside(rows: pd.DataFrame) -> list[str]:
    """The columns of the error table that the page has no place of its own for."""
    return [name for name in map(str, rows) if name not in {"priority", *KNOWN, *_of_models()}]


def _filters(rows: pd.DataFrame) -> list[str]:
    names = [name for name in _beside(rows) if not name.startswith("nearest_")]
    return [name for name in names if 2 <= rows[name].nunique() <= MOST_VALUES]


def _details(rows: pd.DataFrame) -> pd.DataFrame:
    """The columns of too many values for a filter; what is measured is rounded."""
    filters = _filters(rows)
    names = [name for name in _beside(rows) if name not in filters and rows[name].nunique() > 1]
    told = rows[names].copy()
    # Names may look like numbers, and so may what has few values, such as versions.
    measured = [n for n in names if rows[n].nunique() > MOST_VALUES and not _named(n)]
    told[measured] = told[measured].map(_rounded)
    return told


def _named(column: str) -> bool:
    return column.endswith("_id") or column in NAMES


def _coded(name: str, column: pd.Series) -> dict[str, Any]:
    # Lengths of texts in their order, not in that of their letters.
    lengths = [*SLICE_LENGTHS.values(), LONGEST]
    place = {value: k for k, value in enumerate(lengths)}
    values = sorted(column.unique(), key=lambda value: (place.get(value, -1), value))
    code = {value: k for k, value in enumerate(values)}
    return {"name": _words(name), "values": values, "codes": [code[v] for v in column]}


def _words(name: str) -> str:
    return name.replace("_", " ")


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def _rounded(value: str) -> str:
    """A number with a fraction to four digits, anything else as it is."""
    try:
        return f"{float(value):.4g}" if "." in value else value
    except ValueError:
        return value
