"""Temperature and threshold judged on examples that they were not fitted on."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

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
    logits: ArrayLike,
    labels: ArrayLike,
    n_folds: int = 5,
    seed: int = 0,
    shrinkage: float = 0.0,
    *,
    groups: ArrayLike | None = None,
    objective: Mapping[str, Any] | None = None,
) -> CrossFit:
    """Judge every example by a temperature and a threshold fitted on the other folds.

    A threshold scores better on the examples that it was chosen on than on new ones. The decisions
    returned here are free of that bias.

    Parameters
    ----------
    logits
        Shape (N, 2), hate second, or binary margins, shape (N,).
    labels
        0 or 1, shape (N,).
    n_folds
        At least 2; fewer are made if a class has fewer examples or groups, or if the groups would
        leave one class only to fit on. Folds are stratified.
    seed
        Of the shuffle that makes the folds.
    shrinkage
        As in `fit_temperature`.
    groups
        The group of each example, (N,) names or numbers, whose members stay in one fold; None:
        every example is one of its own.
    objective
        What the threshold maximises, as keywords of `best_threshold`; None: F1.

    Returns
    -------
    Out-of-fold probabilities, decisions and fold numbers, and each fold's T and threshold.

    Raises
    ------
    ValueError
        As `fit_temperature` and `best_threshold` do, for fewer than two folds, if a class has
        fewer than two examples or occurs in fewer than two groups, and if the groups do not leave
        both classes to fit on in two folds either.

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
    parts = stratified_folds(y, n_folds, seed, groups)
    prob, decision, fold = np.empty(len(y)), np.empty(len(y), bool), np.empty(len(y), int)
    temperatures, thresholds = np.empty(len(parts)), np.empty(len(parts))
    for k, (rest, held) in enumerate(parts):
        t = float(fit_temperature(z[rest], y[rest], shrinkage=shrinkage).temperature)
        threshold = best_threshold(prob_hate(z[rest], t), y[rest], **(objective or {})).threshold
        prob[held] = prob_hate(z[held], t)
        decision[held], fold[held] = prob[held] >= threshold, k
        temperatures[k], thresholds[k] = t, threshold
    return CrossFit(prob, decision, fold, temperatures, thresholds)


def stratified_folds(
    y: np.ndarray, n_folds: int, seed: int, groups: ArrayLike | None = None
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Indices (rest, held) of each fold: stratified, whole groups, at most `n_folds`.

    Fewer are made where the rest of one would lack a class. Raises ValueError for fewer than two
    folds and for labels `y` (N,) or `groups` (N,) that do not fill two.
    """
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

    if n_folds < 2:
        raise ValueError(f"n_folds must be at least 2, got {n_folds}")
    names = np.arange(len(y)) if groups is None else np.asarray(groups)
    check_same_shape(names, "groups", y)
    folds = min(n_folds, *(len(np.unique(names[y == label])) for label in (0, 1)))
    if folds < 2:
        unit = "examples" if groups is None else "groups"
        raise ValueError(f"cross-fitting needs at least two {unit} of each class")
    if groups is None:
        return list(StratifiedKFold(folds, shuffle=True, random_state=seed).split(y, y))
    for fewer in range(folds, 1, -1):
        splitter = StratifiedGroupKFold(fewer, shuffle=True, random_state=seed)
        parts = list(splitter.split(y, y, names))
        # Groups are dealt one by one, and all of a class may come to lie in one fold.
        if all(len(held) and len(np.unique(y[rest])) == 2 for rest, held in parts):
            return parts
    raise ValueError("the groups do not leave both classes to fit on")
