"""What the decisions would be worth where hate is as rare as stated, not as in the data."""

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from sklearn.metrics import brier_score_loss, log_loss, roc_curve

from lib.calibration import prob_hate
from lib.calibration.intervals import interval_of
from lib.calibration.ranking import ABOVE_ALL, midway
from lib.config import MODELS
from lib.decisions.bundle import DecisionBundle
from lib.decisions.metric_intervals import (
    beside_all_scores,
    decision_figures,
    f1_of,
    flagged_rates,
    precision_of,
)
from lib.modeling.prediction_table import groups_of, logits_of

# How far two computations of one share may lie apart; counts of memes differ by far more.
ROUNDING = 1e-12
FIGURES = ("precision", "recall", "f1", "macro_f1", "flagged_share")
NOT_REACHED = "floor not reached at this prevalence"


def shifted(prob: Any, of: float, to: float) -> Any:
    """p(hate) where its prior is `to`, from p(hate) where it was `of`.

    Saerens, Latinne and Decaestecker 2002, equation 2.4: what tells hate apart is the same, only
    its share differs.
    """
    hate, other = prob * (to / of), (1 - prob) * ((1 - to) / (1 - of))
    return hate / (hate + other)


def at_prevalence(
    frame: pd.DataFrame,
    fit_frame: pd.DataFrame,
    decision: DecisionBundle,
    prevalence: float,
    n_resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """Each model's metrics on `frame`, hate weighted as if its share were `prevalence`.

    Probabilities are `shifted` from the share of hate that they were calibrated on. "frozen" keeps
    the decisions of the thresholds as they are, "retuned" those of the threshold that is best at
    that share on `fit_frame`, by the objective of `decision`; both thresholds are on the shifted
    probabilities. Where no threshold keeps the objective's floor at that share, "retuned" is None
    and "note" says so. Each has "intervals", of 95%, which resample groups of memes where the frame
    knows them and take the threshold and `prevalence` as given. A model has None where `frame` or
    what was fitted on holds one class only.
    """
    of, labels = decision.prevalence, frame["label"].to_numpy()
    found: dict[str, Any] = dict.fromkeys(MODELS)
    if frame["label"].nunique() < 2 or not 0 < of < 1:
        return found
    weights = _weights(labels, prevalence)
    resampling = (groups_of(frame), prevalence, n_resamples, seed)
    for model in MODELS:
        plain, fitted = (
            prob_hate(logits_of(rows, model), decision.temperatures[model])
            for rows in (frame, fit_frame)
        )
        threshold = decision.thresholds[model]
        prob, retuned = shifted(plain, of, prevalence), shifted(fitted, of, prevalence)
        cut = _retuned(retuned, fit_frame["label"].to_numpy(), prevalence, **decision.objective)
        found[model] = {
            "brier": float(brier_score_loss(labels, prob, sample_weight=weights)),
            "nll": float(log_loss(labels, prob, sample_weight=weights)),
            "frozen": {"threshold": _shifted_cut(threshold, of, prevalence)}
            | _decisions(plain >= threshold, labels, *resampling, beside_all_scores(threshold)),
        }
        if cut is None:
            found[model] |= {"retuned": None, "note": NOT_REACHED}
        else:
            judged = _decisions(prob >= cut, labels, *resampling, beside_all_scores(cut))
            found[model]["retuned"] = {"threshold": cut} | judged
    return found


def precision_by_prevalence(
    frame: pd.DataFrame,
    decision: DecisionBundle,
    prevalences: ArrayLike,
    n_resamples: int = 1000,
    seed: int = 0,
) -> pd.DataFrame:
    """Precision of the frozen decisions on `frame`, were hate of these shares (K,); 3K rows.

    By Bayes' rule, from the shares flagged of the hateful memes, r, and of the harmless ones, q:
    prevalence r / (prevalence r + (1 - prevalence) q), which is 0 where nothing is flagged. `low`
    and `high` are the ends of its 95% interval, as those of `at_prevalence`. A frame of one class
    has NaN throughout.
    """
    share = np.asarray(prevalences, dtype=float)
    labels, groups, tables = frame["label"].to_numpy(), groups_of(frame), []
    for model in MODELS:
        prob = prob_hate(logits_of(frame, model), decision.temperatures[model])
        threshold = decision.thresholds[model]
        resampling = (groups, n_resamples, seed, beside_all_scores(threshold))
        flagged = flagged_rates(prob >= threshold, labels, *resampling)
        r, q = (rate[:, None] for rate in flagged)
        found = precision_of(share * r, (1 - share) * q)
        ends = interval_of(found[0], found[1:], 0.95)
        columns = {"prevalence": share, "precision": ends.point, "low": ends.low, "high": ends.high}
        tables.append(pd.DataFrame({"model": model} | columns))
    return pd.concat(tables, ignore_index=True)


def _shifted_cut(threshold: float, of: float, prevalence: float) -> float:
    # One above every score is so whatever the prevalence.
    return threshold if threshold > 1 else float(shifted(threshold, of, prevalence))


def _weights(labels: np.ndarray, prevalence: float) -> np.ndarray:
    """A weight a meme (N,), of mean 1, under which `prevalence` of the weight is hate."""
    share = labels.mean()
    return np.where(labels == 1, prevalence / share, (1 - prevalence) / (1 - share))


def _decisions(
    hate: np.ndarray,
    labels: np.ndarray,
    groups: np.ndarray | None,
    prevalence: float,
    n_resamples: int,
    seed: int,
    certain: bool,
) -> dict[str, Any]:
    """The figures of decisions (N,), and their intervals over resampled groups (N,)."""
    figures = decision_figures(
        *flagged_rates(hate, labels, groups, n_resamples, seed, certain), prevalence
    )
    ends = {name: interval_of(figures[name][0], figures[name][1:], 0.95) for name in FIGURES}
    found: dict[str, Any] = {name: end.point for name, end in ends.items()}
    return found | {"intervals": {name: [end.low, end.high] for name, end in ends.items()}}


def _retuned(
    prob: np.ndarray,
    labels: np.ndarray,
    prevalence: float,
    objective: str,
    costs: tuple[float, float] = (1.0, 1.0),
    floor: float = 0.0,
) -> float | None:
    """The threshold of the best objective where hate has that share, of equals the lowest.

    As `best_threshold` has it, midway between the lowest flagged score and the next lower one, and
    of equal recalls the more precise.
    The objectives are those of `lib.calibration.best_threshold`. The counts are shares of all
    memes: with r and q the rates at which hateful and harmless ones are flagged, tp = prevalence r
    and fp = (1 - prevalence) q. Shares that differ by rounding alone are equal. Where flagging
    nothing is best it is `ABOVE_ALL`; None where no threshold keeps `floor`.
    """
    q, r, cuts = roc_curve(labels, prob, drop_intermediate=False)
    tp, fp = prevalence * r, (1 - prevalence) * q
    fn, tn = prevalence - tp, 1 - prevalence - fp
    precision = precision_of(tp, fp)
    values = {
        "f1": f1_of(tp, fp, fn),
        "macro_f1": (f1_of(tp, fp, fn) + f1_of(tn, fp, fn)) / 2,
        "balanced_accuracy": (r + 1 - q) / 2,
        "cost": -(costs[0] * fp + costs[1] * fn),
        "precision_at_recall": np.where(r >= floor - ROUNDING, precision, -np.inf),
        "recall_at_precision": np.where(precision >= floor - ROUNDING, r, -np.inf),
    }[objective]
    if np.isneginf(values).all():
        return None
    equal = _highest(values)
    if objective == "recall_at_precision":
        equal &= _highest(np.where(equal, precision, -np.inf))
    best = int(np.flatnonzero(equal)[-1])
    if best == 0:  # flagging nothing
        return ABOVE_ALL
    lower = float(cuts[best + 1]) if best + 1 < len(cuts) else None
    return midway(lower, float(cuts[best]), prob)


def _highest(values: np.ndarray) -> np.ndarray:
    return np.isclose(values, values.max(), rtol=ROUNDING, atol=ROUNDING)
