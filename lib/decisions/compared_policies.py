"""What two policies decide otherwise: allow, review or block, on the same memes."""

import numpy as np
import pandas as pd

from lib.decisions.policy import CHOSEN
from lib.decisions.policy_outcomes import DECISIONS


def moved_by_policy(a: pd.DataFrame, b: pd.DataFrame) -> pd.DataFrame:
    """The memes that two error tables decide otherwise, from block to allow and back first.

    Columns: id, text, label, then `prob_` and `decision_` of a and of b.
    """
    table = a[["id", "text", "label"]].assign(
        prob_a=a[f"{CHOSEN}_prob"],
        decision_a=a["decision"],
        prob_b=b[f"{CHOSEN}_prob"].to_numpy(),
        decision_b=b["decision"].to_numpy(),
    )
    place = {decision: k for k, decision in enumerate(DECISIONS)}
    steps = np.abs(table["decision_a"].map(place) - table["decision_b"].map(place))
    order = np.lexsort((-np.abs(table["prob_b"] - table["prob_a"]), -steps))
    return table.iloc[order[steps.to_numpy()[order] > 0]].reset_index(drop=True)


def from_to(a: pd.DataFrame, b: pd.DataFrame) -> dict[str, dict[str, int]]:
    """How many memes the first error table decides one way, by how the second does."""
    one, two = a["decision"].to_numpy(), b["decision"].to_numpy()
    return {
        own: {other: int(((one == own) & (two == other)).sum()) for other in DECISIONS}
        for own in DECISIONS
    }
