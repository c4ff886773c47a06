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
    """Out-of-fold results: every example was judged by a T and a threshold fitted without it.

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
    """Judge every example by a temperature and an F1 threshold fitted on the other folds.

    A threshold scores better on the examples that it was chosen on than on new ones. The decisions
    returned here are free of that bias.

    Parameters
    ----------
    logits
        Shape (N, 2), hate second, or binary margins, shape (N,).
    labels
        0 or 1, shape (N,).
    n_folds
        At least 2; fewer are made if a class has fewer examples. Folds are stratified.
    seed
        Of the shuffle that makes the folds.
    shrinkage
        As in `fit_temperature`.

    Returns
    -------
    Out-of-fold probabilities, decisions and fold numbers, and each fold's T and threshold.

    Raises
    ------
    ValueError
        As `fit_temperature` does, for fewer than two folds, and if a class has fewer than two
        examples.

    Examples
    --------
    >>> margins = [4.0, 2.0, -1.0, 3.0, -2.0, 1.0, -4.0, -3.0]
    >>> result = cross_fit(margins, [1, 1, 1, 1, 0, 0, 0, 0], n_folds=4)
    >>> result.thresholds.shape, sorted(result.fold.tolist())
    ((4,), [0, 0, 1, 1, 2, 2, 3, 3])
    >>> held = result.fold == 0
    >>> decided = result.prob[held] >= result.thresholds[0]
    >>> (result.decision[held] == decided).all()
    np.True_
    """
    z, y = finite(logits, "logits"), binary_labels(labels)
    check_same_shape(z[:, 0] if z.ndim == 2 else z, "logits", y)
    if n_folds < 2:
        raise ValueError(f"n_folds must be at least 2, got {n_folds}")
    folds = min(n_folds, int(np.count_nonzero(y)), int(np.count_nonzero(~y)))
    if folds < 2:
        raise ValueError("cross-fitting needs at least two examples of each class")
    prob, decision, fold = np.empty(len(y)), np.empty(len(y), bool), np.empty(len(y), int)
    temperatures, thresholds = np.empty(folds), np.empty(folds)
    splitter = StratifiedKFold(folds, shuffle=True, random_state=seed)
    for k, (rest, held) in enumerate(splitter.split(z, y)):
        t = float(fit_temperature(z[rest], y[rest], shrinkage=shrinkage).temperature)
        threshold = best_threshold(prob_hate(z[rest], t), y[rest]).threshold
        prob[held] = prob_hate(z[held], t)
        decision[held], fold[held] = prob[held] >= threshold, k
        temperatures[k], thresholds[k] = t, threshold
    return CrossFit(prob, decision, fold, temperatures, thresholds)
