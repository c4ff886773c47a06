"""What the policy comes to: on a split, in daily work, with a wrong cut, and if it may abstain."""

from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.special import logit

from lib.calibration import bootstrap_ci, prob_hate, sweep_thresholds
from lib.calibration.intervals import units_of
from lib.config import MODELS
from lib.decisions.bundle import DecisionBundle
from lib.decisions.metric_intervals import f1_of
from lib.decisions.policy import CHOSEN, SIDES, Policy, counted, sample_of, target_of
from lib.decisions.policy_certificates import clopper_pearson
from lib.decisions.resampled_counts import ends_of, rates, ratio, resampled_sums
from lib.modeling.prediction_table import groups_of, logits_of

DECISIONS = ("block", "review", "allow")
# Thresholds that are tried between the ends of an interval, these among them.
N_WITHIN = 201
# Memes of which AURC's interval is resampled: of more it is narrow, and would take minutes.
MOST_RESAMPLED = 5_000


class RiskCoverage(NamedTuple):
    """The risk at each coverage, both (N,) with coverage i / N, and what they come to.

    `aurc` is the mean risk, `excess` how much of it lies above that of the best order of the same
    errors, in which all right decisions come first.
    """

    coverage: np.ndarray
    risk: np.ndarray
    aurc: float
    excess: float


def policy_outcome(
    frame: pd.DataFrame, decision: DecisionBundle, seed: int, prevalence: float | None = None
) -> dict[str, Any]:
    """The frozen policy on a split: what `judged`, `workload`, `threshold_stability` say, and AURC.

    The first three are lists of rows under "sides", "workload" and "threshold_stability", "aurc"
    holds each model's `aurc` and `excess`, and of AURC the `low` and `high` end of its 95%
    bootstrap interval over groups, None for more than `MOST_RESAMPLED` memes.
    """
    return {
        "sides": judged(frame, decision, seed).to_dict("records"),
        "workload": workload(frame, decision, prevalence, seed=seed).to_dict("records"),
        "threshold_stability": threshold_stability(frame, decision, seed).to_dict("records"),
        "aurc": {
            model: {"aurc": curve.aurc, "excess": curve.excess}
            | _aurc_interval(frame, model, decision, seed)
            for model, curve in risk_coverages(frame, decision).items()
        },
    }


def judged(frame: pd.DataFrame, decision: DecisionBundle, seed: int) -> pd.DataFrame:
    """Each side's measure on one meme of each group, drawn by `seed`: a row a side.

    Columns: side, measure, target (NaN without), count, n, observed = count / n (NaN for n = 0),
    the exact 95% interval low and high, `holds` (whether `observed` meets the target, None without
    either), and `met`: "yes" or "no" where the whole interval is on that side of the target, else
    "within the interval"; "no target" without one, "does not exist" for n = 0.
    """
    policy = decision.policy
    sample = sample_of(frame, decision.temperatures[CHOSEN], seed)
    rows = []
    for side, measure in SIDES.items():
        target, found = target_of(policy.targets, side), counted(sample, side, policy.ends)
        low, high = clopper_pearson(found.hits, found.n)
        observed = found.hits / found.n if found.n else None
        row = {"side": side, "measure": measure, "target": target, "count": found.hits}
        row |= {"n": found.n, "observed": observed, "low": low, "high": high}
        rows.append(row | _against(target, observed, low, high, at_least=side == "block"))
    return pd.DataFrame(rows).astype({"target": float, "observed": float, "holds": object})


def workload(
    frame: pd.DataFrame,
    decision: DecisionBundle,
    prevalence: float | None = None,
    per: int = 10_000,
    seed: int = 0,
) -> pd.DataFrame:
    """What to expect of `per` memes of which `prevalence` are hate, that of `frame` by default.

    A row a decision: block, review, allow. With s1 and s0 the shares of hateful and of harmless
    memes of `frame` that get the decision, `hateful` = per * prevalence * s1, `harmless` =
    per * (1 - prevalence) * s0, `memes` both together, and `wrong` the harmless among the blocked
    and the hateful among the allowed, 0 where a person decides. `wrong_share` = wrong / memes, NaN
    where there are none. `_low` and `_high` are the ends of the 95% intervals of `memes`, `wrong`
    and `wrong_share` over resampled groups, with the prevalence as given; shares of none or of all
    memes of a class have those of `rates`. What a class brings is NaN
    where `frame` has none of it, unless the stated prevalence needs none.
    """
    prob = prob_hate(logits_of(frame, CHOSEN), decision.temperatures[CHOSEN])
    decided, hate = decision.policy.decide(prob), frame["label"].to_numpy() == 1
    share = float(hate.mean()) if prevalence is None else prevalence
    got = np.column_stack([decided == name for name in DECISIONS])
    cells = np.column_stack([got & hate[:, None], got & ~hate[:, None]])
    sums = resampled_sums(cells, groups_of(frame), seed=seed)
    units, could = units_of(groups_of(frame), len(frame)), _could(decision.policy)
    # Each class draws what no resample shows of its decisions by numbers of its own.
    hateful, harmless = (
        _expected(sums[:, at : at + 3], memes, len(np.unique(units[kind])), could, seed + at)
        for at, memes, kind in ((0, per * share, hate), (3, per - per * share, ~hate))
    )
    memes = hateful + harmless
    none = np.zeros(len(sums))
    rows = []
    for place, name in enumerate(DECISIONS):
        wrong = {"block": harmless[:, place], "review": none, "allow": hateful[:, place]}[name]
        row = {"decision": name, "memes": memes[0, place]} | ends_of({"memes": memes[:, place]})
        row |= {"hateful": hateful[0, place], "harmless": harmless[0, place]}
        figures = {"wrong": wrong, "wrong_share": ratio(wrong, memes[:, place])}
        for figure, values in figures.items():
            row |= {figure: values[0]} | ends_of({figure: values})
        rows.append(row)
    return pd.DataFrame(rows).assign(prevalence=share)


def threshold_stability(
    frame: pd.DataFrame, decision: DecisionBundle, seed: int = 0
) -> pd.DataFrame:
    """What a threshold elsewhere in its interval would cost on `frame`, four rows a model.

    `at` is "chosen", the "low" and "high" end of the threshold's bootstrap interval (0 or 1 for an
    end without bound), and "worst", the lowest threshold of least macro-F1 among `N_WITHIN` evenly
    spaced ones from end to end. `f1` is that of hate, `macro_f1` the mean of both classes', 0
    where a class is neither there nor predicted; the changes are against the chosen threshold.
    `_low` and `_high` are the ends of the changes' 95% intervals: both thresholds, taken as given,
    are judged on the same resampled groups.
    """
    tables = []
    for model in MODELS:
        chosen = decision.thresholds[model]
        low, high = decision.intervals[model]["threshold"]
        ends = 0.0 if low is None else low, 1.0 if high is None else high
        cuts = np.concatenate([[chosen, *ends], np.linspace(*ends, N_WITHIN)])
        prob = prob_hate(logits_of(frame, model), decision.temperatures[model])
        curve = sweep_thresholds(prob, frame["label"], cuts)
        tp, tn, fp, fn = (curve[cell].to_numpy() for cell in ("tp", "tn", "fp", "fn"))
        of_both = [f1_of(right, fp, fn) for right in (tp, tn)]
        curve["macro_f1"] = np.mean(of_both, axis=0)
        worst = 3 + int(np.argmin(curve["macro_f1"].to_numpy()[3:]))
        rows = curve.iloc[[0, 1, 2, worst]].reset_index(drop=True)
        rows = rows[["threshold", "f1", "macro_f1"]]
        changes = (rows[["f1", "macro_f1"]] - rows.loc[0, ["f1", "macro_f1"]]).add_suffix("_change")
        rows.insert(0, "model", model)
        rows.insert(1, "at", ["chosen", "low", "high", "worst"])
        hate = prob[:, None] >= rows["threshold"].to_numpy()
        tables.append(pd.concat([rows, changes, _change_ends(frame, hate, seed)], axis=1))
    return pd.concat(tables, ignore_index=True)


def _change_ends(frame: pd.DataFrame, hate: np.ndarray, seed: int) -> pd.DataFrame:
    """The intervals of what decisions (N, C) change in F1 and macro-F1 against the first column."""
    hateful = frame["label"].to_numpy()[:, None] == 1
    cells = np.column_stack([hate & hateful, hate & ~hateful, hateful, ~hateful])
    sums, width = resampled_sums(cells, groups_of(frame), seed=seed), hate.shape[1]
    tp, fp = sums[:, :width], sums[:, width : 2 * width]
    fn, tn = sums[:, -2:-1] - tp, sums[:, -1:] - fp
    f1, of_harmless = (f1_of(right, fp, fn) for right in (tp, tn))
    values = {"f1": f1, "macro_f1": (f1 + of_harmless) / 2}
    changes = {name: value - value[:, :1] for name, value in values.items()}
    return pd.DataFrame(
        ends_of({f"{name}_change": change[:, place] for name, change in changes.items()})
        for place in range(width)
    )


def risk_coverages(frame: pd.DataFrame, decision: DecisionBundle) -> dict[str, RiskCoverage]:
    """Each model's risk over coverage, its surest decisions first.

    A decision is prob >= threshold, and its confidence the distance |logit(p) - logit(threshold)|,
    so that what lies just beside the threshold is the first to be left to a person.
    """
    return {m: risk_coverage(*_surest(frame, m, decision)) for m in MODELS}


def _surest(
    frame: pd.DataFrame, model: str, decision: DecisionBundle
) -> tuple[np.ndarray, np.ndarray]:
    """Confidence of each decision of a model, and whether it is wrong, both (N,)."""
    temperature, threshold = decision.temperatures[model], decision.thresholds[model]
    logits = logits_of(frame, model).to_numpy(np.float64)
    wrong = (prob_hate(logits, temperature) >= threshold) != frame["label"].to_numpy()
    inside = np.clip(threshold, np.finfo(float).tiny, 1 - np.finfo(float).epsneg)
    distance = (logits[:, 1] - logits[:, 0]) / temperature - logit(inside)
    return np.abs(distance), wrong


def _aurc_interval(
    frame: pd.DataFrame, model: str, decision: DecisionBundle, seed: int
) -> dict[str, float | None]:
    if len(frame) > MOST_RESAMPLED or frame["label"].nunique() < 2:
        return {"low": None, "high": None}
    found = bootstrap_ci(
        np.column_stack(_surest(frame, model, decision)),
        frame["label"],
        lambda surest, _: risk_coverage(surest[:, 0], surest[:, 1]).aurc,
        seed=seed,
        groups=groups_of(frame),
    )
    return {"low": float(found.low), "high": float(found.high)}


def risk_coverage(confidence: ArrayLike, wrong: ArrayLike) -> RiskCoverage:
    """Risk against coverage: the error rate of the i surest of N decisions, for each i.

    `confidence` and `wrong` (0 or 1) have shape (N,). Within equal confidence the mean over all
    orders is given. AURC is the mean of the N risks, and excess is AURC minus that of the best
    order (Geifman and El-Yaniv 2017; Geifman, Uziel and El-Yaniv 2019).
    Raises ValueError for a confidence that is NaN, and without a decision.
    """
    sure, errors = np.asarray(confidence, float), np.asarray(wrong, float)
    if not len(sure) or np.isnan(sure).any():
        raise ValueError("confidence must hold numbers, at least one, and none of them NaN")
    _, tied, size = np.unique(-sure, return_inverse=True, return_counts=True)
    mean_error = np.bincount(tied, errors) / size
    i = np.arange(1, len(sure) + 1)
    risk = np.cumsum(np.repeat(mean_error, size)) / i
    best = np.maximum(i - (len(sure) - errors.sum()), 0) / i
    return RiskCoverage(i / len(sure), risk, float(risk.mean()), float(risk.mean() - best.mean()))


def shares(frame: pd.DataFrame, policy: Policy, temperature: float) -> dict[str, float]:
    """The share of all memes of `frame` that is blocked, reviewed and allowed."""
    decided = policy.decide(prob_hate(logits_of(frame, CHOSEN), temperature))
    return {name: float((decided == name).mean()) for name in DECISIONS}


def _against(
    target: float | None, observed: float | None, low: float, high: float, at_least: bool
) -> dict[str, Any]:
    if target is None or observed is None:
        return {"holds": None, "met": "no target" if target is None else "does not exist"}
    if not at_least:  # the less the better
        target, observed, low, high = -target, -observed, -high, -low
    met = "yes" if low >= target else "no" if high < target else "within the interval"
    return {"holds": observed >= target, "met": met}


def _could(policy: Policy) -> list[bool]:
    """Whether there are scores for which the policy decides so, for each of `DECISIONS`."""
    low, high = policy.ends
    return [policy.block is not None, low < high, bool(policy.allow)]


def _expected(
    got: np.ndarray, memes: float, n_groups: int, could: list[bool], seed: int
) -> np.ndarray:
    """How many of so many memes of a class get each decision that `got` (R, 3) of them got.

    What the policy never decides is none, and the only decision that it could make is all.
    """
    if memes == 0:
        return np.zeros(got.shape)
    there = got.sum(axis=1)
    shares = [
        rates(of, there, n_groups, k, seed) if could[k] and sum(could) > 1 else ratio(of, there)
        for k, of in enumerate(got.T)
    ]
    return memes * np.column_stack(shares)
