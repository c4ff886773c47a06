"""F1 of multi-label decisions: cuts that do not follow noise, and the best constant answer."""

import numpy as np
from scipy.special import expit


def smoothed_thresholds(
    logits: np.ndarray, labels: np.ndarray, strength: float = 20.0, width: float = 0.5
) -> np.ndarray:
    """Return one cut per label, shape (L,), for calibrated logits and multi-hot labels, (N, L).

    The exact F1 optimum follows the noise of a label with few positives. Here its F1 curve is
    smoothed twice before the best cut is taken: a text counts as told by the degree
    sigmoid((logit - cut) / width), and the truth of a label with n positives is n / (n + strength)
    observed and the rest what the calibrated probabilities expect.
    """
    reach, cuts = 12, np.linspace(-7, 3, 201)
    told_at = np.linspace(-reach, reach, 961)
    weight = labels.sum(axis=0) / (labels.sum(axis=0) + strength)
    truth = weight * labels + (1 - weight) * expit(logits)
    nearest = np.rint((logits.clip(-reach, reach) + reach) * 40).astype(int)
    shape = (labels.shape[1], len(told_at))
    cell = np.ravel_multi_index((np.arange(shape[0])[None, :], nearest), shape).ravel()
    texts, truths = (
        np.bincount(cell, weights, minlength=np.prod(shape)).reshape(shape)
        for weights in (None, truth.ravel())
    )
    degree = expit((told_at[:, None] - cuts) / width)
    f1 = 2 * truths @ degree / (texts @ degree + truth.sum(axis=0)[:, None])
    return expit(cuts[f1.argmax(axis=1)])


def multilabel_f1(decided: np.ndarray, labels: np.ndarray, average: str) -> float:
    """F1 of decisions (N, L) against multi-hot labels (N, L), both 0/1.

    "macro" is the mean over the labels, a label that is neither told nor present counting 0;
    "micro" pools them.
    """
    told, there = decided.astype(bool), labels.astype(bool)
    axis = 0 if average == "macro" else None
    hits = (told & there).sum(axis=axis)
    sizes = told.sum(axis=axis) + there.sum(axis=axis)
    return float(np.mean(2 * hits / np.maximum(sizes, 1)))


def best_constant_f1(labels: np.ndarray, average: str) -> float:
    """The highest F1 that telling every text the same emotions reaches on labels (N, L).

    A label told always has F1 2p / (1 + p), p its frequency: macro-F1 tells all. For micro-F1
    the best set of k labels is the k most frequent.
    """
    frequency = np.sort(labels.mean(axis=0))[::-1]
    if average == "macro":
        return float(np.mean(2 * frequency / (1 + frequency)))
    told = np.arange(1, len(frequency) + 1)
    return float(np.max(2 * np.cumsum(frequency) / (told + frequency.sum())))
