"""Calibration: logits and labels flow in, temperatures, thresholds, metrics and intervals flow out.

It serves Steps 6 and 7 and the emotion classifier. NumPy, SciPy, pandas and scikit-learn are all it
imports, the last two where they are used, as serving needs neither; tensors are recognised by their
methods. Everything for use from outside is here:
`from lib.calibration import fit_temperature, best_threshold, ...`.

    checked_input           the same validation and messages for all
    temperature             temperature scaling: temperature_problem states the equation,
                            temperature_solver solves it
    thresholds, per_label   the best threshold, and one per label, by best_cut and ranking
    joint_grid              F1 over a grid of temperatures and thresholds; score_bins counts for it
    cross_fitting           both judged on examples that they were not fitted on
    metrics                 scores of probabilities and decisions; calibration_error for the former
    intervals               bootstrap intervals, of the named resampled_statistics or any function;
                            auroc has them in closed form for large samples, resampled_decisions
                            those of temperature and threshold
"""

from lib.calibration.auroc import Interval, auroc_difference, auroc_interval
from lib.calibration.average_precision import average_precision_interval
from lib.calibration.calibration_error import (
    brier_decomposition,
    expected_calibration_error,
    zero_truth_ece,
)
from lib.calibration.cross_fitting import CrossFit, cross_fit
from lib.calibration.intervals import bootstrap_ci, bootstrap_difference
from lib.calibration.joint_grid import joint_search
from lib.calibration.metrics import (
    classification_metrics,
    constant_baselines,
    decision_metrics,
)
from lib.calibration.per_label import per_label_thresholds
from lib.calibration.resampled_decisions import decision_intervals
from lib.calibration.temperature import (
    TemperatureFit,
    calibrated_loss,
    fit_temperature,
    prob_hate,
)
from lib.calibration.thresholds import BestThreshold, best_threshold, sweep_thresholds

__all__ = [
    "BestThreshold",
    "CrossFit",
    "Interval",
    "TemperatureFit",
    "auroc_difference",
    "auroc_interval",
    "average_precision_interval",
    "best_threshold",
    "bootstrap_ci",
    "bootstrap_difference",
    "brier_decomposition",
    "calibrated_loss",
    "classification_metrics",
    "constant_baselines",
    "cross_fit",
    "decision_intervals",
    "decision_metrics",
    "expected_calibration_error",
    "fit_temperature",
    "joint_search",
    "per_label_thresholds",
    "prob_hate",
    "sweep_thresholds",
    "zero_truth_ece",
]
