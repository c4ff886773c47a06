"""Rows of the robustness table: what a perturbation changed, and how sure that is."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from lib.calibration import bootstrap_difference
from lib.calibration.intervals import units_of
from lib.config import MODELS
from lib.decisions.resampled_counts import ends_of, rates, ratio, resampled_sums
from lib.modeling.prediction_table import groups_of

METRICS = ("macro_f1", "auroc", "ece")


def rows_of_models(
    name: str,
    severity: int,
    may_change_label: bool,
    after: Mapping[str, Mapping[str, Any]],
    before: Mapping[str, Mapping[str, Any]],
    memes: pd.DataFrame,
    seed: int,
) -> list[dict[str, Any]]:
    """A row a model. `after` and `before` hold for each what was judged of N perturbed memes.

    That is the `prob`, whether it is `hate` and the `decision`, (N,) each, what it was
    `decided_by`, and the `METRICS`. `memes` has the memes' `group` and `label`.
    """
    rows = []
    for model in MODELS:
        new, old = after[model], before[model]
        row = {"perturbation": name, "severity": severity, "may_change_label": may_change_label}
        row |= {"model": model, "n": len(new["hate"])}
        for metric in METRICS:
            row |= {metric: new[metric], f"{metric}_change": new[metric] - old[metric]}
            row |= _change_ends(metric, new, old, memes, seed)
        row["flips"] = int((new["hate"] != old["hate"]).sum())
        blocked = old["decision"] == "block"
        cells = np.column_stack([blocked & (new["decision"] == "allow"), blocked])
        allows = any((side["decision"] == "allow").any() for side in (new, old))
        share = _allowed(cells, groups_of(memes), allows, seed)
        row |= {"block_to_allow": share[0]} | ends_of({"block_to_allow": share})
        row["decided_by"] = old["decided_by"]
        rows.append(row)
    return rows


def _allowed(cells: np.ndarray, groups: np.ndarray | None, allows: bool, seed: int) -> np.ndarray:
    """The share of the blocked that is allowed, from whether each meme is both and blocked (N, 2).

    The sample's first, then that of each resample; none where nothing is ever allowed.
    """
    allowed, there = resampled_sums(cells, groups, seed=seed).T
    if not allows:
        return ratio(allowed, there)
    blocked = units_of(groups, len(cells))[cells[:, 1]]
    return rates(allowed, there, len(np.unique(blocked)), seed=seed)


def _change_ends(
    metric: str, new: Mapping, old: Mapping, memes: pd.DataFrame, seed: int
) -> dict[str, float]:
    """The paired interval of a metric's change, NaN where memes are of one class."""
    judged = "hate" if metric == "macro_f1" else "prob"
    after, before = (np.asarray(side[judged], float) for side in (new, old))
    ends = (np.nan, np.nan)
    if memes["label"].nunique() == 2:
        ends = (0.0, 0.0)
        # A text edit leaves the vision expert as it is, and a folded one all of them.
        if not np.array_equal(after, before):
            found = bootstrap_difference(
                after, before, memes["label"], metric, seed=seed, groups=groups_of(memes)
            )
            ends = (float(found.low), float(found.high))
    return dict(zip((f"{metric}_change_low", f"{metric}_change_high"), ends, strict=True))
