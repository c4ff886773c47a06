"""Which memes are allowed, sent to a person or blocked, and what is promised about each side.

Fusion's calibrated probability p decides: "block" where p >= block, "allow" where p < allow, else
"review". A side that nothing certifies has no cut, and what would have been on it goes to a person.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import numpy as np
import pandas as pd
from scipy.special import expit, logit

from lib.artifacts import as_written
from lib.calibration import prob_hate
from lib.commands import again
from lib.decisions.policy_certificates import (
    Sample,
    miss_tests,
    one_per_group,
    precision_tests,
    share_tests,
)
from lib.modeling.prediction_table import logits_of

CHOSEN = "mm_fusion"
# Sides of the policy, from hate to harmless, and what is promised about each.
SIDES = {"block": "precision", "review": "review share", "allow": "miss"}
# Columns of `policy_table`, and which of them are cuts.
COLUMNS = (
    *("side", "measure", "target", "cut", "judged_at", "count", "n", "observed", "low", "high"),
    *("p_value", "confidence", "memes", "prevalence", "verdict", "memes_needed", "needed_at"),
)
CUTS = ("cut", "judged_at", "needed_at")


class Count(NamedTuple):
    """`hits` of `n` memes, and the p-value of the promise, None without one."""

    hits: int
    n: int
    p_value: float | None


@dataclass(frozen=True)
class Policy:
    """The cuts, what was promised, and the evidence for it.

    `targets` holds the promises of this `kind`; `allow` and `block` are probabilities, None where
    nothing is allowed or blocked, and allow <= block. `cuts_from` says where the sequence of
    `n_cuts` cuts comes from. The certificates, one a side, rest on `memes` memes, one a group,
    `prevalence` of them hateful; each side holds by itself at `confidence`.
    """

    kind: str
    targets: dict[str, float]
    confidence: float
    allow: float | None
    block: float | None
    cuts_from: str
    n_cuts: int
    memes: int
    prevalence: float
    certificates: list[dict[str, Any]]

    @classmethod
    def at_threshold(cls, threshold: float) -> Self:
        """The policy that blocks from the threshold on, allows the rest, and promises nothing."""
        return cls("threshold", {}, 0.0, threshold, threshold, "", 0, 0, 0.0, [])

    @classmethod
    def read(cls, content: Any, where: str) -> Self:
        """A policy from what `decision_<m>.json` holds of it; `where` names it in errors.

        Raises ValueError naming the field that is missing or impossible.
        """
        names = list(cls.__dataclass_fields__)
        found = content if isinstance(content, Mapping) else {}
        if missing := [name for name in names if name not in found]:
            raise ValueError(
                f"{where}: field '{missing[0]}' is missing; write it again: {again(7)}"
            )
        for side in ("allow", "block"):
            cut = found[side]
            number = isinstance(cut, int | float) and not isinstance(cut, bool)
            if cut is not None and not (number and 0 <= cut <= 1):
                raise ValueError(f"{where}.{side} is {cut!r}, expected null or a number 0 to 1")
        if None not in (found["allow"], found["block"]) and found["allow"] > found["block"]:
            raise ValueError(
                f"{where}.allow is {found['allow']}, above {where}.block, {found['block']}"
            )
        return cls(**{name: found[name] for name in names})

    @property
    def ends(self) -> tuple[float, float]:
        """The band that goes to a person, low <= p < high; its ends are -inf and inf if open."""
        low = -math.inf if self.allow is None else self.allow
        return low, math.inf if self.block is None else self.block

    def decide(self, prob: Any) -> np.ndarray:
        """ "allow", "review" or "block" for each probability (N,); NaN goes to a person."""
        (low, high), prob = self.ends, np.asarray(prob, dtype=float)
        return np.where(prob >= high, "block", np.where(prob < low, "allow", "review"))

    def seen_through(self, fitted: float, now: float) -> Self:
        """The same cuts on the margins, seen through the temperature `now` instead of `fitted`.

        Those in the certificates move with them. So whoever edits a temperature by hand changes no
        decision and voids no certificate.
        """
        if fitted == now:
            return self
        fields = {name: getattr(self, name) for name in self.__dataclass_fields__}

        def moved(found: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
            cuts = {name: found[name] for name in names if found.get(name) is not None}
            return {name: float(expit(logit(cut) * fitted / now)) for name, cut in cuts.items()}

        fields |= moved(fields, ("allow", "block"))
        fields["certificates"] = [row | moved(row, CUTS) for row in self.certificates]
        return type(self)(**fields)


def policy_table(policy: Policy) -> pd.DataFrame:
    """The certificates of a policy, a row a side: block, review, allow.

    `measure` is "precision" (hateful memes among the blocked), "review share" (reviewed among all)
    or "miss" (allowed memes among all hateful ones), `target` what is promised of it, NaN for no
    promise. `cut` is the side's cut in use (of review none), NaN where nothing is on that side;
    `observed` = `count` / `n` is counted at `judged_at`: the cut in use, or where the first cut of
    the walk failed that one. `low` and `high` are the exact 95% interval, `p_value` the binomial
    tail of the promise. `memes` memes, one a group, were looked at, `prevalence` of them hateful:
    the promise is about that share of hate. `verdict` is "certified", "not
    certifiable at n = ...", "not certified: ..." with the reason, or "no target". Where a side is
    not certified, `memes_needed` is how many such memes it takes at the least: `needed_at` is the
    cut of the sequence with the least p-value, of equal ones that which leaves most memes to the
    side, k of n memes counted there, and with the fewest of the side `needed` at the rate k / n,
    memes_needed = ceil(needed * memes / n). Both are missing where no cut keeps the target even at
    its observed rate.
    """
    if not policy.certificates:
        return pd.DataFrame()
    table = pd.DataFrame(policy.certificates).assign(prevalence=policy.prevalence)
    numbers = ["target", *CUTS, "observed", "low", "high", "p_value"]
    table[numbers] = table[numbers].astype(float)
    table["memes_needed"] = table["memes_needed"].astype("Int64")
    return table[list(COLUMNS)]


def counted(
    sample: Sample, side: str, ends: tuple[float, float], target: float | None = None
) -> Count:
    """What a side's measure counts in a sample where low <= p < high goes to a person."""
    low, high = ends
    if side == "block":
        tests = precision_tests(sample, np.array([high]), 0.5 if target is None else target)
    elif side == "allow":
        tests = miss_tests(sample, np.array([low]), 0.5 if target is None else target)
    else:
        tests = share_tests(sample, np.array([ends]), 0.5 if target is None else target)
    p_value = None if target is None else float(tests.p_value[0])
    return Count(int(tests.hits[0]), int(tests.n[0]), p_value)


def sample_of(frame: pd.DataFrame, temperature: float, seed: int) -> Sample:
    """Fusion's probabilities and the labels of one meme of each group of `frame`."""
    return probabilities(frame.iloc[one_per_group(frame["group"].to_numpy(), seed)], temperature)


def target_of(targets: Mapping[str, float], side: str) -> float | None:
    """The number promised of a side's measure, None for no promise."""
    if side == "allow" and "recall" in targets:
        return as_written(1 - targets["recall"])
    return targets.get({"block": "precision", "review": "review_budget", "allow": "miss"}[side])


def probabilities(frame: pd.DataFrame, temperature: float) -> Sample:
    """Fusion's probabilities and the labels of all memes of `frame`."""
    return Sample(prob_hate(logits_of(frame, CHOSEN), temperature), frame["label"].to_numpy())
