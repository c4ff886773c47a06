"""Two runs on the same memes, before a model is replaced: `python -m lib.decisions.compare A B`.

A is the run in use and B the candidate: what is worse or better is so in B. `worse_by` is above 0
where B is worse, whichever way a metric points.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from lib.artifacts import fingerprint, write_csv, write_json
from lib.config import MODELS
from lib.decisions.compared_policies import from_to, moved_by_policy
from lib.decisions.compared_runs import MODES, Run, default_modes, memes_of, paired, read_run
from lib.decisions.error_analysis import error_table
from lib.decisions.evaluation import without_nan
from lib.decisions.policy import CHOSEN
from lib.decisions.run_differences import (
    METRICS,
    TRADED,
    Pair,
    calibration_of,
    flips_of,
    metrics_of,
    slices_of,
    values_of,
)
from lib.decisions.spreadsheets import for_spreadsheets
from lib.modeling.prediction_table import resampled

SHOWN_FLIPS = 10


class Comparison(NamedTuple):
    """What `compare` finds: numbers and words in `summary`, and a table each.

    `decisions` holds the memes of which the policies decide otherwise, None without two policies.
    """

    summary: dict[str, Any]
    flips: pd.DataFrame
    metrics: pd.DataFrame
    slices: pd.DataFrame
    decisions: pd.DataFrame | None = None


def compare(
    a: Run, b: Run, model: str = "mm_fusion", seed: int = 0, n_resamples: int = 1000
) -> Comparison:
    """Compare one model of two runs that `paired` has aligned.

    Each run decides at its own temperature and threshold. Intervals are of paired bootstrap
    differences: 95% for each metric, and for slices 95% for all of them together (Bonferroni).
    Slices are of what the memes are, those of A's `slice_by` with them, and never of what a model
    says of them: where A is surest it is flattered, and a candidate as good would look worse.
    Raises ValueError where the shards do not hold the predicted memes.
    """
    texts, metas = memes_of(a) or memes_of(b) or _unknown(len(a.frame))
    tables = [error_table(run.frame, texts, metas, run.decision) for run in (a, b)]
    prob, decided = (
        (tables[0][f"{model}_{kind}"].to_numpy(), tables[1][f"{model}_{kind}"].to_numpy())
        for kind in ("prob", "pred")
    )
    cuts = a.decision.thresholds[model], b.decision.thresholds[model]
    pair = Pair(a.frame, tables[0], prob, decided, cuts)
    options = {"seed": seed, "n_resamples": n_resamples}
    values = values_of(pair)
    flips, metrics = flips_of(pair), metrics_of(pair, values, options)
    changes = {name: int((flips["change"] == name).sum()) for name in ("fixed", "broken")}
    summary = {
        "model": model,
        "n": len(a.frame),
        "resampled": resampled(a.frame),
        "runs": {
            name: {
                "mode": run.settings.mode,
                "split": run.settings.report_split,
                "temperature": run.decision.temperatures[model],
                "threshold": run.decision.thresholds[model],
                "predictions": fingerprint(run.predictions),
            }
            for name, run in (("a", a), ("b", b))
        },
        "flips": changes | {"all": len(flips)},
        "calibration": calibration_of(metrics, values),
    }
    by_slice = slices_of(pair, metas, a.settings.slice_by, options)
    decisions = None
    # Of a file of predictions no policy is known, and one is for fusion alone.
    if model == CHOSEN and a.shards is not None and b.shards is not None:
        decisions = moved_by_policy(*tables)
        summary["decisions"] = from_to(*tables)
    return Comparison(summary | options, flips, metrics, by_slice, decisions)


def faults(
    found: Comparison, slice_worse_by: float | None = None, metric_worse_by: float | None = None
) -> list[str]:
    """A line for each metric and slice whose whole interval of `worse_by` is above what is allowed.

    And whose verdict is "worse", which asks more of the ECE and of slices. None allows everything;
    slices under 30 memes have no interval and no line, and precision and recall have none either.
    """
    judged = found.metrics[~found.metrics["metric"].isin(TRADED)]
    allowed = ((metric_worse_by, judged), (slice_worse_by, found.slices))
    return [
        f"{row.get('metric') or row['slice'] + ' ' + row['value']} is worse by "
        f"{row['worse_by']:.4f} ({row['low']:.4f} to {row['high']:.4f}), allowed is {most:g}"
        for most, table in allowed
        if most is not None
        for row in table[(table["low"] > most) & (table["verdict"] == "worse")].to_dict("records")
    ]


def refuse_unjudged(
    found: Comparison, slice_worse_by: float | None, metric_worse_by: float | None
) -> None:
    """Raise ValueError where a margin is asked for that nothing here can be held to.

    Where no decision flips, no slice can be worse, whether it can be judged or not.
    """
    judged = {
        "slice": (slice_worse_by, found.slices["low"].notna().any() or found.flips.empty),
        "metric": (metric_worse_by, found.metrics["low"].notna().any()),
    }
    for kind, (most, any_judged) in judged.items():
        if most is not None and not any_judged:
            raise ValueError(
                f"--no-{kind}-worse-by {most:g}: no {kind} can be judged here; slices need the "
                "packed memes of a root and 30 memes each, metrics both labels"
            )


def _unknown(n: int) -> tuple[list[str], list[Mapping[str, Any]]]:
    """Memes of which only the predictions are known: one value a field, hence no slices of it."""
    return [""] * n, [{"dataset": "", "labels": {}}] * n


def _print(found: Comparison) -> None:
    summary, flips = found.summary, found.summary["flips"]
    print(f"{summary['model']} on {summary['n']} memes, resampled: {summary['resampled']}")
    for name, run in summary["runs"].items():
        print(
            f"  {name.upper()}: {run['mode']}, {run['split']}, temperature "
            f"{run['temperature']:.4g}, threshold {run['threshold']:.4g}"
        )
    print(f"\nFlipped decisions: {flips['all']}, {flips['broken']} broken, {flips['fixed']} fixed")
    _print_table(found.flips.drop(columns="text")[:SHOWN_FLIPS])
    if found.decisions is not None:
        print(f"\nDecided otherwise by the policies: {len(found.decisions)}; rows A, columns B")
        print(pd.DataFrame(summary["decisions"]).T.to_string())
        _print_table(found.decisions.drop(columns="text")[:SHOWN_FLIPS])
    print("\nMetrics, worse_by with its 95% interval")
    _print_table(found.metrics)
    zero_truth = summary["calibration"]["ece_zero_truth"]
    print(
        f"\nCalibration: {summary['calibration']['verdict']}. Perfect probabilities would show an "
        f"ECE of {zero_truth['a']:.3f} in A and {zero_truth['b']:.3f} in B"
    )
    print("\nError rates by slice, with 95% intervals for all slices together")
    _print_table(found.slices)


def _print_table(table: pd.DataFrame) -> None:
    if len(table):
        print(table.to_string(index=False, float_format="{:.3f}".format, na_rep="-"))
    else:
        print("none")


def _save(found: Comparison, failed: Sequence[str], folder: Path) -> None:
    """Write `flips.csv`, `compare.json` and, of two policies, `decisions.csv`."""
    write_csv(folder / "flips.csv", for_spreadsheets(found.flips))
    if found.decisions is not None:
        write_csv(folder / "decisions.csv", for_spreadsheets(found.decisions))
    tables = {"metrics": found.metrics, "slices": found.slices}
    rows = {name: table.to_dict("records") for name, table in tables.items()}
    content = found.summary | rows | {"faults": list(failed)}
    write_json(folder / "compare.json", without_nan(content))


def _mode_pair(text: str) -> tuple[str, str]:
    modes = text.split(",")
    if len(modes) > 2 or not set(modes) <= set(MODES):
        raise argparse.ArgumentTypeError(
            f"expected full, pilot, or A's and B's as pilot,full: {text}"
        )
    return modes[0], modes[-1]


def _margin(text: str) -> float:
    margin = float(text)
    if not margin >= 0:
        raise argparse.ArgumentTypeError(f"expected a number of at least 0: {text}")
    return margin


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m lib.decisions.compare",
        description=__doc__,
        epilog="Exit code: 0, 1 where B is worse by more than is allowed, 2 for bad input.",
    )
    add = parser.add_argument
    add("a", metavar="A", type=Path, help="root of a run, or Parquet file of predictions")
    add("b", metavar="B", type=Path, help="the same of the candidate")
    modes = (
        "full, pilot, or A's and B's as pilot,full; default: full where both have it, else pilot"
    )
    add("--mode", type=_mode_pair, help=modes)
    add("--model", choices=MODELS, default="mm_fusion", help="default: mm_fusion")
    add("--overlap", action="store_true", help="let the memes do that both have scored")
    add(
        "--out",
        type=Path,
        metavar="DIR",
        help="folder for flips.csv, decisions.csv and compare.json",
    )
    rule = "exit with 1 if a {} wholly above X and the verdict worse, {}"
    slice_rule = (
        "slice's error rate in B minus that in A has an interval",
        "at 95%% for all slices together; a slice under 30 memes is not judged",
    )
    metric_rule = (
        "metric's worsening from A to B has an interval",
        f"at 95%% for each of {', '.join(name for name in METRICS if name not in TRADED)}",
    )
    add("--no-slice-worse-by", type=_margin, metavar="X", help=rule.format(*slice_rule))
    add("--no-metric-worse-by", type=_margin, metavar="X", help=rule.format(*metric_rule))
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare two runs; 0, or 1 where B is worse by more than is allowed, 2 for bad input."""
    options = _parser().parse_args(arguments)
    try:
        modes = options.mode or default_modes(options.a, options.b)
        a, b = read_run(options.a, modes[0]), read_run(options.b, modes[1])
        found = compare(*paired(a, b, options.overlap), options.model)
        margins = options.no_slice_worse_by, options.no_metric_worse_by
        refuse_unjudged(found, *margins)
        failed = faults(found, *margins)
        if options.out:
            _save(found, failed, options.out)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    _print(found)
    for line in failed:
        print(f"failed: {line}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
