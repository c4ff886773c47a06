"""Intervals of metrics that also say what no resample shows: no error is no proof of none."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from lib.calibration import Interval, bootstrap_ci
from lib.calibration.intervals import interval_of, units_of
from lib.decisions.resampled_counts import rates, ratio, resampled_sums

OF_DECISIONS = ("accuracy", "precision", "recall", "f1", "macro_f1")
OF_RANKINGS = ("auroc", "average_precision")


def metric_interval(
    prob: ArrayLike,
    labels: ArrayLike,
    metric: str,
    threshold: float = 0.5,
    groups: np.ndarray | None = None,
    n_resamples: int = 1000,
    seed: int = 0,
) -> Interval:
    """The 95% interval of a metric of `bootstrap_ci`, wider where its resamples are all alike.

    Where all or none of the hateful memes are flagged, or of the harmless ones, no resample has
    another rate: the interval of a metric of decisions then reaches as far as those that
    `flagged_rates` draws carry it, at the sample's share of hate. That of a perfect ranking reaches
    down to what is left of it by a cut with such rates r and q: an AUROC of r (1 - q), and an
    average precision of r times the precision there.
    Raises ValueError as `bootstrap_ci` does.
    """
    options: dict[str, Any] = {"n_resamples": n_resamples, "seed": seed, "groups": groups}
    found = bootstrap_ci(prob, labels, metric, threshold=threshold, **options)
    p, y = np.asarray(prob, float), np.asarray(labels)
    if metric in OF_RANKINGS and found.point == 1:
        hate, certain = y == 1, False
    elif metric in OF_DECISIONS:
        hate, certain = p >= threshold, beside_all_scores(threshold)
    else:
        return found
    if certain or not 0 < y.mean() < 1 or not _degenerate(hate, y):
        return found
    r, q = flagged_rates(hate, y, groups, n_resamples, seed)
    figures = decision_figures(r, q, float(y.mean()))
    figures |= {"auroc": r * (1 - q), "average_precision": r * figures["precision"]}
    drawn = interval_of(found.point, figures[metric][1:], 0.95)
    return Interval(found.point, min(found.low, drawn.low), max(found.high, drawn.high))


def beside_all_scores(threshold: float) -> bool:
    """Whether the threshold flags no meme whatever its score, or each."""
    return not 0 < threshold <= 1


def flagged_rates(
    hate: np.ndarray,
    labels: np.ndarray,
    groups: np.ndarray | None,
    n_resamples: int,
    seed: int,
    certain: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """The share flagged of the hateful memes and of the harmless ones, (1 + n_resamples,) each.

    The sample's first, then those of resampled groups. A share of none or of all is spread as
    `rates` says, unless it is `certain`.
    """
    hateful = labels == 1
    cells = np.column_stack([hate & hateful, hateful, hate & ~hateful, ~hateful])
    caught, of_hateful, mistaken, of_harmless = resampled_sums(cells, groups, n_resamples, seed).T
    if certain:
        return ratio(caught, of_hateful), ratio(mistaken, of_harmless)
    units = units_of(groups, len(labels))
    hateful_units, harmless_units = (len(np.unique(units[labels == label])) for label in (1, 0))
    r = rates(caught, of_hateful, hateful_units, 0, seed)
    q = rates(mistaken, of_harmless, harmless_units, 1, seed)
    return r, q


def decision_figures(r: np.ndarray, q: np.ndarray, prevalence: float) -> dict[str, np.ndarray]:
    """Metrics of decisions that flag r of the hateful memes and q of the others, each (R,).

    With shares of all memes, of which `prevalence` are hate: tp = prevalence r and
    fp = (1 - prevalence) q. `flagged_share` is their sum. A precision or F1 of nothing is 0.
    """
    tp, fp = prevalence * r, (1 - prevalence) * q
    fn, tn = prevalence - tp, 1 - prevalence - fp
    return {
        "accuracy": tp + tn,
        "precision": precision_of(tp, fp),
        "recall": r,
        "f1": f1_of(tp, fp, fn),
        "macro_f1": (f1_of(tp, fp, fn) + f1_of(tn, fp, fn)) / 2,
        "flagged_share": tp + fp,
    }


def precision_of(tp: np.ndarray, fp: np.ndarray) -> np.ndarray:
    """tp / (tp + fp), 0 where both are."""
    return tp / np.maximum(tp + fp, np.finfo(float).tiny)


def f1_of(right: np.ndarray, fp: np.ndarray, fn: np.ndarray) -> np.ndarray:
    """F1 of a class from its hits and both kinds of error, 0 where all are."""
    return 2 * right / np.maximum(2 * right + fp + fn, np.finfo(float).tiny)


def _degenerate(hate: np.ndarray, labels: np.ndarray) -> bool:
    return any(hate[labels == label].mean() in (0, 1) for label in (0, 1))
