"""Temperature scaling beside its rivals: which would have calibrated better, and by how much."""

import math
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import brier_score_loss, log_loss

from lib.calibration import (
    bootstrap_difference,
    expected_calibration_error,
    fit_temperature,
    prob_hate,
)
from lib.calibration.cross_fitting import stratified_folds
from lib.config import MODELS, Settings
from lib.modeling.prediction_table import groups_of, logits_of, resampled

N_FOLDS = 5
COLUMNS = (
    *("model", "metric", "calibrator", "value"),
    *("minus_temperature", "low", "high", "verdict", "resampled"),
)

# From margins (n,) and labels (n,) to fit on, and margins (m,) to judge, to p(hate) (m,).
Calibrator = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]


def _temperature(margins: np.ndarray, labels: np.ndarray, held: np.ndarray) -> np.ndarray:
    return prob_hate(held, float(fit_temperature(margins, labels).temperature))


def _platt(margins: np.ndarray, labels: np.ndarray, held: np.ndarray) -> np.ndarray:
    return _logistic(margins[:, None], labels, held[:, None])


def _isotonic(margins: np.ndarray, labels: np.ndarray, held: np.ndarray) -> np.ndarray:
    curve = IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip")
    return curve.fit(margins, labels).predict(held)


def _beta(margins: np.ndarray, labels: np.ndarray, held: np.ndarray) -> np.ndarray:
    return _logistic(_log_odds_parts(margins), labels, _log_odds_parts(held))


def _logistic(x: np.ndarray, labels: np.ndarray, held: np.ndarray) -> np.ndarray:
    """Logistic regression without a penalty; inputs are scaled, for its solver's sake alone.

    Where it parts the classes without error no finite fit exists, and it would end wherever its
    solver stops: there it is fitted to the smoothed labels of Platt 1999, (n + 1) / (n + 2) for the
    n of hate and 1 / (n + 2) for the n others.
    """
    scale = np.maximum(np.abs(x).max(axis=0), np.finfo(float).tiny)
    # The usual tolerance ends it far from the optimum where beta's two inputs are nearly one.
    model = LogisticRegression(C=np.inf, tol=1e-12, max_iter=10_000)
    if _parted(x, labels):
        smooth = np.where(labels == 1, labels.sum() + 1, 1) / (np.bincount(labels)[labels] + 2)
        twice, both = np.concatenate([x, x]) / scale, np.repeat([1, 0], len(x))
        model.fit(twice, both, sample_weight=np.concatenate([smooth, 1 - smooth]))
    else:
        model.fit(x / scale, labels)
    return model.predict_proba(held / scale)[:, 1]


def _parted(x: np.ndarray, labels: np.ndarray) -> bool:
    """Whether a logistic curve in the k inputs x (n, k), whose sum is the margin, has no bound.

    Platt's cuts the margins once, and beta's at two places at most, as ln p and -ln(1 - p) lie on a
    bent line. A cut may lie on equal margins of both labels, if others remain to be parted.
    """
    margins, place = np.unique(x.sum(axis=1), return_inverse=True)
    has = [np.bincount(place[labels == label], minlength=len(margins)) > 0 for label in (0, 1)]
    if (has[0] & has[1]).all():
        return False
    # The fewest cuts so far, by the label on whose side the last margin leaves off.
    fewest = (0.0, 0.0)
    for only_0, only_1 in zip(~has[1], ~has[0], strict=True):
        stay = (min(fewest[0], fewest[1] + 1), min(fewest[1], fewest[0] + 1))
        if only_0 or only_1:
            fewest = (stay[0] if only_0 else math.inf, stay[1] if only_1 else math.inf)
        else:
            fewest = (stay[1] + 1, stay[0] + 1)
        if min(fewest) > x.shape[1]:
            return False
    return True


def _log_odds_parts(margins: np.ndarray) -> np.ndarray:
    """ln p and -ln(1 - p), shape (n, 2), of p = sigmoid(margin)."""
    return np.stack([-np.logaddexp(0, -margins), np.logaddexp(0, margins)], axis=1)


# Platt 1999, his smoothed labels only where needed; Zadrozny and Elkan 2002; Kull, Silva Filho and
# Flach 2017 with both slopes free.
CALIBRATORS: dict[str, Calibrator] = {
    "temperature": _temperature,
    "uncalibrated": lambda margins, labels, held: prob_hate(held),
    "Platt": _platt,
    "isotonic": _isotonic,
    "beta": _beta,
}

METRICS: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "nll": lambda p, y: log_loss(y, p, labels=[0, 1]),
    "brier": lambda p, y: brier_score_loss(y, p),
    "ece": lambda p, y: expected_calibration_error(p, y),
}


def cross_fitted_probabilities(
    margins: np.ndarray,
    labels: np.ndarray,
    groups: np.ndarray | None,
    seed: int,
    n_folds: int = N_FOLDS,
) -> dict[str, np.ndarray]:
    """p(hate) (N,) of each calibrator, each meme judged by one that was fitted without its fold.

    Folds are stratified, and of whole groups where `groups` (N,) is given.
    Raises ValueError if a class has fewer than two examples.
    """
    found = {name: np.empty(len(margins)) for name in CALIBRATORS}
    for rest, held in stratified_folds(labels, n_folds, seed, groups):
        for name, calibrator in CALIBRATORS.items():
            found[name][held] = calibrator(margins[rest], labels[rest], margins[held])
    return found


def rivals(frame: pd.DataFrame, settings: Settings, n_resamples: int = 1000) -> pd.DataFrame:
    """Log-loss, Brier and ECE of every calibrator, a row a model, metric and calibrator.

    All are cross-fitted on `frame`. `minus_temperature` is the difference to temperature scaling,
    below 0 where the rival is better, with the 95% interval of the paired difference over what
    `resampled` says; `verdict` is "better" or "worse" where that lies on one side of 0. Log-losses
    are clipped as scikit-learn does, or one wrong certainty of isotonic would make them infinite.
    Where a class has too few memes to be cross-fitted the table has no rows, and a warning says so.
    """
    labels, rows = frame["label"].to_numpy(), []
    options: dict[str, Any] = {
        "n_resamples": n_resamples,
        "seed": settings.seed,
        "groups": groups_of(frame),
    }
    try:
        stratified_folds(labels, N_FOLDS, settings.seed, options["groups"])
    except ValueError as error:
        warnings.warn(f"calibrators are not compared: {error}", stacklevel=2)
        return pd.DataFrame(columns=list(COLUMNS))
    for model in MODELS:
        logits = logits_of(frame, model).to_numpy()
        margins = logits[:, 1] - logits[:, 0]
        prob = cross_fitted_probabilities(margins, labels, options["groups"], settings.seed)
        for metric, score in METRICS.items():
            for name, p in prob.items():
                row: dict[str, Any] = {"model": model, "metric": metric, "calibrator": name}
                row |= {"value": score(p, labels)}
                gap = bootstrap_difference(p, prob["temperature"], labels, metric, **options)
                row |= {"minus_temperature": gap.point, "low": gap.low, "high": gap.high}
                rows.append(row | {"verdict": _verdict(name, metric, gap.low, gap.high)})
    return pd.DataFrame(rows).assign(resampled=resampled(frame))[list(COLUMNS)]


def _verdict(name: str, metric: str, low: Any, high: Any) -> str:
    # The binned ECE reads too high by an amount that grows with the spread of the scores: timid
    # ones would win by it, whatever they are worth.
    if name == "temperature" or metric == "ece":
        return ""
    return "better" if high < 0 else "worse" if low > 0 else "not told apart"
