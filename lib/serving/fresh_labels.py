"""What a few hundred fresh labels say: whether calibration and the policy's promises still hold."""

import math
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from scipy.special import expit, logit
from scipy.stats import binom, fisher_exact

from lib.calibration import best_threshold, decision_intervals, fit_temperature
from lib.calibration.calibration_tests import recalibration, recalibration_change, spiegelhalter
from lib.decisions.bundle import DecisionBundle
from lib.decisions.policy import CHOSEN, SIDES, counted, target_of
from lib.decisions.policy_certificates import Sample, clopper_pearson, needed
from lib.serving.label_verdict import ALPHA, verdict_of

N_BINS = 10
LEAST_IN_BIN = 30
# Ids as they are written: 007 is not 7, and NA is one like any other word.
AS_WRITTEN: dict[str, Any] = {"dtype": {"id": str}, "keep_default_na": False, "na_values": [""]}


def read_labels(labels: str | Path, scores: str | Path, models: Mapping[str, str]) -> pd.DataFrame:
    """Fresh labels with their probabilities, columns prob_hate and label.

    Labels without `prob_hate` are joined by `row` or `id` to `scores`, which must be of `models`;
    of scores that do not say what they are of, a warning says so.
    Raises FileNotFoundError, and ValueError naming file, column and what is wrong there.
    """
    labels = Path(labels)
    _require_file(labels, "give a CSV or Parquet file of labels")
    try:
        is_parquet = labels.suffix == ".parquet"
        frame = pd.read_parquet(labels) if is_parquet else pd.read_csv(labels, **AS_WRITTEN)
    except ValueError as error:
        raise ValueError(f"{labels} cannot be read as a table: {error}") from None
    _require(labels, frame, "label")
    if frame.empty:
        raise ValueError(f"{labels} has no rows")
    given, frame["label"] = frame["label"], pd.to_numeric(frame["label"], errors="coerce")
    if not frame["label"].isin([0, 1]).all():
        wrong = given[~frame["label"].isin([0, 1])].iloc[0]
        raise ValueError(f"{labels}: column label holds {wrong}, expected 0 or 1")
    if "prob_hate" not in frame:
        frame = _joined(labels, frame, Path(scores), models)
    prob = pd.to_numeric(frame["prob_hate"], errors="coerce")
    if not prob.between(0, 1).all():
        raise ValueError(f"{labels}: column prob_hate must hold numbers from 0 to 1")
    return pd.DataFrame({"prob_hate": prob.astype(float), "label": frame["label"].astype(int)})


def judge_labels(
    labelled: pd.DataFrame, decision: DecisionBundle, prob: np.ndarray, labels: np.ndarray
) -> dict[str, Any]:
    """All that the labels say of calibration, promises and prevalence, and what to do.

    `prob` and `labels` (M,) are those of the calibration split, one meme of each group. Calibration
    holds where the likelihood ratio of `recalibration` says so at `ALPHA`, and no longer holds
    where, besides, that of `recalibration_change` tells the line from that of the calibration
    split: T was fitted on finitely many memes and is never exact. A promise is broken where the
    exact binomial tail against it is at most `ALPHA` over the number of promises. Labels of one
    class can refute both but never say that they hold; fewer than `FEWEST` do neither. "refit" is
    None where calibration holds, or where the labels have no optimum.
    """
    p, y = labelled["prob_hate"].to_numpy(), labelled["label"].to_numpy()
    line, (z, z_p_value) = recalibration(p, y), spiegelhalter(p, y)
    then = recalibration(prob, labels)
    change, change_p_value = recalibration_change(prob, labels, p, y)
    sides = _sides(Sample(p, y), decision)
    report: dict[str, Any] = {
        "n": len(y),
        "calibration": _finite(line._asdict()) | {"on_calibration_split": then.p_value},
        "change": {"statistic": change, "p_value": change_p_value},
        "spiegelhalter": {"z": z, "p_value": z_p_value},
        "reliability": reliability(p, y),
        "policy": sides,
        "prevalence": _prevalence(y, labels),
        "refit": _refit(p, y, decision) if line.p_value <= ALPHA else None,
    }
    return report | verdict_of(report, y, p)


def reliability(prob: np.ndarray, labels: np.ndarray) -> list[dict[str, Any]]:
    """Mean probability and share of hate with its exact 95% interval, in bins of like size.

    There are at most `N_BINS`, of `LEAST_IN_BIN` memes each where there are that many.
    """
    n_bins = max(min(N_BINS, len(prob) // LEAST_IN_BIN), 1)
    order = np.argsort(prob, kind="stable")
    rows = []
    for members in np.array_split(order, n_bins):
        hits, n = int(labels[members].sum()), len(members)
        low, high = clopper_pearson(hits, n)
        said = float(prob[members].mean())
        row = {"n": n, "mean_prob": said, "share_of_hate": hits / n, "low": low, "high": high}
        rows.append(row | {"within": low <= said <= high})
    return rows


def label_tables(report: Mapping[str, Any]) -> list[pd.DataFrame]:
    """The reliability, the promises, and the tests, each as a table to print."""
    names = ("calibration", "change", "spiegelhalter", "prevalence")
    line, change, z, prevalence = (report[name] for name in names)
    tests = [
        {"test": "slope 1 and intercept 0", "statistic": line["statistic"], "p": line["p_value"]},
        {
            "test": "line as at calibration",
            "statistic": change["statistic"],
            "p": change["p_value"],
        },
        {"test": "Spiegelhalter's z", "statistic": z["z"], "p": z["p_value"]},
        {
            "test": "share of hate as at calibration",
            "statistic": prevalence["now"],
            "p": prevalence["p_value"],
        },
    ]
    return [pd.DataFrame(found) for found in (report["reliability"], report["policy"], tests)]


def _require_file(file: Path, fix: str) -> None:
    if not file.is_file():
        wrong = "is a folder" if file.is_dir() else "does not exist"
        raise FileNotFoundError(f"{file} {wrong}; {fix}")


def _require(file: Path, frame: pd.DataFrame, name: str) -> None:
    if name not in frame:
        raise ValueError(f"{file} has no column '{name}'; it has {', '.join(map(str, frame))}")


def _joined(
    labels: Path, frame: pd.DataFrame, scores: Path, models: Mapping[str, str]
) -> pd.DataFrame:
    key = next((name for name in ("row", "id") if name in frame), None)
    if key is None:
        raise ValueError(f"{labels} needs a column prob_hate, row or id beside label")
    _require_file(scores, "say where the scores of these labels are with --scores")
    _refuse_other_scores(scores, models)
    schema = pq.read_schema(scores)
    for name in (key, "prob_hate"):
        if name not in schema.names:
            raise ValueError(f"{scores} has no column '{name}'; it has {', '.join(schema.names)}")
    kind = schema.field("id").type if key == "id" else None
    if kind is not None and pa.types.is_primitive(kind):
        raise ValueError(
            f"{scores}: column id holds {kind} and no words, as another program has saved it; join "
            "by row, or score anew"
        )
    frame = frame.assign(**{key: _keys(labels, key, frame[key])})
    wanted = frame[key].tolist()
    found = pq.read_table(scores, columns=[key, "prob_hate"], filters=[(key, "in", wanted)])
    found = found.to_pandas()
    for file, table in ((labels, frame), (scores, found)):
        if table[key].duplicated().any():
            twice = table[key][table[key].duplicated()].tolist()[0]
            raise ValueError(f"{file}: {key} {twice!r} occurs twice; join by row instead")
    joined = frame.merge(found, on=key, how="left")
    if joined["prob_hate"].isna().any():
        lost = joined[key][joined["prob_hate"].isna()].tolist()[0]
        raise ValueError(
            f"{labels}: {key} {lost!r} is not in {scores}; was it rejected when it was scored?"
        )
    return joined


def _keys(labels: Path, key: str, given: pd.Series) -> pd.Series:
    """Ids as words, rows as whole numbers; ValueError for one that is none."""
    if key == "id":
        words = given.astype(str)
        if (empty := (given.isna() | (words.str.strip() == "")).to_numpy()).any():
            raise ValueError(
                f"{labels}: column id is empty in row {empty.argmax() + 1} of {len(empty)}, the "
                "header not counted; write the id of its meme there or leave the row out"
            )
        return words
    numbers = pd.to_numeric(given, errors="coerce")
    if bad := given[numbers.isna() | (numbers % 1 != 0)].tolist():
        raise ValueError(f"{labels}: column row holds {bad[0]}, expected the number of a row")
    return numbers.astype("int64")


def _refuse_other_scores(scores: Path, models: Mapping[str, str]) -> None:
    from lib.serving.scoring.output import made_from

    made_by = made_from(scores).get("models", {})
    if not made_by:
        warnings.warn(
            f"{scores} does not say which models, temperatures and thresholds it is of (saved anew "
            "by another program?) and is taken for those in use; if it may be of others, score "
            "anew with these",
            stacklevel=4,
        )
    if any(models.get(name, found) != found for name, found in made_by.items()):
        raise ValueError(
            f"{scores} is of other models, temperatures or thresholds than those in use; "
            "score anew with these"
        )


def _sides(sample: Sample, decision: DecisionBundle) -> list[dict[str, Any]]:
    """Each side of the policy on the fresh labels: what was promised, counted, and concluded."""
    targets = {side: target_of(decision.policy.targets, side) for side in SIDES}
    alpha = ALPHA / max(sum(target is not None for target in targets.values()), 1)
    return [_side(sample, side, targets[side], decision, alpha) for side in SIDES]


def _side(
    sample: Sample, side: str, target: float | None, decision: DecisionBundle, alpha: float
) -> dict[str, Any]:
    policy = decision.policy
    found = counted(sample, side, policy.ends, target)
    low, high = clopper_pearson(found.hits, found.n)
    row = {"side": side, "measure": SIDES[side], "target": target, "count": found.hits}
    row |= {"n": found.n, "observed": found.hits / found.n if found.n else None}
    row |= {"low": low, "high": high, "p_broken": None, "labels_wanted": None}
    if target is None or found.p_value is None or not found.n:
        return row | {"verdict": "no promise" if target is None else "nothing there"}
    at_least = side == "block"
    tail = binom.cdf(found.hits, found.n, target)
    p_broken = float(tail if at_least else binom.sf(found.hits - 1, found.n, target))
    more = needed(found.hits / found.n, target, policy.confidence, at_least)
    wanted = None if more is None else math.ceil(more * len(sample.prob) / found.n)
    kept = found.p_value <= round(1 - policy.confidence, 12)
    verdict = "broken" if p_broken <= alpha else "kept, certified" if kept else "not refuted"
    return row | {"p_broken": p_broken, "labels_wanted": wanted, "verdict": verdict}


def _prevalence(y: np.ndarray, then: np.ndarray) -> dict[str, Any]:
    """The share of hate now and at calibration, and Fisher's exact test that they are one."""
    low, high = clopper_pearson(int(y.sum()), len(y))
    table = [[int(a.sum()), int(len(a) - a.sum())] for a in (y, then)]
    return {
        "now": float(y.mean()),
        "low": low,
        "high": high,
        "reference": float(then.mean()),
        "p_value": float(fisher_exact(table).pvalue),
    }


def _refit(p: np.ndarray, y: np.ndarray, decision: DecisionBundle) -> dict[str, Any] | None:
    """Temperature and threshold that the fresh labels alone would give, None without an optimum."""
    margin = logit(np.clip(p, 1e-12, 1 - 1e-12)) * decision.temperatures[CHOSEN]
    fit = fit_temperature(margin, y)
    if fit.status != "ok":
        return None
    temperature = float(fit.temperature)
    found = decision_intervals(margin, y, temperature, n_resamples=500)[0]
    try:
        best = best_threshold(expit(margin / temperature), y, **decision.objective)
    except ValueError:
        return None
    ends = [end if math.isfinite(end) else None for end in (float(found.low), float(found.high))]
    return {"temperature": temperature, "interval": ends, "threshold": float(best.threshold)}


def _finite(found: Mapping[str, Any]) -> dict[str, Any]:
    """The same with None for what is not finite: JSON has no word for it."""

    def plain(value: Any) -> Any:
        if isinstance(value, tuple):
            return [plain(one) for one in value]
        return value if math.isfinite(value) else None

    return {name: plain(value) for name, value in found.items()}
