"""What Steps 6 and 7 left on disk: predictions, decision, and the tables that may be missing."""

from typing import NamedTuple

import pandas as pd

from lib.artifacts import fingerprint
from lib.commands import again
from lib.config import MODELS, Settings
from lib.decisions.bundle import DecisionBundle
from lib.decisions.spreadsheets import as_met
from lib.modeling.prediction_table import models_of, predictions_to_fit, read_predictions


class Run(NamedTuple):
    """A run's decision, and the logits that it is reported on and fitted on."""

    settings: Settings
    decision: DecisionBundle
    report: pd.DataFrame
    fit: pd.DataFrame


def read_run(settings: Settings) -> Run:
    """Read predictions and decision.

    Raises FileNotFoundError naming the step for what is not there, and ValueError where both are of
    different models, or the decision was fitted on other predictions.
    """
    decision = DecisionBundle.load(settings)
    report, fit = read_predictions(settings, settings.report_split), predictions_to_fit(settings)
    made_by = models_of(report)
    file = settings.artifact(6, "predictions.parquet")
    fitted = settings.artifact(7, "decision.json")
    if any(made_by[model] != decision.fingerprints.get(model) for model in MODELS):
        raise ValueError(
            f"{file} is of other models than {fitted}; fit the decision again: {again(7)}"
        )
    if decision.fingerprints.get("predictions") != fingerprint(file):
        raise ValueError(
            f"{fitted} was fitted on other predictions than {file} holds; fit the decision again: "
            f"{again(7)}"
        )
    return Run(settings, decision, report, fit)


def step_7_table(settings: Settings, name: str) -> tuple[pd.DataFrame, str]:
    """A table of Step 7, and where it is empty a sentence saying why and what would fill it."""
    path = settings.artifact(7, name)
    if not path.exists():
        return pd.DataFrame(), f"{path.name} is not there. It is written by: {again(7)}"
    try:
        table = as_met(path)
    except (pd.errors.EmptyDataError, pd.errors.ParserError, UnicodeDecodeError) as error:
        return pd.DataFrame(), f"{path.name} cannot be read ({error}). Write it: {again(7)}"
    return table, "" if len(table) else f"{path.name} has no rows."
