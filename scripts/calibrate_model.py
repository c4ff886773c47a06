"""Fit the emotion classifier's temperature and thresholds on half of dev; report on the other."""

import argparse

import emotion_cli
import numpy as np
import pandas as pd
from scipy.special import expit
from sklearn.metrics import log_loss

from lib.artifacts import as_written, write_csv, write_json
from lib.calibration import (
    Interval,
    expected_calibration_error,
    fit_temperature,
    joint_search,
    per_label_thresholds,
)
from lib.emotions.classifier import BERTEmotionClassifier
from lib.emotions.f1 import best_constant_f1, smoothed_thresholds
from lib.figures.single_plots import joint_heatmap

TEMPERATURES = np.arange(1.0, 16.0)
THRESHOLDS = np.arange(2, 11) / 10
STORED = "smoothed cut per label"
NOT_IDENTIFIED = (
    "F1 does not identify T: sigmoid(z/T) >= t decides as z >= T*logit(t) does, so every T reaches "
    "the same F1 at its own t; T is therefore fitted by likelihood."
)

Rules = dict[str, tuple[float, float | np.ndarray]]


def options() -> argparse.Namespace:
    made = emotion_cli.parser(
        "Fit temperature and thresholds on half of dev and report on the other half; write "
        "calibration.json, search.csv and search.png beside the checkpoint and store the fit in it."
    )
    emotion_cli.add_data_options(made)
    made.add_argument(
        "--average", choices=emotion_cli.AVERAGES, default="macro", help="the F1 searched for"
    )
    made.add_argument(
        "--min-positives",
        type=int,
        default=30,
        help="a rarer label's exact cut is the pooled one (default 30)",
    )
    made.add_argument("--resamples", type=int, default=1000, help="of the bootstrap")
    made.add_argument("--report-only", action="store_true", help="leave the checkpoint as it is")
    return made.parse_args()


def choose_rules(
    logits: np.ndarray, labels: np.ndarray, search: pd.DataFrame, args: argparse.Namespace
) -> Rules:
    """Return what turns logits (N, L) into decisions: per rule T and the cut or cuts (L,)."""
    best = search.loc[search["f1"].idxmax()]
    # Rounded as calibration.json holds it, so that file and checkpoint decide alike.
    temperature = as_written(float(fit_temperature(logits, labels).temperature))
    smoothed = np.array(as_written(smoothed_thresholds(logits / temperature, labels)))
    exact = per_label_thresholds(expit(logits / temperature), labels, args.min_positives)
    return {
        "uncalibrated": (1.0, 0.5),
        "documented search": (best["temperature"], best["threshold"]),
        "one exact cut": (temperature, exact_cut(logits, labels, temperature, args.average)),
        "exact cut per label": (temperature, exact),
        STORED: (temperature, smoothed),
    }


def exact_cut(logits: np.ndarray, labels: np.ndarray, temperature: float, average: str) -> float:
    """Return the one cut for all labels with the best F1 over all distinct scores (N, L)."""
    scores = np.unique(expit(logits / temperature))
    f1 = joint_search(logits, labels, [temperature], scores, average)["f1"].to_numpy()
    best = f1.argmax()
    # Halfway to the next lower score, where rounding changes no decision.
    return float(scores[max(best - 1, 0) : best + 1].mean())


def choice_interval(logits: np.ndarray, labels: np.ndarray, args: argparse.Namespace) -> Interval:
    """Return the interval of T and, behind it, of the stored cuts: arrays (1 + L,).

    Both are chosen anew in each resample of logits and labels (N, L).
    """

    def choose(rows: np.ndarray) -> np.ndarray:
        temperature = fit_temperature(logits[rows], labels[rows]).temperature
        return np.append(temperature, smoothed_thresholds(logits[rows] / temperature, labels[rows]))

    return emotion_cli.row_interval(choose, len(labels), max(args.resamples // 5, 1), args.seed)


def measure(
    rules: Rules, logits: np.ndarray, labels: np.ndarray, args: argparse.Namespace
) -> pd.DataFrame:
    """Return the F1 of each rule and of the best constant on logits and labels (N, L)."""
    constant = {f"{a}_f1": best_constant_f1(labels, a) for a in emotion_cli.AVERAGES}
    rows = []
    for rule, (temperature, cuts) in rules.items():
        found = emotion_cli.f1_interval(expit(logits / temperature) >= cuts, labels, args)
        row = {"rule": rule}
        for i, a in enumerate(emotion_cli.AVERAGES):
            row |= {f"{a}_f1": found.point[i], f"{a}_low": found.low[i], f"{a}_high": found.high[i]}
        rows.append(row)
    return pd.DataFrame([*rows, {"rule": "best constant prediction"} | constant])


def calibration(logits: np.ndarray, labels: np.ndarray, temperature: float) -> dict:
    """Return NLL (nats per label) and ECE of the pooled probabilities before and after T."""
    found = {}
    for when, t in (("before", 1.0), ("after", temperature)):
        prob = expit(logits / t).ravel()
        found[f"nll_{when}"] = float(log_loss(labels.ravel(), prob))
        found[f"ece_{when}"] = expected_calibration_error(prob, labels.ravel())
    return found


def summarise(
    rules: Rules, logits: np.ndarray, labels: np.ndarray, names: tuple[str, ...], args
) -> dict:
    """Gather what was chosen on logits and labels (N, L), each choice with its interval."""
    temperature, stored = rules[STORED]
    spread = choice_interval(logits, labels, args)
    status = fit_temperature(logits, labels).status
    searched, cut = rules["documented search"]
    exact = rules["exact cut per label"][1]
    return {
        "temperature": {"value": temperature, "status": status} | limits(spread, 0),
        "documented_search": {
            "average": args.average,
            "temperature": searched,
            "threshold": cut,
            "combinations": len(TEMPERATURES) * len(THRESHOLDS),
        },
        "one_cut": rules["one exact cut"][1],
        "thresholds": {
            name: {"threshold": stored[i], "exact": exact[i], "positives": int(labels[:, i].sum())}
            | limits(spread, 1 + i)
            for i, name in enumerate(names)
        },
    }


def limits(interval: Interval, i: int) -> dict[str, float]:
    return {"low": interval.low[i], "high": interval.high[i]}


def show(content: dict, search: pd.DataFrame, table: pd.DataFrame) -> None:
    """Print the search, the choices and the report."""
    best, t = search.loc[search["f1"].idxmax()], content["temperature"]
    print(f"\ndocumented search, {len(search)} combinations on the tuning half, best F1", end=" ")
    print(f"{best['f1']:.4f} at T = {best['temperature']:.0f}, threshold = {best['threshold']:.1f}")
    print(NOT_IDENTIFIED)
    print(f"\ntemperature by likelihood: {t['value']:.4f} ({t['status']})", end=" ")
    print(f"[{t['low']:.4f}, {t['high']:.4f}]")
    print("NLL {nll_before:.4f} -> {nll_after:.4f}".format(**content["calibration"]), end=", ")
    print("ECE {ece_before:.4f} -> {ece_after:.4f}".format(**content["calibration"]))
    print(f"one exact cut for all labels: {content['one_cut']:.4f}; cuts per label:")
    cuts = pd.DataFrame.from_dict(content["thresholds"], orient="index")
    print(cuts.to_string(float_format="{:.3f}".format))
    print("\nF1 on the reporting half, with 95% intervals:")
    print(table.to_string(index=False, na_rep="", float_format="{:.4f}".format))


def main() -> int:
    args = options()
    model = emotion_cli.load_for(args.model, args.data)
    tune, report = (emotion_cli.read_split(args, model, split) for split in ("tune", "report"))
    emotion_cli.announce(args, tuned_on=tune, reported_on=report)
    logits, held_out = (
        emotion_cli.cached_logits(args.model, model, data).astype(float) for data in (tune, report)
    )
    search = joint_search(logits, tune.labels, TEMPERATURES, THRESHOLDS, args.average)
    rules = choose_rules(logits, tune.labels, search, args)
    temperature, cuts = rules[STORED]
    table = measure(rules, held_out, report.labels, args)
    content = summarise(rules, logits, tune.labels, model.names, args) | {
        "calibration": calibration(held_out, report.labels, temperature),
        "report": table.astype(object).where(table.notna(), None).to_dict("records"),
        "weights": emotion_cli.weights_fingerprint(model),
        "tuned_on": {"source": tune.source, "n": len(tune)},
        "reported_on": {"source": report.source, "n": len(report)},
    }
    show(content, search, table)

    write_csv(args.model / "search.csv", search)
    emotion_cli.save_figure(args.model / "search.png", lambda ax: joint_heatmap(ax, search))
    write_json(args.model / "calibration.json", content)
    if not args.report_only:
        model.set_temperature(temperature)
        model.set_threshold(cuts)
        model.update(args.model)
    print(f"\nwrote calibration.json, search.csv, search.png to {args.model}")
    print(f"checkpoint: {emotion_cli.described(BERTEmotionClassifier.load(args.model))}")
    return 0


if __name__ == "__main__":
    emotion_cli.run(main)
