"""Val in two halves: one selects, the other calibrates, so that what calibrates selected nothing.

The epoch that scored best on some memes, or the head, is flattered by them: a temperature or
threshold fitted on the same memes would take over that flattery.
"""

import warnings
from collections.abc import Sequence

import numpy as np

SELECT, CALIBRATE = "select", "calibrate"


def val_parts(labels: Sequence[int], groups: Sequence[str]) -> np.ndarray:
    """The part of each of N val memes, "select" or "calibrate", strings (N,).

    Whole groups, labels in proportion; the same memes are divided alike whatever the seed of a
    run, since otherwise one seed would select on what another calibrates. Where the groups are too
    few for both classes in either half, all are "calibrate" and, with a warning, also select.
    """
    # Here, since serving knows the names of the parts alone, and scikit-learn takes a second.
    from sklearn.model_selection import StratifiedGroupKFold

    y = np.asarray(labels)
    parts = np.full(len(y), CALIBRATE, dtype=object)
    names = np.asarray(groups, dtype=object)
    if min(len(set(names[y == label])) for label in (0, 1)) >= 2:
        splitter = StratifiedGroupKFold(2, shuffle=True, random_state=0)
        halves = next(splitter.split(y, y, names))
        if all(len(set(y[half])) == 2 for half in halves):
            parts[halves[0]] = SELECT
            return parts
    warnings.warn(
        f"val ({len(y)} memes) has too few groups of a class and cannot be divided; "
        "what selects is also what calibrates, which flatters the calibrated figures",
        stacklevel=2,
    )
    return parts


def selecting_rows(labels: Sequence[int], groups: Sequence[str]) -> list[int]:
    """The rows of val that epochs and heads are chosen on: all where val cannot be divided."""
    rows = np.flatnonzero(val_parts(labels, groups) == SELECT)
    return rows.tolist() or list(range(len(labels)))
