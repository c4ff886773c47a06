"""What every threshold would come to: counted once here, so that the page only looks it up."""

from typing import Any

import numpy as np
import pandas as pd

from lib.calibration import expected_calibration_error, prob_hate
from lib.config import MODELS
from lib.decisions.bundle import DecisionBundle
from lib.decisions.calibration_tables import reliability_bins
from lib.decisions.policy import CHOSEN, Policy
from lib.modeling.prediction_table import logits_of

STEPS = 1000
# The same rationals, so the same floats, as every tenth of the finer grid that rows are placed on.
CUTS = np.arange(STEPS + 1) / STEPS
PLACES = np.arange(10 * STEPS + 1) / (10 * STEPS)


def threshold_counts(prob: np.ndarray, labels: np.ndarray, threshold: float) -> dict[str, Any]:
    """True and false positives at each cut k/1000 and at the threshold itself.

    `prob` (N,) is p(hate), `labels` (N,) are 0 or 1; a meme is positive where prob >= cut. "tp" and
    "fp" hold 1001 counts each, "frozen" the two at `threshold`; the negatives follow from the
    numbers of memes.
    """
    found: dict[str, Any] = {"frozen": []}
    for name, label in (("tp", 1), ("fp", 0)):
        ordered = np.sort(prob[labels == label])
        counts = len(ordered) - np.searchsorted(ordered, [*CUTS, threshold], side="left")
        found[name] = counts[:-1].tolist()
        found["frozen"].append(int(counts[-1]))
    return found


def places(prob: np.ndarray) -> np.ndarray:
    """Ten-thousandths of p(hate), rounded down (N,): a meme is positive at k/1000 from 10k on."""
    return np.searchsorted(PLACES, prob, side="right") - 1


def section_counts(frame: pd.DataFrame, decision: DecisionBundle) -> dict[str, Any]:
    """The counts of each model on the rows of `frame`, of each class, and of the policy.

    Raises ValueError for logits that are not finite.
    """
    labels = frame["label"].to_numpy()
    prob = {m: prob_hate(logits_of(frame, m), decision.temperatures[m]) for m in MODELS}
    return {
        "positives": int((labels == 1).sum()),
        "negatives": int((labels == 0).sum()),
        "models": {m: threshold_counts(prob[m], labels, decision.thresholds[m]) for m in MODELS},
        "policy": policy_counts(decision.policy, prob[CHOSEN], labels),
    }


def policy_counts(policy: Policy, prob: np.ndarray, labels: np.ndarray) -> dict[str, list[int]]:
    """How many hateful and how many harmless memes a policy blocks, sends to a person, allows."""
    decided = policy.decide(prob)
    return {
        side: [int(((decided == side) & (labels == label)).sum()) for label in (1, 0)]
        for side in ("block", "review", "allow")
    }


def reliability(frame: pd.DataFrame, model: str, temperatures: dict[str, float]) -> pd.DataFrame:
    """Mean p(hate) and share of hate by bin of p(hate), before and after: when, p, rate, n, ece."""
    names = {"mean_predicted": "p", "observed": "rate", "count": "n"}
    labels = frame["label"].to_numpy()
    parts = []
    for when, temperature in temperatures.items():
        prob = prob_hate(logits_of(frame, model), temperature)
        bins = reliability_bins(prob, labels)
        part = bins[bins["count"] > 0].rename(columns=names)[list(names.values())]
        ece = expected_calibration_error(prob, labels)
        parts.append(part.assign(when=when, ece=ece))
    return pd.concat(parts, ignore_index=True)
