"""What p(hate) and the decisions made from it are worth, and the constant scores to beat."""

import math
import warnings

import numpy as np
from numpy.typing import ArrayLike

from lib.calibration.calibration_error import (
    brier_decomposition,
    expected_calibration_error,
    zero_truth_ece,
)
from lib.calibration.checked_input import (
    binary_labels,
    check_same_shape,
    finite,
    in_precision_of,
    scores_and_labels,
)


def classification_metrics(
    prob: ArrayLike, labels: ArrayLike, threshold: float = 0.5
) -> dict[str, float]:
    """Compute every reported metric of p(hate).

    Parameters
    ----------
    prob
        p(hate), shape (N,).
    labels
        0 or 1, shape (N,). With one class only, what needs two is NaN, and one warning names it.
    threshold
        `prob >= threshold` counts as hate, compared in the precision of `prob`.

    Returns
    -------
    n; accuracy, macro_f1, precision, recall and f1 of the decisions (see `decision_metrics`);
    auroc; average_precision; nll, in nats, clipped as scikit-learn's `log_loss` does; brier and its
    parts brier_reliability, brier_resolution and brier_uncertainty (see `brier_decomposition`); and
    ece, ece_quantile, ece_debiased and ece_zero_truth (see `expected_calibration_error` and
    `zero_truth_ece`), all in 15 bins.

    Raises
    ------
    ValueError
        For input that is empty, of different shapes, not finite, outside [0, 1] or not 0/1, and for
        a threshold that is not finite.

    Examples
    --------
    >>> values = classification_metrics([0.2, 0.4, 0.6, 0.9], [0, 1, 0, 1])
    >>> values["n"], values["accuracy"], values["auroc"], round(values["brier"], 4)
    (4, 0.5, 0.75, 0.1925)
    """
    from sklearn import metrics as sk

    p, y = scores_and_labels(prob, labels)
    hate = p >= threshold_like(prob, threshold)
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
    """Compute what decisions are worth, whatever the probabilities behind them.

    Parameters
    ----------
    decision
        0 or 1, shape (N,).
    labels
        0 or 1, shape (N,). One class only is no error here: the F1 of a class that neither occurs
        nor is predicted counts 0 in the macro-F1.

    Returns
    -------
    accuracy; macro_f1, the mean of both classes' F1; precision, recall and f1 of class 1. A ratio
    without denominator is 0.

    Raises
    ------
    ValueError
        For input that is empty, of different shapes or not 0/1.

    Examples
    --------
    Of three positive decisions two are right, and no positive is missed. Class 1 has the F1
    2 * 2 / (3 + 2) = 4/5 and class 0, with one decision for two examples, 2 * 1 / (1 + 2) = 2/3:

    >>> for name, value in decision_metrics([1, 1, 1, 0], [1, 1, 0, 0]).items():
    ...     print(f"{name} {value:.4f}")
    accuracy 0.7500
    macro_f1 0.7333
    precision 0.6667
    recall 1.0000
    f1 0.8000
    """
    from sklearn import metrics as sk

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
    """Compute the metrics of three scores that do not look at the meme.

    Parameters
    ----------
    labels
        0 or 1, shape (N,).
    threshold
        As in `classification_metrics`.

    Returns
    -------
    The metrics of always_negative (a score of 0), always_positive (1) and prior (the labels' mean).

    Raises
    ------
    ValueError
        For labels that are empty or not 0/1, and for a threshold that is not finite.

    Examples
    --------
    >>> rows = constant_baselines([1, 0, 0, 0])
    >>> {name: row["accuracy"] for name, row in rows.items()}
    {'always_negative': 0.75, 'always_positive': 0.25, 'prior': 0.75}
    """
    y = binary_labels(labels)
    constants = {"always_negative": 0.0, "always_positive": 1.0, "prior": float(y.mean())}
    return {
        name: classification_metrics(np.full(y.shape, value), y, threshold)
        for name, value in constants.items()
    }


def threshold_like(prob: ArrayLike, threshold: float) -> float:
    """A finite threshold, in the floating type of `prob`."""
    return float(in_precision_of(prob, finite([threshold], "threshold"))[0])
