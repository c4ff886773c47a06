"""The policy's cuts: proposed by the half of val that selected, certified on the other.

A promise of precision or misses is kept by walks over a fixed sequence of cuts; costs are weighed
first, and their reviewing budget is certified.
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from lib.artifacts import as_written
from lib.config import Settings
from lib.decisions.policy import (
    CHOSEN,
    SIDES,
    Policy,
    counted,
    probabilities,
    sample_of,
    target_of,
)
from lib.decisions.policy_certificates import (
    Sample,
    certified,
    clopper_pearson,
    cuts_of,
    miss_tests,
    needed,
    precision_tests,
    share_tests,
    walk_down,
    walk_up,
)
from lib.modeling.prediction_table import logits_of

IN_SAMPLE = "not certified: fitted on the memes the models learned from"
UNDIVIDED = "not certified: val could not be divided, and these memes chose epochs and heads"
SELF_CHOSEN = "not certified: the cuts were chosen on these memes"
# Into so many steps a reviewing budget is divided.
BUDGET_STEPS = 20


class _Cuts(NamedTuple):
    """The cuts of a policy, None where a side has none, and where a side without is judged."""

    allow: float | None
    block: float | None
    judged_at: dict[str, float]
    kept: set[str]


def fit_policy(
    frame: pd.DataFrame,
    select: pd.DataFrame | None,
    temperature: float,
    threshold: float,
    settings: Settings,
) -> Policy:
    """Choose and certify the cuts on one meme of each group of `frame`.

    The cuts and where walks begin come from `select`, all memes of the half of val that selected
    epochs and heads, or without it from a fixed grid. `threshold` is fusion's, from which on the
    kind "recall_floor" blocks. In a pilot nothing counts as certified, nor where `frame`
    says that val was "undivided", so that its memes have selected too.
    """
    sample = sample_of(frame, temperature, settings.seed)
    before = None if select is None else probabilities(select, temperature)
    margins = None if select is None else _margins(select)
    cuts, targets = cuts_of(margins, temperature), targets_of(settings)
    confidence = settings.policy_confidence
    if settings.policy == "costs":
        found = _by_costs(sample, before, cuts, targets, confidence)
    else:
        found = _by_promises(sample, before, cuts, targets, confidence, threshold)
    note = IN_SAMPLE if settings.mode == "pilot" else None
    if note is None and frame.attrs.get("undivided"):
        note = UNDIVIDED
    if note is None and settings.policy == "costs" and before is None:
        note = SELF_CHOSEN
    return Policy(
        kind=settings.policy,
        targets=targets,
        confidence=confidence,
        allow=found.allow,
        block=found.block,
        cuts_from="fixed grid" if select is None else "select half",
        n_cuts=len(cuts),
        memes=len(sample.prob),
        prevalence=as_written(float(sample.labels.mean())),
        certificates=[_row(side, sample, found, cuts, targets, confidence, note) for side in SIDES],
    )


def targets_of(settings: Settings) -> dict[str, float]:
    """What the settings promise, by the name of the setting without "policy_"."""
    if settings.policy == "targets":
        return {"precision": settings.policy_precision, "miss": settings.policy_miss}
    if settings.policy == "recall_floor":
        assert settings.policy_recall is not None
        return {"recall": settings.policy_recall}
    assert settings.policy_costs is not None
    wrong_block, wrong_allow, review = settings.policy_costs
    costs = {"wrong_block": wrong_block, "wrong_allow": wrong_allow, "review": review}
    return costs | {"review_budget": settings.policy_review_budget}


def _margins(frame: pd.DataFrame) -> np.ndarray:
    z = logits_of(frame, CHOSEN).to_numpy(np.float64)
    return z[:, 1] - z[:, 0]


def _by_promises(
    sample: Sample,
    select: Sample | None,
    cuts: np.ndarray,
    targets: Mapping[str, float],
    confidence: float,
    threshold: float,
) -> _Cuts:
    """Allow below the highest certified cut; block from the lowest, or from the threshold on.

    Where the allow cut would lie above the block cut, one cut serves both and nobody looks: of the
    cuts from the block cut up to the allow cut and the start of the walk, which all keep both
    promises, the one nearest to the threshold. Where nothing is promised of blocking, the allow
    cut goes no higher than the threshold; the miss rate falls with its cut.
    """
    miss, precision = target_of(targets, "allow"), target_of(targets, "block")
    assert miss is not None
    up = walk_up(sample, cuts, miss, confidence)
    judged_at, kept = {"allow": up.judged_at}, {"allow"} if up.cut is not None else set()
    if precision is None:
        # A threshold above every score, which some objectives choose, blocks nothing.
        block = threshold if threshold <= 1 else None
        allow = None if up.cut is None else min(up.cut, threshold)
        return _Cuts(allow, block, judged_at, kept)
    down = walk_down(sample, select, cuts, precision, confidence)
    judged_at["block"] = down.judged_at
    if down.cut is None:
        return _Cuts(up.cut, None, judged_at, kept)
    kept = kept | {"block"}
    if up.cut is None or up.cut <= down.cut:
        return _Cuts(up.cut, down.cut, judged_at, kept)
    both = cuts[(cuts >= down.cut) & (cuts <= min(up.cut, down.start))]
    shared = float(both[np.argmin(np.abs(both - threshold))])
    return _Cuts(shared, shared, judged_at, kept)


def _by_costs(
    sample: Sample,
    select: Sample | None,
    cuts: np.ndarray,
    targets: Mapping[str, float],
    confidence: float,
) -> _Cuts:
    """The cheapest cuts in the select half, for the greatest budget that is certified.

    The budget is divided into `BUDGET_STEPS`, and the cheapest pairs of cuts within 0, 1, ...
    steps of the select half are tested in this order for a review share within the whole budget.
    """
    budget = targets["review_budget"]
    budgets = np.unique(np.linspace(0, budget, BUDGET_STEPS + 1))
    bands = cheapest_bands(sample if select is None else select, cuts, targets, budgets)
    passed = certified(share_tests(sample, bands, budget).p_value, confidence)
    low, high = map(float, bands[max(passed - 1, 0)])
    return _Cuts(low, high, {}, {"review"})


def cheapest_bands(
    sample: Sample, cuts: np.ndarray, costs: Mapping[str, float], budgets: np.ndarray
) -> np.ndarray:
    """For each reviewing budget (B,), ascending, the (allow, block) of least mean cost, (B, 2).

    Tried are all pairs allow <= block of the cuts, 0 and 1. The cost of a pair is wrong_block for
    each meme of label 0 with p >= block, wrong_allow for each of label 1 with p < allow, and
    review for each between, of which there may be at most budget * N. Of equal pairs that with the
    lowest allow, then the lowest block is taken; a greater budget is used only where it pays.
    """
    at = np.unique(np.concatenate([[0.0], cuts, [1.0]]))
    below, n = np.searchsorted(np.sort(sample.prob), at), len(sample.prob)
    hateful = np.searchsorted(np.sort(sample.prob[sample.labels == 1]), at)
    harmless = n - int((sample.labels == 1).sum()) - (below - hateful)
    reviewed = below[None, :] - below[:, None]
    cost = (
        costs["wrong_allow"] * hateful[:, None]
        + costs["wrong_block"] * harmless[None, :]
        + costs["review"] * reviewed
    )
    bands: list[tuple[float, float]] = []
    least = math.inf
    ordered = np.tri(len(at), dtype=bool).T
    for budget in budgets:
        within = np.where(ordered & (reviewed <= budget * n + 1e-9), cost, math.inf)
        place = int(np.argmin(within))
        if within.flat[place] < least:
            least = float(within.flat[place])
            best = at[place // len(at)], at[place % len(at)]
        bands.append(best)
    return np.array(bands)


def _row(
    side: str,
    sample: Sample,
    found: _Cuts,
    cuts: np.ndarray,
    targets: Mapping[str, float],
    confidence: float,
    note: str | None,
) -> dict[str, Any]:
    """The certificate of a side; see `policy_table`."""
    target, memes = target_of(targets, side), len(sample.prob)
    cut = {"allow": found.allow, "block": found.block, "review": None}[side]
    judged_at = found.judged_at.get(side) if cut is None else cut
    low, high = found.allow, found.block
    if judged_at is not None:
        low, high = (judged_at, high) if side == "allow" else (low, judged_at)
    ends = (-math.inf if low is None else low, math.inf if high is None else high)
    count = counted(sample, side, ends, target)
    interval = clopper_pearson(count.hits, count.n)
    is_certified = target is not None and side in found.kept and note is None
    lacking = target is not None and not is_certified and side != "review"
    needed_at, enough = _enough(side, sample, cuts, target, confidence) if lacking else (None, None)
    return {
        "side": side,
        "measure": SIDES[side],
        "target": target,
        "cut": cut,
        "judged_at": judged_at,
        "count": count.hits,
        "n": count.n,
        "observed": count.hits / count.n if count.n else None,
        "low": interval[0],
        "high": interval[1],
        "p_value": count.p_value,
        "confidence": confidence,
        "memes": memes,
        "verdict": _verdict(target, is_certified, note, memes),
        "memes_needed": enough,
        "needed_at": needed_at,
    }


def _verdict(target: float | None, is_certified: bool, note: str | None, n: int) -> str:
    if target is None:
        return "no target"
    if is_certified:
        return "certified"
    return note or f"not certifiable at n = {n}"


def _enough(
    side: str, sample: Sample, cuts: np.ndarray, target: float | None, confidence: float
) -> tuple[float | None, int | None]:
    """The cut of least p-value, and how many memes would certify it at the rate observed there.

    Of equal ones it is that which leaves most memes to the side.
    """
    assert target is not None
    tests = (precision_tests if side == "block" else miss_tests)(sample, cuts, target)
    p_values = np.where(tests.n > 0, tests.p_value, math.inf)
    equal = np.flatnonzero(p_values == p_values.min())
    best = int(equal[0] if side == "block" else equal[-1])
    count, n = int(tests.hits[best]), int(tests.n[best])
    of_side = needed(count / n, target, confidence, at_least=side == "block") if n else None
    if of_side is None:
        return None, None
    return float(cuts[best]), math.ceil(of_side * len(sample.prob) / n)
