"""What to conclude from fresh labels, and what to do, in words."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from lib.commands import again

# The chance of calling calibration broken where it holds, and of the same for the promises.
ALPHA = 0.05
# Half the width that the interval of the mean error shall have at most.
WANTED_REACH = 0.05
FEWEST = 50
INEXACT = "calibration does not hold exactly, as at calibration"


def verdict_of(report: Mapping[str, Any], y: np.ndarray, p: np.ndarray) -> dict[str, str]:
    """ "verdict" and "advice" in words of what `judge_labels` found on labels y at p, both (N,)."""
    by_reach = math.ceil(1.96**2 * float((p * (1 - p)).mean()) / WANTED_REACH**2)
    wanted = max(FEWEST, by_reach)
    broken = [row["side"] for row in report["policy"] if row["verdict"] == "broken"]
    off = report["calibration"]["p_value"] <= ALPHA
    changed = off and report["change"]["p_value"] <= ALPHA
    if len(y) >= FEWEST and (changed or broken):
        # Of one class, too: the p-value of `recalibration` is then the very chance of these labels.
        found = ["calibration no longer holds"] if changed else [INEXACT] if off else []
        found += [f"the promise of {', '.join(broken)} is broken"] if broken else []
        joined = ("; " if INEXACT in found else " and ").join(found)
        return {"verdict": joined, "advice": _mend(report)}
    if len(y) < FEWEST or not 0 < y.mean() < 1:
        wanted = max([wanted, *_settled_by(report["policy"]).values()])
        many = f"at least {wanted:,} memes" if len(y) < wanted else "more memes"
        return {"verdict": "too few labels", "advice": f"label {many}, of both classes"}
    missed, more = _missed(report["policy"]), _more(report, wanted)
    holds = "calibration holds as far as these labels tell" if more else "calibration holds"
    steps = [_mend(report)] if off else [] if missed or not more else ["nothing to re-fit"]
    steps += more
    if missed:
        refit = "" if off else f", or add these to the data and re-fit the policy: {again(3)}"
        steps.append(
            "rely on no promise that is missed as observed: label more memes to see whether it is "
            f"broken{refit}"
        )
    said = [INEXACT if off else holds, *missed]
    return {"verdict": "; ".join(said), "advice": "; ".join(steps) or "nothing to do"}


def _settled_by(sides: list[dict[str, Any]]) -> dict[str, int]:
    """The labels in all that would certify each side that is not refuted, where a number would."""
    open_ = [row for row in sides if row["verdict"] == "not refuted"]
    return {row["side"]: row["labels_wanted"] for row in open_ if row["labels_wanted"] is not None}


def _missed(sides: list[dict[str, Any]]) -> list[str]:
    """Each side that is not refuted, yet certified by no number of labels, in words."""
    said = []
    for row in sides:
        if row["verdict"] == "not refuted" and row["labels_wanted"] is None:
            observed, target = row["observed"], row["target"]
            below = row["side"] == "block"
            worse = observed < target if below else observed > target
            where = "at" if not worse else "below" if below else "above"
            said.append(
                f"the {row['measure']} of {row['side']} is observed {where} its promise, "
                f"{observed:.3g} for {target:g}"
            )
    return said


def _more(report: Mapping[str, Any], wanted: int) -> list[str]:
    """What more labels would tell: the mean error, and the promises that they would settle."""
    n, settled = report["n"], _settled_by(report["policy"])
    steps = []
    if wanted > n:
        steps.append(
            f"{wanted - n:,} more labels would tell the mean error to within {WANTED_REACH:g}"
        )
    if settled:
        more = max(settled.values()) - n
        steps.append(f"{more:,} more labels would settle the promise of {', '.join(settled)}")
    return steps


def _mend(report: Mapping[str, Any]) -> str:
    line, steps = report["calibration"], []
    off, changed = (report[name]["p_value"] <= ALPHA for name in ("calibration", "change"))
    if off and line["on_calibration_split"] <= ALPHA:
        alone = " alone" if changed else ""
        steps.append(f"it was off on the calibration split already, so this is no drift{alone}")
    elif off and not changed:
        steps.append(
            "no change is seen since calibration: T is only as exact as the memes it was fitted on"
        )
    if report["prevalence"]["p_value"] <= ALPHA:
        steps.append("the share of hate has changed: see Step 7's `prevalence`")
    if off and (refit := report["refit"]) is not None:
        steps.append(f"these labels give T = {refit['temperature']:.3g} for mm_fusion")
    steps.append(
        "add the labelled memes to the data, then re-fit temperature, thresholds and policy: "
        f"{again(3)}"
    )
    return "; ".join(steps)
