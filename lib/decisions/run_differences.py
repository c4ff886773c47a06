"""What differs between two runs of one model: metrics, slices and flipped decisions."""

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy.signal import convolve
from scipy.stats import binom

from lib.calibration import bootstrap_difference, classification_metrics
from lib.calibration.calibration_error import N_BINS, bin_of
from lib.decisions.design_effect import enough_groups
from lib.decisions.slices import MADE_BY_MODELS, OTHERS, slice_columns, slice_counts, slices
from lib.modeling.prediction_table import groups_of

# Whether more is better.
METRICS = {
    **dict.fromkeys(("accuracy", "macro_f1", "precision", "recall", "f1"), True),
    **dict.fromkeys(("auroc", "average_precision"), True),
    **dict.fromkeys(("brier", "ece", "nll"), False),
}
# A threshold trades one of them for the other, so that a better run may have less of one.
TRADED = ("precision", "recall")
ENDS = ("worse_by", "low", "high", "verdict")


class Pair(NamedTuple):
    """One model in both runs: frame and table of A, and (A, B) of p(hate), decisions and cuts."""

    frame: pd.DataFrame
    table: pd.DataFrame
    prob: tuple[np.ndarray, np.ndarray]
    decided: tuple[np.ndarray, np.ndarray]
    cuts: tuple[float, float]

    @property
    def labels(self) -> np.ndarray:
        return self.frame["label"].to_numpy()


def values_of(pair: Pair) -> list[dict[str, float]]:
    """The metrics of A and B."""
    with warnings.catch_warnings():
        # Of one class only, which the tables call "undefined".
        warnings.simplefilter("ignore")
        pairs = zip(pair.prob, pair.cuts, strict=True)
        return [classification_metrics(prob, pair.labels, cut) for prob, cut in pairs]


def _worse_by(
    pair: Pair,
    rows: np.ndarray,
    metric: str,
    more_is_better: bool,
    options: Mapping[str, Any],
    groups: np.ndarray | None,
) -> dict[str, Any]:
    """By how much B is worse on `rows` (n,), with the interval and a verdict.

    What is resampled are `groups` (n,), None: the memes.
    """
    a, b = (0, 1) if more_is_better else (1, 0)
    found = bootstrap_difference(
        pair.prob[a][rows],
        pair.prob[b][rows],
        pair.labels[rows],
        metric,
        thresholds=(pair.cuts[a], pair.cuts[b]),
        groups=groups,
        **options,
    )
    low, high = float(found.low), float(found.high)
    verdict = "worse" if low > 0 else "better" if high < 0 else "not told apart"
    verdict = "undefined" if math.isnan(low) else verdict
    return dict(zip(ENDS, (float(found.point), low, high, verdict), strict=True))


def flips_of(pair: Pair) -> pd.DataFrame:
    """The memes decided otherwise: what B broke, then what it fixed, the largest shifts first."""
    (prob_a, prob_b), (pred_a, pred_b) = pair.prob, pair.decided
    right = pred_b == pair.labels
    table = pair.table[["id", "text", "label"]].assign(
        prob_a=prob_a, pred_a=pred_a, prob_b=prob_b, pred_b=pred_b
    )
    table["change"] = np.where(right, "fixed", "broken").astype(object)
    order = np.lexsort((-np.abs(prob_b - prob_a), right))
    return table.iloc[order[(pred_a != pred_b)[order]]].reset_index(drop=True)


def metrics_of(
    pair: Pair, values: Sequence[Mapping[str, float]], options: Mapping[str, Any]
) -> pd.DataFrame:
    """A row a metric of `METRICS`: its values in A and B, `worse_by` with its interval, verdict."""
    a, b = values
    everyone, groups = np.arange(len(pair.frame)), groups_of(pair.frame)
    table = pd.DataFrame(
        {"metric": name, "a": a[name], "b": b[name]}
        | _worse_by(pair, everyone, name, more_is_better, options, groups)
        for name, more_is_better in METRICS.items()
    )
    ece = (table["metric"] == "ece") & table["verdict"].isin(("worse", "better"))
    if ece.any() and not _exceeds(table[ece].iloc[0], _expected_eces(pair, values, groups)):
        table.loc[ece, "verdict"] = "not told apart"
    return table


def _exceeds(ece: pd.Series, expected: Sequence[float]) -> bool:
    """Whether the change of the ECE is more than that of its bias and chance together.

    The scores of a timid model lie in a few bins, where an ECE reads less, however calibrated. So
    the change must exceed that of the `expected` readings of A and B, in its own direction, by half
    the width of its interval, which the bias of resamples moves but hardly widens.
    """
    excess = ece["worse_by"] - (expected[1] - expected[0])
    excess = -excess if ece["verdict"] == "better" else excess
    return bool(excess > (ece["high"] - ece["low"]) / 2)


def _expected_eces(
    pair: Pair, values: Sequence[Mapping[str, float]], groups: np.ndarray | None
) -> list[float]:
    """What the ECEs of A and B would read of perfect probabilities, higher for like `groups`."""
    expected = [value["ece_zero_truth"] for value in values]
    if groups is None:
        return expected
    for run, prob in enumerate(pair.prob):
        off = prob - pair.labels
        of_groups = np.bincount(groups * N_BINS + bin_of(prob, N_BINS, "uniform"), off)
        if off.any():
            expected[run] *= max(1.0, math.sqrt((of_groups**2).sum() / (off**2).sum()))
    return expected


def calibration_of(metrics: pd.DataFrame, values: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    """Lost or improved where the ECE is beyond doubt, else kept; and what perfection would read."""
    verdict = metrics.set_index("metric").loc["ece", "verdict"]
    words = {"worse": "lost", "better": "improved"}
    zero_truth = dict(zip("ab", (value["ece_zero_truth"] for value in values), strict=True))
    return {"verdict": words.get(str(verdict), "kept"), "ece_zero_truth": zero_truth}


def slices_of(
    pair: Pair,
    metas: Sequence[Mapping[str, Any]],
    slice_by: Sequence[str],
    options: Mapping[str, Any],
) -> pd.DataFrame:
    """Error rates of A and B by slice, the worst change first, what is insufficient last."""
    slice_by = [name for name in slice_by if name not in MADE_BY_MODELS]
    # Columns of one value make no slice.
    memes = pair.table.assign(**dict.fromkeys(MADE_BY_MODELS, ""))
    # What is counted is right and wrong alone.
    of_runs = (
        memes.assign(error_type=np.where(decided != pair.labels, "FP", "TP"))
        for decided in pair.decided
    )
    a, b = (slices([slice_counts(of_run, metas, slice_by)]) for of_run in of_runs)
    table = a[["slice", "value", "n"]].assign(a=a["error_rate"], b=b["error_rate"])
    enough = a["verdict"] != "insufficient"
    k = max(int(enough.sum()), 1)
    # Further out than one resample on either side the interval would not grow with k.
    together = {**options, "level": 1 - 0.05 / k}
    together["n_resamples"] = max(options["n_resamples"], 40 * k)
    belongs, changes = slice_columns(pair.table, metas, slice_by), []
    if unknown := [name for name in slice_by if belongs[name].isna().all()]:
        warnings.warn(f"slice_by: {unknown} is not known here of any meme", stacklevel=3)
    listed = a.groupby("slice")["value"].agg(list)
    resampling = groups_of(pair.frame) is not None
    for name, value, judged in zip(a["slice"], a["value"], enough, strict=True):
        rows = _members(belongs[name], value, listed[name])
        groups = _groups(pair.frame["group"].iloc[rows]) if resampling else None
        # What falls into too few groups would be judged as if its memes were apart.
        enough_of_them = groups is None or enough_groups(np.bincount(groups))
        changes.append(
            _change(pair, rows, together, groups)
            if judged and enough_of_them
            else {"verdict": "insufficient"}
        )
    changed = pd.DataFrame(changes, columns=[*ENDS[:-1], "p_value", "verdict"])
    table = pd.concat([table, changed], axis=1)
    return table.sort_values("worse_by", ascending=False, kind="stable", ignore_index=True)


def _change(
    pair: Pair, rows: np.ndarray, options: Mapping[str, Any], groups: np.ndarray | None
) -> dict[str, Any]:
    """By how much the error rate of `rows` (n,) rises; a verdict needs the p-value as well.

    The ends of an interval of few flips, far out as those of many slices are, lie too near to 0.
    """
    # Accuracy falls as the error rate rises.
    found = _worse_by(pair, rows, "accuracy", True, options, groups)
    right_a, right_b = (decided[rows] == pair.labels[rows] for decided in pair.decided)
    broken = right_a.astype(int) - right_b
    p_value = sign_flips(broken if groups is None else np.bincount(groups, broken).astype(int))
    if found["verdict"] in ("worse", "better") and p_value > 1 - options["level"]:
        found["verdict"] = "not told apart"
    return found | {"p_value": p_value}


def sign_flips(sums: np.ndarray) -> float:
    """The exact two-sided p-value of group sums (G,), integers, each of either sign alike.

    Of memes by themselves, 1 for broken and -1 for fixed, it is McNemar's exact one.
    """
    sizes, times = np.unique(np.abs(sums[sums != 0]), return_counts=True)
    # The chance of each sum of the positive ones, from 0 to that of all sizes.
    chance = np.ones(1)
    for size, n in zip(sizes.tolist(), times.tolist(), strict=True):
        of_size = np.zeros(size * n + 1)
        of_size[::size] = binom.pmf(np.arange(n + 1), n, 0.5)
        chance = convolve(chance, of_size)
    positive, negative = (int(np.maximum(sign * sums, 0).sum()) for sign in (1, -1))
    return min(1.0, 2 * float(chance[max(positive, negative) :].sum()))


def _members(values: pd.Series, value: str, listed: Sequence[str]) -> np.ndarray:
    """The rows (n,) of a value of a slice; `OTHERS` are those known but not listed."""
    of_value = values.notna() & ~values.isin(listed) if value == OTHERS else values == value
    return np.flatnonzero(of_value)


def _groups(names: pd.Series) -> np.ndarray | None:
    """The number of each meme's group (n,), None where each is alone in its own.

    An accuracy may be resampled whatever the labels, so that one of them may be alone in a group.
    """
    numbers, found = pd.factorize(names, sort=True)
    return None if len(found) == len(names) else numbers
