"""A run to be compared with another: its predictions, and what decides on them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from PIL import Image

from lib.artifacts import as_written, fingerprint
from lib.calibration import best_threshold, fit_temperature, prob_hate
from lib.config import MODELS, Settings
from lib.data.datasets import MemeShards, shard_paths
from lib.data.near_duplicates import MAX_DISTANCE
from lib.data.pictures import picture_hash
from lib.decisions.bundle import DecisionBundle, objective_of
from lib.decisions.policy import CHOSEN, Policy
from lib.modeling.prediction_table import (
    COLUMNS,
    checked_file,
    fit_part,
    logits_of,
    refuse_other_shards,
    resampled,
)

MODES = ("full", "pilot")
# Memes of other texts whose pictures are compared: enough to find that the data are others.
LOOKED_AT = 100


class Run(NamedTuple):
    """The predictions of a run's reported split, and what decides on them.

    Of the run's own settings `settings` has mode, root and `slice_by`.
    `shards` is the folder of packed memes, None for a Parquet file alone.
    """

    settings: Settings
    predictions: Path
    frame: pd.DataFrame
    decision: DecisionBundle
    shards: Path | None


def default_modes(a: Path, b: Path) -> tuple[str, str]:
    """The modes to compare: full where both have it, then pilot, then what each has.

    A Parquet file with rows of test is that of a full run.
    Raises FileNotFoundError where there are no predictions.
    """
    of_a, of_b = _modes_of(a), _modes_of(b)
    both = [mode for mode in of_a if mode in of_b]
    return (both[0], both[0]) if both else (of_a[0], of_b[0])


def read_run(place: Path, mode: str) -> Run:
    """A run from its root, or from a Parquet file of predictions alone.

    A root decides by the temperatures and thresholds of its Step 7; for a file both are fitted as
    Step 7 does by default, on those of its rows that may be fitted on.
    Raises FileNotFoundError and ValueError naming the file and what is missing or wrong there.
    """
    if place.is_file():
        settings, frame = Settings.checked({"mode": mode}, "--mode"), _read(place)
        decision = _fitted(frame, settings, place)
        return Run(settings, place, _reported(frame, settings, place), decision, None)
    settings = _settings(mode, place)
    settings.guide()
    slice_by = settings.saved().get("slice_by", [])
    settings = settings.model_copy(update={"slice_by": slice_by})
    file = _predictions(settings)
    whole = _read(file)
    refuse_other_shards(whole, settings, settings.report_split)
    frame, decision = _reported(whole, settings, file), DecisionBundle.load(settings)
    if decision.fingerprints.get("predictions") != fingerprint(file):
        raise ValueError(
            f"{settings.artifact(7, 'decision.json')} was fitted on other predictions than {file} "
            "holds; run Step 7 of that root again"
        )
    return Run(settings, file, frame, decision, settings.shards)


def paired(a: Run, b: Run, overlap: bool = False) -> tuple[Run, Run]:
    """Both runs on the memes that both have scored, in A's order.

    Runs of one mode must have scored the same memes, unless `overlap` lets the shared ones do.
    Raises ValueError that counts what differs, also where an id stands for another meme in B.
    """
    one, two = (run.frame.set_index("id", drop=False) for run in (a, b))
    shared = one.index[one.index.isin(two.index)]
    if shared.empty:
        raise ValueError(
            f"A and B share no memes: A reports {len(one)} of '{a.settings.report_split}', "
            f"B {len(two)} of '{b.settings.report_split}'"
        )
    alone = len(one) - len(shared), len(two) - len(shared)
    one, two = one.loc[shared], two.loc[shared]
    differ = one["label"].to_numpy() != two["label"].to_numpy()
    may_differ = overlap or a.settings.mode != b.settings.mode
    if differ.any() or (any(alone) and not may_differ):
        mend = f"the first is '{shared[differ][0]}'" if differ.any() else "--overlap allows that"
        raise ValueError(
            f"A and B have not scored the same memes: {len(shared)} shared, {alone[0]} in A alone, "
            f"{alone[1]} in B alone, {differ.sum()} shared ones with different labels; {mend}"
        )
    pair = (
        a._replace(frame=one.reset_index(drop=True)),
        b._replace(frame=two.reset_index(drop=True)),
    )
    _refuse_other_memes(*pair)
    return pair


def _refuse_other_memes(a: Run, b: Run) -> None:
    """Raise ValueError where neither text nor picture of an id is the same in both runs.

    Another text alone is no other meme: it may have been read or packed anew, and pictures whose
    hashes are near are the same. Of those that have another text the first are looked at; nothing
    is known of runs without shards.
    """
    shards = [found for run in (a, b) if (found := _shards_of(run))]
    if len(shards) < 2:
        return
    texts = [_texts_of(memes, rows) for memes, rows in shards]
    differ = [n for n, (one, two) in enumerate(zip(*texts, strict=True)) if one != two]
    looked_at = differ[:LOOKED_AT]
    other = [
        n
        for n in looked_at
        if not _look_alike(*(memes[rows[n]]["image"] for memes, rows in shards))
    ]
    if other:
        raise ValueError(
            f"A and B have not scored the same memes: of {len(looked_at)} shared ids whose texts "
            f"differ {len(other)} have another picture too, the first is "
            f"'{a.frame['id'][other[0]]}'; give two runs on the same data"
        )


def _look_alike(one: Image.Image, two: Image.Image) -> bool:
    a, b = picture_hash(one), picture_hash(two)
    if a is None or b is None:  # flat ones, which have nothing but their colour
        return one.tobytes() == two.tobytes()
    return (a ^ b).bit_count() <= MAX_DISTANCE


def memes_of(run: Run) -> tuple[list[str], list[Mapping[str, Any]]] | None:
    """Texts and packed fields of the rows, None where the run has no shards beside it.

    Raises ValueError where the shards do not hold the predicted memes.
    """
    if (found := _shards_of(run)) is None:
        return None
    memes, rows = found
    metas = memes.metas
    return _texts_of(memes, rows), [metas[row] for row in rows]


def _shards_of(run: Run) -> tuple[MemeShards, list[int]] | None:
    """The shards of a run, and where its memes lie in them; raises as `memes_of` does."""
    if run.shards is None or not run.shards.exists():
        return None
    memes = MemeShards(shard_paths(run.shards, run.settings.report_split))
    place = {id_: row for row, id_ in enumerate(memes.ids)}
    if lacking := sum(id_ not in place for id_ in run.frame["id"]):
        raise ValueError(f"{run.shards} lacks {lacking} of the memes in {run.predictions}")
    return memes, [place[id_] for id_ in run.frame["id"]]


def _texts_of(memes: MemeShards, rows: list[int]) -> list[str]:
    texts = memes.texts
    return [texts[row] for row in rows]


def _modes_of(place: Path) -> list[str]:
    if place.is_file():
        return ["full" if (_read(place)["split"] == "test").any() else "pilot"]
    found = [m for m in MODES if _predictions(_settings(m, place)).exists()]
    if not found:
        raise FileNotFoundError(
            f"{place} is neither a Parquet file nor a root with Step_6/predictions_<mode>.parquet"
        )
    return found


def _settings(mode: str, root: Path) -> Settings:
    return Settings.checked({"mode": mode, "root": root}, str(root))


def _predictions(settings: Settings) -> Path:
    return settings.artifact(6, "predictions.parquet")


def _read(path: Path) -> pd.DataFrame:
    frame = pd.read_parquet(checked_file(path))
    for name in ("id", "group"):
        if bad := int(frame[name].isna().sum()):
            raise ValueError(f"{path}: column '{name}' has {bad} values that are missing")
    for name in COLUMNS[-2 * len(MODELS) :]:
        if bad := int((~np.isfinite(frame[name].to_numpy(np.float64))).sum()):
            raise ValueError(f"{path}: column '{name}' has {bad} values that are not finite")
    if not frame["label"].isin([0, 1]).all():
        raise ValueError(f"{path}: column 'label' has values other than 0 and 1")
    return frame


def _reported(frame: pd.DataFrame, settings: Settings, path: Path) -> pd.DataFrame:
    rows = frame[frame["split"] == settings.report_split]
    if rows.empty:
        raise ValueError(f"{path} has no rows of split '{settings.report_split}'")
    if twice := int(rows["id"].duplicated().sum()):
        raise ValueError(f"{path}: column 'id' repeats {twice} ids of '{settings.report_split}'")
    return rows.reset_index(drop=True)


def _fitted(frame: pd.DataFrame, settings: Settings, path: Path) -> DecisionBundle:
    """The decisions of Step 7's default settings, without intervals and policy."""
    split, part = settings.fit_split, fit_part(settings)
    rows = frame[(frame["split"] == split) & ((frame["part"] == part) | (part is None))]
    if rows.empty:
        of_part = f", part '{part}'," if part else ""
        raise ValueError(
            f"{path} has no rows of split '{split}'{of_part} to fit temperature and threshold on; "
            "give the root of the run instead, whose Step 7 holds both"
        )
    labels, objective = rows["label"], objective_of(settings)
    if labels.nunique() < 2:
        raise ValueError(
            f"{path}: split '{split}' has label {labels.iloc[0]} alone among the rows to fit "
            "temperature and threshold on; give the root of the run instead, whose Step 7 has both"
        )
    temperatures, thresholds = {}, {}
    for model in MODELS:
        logits = logits_of(rows, model)
        temperatures[model] = as_written(float(fit_temperature(logits, labels).temperature))
        best = best_threshold(prob_hate(logits, temperatures[model]), labels, **objective)
        thresholds[model] = as_written(float(best.threshold))
    return DecisionBundle(
        mode=settings.mode,
        fit_split=split,
        fit_part=part or "",
        n=len(rows),
        prevalence=float(labels.mean()),
        objective=objective,
        temperatures=temperatures,
        thresholds=thresholds,
        fits={},
        intervals={},
        resampled=resampled(rows),
        # Sends nothing to a person, so that no slice is made of a band that is not known.
        policy=Policy.at_threshold(thresholds[CHOSEN]),
        fingerprints={},
    )
