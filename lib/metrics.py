"""What a probability of hate is worth: discrimination, calibration, and how sure we can be."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from sklearn import metrics as sk

from lib.arrays import binary_labels, check_same_shape, finite, probabilities

Strategy = Literal["uniform", "quantile"]


@dataclass(frozen=True)
class Interval:
    """A statistic on the full sample, and its bootstrap percentile interval."""

    point: float
    low: float
    high: float


def classification_metrics(
    prob: ArrayLike, labels: ArrayLike, threshold: float = 0.5
) -> dict[str, float]:
    """Every reported metric of p(hate), shape (N,), against 0/1 labels, shape (N,)."""
    p, y = _read(prob, labels)
    hate = p >= threshold
    both = 0 < np.count_nonzero(y) < len(y)
    if not both:
        warnings.warn(
            "labels holds one class: macro_f1, auroc, average_precision are NaN", stacklevel=2
        )
    return {
        "n": len(p),
        "accuracy": float(sk.accuracy_score(y, hate)),
        "macro_f1": float(sk.f1_score(y, hate, average="macro", zero_division=0))
        if both
        else np.nan,
        "precision": float(sk.precision_score(y, hate, zero_division=0)),
        "recall": float(sk.recall_score(y, hate, zero_division=0)),
        "f1": float(sk.f1_score(y, hate, zero_division=0)),
        "auroc": float(sk.roc_auc_score(y, p)) if both else np.nan,
        "average_precision": float(sk.average_precision_score(y, p)) if both else np.nan,
        "brier": float(np.mean((p - y) ** 2)),
        "nll": float(sk.log_loss(y, p, labels=[False, True])),
        "ece": expected_calibration_error(p, y),
    }


def constant_baselines(labels: ArrayLike, threshold: float = 0.5) -> dict[str, dict[str, float]]:
    """The metrics of three constant scores: always_negative, always_positive, prior."""
    y = binary_labels(labels)
    constants = {"always_negative": 0.0, "always_positive": 1.0, "prior": float(y.mean())}
    return {
        name: classification_metrics(np.full(len(y), value), y, threshold)
        for name, value in constants.items()
    }


def expected_calibration_error(
    prob: ArrayLike, labels: ArrayLike, n_bins: int = 15, strategy: Strategy = "uniform"
) -> float:
    """The binary expected calibration error of p(hate): sum over bins of |mean p - mean y| n_b / n.

    `prob` (N,) is p(hate), and the labels (N,) are 0/1: this is not the top-label ECE of
    confidences. Bins are [edge, next edge), the last one closed.
    """
    p, y = _read(prob, labels)
    bins = _bin(p, n_bins, strategy)
    return float(np.abs(np.bincount(bins, p - y)).sum() / len(p))


def bootstrap_ci(
    prob: ArrayLike,
    labels: ArrayLike,
    statistic: str | Callable[[np.ndarray, np.ndarray], float],
    n_resamples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> Interval:
    """Percentile interval of a statistic over resampled examples.

    `statistic` is a key of `classification_metrics` or a function of resampled (prob, labels).
    """
    p, y = finite(prob, "prob"), binary_labels(labels)
    if isinstance(statistic, str):
        name = statistic

        def statistic(p: np.ndarray, y: np.ndarray) -> float:
            return classification_metrics(p, y)[name]

    rng = np.random.default_rng(seed)
    draws = (rng.integers(0, len(y), len(y)) for _ in range(n_resamples))
    values = [statistic(p[i], y[i]) for i in draws]
    low, high = np.nanquantile(values, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(statistic(p, y)), float(low), float(high))


def _read(prob: ArrayLike, labels: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    p, y = probabilities(prob), binary_labels(labels)
    check_same_shape(p, "prob", y)
    return p, y


def _bin(p: np.ndarray, n_bins: int, strategy: Strategy) -> np.ndarray:
    edges = np.linspace(0, 1, n_bins + 1)
    if strategy == "quantile":
        edges = np.unique(np.quantile(p, edges))
    return np.searchsorted(edges[1:-1], p, side="right")
