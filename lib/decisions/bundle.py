"""The decision artifacts: temperature, threshold and provenance, fitted, saved, verified."""

import importlib.metadata
import math
import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd

from lib.artifacts import as_written, fingerprint, read_json, write_json
from lib.calibration import best_threshold, bootstrap_ci, fit_temperature, prob_hate
from lib.config import MODELS, Settings
from lib.modeling.prediction_table import logits_of

LABEL = "abuse_hate"
DECIDE = "python -m lib.run --from 7"
PACKAGES = ("numpy", "scipy", "timm", "torch", "transformers")


@dataclass(frozen=True)
class DecisionBundle:
    """All that turns logits into decisions, and where it came from.

    `temperatures` and `thresholds` hold one number a model; `fits` the status and likelihoods
    of each temperature, `intervals` the 95% bootstrap intervals of both numbers. `review_band` is
    fusion's interval of the threshold, clipped to [0, 1]: inside it another sample of the same
    size might have decided otherwise, so a person should look.
    """

    mode: str
    fit_split: str
    n: int
    temperatures: dict[str, float]
    thresholds: dict[str, float]
    fits: dict[str, dict[str, Any]]
    intervals: dict[str, dict[str, list[float | None]]]
    review_band: tuple[float, float]
    fingerprints: dict[str, str]

    @classmethod
    def fit(cls, frame: pd.DataFrame, settings: Settings, n_resamples: int = 1000) -> Self:
        """Fit temperature, then the F1-optimal threshold, per model on the rows of `frame`.

        Raises ValueError if a row is not of the split this mode may fit on (pilot: train,
        full: val), and what `fit_temperature` and `best_threshold` raise.
        """
        split = settings.fit_split
        others = sorted(set(frame["split"]) - {split})
        if others:
            raise ValueError(
                f"temperature and threshold are fitted on split '{split}' alone, got rows of "
                f"{', '.join(others)}"
            )
        fits = {m: fit_temperature(logits_of(frame, m), frame["label"]) for m in MODELS}
        # Rounded as they are written: what is judged here is what is loaded there.
        temperatures = {m: as_written(float(fits[m].temperature)) for m in MODELS}
        probs = {m: prob_hate(logits_of(frame, m), temperatures[m]) for m in MODELS}
        best = {m: best_threshold(probs[m], frame["label"]) for m in MODELS}
        intervals = {
            m: _intervals(logits_of(frame, m), frame["label"], n_resamples, settings.seed)
            for m in MODELS
        }
        low, high = intervals["mm_fusion"]["threshold"]
        return cls(
            mode=settings.mode,
            fit_split=split,
            n=len(frame),
            temperatures=temperatures,
            thresholds={m: as_written(float(best[m].threshold)) for m in MODELS},
            fits={m: asdict(fits[m]) for m in MODELS},
            intervals=intervals,
            review_band=(max(0.0, low or 0.0), 1.0 if high is None else min(1.0, high)),
            fingerprints=model_fingerprints(settings.models)
            | {"predictions": fingerprint(settings.artifact(6, "predictions.parquet"))},
        )

    def save(self, settings: Settings) -> None:
        """Write calibration_<m>.json, thresholds_<m>.json and decision_<m>.json of Step 7."""
        write_json(settings.artifact(7, "calibration.json"), self.temperatures)
        shaped = {model: {LABEL: cut} for model, cut in self.thresholds.items()}
        write_json(settings.artifact(7, "thresholds.json"), shaped)
        versions = {name: importlib.metadata.version(name) for name in PACKAGES}
        write_json(settings.artifact(7, "decision.json"), asdict(self) | {"versions": versions})

    @classmethod
    def load(cls, settings: Settings) -> Self:
        """Read the three files back; temperatures and thresholds count as they stand there.

        Raises FileNotFoundError naming the step, and ValueError naming file and field for a
        missing entry, a temperature that is not positive or a threshold outside [0, 1].
        """
        decision = _read(settings.artifact(7, "decision.json"), [f.name for f in fields(cls)])
        calibration = settings.artifact(7, "calibration.json")
        thresholds = settings.artifact(7, "thresholds.json")
        cuts = {
            model: _number(_cut_of(entry), f"{thresholds}: {model}.{LABEL}", most=1.0)
            for model, entry in _read(thresholds, MODELS).items()
        }
        temperatures = {
            model: _number(value, f"{calibration}: {model}", least=sys.float_info.min)
            for model, value in _read(calibration, MODELS).items()
        }
        band = tuple(decision["review_band"])
        return cls(
            **decision | {"temperatures": temperatures, "thresholds": cuts, "review_band": band}
        )

    def verify(self, models: str | Path) -> None:
        """Raise ValueError unless these are the models the decisions were fitted on."""
        for model, found in model_fingerprints(models).items():
            if self.fingerprints[model] != found:
                raise ValueError(
                    f"{Path(models) / model} is not the model that the {self.mode} thresholds were "
                    f"fitted on; fit them again: python -m lib.run --mode {self.mode} --from 6"
                )

    def summary(self) -> pd.DataFrame:
        """One row a model: temperature, its status and interval, threshold and its interval."""
        rows = {
            model: {
                "temperature": self.temperatures[model],
                "status": self.fits[model]["status"],
                "T interval": _spelt(self.intervals[model]["temperature"]),
                "threshold": self.thresholds[model],
                "threshold interval": _spelt(self.intervals[model]["threshold"]),
            }
            for model in MODELS
        }
        return pd.DataFrame(rows).T


def model_fingerprints(models: str | Path) -> dict[str, str]:
    """The fingerprint of each model's folder."""
    return {model: fingerprint(Path(models) / model) for model in MODELS}


def _intervals(
    logits: pd.DataFrame, labels: pd.Series, n_resamples: int, seed: int
) -> dict[str, list[float | None]]:
    """Bootstrap intervals of T and threshold, both chosen anew in each resample.

    A side without a finite value (a resample that T cannot be fitted on) is None.
    """
    margins = (logits.iloc[:, 1] - logits.iloc[:, 0]).to_numpy()
    statistics = {"temperature": _temperature_limit, "threshold": _threshold_at_own_temperature}
    found = {
        name: bootstrap_ci(margins, labels, statistic, n_resamples=n_resamples, seed=seed)
        for name, statistic in statistics.items()
    }
    return {
        name: [
            float(side) if math.isfinite(side) else None for side in (interval.low, interval.high)
        ]
        for name, interval in found.items()
    }


def _temperature_limit(margins: np.ndarray, labels: np.ndarray) -> float:
    return float(fit_temperature(margins, labels).limit)


def _threshold_at_own_temperature(margins: np.ndarray, labels: np.ndarray) -> float:
    temperature = float(fit_temperature(margins, labels).temperature)
    return best_threshold(prob_hate(margins, temperature), labels).threshold


def _read(file: Path, names: Iterable[str]) -> dict[str, Any]:
    """The named fields of a JSON artifact, in their order."""
    content = read_json(file, DECIDE)
    for name in names:
        if not isinstance(content, dict) or name not in content:
            raise ValueError(f"{file}: field '{name}' is missing; write it again: {DECIDE}")
    return {name: content[name] for name in names}


def _cut_of(entry: Any) -> Any:
    return entry.get(LABEL) if isinstance(entry, dict) else None


def _number(value: Any, where: str, least: float = 0.0, most: float = math.inf) -> float:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or not least <= value <= most:
        limits = f"from {least:g} to {most:g}" if most < math.inf else f"of at least {least:g}"
        raise ValueError(f"{where} is {value!r}, expected a number {limits}")
    return float(value)


def _spelt(interval: list[float | None]) -> str:
    low, high = ("unbounded" if side is None else f"{side:.2f}" for side in interval)
    return f"{low} to {high}"
