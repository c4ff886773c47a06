"""The numbers that the page's script looks up, all of one run."""

import hashlib
import json
from typing import Any

import pandas as pd

from lib.config import MODELS, Settings
from lib.data.corrections import corrections_for
from lib.decisions.report import described, section_of
from lib.figures.style import style_of
from lib.report_page.counts import section_counts
from lib.report_page.finished_run import Run, step_7_table
from lib.report_page.sections import TABLE_ROWS

# Bytes of the corrections made before that a page of 2 MB has room for beside its memes.
MOST_CORRECTIONS = 500_000


def page_data(run: Run) -> dict[str, Any]:
    """What the page's script reads, as JSON knows it, but for the memes and their pictures.

    Raises what `corrections_for` raises.
    """
    settings, decision, report, fit = run
    sections = {section_of(frame): section_counts(frame, decision) for frame in (report, fit)}
    return {
        "mode": settings.mode,
        "split": settings.report_split,
        "reported": section_of(report),
        "fitted": section_of(fit),
        "words": {name: described(name) for name in sections},
        "sections": sections,
        "models": {
            model: {
                "label": style_of(model).label,
                "threshold": decision.thresholds[model],
            }
            for model in reversed(MODELS)
        },
        "policy": {"allow": decision.policy.allow, "block": decision.policy.block},
        **_corrections(settings),
        "suspects": _suspects(settings),
        "prevalence": settings.prevalence or float(report["label"].mean()),
        "n": len(report),
        "key": f"verdicts-{_labels_fingerprint(report)}",
    }


def _labels_fingerprint(frame: pd.DataFrame) -> str:
    """What a browser keeps verdicts under: they are about labels, whatever model is trained."""
    labels = frame[["id", "split", "label"]].sort_values("id")
    return hashlib.sha256(labels.to_csv(index=False).encode()).hexdigest()[:16]


def _corrections(settings: Settings) -> dict[str, Any]:
    """The corrections made before, and how many there are if they are too many for the page.

    A file of corrections replaces the one before, so that it has to hold that one's too.
    """
    made = [[c.id, c.label, c.reason] for c in corrections_for(settings)]
    too_many = len(json.dumps(made)) > MOST_CORRECTIONS
    left_out = len(made) if too_many else 0
    return {"corrections": [] if too_many else made, "corrections_left_out": left_out}


def _suspects(settings: Settings) -> dict[str, list[Any]]:
    """Id and label of the memes in the table of suspects, in its order; empty without it."""
    table, _ = step_7_table(settings, "label_suspects.csv")
    shown = table.head(TABLE_ROWS)
    return {name: shown[name].tolist() if name in shown else [] for name in ("id", "label")}
