"""Temperature and threshold judged on examples that they were not fitted on."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from sklearn.model_selection import StratifiedKFold

from lib.calibration.checked_input import binary_labels, check_same_shape, finite
from lib.calibration.temperature import fit_temperature, prob_hate
from lib.calibration.thresholds import best_threshold


@dataclass(frozen=True)
class CrossFit:
    """Out-of-fold results: every example was judged by a T and a cut fitted without it.

    `prob`, `decision` and `fold` have shape (N,), `temperatures` and `thresholds` (folds,).
    """

    prob: np.ndarray
    decision: np.ndarray
    fold: np.ndarray
    temperatures: np.ndarray
    thresholds: np.ndarray


def cross_fit(
    logits: ArrayLike, labels: ArrayLike, n_folds: int = 5, seed: int = 0, shrinkage: float = 0.0
) -> CrossFit:
    """Judge every example by a temperature and an F1 cut fitted on the other folds.

    `logits` is (N, 2), hate second, or margins (N,); `labels` are 0/1, (N,). Folds are stratified;
    fewer are made if a class has fewer than `n_folds` examples.
    Raises ValueError as `fit_temperature` does, for fewer than two folds, and if a class has fewer
    than two examples.
    """
    z, y = finite(logits, "logits"), binary_labels(labels)
    check_same_shape(z[:, 0] if z.ndim == 2 else z, "logits", y)
    if n_folds < 2:
        raise ValueError(f"n_folds must be at least 2, got {n_folds}")
    folds = min(n_folds, np.count_nonzero(y), np.count_nonzero(~y))
    if folds < 2:
        raise ValueError("cross-fitting needs at least two examples of each class")
    prob, decision, fold = np.empty(len(y)), np.empty(len(y), bool), np.empty(len(y), int)
    temperatures, thresholds = np.empty(folds), np.empty(folds)
    splitter = StratifiedKFold(folds, shuffle=True, random_state=seed)
    for k, (rest, held) in enumerate(splitter.split(z, y)):
        t = fit_temperature(z[rest], y[rest], shrinkage=shrinkage).temperature
        cut = best_threshold(prob_hate(z[rest], t), y[rest]).threshold
        prob[held] = prob_hate(z[held], t)
        decision[held], fold[held] = prob[held] >= cut, k
        temperatures[k], thresholds[k] = t, cut
    return CrossFit(prob, decision, fold, temperatures, thresholds)
