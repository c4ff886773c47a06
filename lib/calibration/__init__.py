"""The numeric core: logits and labels flow in, temperatures, cuts, metrics and intervals flow out.

It serves Steps 6 and 7 and the emotion classifier. NumPy, SciPy, pandas and scikit-learn are all it
imports; tensors are taken by duck typing. Everything to be used from outside is here:
`from lib.calibration import fit_temperature, best_threshold, ...`.
"""

from lib.calibration.cross_fitting import CrossFit, cross_fit
from lib.calibration.intervals import Interval, bootstrap_ci, bootstrap_difference
from lib.calibration.joint_grid import joint_search
from lib.calibration.metrics import (
    brier_decomposition,
    classification_metrics,
    constant_baselines,
    decision_metrics,
    expected_calibration_error,
    zero_truth_ece,
)
from lib.calibration.temperature import TemperatureFit, fit_temperature, prob_hate
from lib.calibration.thresholds import (
    BestThreshold,
    best_threshold,
    per_label_thresholds,
    sweep_thresholds,
)

__all__ = [
    "BestThreshold",
    "CrossFit",
    "Interval",
    "TemperatureFit",
    "best_threshold",
    "bootstrap_ci",
    "bootstrap_difference",
    "brier_decomposition",
    "classification_metrics",
    "constant_baselines",
    "cross_fit",
    "decision_metrics",
    "expected_calibration_error",
    "fit_temperature",
    "joint_search",
    "per_label_thresholds",
    "prob_hate",
    "sweep_thresholds",
    "zero_truth_ece",
]
