"""The decision artifacts: temperature, threshold, policy, origin; fitted, saved, verified."""

import hashlib
import importlib.metadata
import json
import math
import sys
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd

from lib.artifacts import as_written, fingerprint, read_json, write_csv, write_json
from lib.calibration import (
    BestThreshold,
    Interval,
    best_threshold,
    decision_intervals,
    fit_temperature,
    prob_hate,
)
from lib.calibration.ranking import ABOVE_ALL
from lib.commands import again
from lib.config import MODELS, Settings
from lib.data.val_parts import SELECT
from lib.decisions.policy import CHOSEN, Policy, policy_table
from lib.decisions.policy_choice import fit_policy
from lib.modeling.prediction_table import (
    checked_file,
    contamination,
    fit_part,
    groups_of,
    logits_of,
    models_of,
    read_predictions,
    refuse_not_finite,
    refuse_other_models,
    refuse_other_shards,
    resampled,
)

LABEL = "abuse_hate"
PACKAGES = ("numpy", "scipy", "timm", "torch", "transformers")


@dataclass(frozen=True)
class DecisionBundle:
    """All that turns logits into decisions, and where it came from.

    `temperatures` and `thresholds` hold one number a model, `objective` what the latter maximise;
    `fits` the status and likelihoods of each temperature, `intervals` the 95% bootstrap intervals
    of both numbers over resampled "groups" or "memes", as `resampled` says, the threshold's at
    the fixed temperature. `policy` says which memes are allowed, sent to a person or blocked by
    fusion's probability. `fit_part` is the part of the split that was fitted on, empty for all of
    it, and `prevalence` its share of hate.
    """

    mode: str
    fit_split: str
    fit_part: str
    n: int
    prevalence: float
    objective: dict[str, Any]
    temperatures: dict[str, float]
    thresholds: dict[str, float]
    fits: dict[str, dict[str, Any]]
    intervals: dict[str, dict[str, list[float | None]]]
    resampled: str
    policy: Policy
    fingerprints: dict[str, str]

    @property
    def judged_by(self) -> dict[str, str]:
        """All that answers depend on: the models, and one "decision" for what was set by hand.

        That is the fingerprint of temperatures, thresholds and the policy's cuts.
        """
        cuts = [self.temperatures, self.thresholds, self.policy.allow, self.policy.block]
        content = json.dumps(as_written(cuts), sort_keys=True)
        decision = hashlib.sha256(content.encode()).hexdigest()[:16]
        return self.fingerprints | {"decision": decision}

    @classmethod
    def fit(cls, frame: pd.DataFrame, settings: Settings, n_resamples: int = 1000) -> Self:
        """Fit temperature, best threshold, then fusion's policy on the rows of `frame`.

        The policy's cuts are proposed by the other half of val in Step 6's predictions, where that
        has one of the same models. Warns of models that were trained on other shards.
        Raises ValueError if a row is not of the split and part this mode may fit on (pilot:
        train, full: the half of val that selected nothing), if a label has no row, if the logits
        are not finite or not of the models in `models/` and the shards that lie there, and if no
        threshold reaches `threshold_floor`.
        """
        _refuse_other_rows(frame, settings)
        refuse_not_finite(frame, f"the predictions of {_fitted_on(settings)}")
        _refuse_one_class(frame, settings)
        refuse_other_shards(frame, settings, settings.fit_split)
        if said := contamination(frame, settings.mode):
            warnings.warn(said, stacklevel=2)
        made_by = models_of(frame)
        refuse_other_models(
            made_by,
            settings.models,
            f"whose logits {settings.artifact(6, 'predictions.parquet')} holds",
        )
        objective, labels = objective_of(settings), frame["label"]
        fits = {m: fit_temperature(logits_of(frame, m), labels) for m in MODELS}
        # Rounded as they are written: what is judged here is what is loaded there.
        temperatures = {m: as_written(float(fits[m].temperature)) for m in MODELS}
        probs = {m: prob_hate(logits_of(frame, m), temperatures[m]) for m in MODELS}
        best = {m: _best_threshold(m, probs[m], labels, objective) for m in MODELS}
        options = {"n_resamples": n_resamples, "seed": settings.seed, "groups": groups_of(frame)}
        intervals = {
            m: _intervals(logits_of(frame, m), labels, temperatures[m], options | objective)
            for m in MODELS
        }
        thresholds = {m: as_written(float(best[m].threshold)) for m in MODELS}
        own, proposed = (temperatures[CHOSEN], thresholds[CHOSEN]), _select_half(settings, made_by)
        return cls(
            mode=settings.mode,
            fit_split=settings.fit_split,
            fit_part=fit_part(settings) or "",
            n=len(frame),
            prevalence=float(labels.mean()),
            objective=objective,
            temperatures=temperatures,
            thresholds=thresholds,
            fits={m: asdict(fits[m]) for m in MODELS},
            intervals=intervals,
            resampled=resampled(frame),
            policy=fit_policy(frame, proposed, *own, settings),
            fingerprints=made_by
            | {"predictions": fingerprint(settings.artifact(6, "predictions.parquet"))},
        )

    def save(self, settings: Settings) -> None:
        """Write calibration, thresholds and decision_<m>.json and policy_<m>.csv of Step 7."""
        write_json(settings.artifact(7, "calibration.json"), self.temperatures)
        shaped = {model: {LABEL: cut} for model, cut in self.thresholds.items()}
        write_json(settings.artifact(7, "thresholds.json"), shaped)
        versions = {name: importlib.metadata.version(name) for name in PACKAGES}
        write_json(settings.artifact(7, "decision.json"), asdict(self) | {"versions": versions})
        write_csv(settings.artifact(7, "policy.csv"), policy_table(self.policy))

    @classmethod
    def load(cls, settings: Settings) -> Self:
        """Read the three files back; temperatures and thresholds count as they stand there.

        Where fusion's temperature was edited, the policy's cuts are moved with it.
        Raises FileNotFoundError naming the step, and ValueError naming file and field for a
        missing entry, a temperature that is not positive, a threshold or cut outside [0, 1], or a
        model without a fingerprint.
        """
        file = settings.artifact(7, "decision.json")
        decision = _read(file, [f.name for f in fields(cls)])
        _refuse_untold_models(decision["fingerprints"], f"{file}: fingerprints")
        calibration = settings.artifact(7, "calibration.json")
        thresholds = settings.artifact(7, "thresholds.json")
        cuts = {
            model: _threshold(_entry(entry, LABEL), f"{thresholds}: {model}.{LABEL}")
            for model, entry in _read(thresholds, MODELS).items()
        }
        temperatures = {
            model: _number(value, f"{calibration}: {model}", least=sys.float_info.min)
            for model, value in _read(calibration, MODELS).items()
        }
        policy = Policy.read(decision["policy"], f"{file}: policy")
        fitted = _number(_entry(decision["temperatures"], CHOSEN), f"{file}: temperatures.{CHOSEN}")
        policy = policy.seen_through(fitted, temperatures[CHOSEN])
        return cls(
            **decision | {"temperatures": temperatures, "thresholds": cuts, "policy": policy}
        )

    def verify(self, models: str | Path) -> None:
        """Raise ValueError unless these are the models the decisions were fitted on."""
        whose = f"that the {self.mode} thresholds were fitted on"
        refuse_other_models(self.fingerprints, models, whose)

    def summary(self) -> pd.DataFrame:
        """One row a model: temperature, its status and interval, threshold and its interval."""
        rows = {
            model: {
                "temperature": self.temperatures[model],
                "status": self.fits[model]["status"],
                "T interval": _spelt(self.intervals[model]["temperature"]),
                "threshold": self.thresholds[model],
                "threshold interval": _spelt(self.intervals[model]["threshold"]),
                "resampled": self.resampled,
            }
            for model in MODELS
        }
        return pd.DataFrame(rows).T


def objective_of(settings: Settings) -> dict[str, Any]:
    """What `best_threshold` is to maximise, as its arguments."""
    objective: dict[str, Any] = {"objective": settings.threshold_objective}
    if settings.threshold_objective == "cost":
        objective["costs"] = settings.threshold_costs
    elif settings.threshold_objective in ("precision_at_recall", "recall_at_precision"):
        objective["floor"] = settings.threshold_floor
    return objective


def _refuse_other_rows(frame: pd.DataFrame, settings: Settings) -> None:
    split, part = settings.fit_split, fit_part(settings)
    others = sorted(set(frame["split"]) - {split})
    if others:
        raise ValueError(
            f"temperature and threshold are fitted on split '{split}' alone, got rows of "
            f"{', '.join(others)}"
        )
    if part is not None and (frame["part"] != part).any():
        raise ValueError(
            f"temperature and threshold are fitted on the part '{part}' of {split} alone, got rows "
            f"that chose epochs or heads; read them with part='{part}', or evaluate again: "
            f"{again(6)}"
        )


def _fitted_on(settings: Settings) -> str:
    part = fit_part(settings)
    return f"split '{settings.fit_split}'" + (f", half '{part}'" if part else "")


def _refuse_one_class(frame: pd.DataFrame, settings: Settings) -> None:
    for label in (0, 1):
        if not (frame["label"] == label).any():
            raise ValueError(
                f"{_fitted_on(settings)}: none of its {len(frame)} memes has label {label}, and a "
                f"threshold needs both labels; give split '{settings.fit_split}' more memes and "
                f"pack again: {again(3)}"
            )


def _select_half(settings: Settings, made_by: Mapping[str, str]) -> pd.DataFrame | None:
    """The half of val that selected, as Step 6 predicted it; None where there is none."""
    if fit_part(settings) is None:
        return None
    filters = [("split", "==", settings.fit_split), ("part", "==", SELECT)]
    try:
        file = checked_file(settings.artifact(6, "predictions.parquet"))
    except (FileNotFoundError, ValueError):
        return None
    half = pd.read_parquet(file, columns=["id"], filters=filters)
    if half.empty or half.attrs.get("models") != made_by:
        return None
    return read_predictions(settings, settings.fit_split, SELECT)


def _best_threshold(
    model: str, prob: np.ndarray, labels: pd.Series, objective: Mapping[str, Any]
) -> BestThreshold:
    try:
        return best_threshold(prob, labels, **objective)
    except ValueError as error:
        if "floor" not in objective:
            raise
        raise ValueError(
            f"{model}: {error}; set a lower threshold_floor or another threshold_objective"
        ) from None


def _intervals(
    logits: pd.DataFrame, labels: pd.Series, temperature: float, options: Mapping[str, Any]
) -> dict[str, list[float | None]]:
    """The intervals of T and of the cut alone, chosen anew in each resample at the fixed T.

    With T fixed, p = sigmoid(margin / T) keeps the order of margins, so that the interval's ends
    are those of the cut on the margins, seen through T. With T fitted anew the same cut on the
    margins would count as many thresholds. A side without a finite value (a resample without an
    optimum) is None.
    """
    z = logits.to_numpy(np.float64)
    found = decision_intervals(z[:, 1] - z[:, 0], labels, temperature, **options)
    return dict(zip(("temperature", "threshold"), map(_sides, found), strict=True))


def _sides(interval: Interval) -> list[float | None]:
    ends = float(interval.low), float(interval.high)
    return [end if math.isfinite(end) else None for end in ends]


def _read(file: Path, names: Iterable[str]) -> dict[str, Any]:
    """The named fields of a JSON artifact, in their order."""
    content = read_json(file, again(7))
    for name in names:
        if not isinstance(content, dict) or name not in content:
            raise ValueError(f"{file}: field '{name}' is missing; write it again: {again(7)}")
    return {name: content[name] for name in names}


def _entry(content: Any, name: str) -> Any:
    return content.get(name) if isinstance(content, dict) else None


def _refuse_untold_models(fingerprints: Any, where: str) -> None:
    for model in MODELS:
        if not isinstance(found := _entry(fingerprints, model), str):
            raise ValueError(
                f"{where}.{model} is {found!r}, expected the model's fingerprint; write it again: "
                f"{again(7)}"
            )


def _number(value: Any, where: str, least: float = 0.0, most: float = math.inf) -> float:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or not least <= value <= most:
        limits = f"from {least:g} to {most:g}" if most < math.inf else f"of at least {least:g}"
        raise ValueError(f"{where} is {value!r}, expected a number {limits}")
    return float(value)


def _threshold(value: Any, where: str) -> float:
    """From 0 to 1, or the one above every score, where nothing is best called hate."""
    return ABOVE_ALL if value == ABOVE_ALL else _number(value, where, most=1.0)


def _spelt(interval: list[float | None]) -> str:
    low, high = ("unbounded" if side is None else f"{side:.2f}" for side in interval)
    return f"{low} to {high}"
