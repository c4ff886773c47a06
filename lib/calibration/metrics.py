"""What p(hate) is worth: discrimination, calibration, and the constant scores to beat."""

import math
import warnings
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import ndtr
from sklearn import metrics as sk
from sklearn.isotonic import isotonic_regression

from lib.calibration.checked_input import (
    binary_labels,
    check_same_shape,
    finite,
    in_precision_of,
    probabilities,
)

Strategy = Literal["uniform", "quantile"]

N_BINS = 15


def classification_metrics(
    prob: ArrayLike, labels: ArrayLike, threshold: float = 0.5
) -> dict[str, float]:
    """Every reported metric of p(hate), shape (N,), against 0/1 labels, shape (N,).

    `prob >= threshold` counts as hate. Precision without a positive decision is 0. `nll` is in
    nats, clipped as scikit-learn's `log_loss` does; `brier` = `brier_reliability` -
    `brier_resolution` + `brier_uncertainty` (see `brier_decomposition`); the four `ece` are those
    of `expected_calibration_error` and `zero_truth_ece`.

    With one class only, what needs two is NaN, and one warning names it.
    Raises ValueError for what is empty, mismatched, not finite, outside [0, 1] or not 0/1, and for
    a threshold that is not finite.
    """
    p, y = read_scores(prob, labels)
    hate = p >= cut_like(prob, threshold)
    values = {
        "n": len(p),
        **decision_metrics(hate, y),
        "nll": sk.log_loss(y, p, labels=[False, True]),
        "brier": sk.brier_score_loss(y, p, pos_label=True, labels=[False, True]),
        **{f"brier_{k}": v for k, v in brier_decomposition(p, y).items()},
        "ece": expected_calibration_error(p, y),
        "ece_quantile": expected_calibration_error(p, y, strategy="quantile"),
        "ece_debiased": expected_calibration_error(p, y, debias=True),
        "ece_zero_truth": zero_truth_ece(p),
    }
    if y.all() or not y.any():
        undefined = ["macro_f1", "auroc", "average_precision"]
        undefined += [] if y.any() else ["precision", "recall", "f1"]
        values |= dict.fromkeys(undefined, math.nan)
        warnings.warn(
            f"labels holds class {int(y[0])} only, so these are NaN: {', '.join(undefined)}",
            stacklevel=2,
        )
    else:
        values["auroc"] = sk.roc_auc_score(y, p)
        values["average_precision"] = sk.average_precision_score(y, p)
    return {k: int(v) if k == "n" else float(v) for k, v in values.items()}


def decision_metrics(decision: ArrayLike, labels: ArrayLike) -> dict[str, float]:
    """Accuracy, macro-F1, and precision, recall and F1 of the positive class.

    `decision` and `labels` are 0/1, shape (N,). Macro-F1 is the mean of both classes' F1; a ratio
    without denominator is 0.
    Raises ValueError for what is empty, mismatched or not 0/1.
    """
    hate, y = binary_labels(decision, "decision"), binary_labels(labels)
    check_same_shape(hate, "decision", y)
    precision, recall, f1, _ = sk.precision_recall_fscore_support(
        y, hate, labels=[False, True], zero_division=0
    )
    return {
        "accuracy": float(sk.accuracy_score(y, hate)),
        "macro_f1": float(np.average(f1)),
        "precision": float(precision[1]),
        "recall": float(recall[1]),
        "f1": float(f1[1]),
    }


def constant_baselines(labels: ArrayLike, threshold: float = 0.5) -> dict[str, dict[str, float]]:
    """The metrics of three constant scores: always_negative (0), always_positive (1) and prior.

    The prior is the labels' mean; `labels` (N,) are 0/1.
    """
    y = binary_labels(labels)
    constants = {"always_negative": 0.0, "always_positive": 1.0, "prior": float(y.mean())}
    return {
        name: classification_metrics(np.full(y.shape, value), y, threshold)
        for name, value in constants.items()
    }


def brier_decomposition(prob: ArrayLike, labels: ArrayLike) -> dict[str, float]:
    """Split the Brier score: brier = reliability - resolution + uncertainty, exactly.

    Murphy's terms (1973) with the isotonic regression of labels on scores for bins, which needs no
    choice of bins and leaves no remainder: Dimitriadis, Gneiting and Jordan (PNAS 2021), who call
    them miscalibration, discrimination and uncertainty. `prob` and 0/1 `labels` have shape (N,).
    """
    p, y = read_scores(prob, labels)
    group = np.unique(p, return_inverse=True)[1]
    size = np.bincount(group)
    rate = np.bincount(group, y) / size
    recalibrated = isotonic_regression(rate, sample_weight=size, y_min=0, y_max=1)[group]
    base = float(y.mean())
    uncertainty = base * (1 - base)
    best = float(np.mean((recalibrated - y) ** 2))
    return {
        "reliability": float(np.mean((p - y) ** 2)) - best,
        "resolution": uncertainty - best,
        "uncertainty": uncertainty,
    }


def expected_calibration_error(
    prob: ArrayLike,
    labels: ArrayLike,
    n_bins: int = N_BINS,
    strategy: Strategy = "uniform",
    *,
    debias: bool = False,
) -> float:
    """The binary expected calibration error of p(hate): sum of n_b / n |mean p - mean y| over bins.

    `prob` (N,) is p(hate) and the labels (N,) are 0/1: this is not the top-label ECE of a
    classifier's confidences. "uniform" bins have the edges `linspace(0, 1, n_bins + 1)`,
    "quantile" bins the quantiles of `prob`, equal ones merged; a bin holds its lower edge, the last
    also its upper one.

    The plain estimate is biased up, the more the fewer examples (see `zero_truth_ece`). `debias`
    subtracts, in each bin, the expected rise of |d| under the sampling noise of mean y, taken as
    normal (Kumar, Liang and Ma, NeurIPS 2019); the result is not below 0.

    Raises ValueError for what is empty, mismatched, not finite, outside [0, 1] or not 0/1.
    """
    p, y = read_scores(prob, labels)
    bins = bin_of(p, n_bins, strategy)
    error = np.abs(np.bincount(bins, p - y)) / len(p)
    if not debias:
        return float(error.sum())
    size = np.maximum(np.bincount(bins), 1)
    rate = np.bincount(bins, y) / size
    noise = np.sqrt(size * rate * (1 - rate)) / len(p)
    return float(max((2 * error - _folded_normal_mean(error, noise)).sum(), 0.0))


def zero_truth_ece(prob: ArrayLike, n_bins: int = N_BINS, strategy: Strategy = "uniform") -> float:
    """The ECE to expect of these probabilities, shape (N,), if they were perfectly calibrated.

    The mean over labels drawn from the probabilities themselves: what a measured ECE must exceed
    to mean anything. Exact, as the mean absolute deviation of each bin's Poisson-binomial count,
    for bins of up to 256 examples; larger bins are taken as normal.
    """
    p = probabilities(prob)
    bins = bin_of(p, n_bins, strategy)
    in_bins = np.split(p[np.argsort(bins, kind="stable")], np.cumsum(np.bincount(bins))[:-1])
    return sum(map(_mean_absolute_deviation, in_bins)) / len(p)


def _mean_absolute_deviation(p: np.ndarray) -> float:
    if len(p) > 256:
        return math.sqrt(2 / math.pi * float((p * (1 - p)).sum()))
    counts = np.ones(1)
    for q in p:
        counts = np.append(counts * (1 - q), 0) + np.append(0, counts * q)
    return float(np.abs(np.arange(len(p) + 1) - p.sum()) @ counts)


def _folded_normal_mean(mean: np.ndarray, sd: np.ndarray) -> np.ndarray:
    ratio = np.divide(mean, sd, out=np.full_like(mean, np.inf), where=sd > 0)
    peak = np.sqrt(2 / np.pi) * sd * np.exp(-(ratio**2) / 2)
    return peak + mean * (2 * ndtr(ratio) - 1)


def read_scores(prob: ArrayLike, labels: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    p, y = probabilities(prob), binary_labels(labels)
    check_same_shape(p, "prob", y)
    return p, y


def cut_like(prob: ArrayLike, threshold: float) -> float:
    return float(in_precision_of(prob, finite([threshold], "threshold"))[0])


def bin_of(p: np.ndarray, n_bins: int, strategy: Strategy) -> np.ndarray:
    if n_bins < 1:
        raise ValueError(f"n_bins must be at least 1, got {n_bins}")
    if strategy not in get_args(Strategy):
        raise ValueError(f"strategy must be one of {get_args(Strategy)}, got {strategy!r}")
    edges = np.linspace(0, 1, n_bins + 1)
    if strategy == "quantile":
        edges = np.unique(np.quantile(p, edges))
    return np.searchsorted(edges[1:-1], p, side="right")
