"""Has what is judged changed since calibration? `python -m lib.serving.drift HISTOGRAMS`."""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd

from lib.artifacts import as_written, write_json
from lib.calibration import prob_hate
from lib.calibration.distribution_shift import Shift, even_bins, ks, psi
from lib.commands import again
from lib.config import Settings
from lib.data.datasets import MemeShards, shard_paths
from lib.data.text import words_of
from lib.decisions.bundle import DecisionBundle
from lib.decisions.policy import CHOSEN
from lib.decisions.policy_certificates import clopper_pearson, one_per_group
from lib.modeling.prediction_table import logits_of, predictions_to_fit
from lib.serving.fresh_labels import judge_labels, read_labels
from lib.serving.histograms import LENGTH_EDGES, PROB_EDGES, Histograms

# The chance of an alarm where nothing has drifted, over both measures of both quantities.
ALPHA = 0.05
# The usual bands of the PSI (Siddiqi 2006), for what it is beyond what chance alone makes it.
MODERATE, LARGE = 0.1, 0.25
N_BINS = 10
# A coarse bin of the smaller sample holds so many memes at least; of fewer than two bins' worth
# nothing is said.
LEAST_IN_BIN = 10
LEAST = 2 * LEAST_IN_BIN
ADVICE = {
    "too few": "",  # by the side that is too small: `_what_is_missing`
    "no drift found": "nothing to do",
    "no drift found, nor excluded": "nothing to do; more answers, or a larger calibration split, "
    "would tell more",
    "small drift": "look again soon",
    "moderate drift": "label 300 memes drawn at random from what is judged now, and give --labels",
    "large drift": "trust no decision before 300 memes, drawn at random from what is judged now, "
    "are labelled and given as --labels",
}


class Reference(NamedTuple):
    """The memes that the model was calibrated on, one of each group, and what they are.

    `words` holds their decisions; `lengths` (M,) is None where their shards are gone.
    """

    name: str
    prob: np.ndarray
    labels: np.ndarray
    lengths: np.ndarray | None
    decisions: np.ndarray
    decision: DecisionBundle


def reference_of(settings: Settings) -> Reference:
    """The calibration split of a run: Step 6's predictions, its texts' lengths from the shards.

    Raises FileNotFoundError naming what is missing and its step.
    """
    decision = DecisionBundle.load(settings)
    frame = predictions_to_fit(settings)
    if frame.attrs.get("models") != {m: decision.fingerprints[m] for m in frame.attrs["models"]}:
        raise ValueError(
            f"{settings.artifact(6, 'predictions.parquet')} is of other models than "
            f"{settings.artifact(7, 'decision.json')}; run Steps 6 and 7 again"
        )
    frame = frame.iloc[one_per_group(frame["group"].to_numpy(), settings.seed)]
    prob = prob_hate(logits_of(frame, CHOSEN), decision.temperatures[CHOSEN])
    part = f", part {decision.fit_part}" if decision.fit_part else ""
    return Reference(
        f"{settings.fit_split}{part}",
        prob,
        frame["label"].to_numpy(),
        _lengths(settings, frame["id"]),
        decision.policy.decide(prob),
        decision,
    )


def drift_report(
    now: Histograms, reference: Reference, labelled: pd.DataFrame | None = None
) -> dict[str, Any]:
    """What `Step_8/drift_<mode>.json` holds: the drift, and what fresh labels say.

    "scores" and "text_length" are compared by PSI and KS; the p-value of each is Bonferroni's over
    both, and an alarm needs one of them at `ALPHA` / 2, so that without drift there is an alarm in
    at most about `ALPHA` of cases. "verdict" names what could not be compared. `labelled` has the
    columns prob_hate and label.
    Raises ValueError for histograms of other models.
    """
    known = reference.decision.judged_by
    if now.models and any(known.get(name) != found for name, found in now.models.items()):
        raise ValueError(
            "these histograms are of other models, temperatures or thresholds than those in use; "
            "count anew with these"
        )
    counted = Histograms()
    lengths = np.zeros(0) if reference.lengths is None else reference.lengths
    counted.add_columns(reference.prob, lengths)
    compared = {"scores": _compared(counted.prob_hate, now.prob_hate, PROB_EDGES)}
    if reference.lengths is not None:
        compared["text_length"] = _compared(counted.text_length, now.text_length, LENGTH_EDGES)
    report: dict[str, Any] = {"reference": reference.name, "memes": len(reference.prob)}
    report |= {"answers": now.n, "alpha": ALPHA, "drift": compared}
    report["decisions"] = _decisions(now, reference)
    verdicts = [found["verdict"] for found in compared.values()]
    worst = next(word for word in reversed(ADVICE) if word in verdicts)
    report |= {"verdict": worst, "advice": ADVICE[worst] or _what_is_missing(report)}
    if worst != "too few" and (missing := _not_compared(report)):
        steps = [f"{name}: {why}" for name, why in missing.items()]
        # What was not looked at leaves something to do.
        rest = report["advice"].removeprefix("nothing to do").removeprefix("; ")
        report["verdict"] = f"{worst}; {', '.join(missing)} not compared"
        report["advice"] = "; ".join([*steps, rest] if rest else steps)
    if labelled is not None:
        report["labels"] = judge_labels(
            labelled, reference.decision, reference.prob, reference.labels
        )
    return report


def drift_table(report: Mapping[str, Any]) -> pd.DataFrame:
    """PSI and KS of each quantity with interval and p-value, a row each; none of too few memes."""
    rows = [
        {"quantity": name, "measure": measure, **found[measure], "verdict": found["verdict"]}
        for name, found in report["drift"].items()
        for measure in ("psi", "ks")
        if found[measure] is not None
    ]
    return pd.DataFrame(rows)


def _lengths(settings: Settings, ids: pd.Series) -> np.ndarray | None:
    try:
        memes = MemeShards(shard_paths(settings.shards, settings.fit_split), pictures=False)
        length = dict(zip(memes.ids, (len(words_of(text)) for text in memes.texts), strict=True))
        return np.array([length[id_] for id_ in ids])
    except (FileNotFoundError, KeyError):
        return None


def _compared(reference: np.ndarray, now: np.ndarray, edges: np.ndarray) -> dict[str, Any]:
    smaller = int(min(reference.sum(), now.sum()))
    n_bins = min(N_BINS, smaller // LEAST_IN_BIN)
    starts, parts = _parts(reference, n_bins)
    cells, cells_now = (np.bincount(parts, weights=counts) for counts in (reference, now))
    if len(cells) < 2 or not cells[1:].sum() + cells_now[1:].sum():
        return {"verdict": "too few", "p_value": None, "psi": None, "ks": None, "bins": []}
    coarse, coarse_now = (np.add.reduceat(counts, starts) for counts in (reference, now))
    by_psi, by_ks = psi(cells, cells_now), ks(reference, now)
    p_value = min(1.0, 2 * min(by_psi.p_value, by_ks.p_value))
    by_chance = (len(cells) - 1) * (1 / cells.sum() + 1 / cells_now.sum())
    bins = pd.DataFrame({"from": edges[starts], "to": [*edges[starts[1:]], edges[-1]]})
    bins = bins.assign(reference=coarse / coarse.sum(), now=coarse_now / coarse_now.sum())
    return {
        "verdict": _verdict(by_psi, by_chance, p_value),
        "p_value": p_value,
        "psi": by_psi._asdict(),
        "ks": by_ks._asdict(),
        "bins": bins.to_dict("records"),
    }


def _parts(reference: np.ndarray, n_bins: int) -> tuple[np.ndarray, np.ndarray]:
    """Where the coarse bins begin, and in which part for the PSI each fine bin is.

    Where one coarse bin would hold all of the reference, the parts are its fullest fine bin and
    all outside: what lies there now would else be compared with nothing.
    """
    fine = np.arange(len(reference))
    if n_bins < 2:
        return np.array([0]), np.zeros_like(fine)
    starts = even_bins(reference, n_bins)
    if len(starts) > 1:
        return starts, np.searchsorted(starts, fine, side="right") - 1
    fullest = int(reference.argmax())
    starts = np.unique([0, fullest, fullest + 1])
    return starts[starts < len(reference)], (fine != fullest).astype(int)


def _not_compared(report: Mapping[str, Any]) -> dict[str, str]:
    """Why each quantity was not compared that was not, by its name."""
    compared, name = report["drift"], report["reference"]
    one_bin = f"the memes of {name} and the answers all fall into one bin: look at some of them"
    found = {key: one_bin for key, one in compared.items() if one["verdict"] == "too few"}
    if "text_length" not in compared:
        found["text_length"] = f"the shards of {name} are gone or others: pack them, {again(3)}"
    return found


def _what_is_missing(report: Mapping[str, Any]) -> str:
    """What helps where nothing could be compared."""
    memes, answers, steps = report["memes"], report["answers"], []
    if memes < LEAST:
        steps.append(
            f"the reference, {report['reference']}, has {memes} memes and {LEAST} are needed: "
            "calibrate on more, by a full run or more data"
        )
    if answers < LEAST:
        steps.append(f"there are {answers} answers and {LEAST} are needed: count more first")
    alike = "the reference's memes all fall into one bin: calibrate on more, by more data"
    return "; ".join(steps) or alike


def _verdict(by_psi: Shift, by_chance: float, p_value: float) -> str:
    """The band of the PSI less its mean without drift; a large one must be so beyond doubt."""
    if p_value > ALPHA / 2:
        return "no drift found" if by_psi.high < LARGE else "no drift found, nor excluded"
    if by_psi.low >= LARGE:
        return "large drift"
    return "small drift" if by_psi.value - by_chance < MODERATE else "moderate drift"


def _decisions(now: Histograms, reference: Reference) -> dict[str, Any]:
    """The share of each decision now, with its exact 95% interval, and then."""
    found = {}
    for name, count in now.words["decision"].items():
        low, high = clopper_pearson(count, now.n)
        share = count / now.n if now.n else None
        then = float((reference.decisions == name).mean())
        found[name] = {"now": share, "low": low, "high": high, "reference": then}
    return found


def watch(
    histograms: str | Path,
    *,
    root: str | Path | None = None,
    mode: Literal["pilot", "full"] = "pilot",
    labels: str | Path | None = None,
    scores: str | Path | None = None,
) -> dict[str, Any]:
    """Compare histograms with a run's calibration split, and write `Step_8/drift_<mode>.json`.

    `labels` is a CSV or Parquet file with the column `label` and `prob_hate`, or `id` or `row` by
    which the probabilities are found in `scores`, by default the file beside the histograms.
    Raises FileNotFoundError or ValueError for files that are missing or of other models.
    """
    settings = Settings.model_validate({"mode": mode, "root": root})
    settings.guide()
    reference, now = reference_of(settings), Histograms.read(histograms)
    beside = str(histograms).removesuffix(".histograms.json") + ".parquet"
    found = None
    if labels is not None:
        found = read_labels(labels, scores or beside, reference.decision.judged_by)
    report = as_written(drift_report(now, reference, found))
    write_json(settings.artifact(8, "drift.json"), report)
    return report


def main(arguments: Sequence[str] | None = None) -> None:
    """Compare what was judged with the calibration split; with fresh labels, test calibration."""
    parser = argparse.ArgumentParser(prog="python -m lib.serving.drift", description=main.__doc__)
    parser.add_argument("histograms", type=Path, help="what score or the service wrote")
    parser.add_argument("--mode", choices=("pilot", "full"), default="pilot")
    parser.add_argument("--root", type=Path, help="folder of the run; default: the project's")
    parser.add_argument("--labels", type=Path, help="CSV or Parquet: label, and prob_hate or id")
    parser.add_argument("--scores", type=Path, help="the scores that the labels' ids are of")
    options = parser.parse_args(arguments)
    try:
        report = watch(
            options.histograms,
            root=options.root,
            mode=options.mode,
            labels=options.labels,
            scores=options.scores,
        )
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    print(
        f"{report['answers']:,} answers against {report['memes']:,} memes of {report['reference']}"
    )
    if len(table := drift_table(report)):
        print(table.to_string(index=False, float_format="{:.3g}".format))
    print(f"{report['verdict']}: {report['advice']}")
    if "labels" in report:
        from lib.serving.fresh_labels import label_tables

        for table in label_tables(report["labels"]):
            print("\n" + table.to_string(index=False, float_format="{:.3g}".format))
        print(f"{report['labels']['verdict']}: {report['labels']['advice']}")


if __name__ == "__main__":
    main()
