"""Step 7's last word: the frozen decision where it was fitted and where it is reported."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from lib.artifacts import write_json
from lib.config import MODELS, Settings
from lib.decisions.bundle import DecisionBundle
from lib.decisions.calibration_tables import (
    calibration_table,
    model_choice,
    reliability,
    threshold_curves,
)
from lib.decisions.evaluation import evaluate, without_nan
from lib.decisions.policy import CHOSEN
from lib.decisions.policy_outcomes import policy_outcome
from lib.decisions.prevalence import at_prevalence
from lib.modeling.prediction_table import trained_elsewhere


def section_of(frame: pd.DataFrame) -> str:
    """What the rows are of: "train", "test", or "val calibrate" for the half that calibrates."""
    pairs = frame[["split", "part"]].drop_duplicates()
    return " and ".join(f"{split} {part}".strip() for split, part in pairs.to_numpy())


def described(section: str) -> str:
    """A section in words: "val, calibrate half"; on train the models are judged in-sample."""
    split, _, part = section.partition(" ")
    if part in ("select", "calibrate"):
        return f"{split}, {part} half"
    return f"{section} (in-sample)" if section == "train" else section


def decision_report(
    fit_frame: pd.DataFrame,
    report_frame: pd.DataFrame,
    decision: DecisionBundle,
    settings: Settings,
    n_resamples: int = 1000,
) -> dict[str, Any]:
    """The calibrated metrics at the chosen thresholds, on the fit and the report split apart.

    `{model: {section: metrics}}` and "baselines" as `evaluate` gives them, with a section for what
    was fitted on and one for what is reported, in a pilot the same. Beside them, by section:
    "calibration", the metrics before and after the temperature, "reliability", the bins of both,
    "curves", precision and recall over thresholds, "choice", the paired comparison of the models,
    "policy", what fusion's came to, and "at_prevalence", None where none is stated.
    "targets" says whether the settings' are met, "trained_on_other_shards" names the models whose
    training may have held memes that are reported on.
    """
    frames = {section_of(frame): frame for frame in (fit_frame, report_frame)}
    report: dict[str, Any] = {name: {} for name in (*MODELS, "baselines")}
    for section, frame in frames.items():
        rows = frame.assign(split=section, part="")
        found = evaluate(rows, None, n_resamples, settings.seed, decision)
        for name, of_section in found.items():
            report[name] |= of_section
    return report | {
        "mode": decision.mode,
        "fitted_on": section_of(fit_frame),
        "reported_on": section_of(report_frame),
        "trained_on_other_shards": trained_elsewhere(report_frame),
        "objective": decision.objective,
        "calibration": {
            section: calibration_table(
                frame, decision.temperatures, n_resamples, settings.seed
            ).T.to_dict()
            for section, frame in frames.items()
        },
        "reliability": {
            section: {
                model: {when: bins.to_dict("records") for when, bins in of_model.items()}
                for model, of_model in reliability(frame, decision.temperatures).items()
            }
            for section, frame in frames.items()
        },
        "curves": {
            section: {
                model: curve.to_dict("records")
                for model, curve in threshold_curves(frame, decision.temperatures).items()
            }
            for section, frame in frames.items()
        },
        "choice": {
            section: model_choice(frame, decision, settings, n_resamples).to_dict("records")
            for section, frame in frames.items()
        },
        "policy": {
            section: policy_outcome(frame, decision, settings.seed, settings.prevalence)
            for section, frame in frames.items()
        },
        "targets": target_table(report, settings).to_dict("records"),
        "prevalence": settings.prevalence,
        "at_prevalence": settings.prevalence
        and {
            section: at_prevalence(
                frame, fit_frame, decision, settings.prevalence, n_resamples, settings.seed
            )
            for section, frame in frames.items()
        },
    }


def save_report(report: Mapping[str, Any], rivals: pd.DataFrame, settings: Settings) -> None:
    """Write `report_<m>.json` of Step 7, the comparison of calibrators within."""
    content = without_nan(dict(report) | {"rivals": rivals.to_dict("records")})
    write_json(settings.artifact(7, "report.json"), content)


def target_table(report: Mapping[str, Any], settings: Settings) -> pd.DataFrame:
    """Whether fusion meets the settings' targets, a row a section and target; empty without any.

    `met` is "yes" or "no" where the whole 95% interval is on that side of the target, else "within
    the interval". The ECE of few memes is too high: its "no" is by an interval that is lower by the
    ECE to expect of perfect probabilities.
    """
    targets = {"macro_f1": settings.target_macro_f1, "ece": settings.target_ece}
    rows = []
    for section, found in report[CHOSEN].items():
        for metric, target in targets.items():
            if target is not None:
                row = {"section": section, "metric": metric, "value": found[metric]}
                low, high = found["intervals"][metric]
                row |= {"low": low, "high": high, "target": target}
                noise = found["ece_zero_truth"]
                rows.append(row | {"met": _met(metric, low, high, target, noise)})
    columns = ["section", "metric", "value", "low", "high", "target", "met"]
    return pd.DataFrame(rows, columns=columns)


def _met(metric: str, low: float | None, high: float | None, target: float, noise: float) -> str:
    if low is None or high is None:
        return "does not exist"
    if metric == "ece":  # the less the better
        # Its low end must exceed the target by more than perfect probabilities would show.
        low, high, target = -high, noise - low, -target
    return "yes" if low >= target else "no" if high < target else "within the interval"


def choice_table(report: Mapping[str, Any]) -> pd.DataFrame:
    """The comparison of the models on the reported split, best first."""
    return pd.DataFrame(report["choice"][report["reported_on"]])


def prevalence_table(report: Mapping[str, Any]) -> pd.DataFrame:
    """The decisions at the stated prevalence on the reported split; empty where none is stated.

    The ends of a figure's interval stand in columns of their own, as "precision low". A row without
    numbers has a `note` that says why; the column is left out where all have theirs.
    """
    found = (report["at_prevalence"] or {}).get(report["reported_on"], {})
    rows = [
        {"model": model, "threshold is": name}
        | (_flat(of_model[name]) if of_model[name] else {"note": of_model["note"]})
        for model, of_model in found.items()
        if of_model is not None
        for name in ("frozen", "retuned")
    ]
    return pd.DataFrame(rows)


def _flat(figures: Mapping[str, Any]) -> dict[str, Any]:
    ends = {
        f"{name} {end}": value
        for name, interval in figures["intervals"].items()
        for end, value in zip(("low", "high"), interval, strict=True)
    }
    return {name: value for name, value in figures.items() if name != "intervals"} | ends


def print_summary(report: Mapping[str, Any], decision: DecisionBundle, counts: pd.Series) -> None:
    """Print, for the fit and the report split apart, what calibration and threshold came to.

    `counts` are fusion's errors on the reported split.
    """
    fitted, reported = report["fitted_on"], report["reported_on"]
    for section in dict.fromkeys((fitted, reported)):
        if fitted == reported:
            role = "fitted and reported on"
        else:
            role = "fitted on" if section == fitted else "reported on, nothing fitted"
        print(f"{described(section)}, n = {report[CHOSEN][section]['n']} ({role})")
        for model in MODELS:
            print(f"  {model}: {_line(report, model, section, decision)}")
    spelt = ", ".join(f"{name} {count}" for name, count in counts.items())
    print(f"fusion's decisions on {described(reported)}: {spelt}")
    for row in report["targets"]:
        print(
            f"target {row['metric']} {row['target']:g} on {described(row['section'])}: "
            f"{_spelt(row['value'], [row['low'], row['high']])}, met: {row['met']}"
        )
    if not report["targets"]:
        print("no target is set (target_macro_f1, target_ece)")
    rows = [r for r in prevalence_table(report).to_dict("records") if r["model"] == CHOSEN]
    for row in rows:
        print(f"{_if_so_many(report)}, threshold {row['threshold is']}: {_at_prevalence(row)}")
    if report["prevalence"] and not rows:
        print(f"{_if_so_many(report)}: no figures, as memes of one class alone tell of no share")


def _if_so_many(report: Mapping[str, Any]) -> str:
    reported = described(report["reported_on"])
    return f"fusion on {reported} if {report['prevalence']:.3g} of all were hate"


def _at_prevalence(row: Mapping[Any, Any]) -> str:
    if pd.isna(row["threshold"]):
        return str(row["note"])
    precision = _spelt(row["precision"], [row["precision low"], row["precision high"]])
    return (
        f"precision {precision}, recall {row['recall']:.3f}, F1 {row['f1']:.3f}, "
        f"{row['flagged_share']:.1%} flagged"
    )


def _line(report: Mapping[str, Any], model: str, section: str, decision: DecisionBundle) -> str:
    row, found = report["calibration"][section][model], report[model][section]
    return (
        f"T = {found['temperature']:.2f} ({decision.fits[model]['status']}), "
        f"Brier {row['brier before']:.3f} -> {row['brier after']:.3f}, "
        f"ECE {row['ece before']:.3f} -> {row['ece after']:.3f}, "
        f"threshold {found['threshold']:.3f}, "
        f"macro-F1 {_spelt(found['macro_f1'], found['intervals']['macro_f1'])}"
    )


def _spelt(value: float | None, interval: list[float | None]) -> str:
    figures = (value, *interval)
    numbers = ["none" if n is None or n != n else f"{n:.3f}" for n in figures]
    return "{} ({} to {})".format(*numbers)
