"""What the models are worth on real memes, beside what a user would try first.

    python benchmarks/real_memes.py --data DIR [--root DIR] [--seeds 5] [--across]

DIR holds `Datasets/` and `Step_2/data_manifest.jsonl`. Trains with configs/real_memes.yaml: experts
over `--seeds` seeds, with each the head that the configuration names, epochs chosen on one half of
val and temperature and threshold on the other. Test is what Step 3 carves (a tenth of the train
memes of a data set without a test split of its own, whole groups), drawn anew by no seed. With
`--across` each data set alone is trained on and tested on the others.

Writes real_memes.csv, real_memes_val_and_test.csv, real_memes_by_data_set.csv and
real_memes_across.csv in results/: figures only, no meme. Everything trained lies under the root, so
that the same command goes on after a kill; give other data or another configuration a root of their
own.
"""

import argparse
import math
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from tqdm import tqdm

from lib.artifacts import atomic_path, write_csv
from lib.calibration import (
    best_threshold,
    bootstrap_ci,
    bootstrap_difference,
    cross_fit,
    expected_calibration_error,
    fit_temperature,
    prob_hate,
    zero_truth_ece,
)
from lib.config import MODELS, Settings
from lib.data.datasets import MemeShards, shard_paths
from lib.data.example import Example
from lib.data.packing.pack import pack
from lib.data.pictures import blank_picture
from lib.data.sources import examples_for
from lib.data.text import words_of
from lib.data.val_parts import CALIBRATE, val_parts
from lib.modeling.encoders import EXPERTS
from lib.modeling.experts import train_expert
from lib.modeling.features import encode_shards
from lib.modeling.fusion import load_fusion, save_fusion
from lib.modeling.fusion_inputs import encode_for_fusion, load_encoders
from lib.modeling.fusion_training import choose_head, compare_heads, train_fusion
from lib.modeling.prediction_table import groups_of, logits_of
from lib.modeling.predictions import feature_logits, packed_splits, predict_shards
from lib.modeling.stacking import SPACE

RESULTS = Path(__file__).parent / "results"
CONFIG = Path(__file__).parent.parent / "configs/real_memes.yaml"
# Two labellings of the same 337 memes of one of the sets agree in 87%.
AGREEMENT = 0.87
METRICS = ("auroc", "macro_f1", "ece", "brier")
FEW = 200
GREY = "fusion, picture replaced by grey"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--root", type=Path, default=Settings().root / "runs/real_memes")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--across", action="store_true")
    options = parser.parse_args()
    if options.across and len(names := data_sets(options)) < 2:
        raise SystemExit(f"--across needs two data sets, and {options.data} holds {names} alone")
    first, runs = settings_of(options, "seed-0", model_seed=0), []
    for seed in tqdm(range(options.seeds), desc="seeds"):
        settings = settings_of(options, f"seed-{seed}", model_seed=seed)
        share_what_no_seed_changes(first, settings)
        runs.append(trained_predictions(settings, examples_for(settings)))
    table = pd.DataFrame(rows_of(first, runs))
    write_csv(RESULTS / "real_memes.csv", table)
    print(table.to_string(index=False, float_format="%.3f"))
    together = pd.DataFrame(rows_of_val_and_test(first, runs))
    write_csv(RESULTS / "real_memes_val_and_test.csv", together)
    print(together.to_string(index=False, float_format="%.3f"))
    apart = pd.DataFrame(rows_by_data_set(first, runs))
    write_csv(RESULTS / "real_memes_by_data_set.csv", apart)
    print(apart.to_string(index=False, float_format="%.3f"))
    if options.across:
        across = pd.DataFrame(across_sets(options))
        write_csv(RESULTS / "real_memes_across.csv", across)
        print(across.to_string(index=False, float_format="%.3f"))


def settings_of(options: argparse.Namespace, name: str, model_seed: int) -> Settings:
    overrides = {"data": options.data, "root": options.root / name, "seed": model_seed}
    return Settings.from_file(CONFIG, **overrides)


def share_what_no_seed_changes(first: Settings, settings: Settings) -> None:
    """Let a run read the packed memes of the first, and the cache of features beside them."""
    for own, shared in ((settings.step3, first.step3), (settings.features, first.features)):
        if own != shared and not own.exists():
            shared.mkdir(parents=True, exist_ok=True)
            own.parent.mkdir(parents=True, exist_ok=True)
            own.symlink_to(shared, target_is_directory=True)


def trained_predictions(settings: Settings, examples: Iterable) -> pd.DataFrame:
    """Pack, train and predict as Steps 3 to 6 do; what an earlier call has finished is taken up.

    The memes are divided with seed 0 whatever the models' seed: all are judged on the same test.
    """
    if not (settings.shards / "made_from.json").exists():
        pack(examples, settings.step3, mode="full", seed=0, workers=settings.workers)
    file = settings.artifact(6, "predictions.parquet")
    if not file.exists():
        for name in EXPERTS:
            train_expert(name, settings)
        encoders = load_encoders(settings)
        train, val = encode_for_fusion(settings, encoders)
        compared = compare_heads(train, settings, val) if settings.fusion_head == "auto" else None
        config = choose_head(compared, train, settings)
        save_fusion(train_fusion(train, config, settings, val), settings, encoders)
        frame = predict_shards(packed_splits(settings), settings.models, settings.features)
        file.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(file) as new:
            frame.to_parquet(new)
    return pd.read_parquet(file)


def rows_of(settings: Settings, runs: list[pd.DataFrame]) -> list[dict]:
    """A row a model: what it reaches on test with the first seed, and its spread over the seeds."""
    memes = packed_memes(settings)
    scores = [{name: logits_of(run, name) for name in MODELS} for run in runs]
    splits = [run["split"].to_numpy() for run in runs]
    # Epochs and heads were chosen on the other half of val.
    rows_of_val = np.flatnonzero(val_parts(memes["val"].labels, memes["val"].groups) == CALIBRATE)
    kept = {"val": rows_of_val, "test": np.arange(len(memes["test"]))}
    margins = {
        name: [
            {split: _margin(found[name])[split_of == split][kept[split]] for split in kept}
            for found, split_of in zip(scores, splits, strict=True)
        ]
        for name in MODELS
    }
    grey = without_picture(settings)
    # Calibrated as it is served: on memes as they are.
    grey["val"] = margins["mm_fusion"][0]["val"]
    others = baselines(settings, memes)
    margins |= {
        name: [{split: found[split][kept[split]] for split in kept}]
        for name, found in others.items()
    }
    margins[GREY] = [grey]
    labels = {split: np.array(memes[split].labels)[kept[split]] for split in kept}
    groups = np.array(memes["test"].groups)
    rivals = {
        f"minus_{name}": judged(margins[model][0], labels)["test"]
        for name, model in {"text": "text_expert", "fusion": "mm_fusion"}.items()
    }
    rows = []
    for name, seeds in margins.items():
        over_seeds = pd.DataFrame([judged(found, labels)["metrics"] for found in seeds])
        first = judged(seeds[0], labels)
        row = {"model": name, "n_test": len(labels["test"]), "seeds": len(seeds)}
        for metric in METRICS:
            row[metric] = first["metrics"][metric]
            found = interval(first, labels["test"], metric, groups)
            row |= {f"{metric}_low": found.low, f"{metric}_high": found.high}
            row[f"{metric}_std"] = over_seeds[metric].std(ddof=0)
        row |= {f"{m}_uncalibrated": first["metrics"][f"{m}_before"] for m in ("ece", "brier")}
        for column, rival in rivals.items():
            gap = bootstrap_difference(first["test"], rival, labels["test"], "auroc", groups=groups)
            row |= {column: gap.point, f"{column}_low": gap.low, f"{column}_high": gap.high}
        rows.append(row)
    return [*rows, ceiling(labels["test"])]


def rows_of_val_and_test(settings: Settings, runs: list[pd.DataFrame]) -> list[dict]:
    """A row a seed and model on val and test as one set, three times as many memes as test alone.

    AUROC needs nothing fitted. Temperature and threshold of each meme come from the other folds
    (`cross_fit`). Half of val chose the epochs, which flatters all models alike. Of the first seed,
    `settings`, fusion is also shown plain grey for every picture.
    """
    rows = []
    for seed, run in enumerate(runs):
        memes = run[run["split"].isin(["val", "test"])]
        y, groups = memes["label"].to_numpy(), memes["group"].to_numpy()
        margins = {name: _margin(logits_of(memes, name)) for name in MODELS}
        if seed == 0:
            grey = without_picture(settings)
            margins[GREY] = np.concatenate([grey[s] for s in dict.fromkeys(memes["split"])])
        fits = {
            name: cross_fit(margin, y, groups=groups, objective={"objective": "macro_f1"})
            for name, margin in margins.items()
        }
        scores = {
            "auroc": {name: prob_hate(margin) for name, margin in margins.items()},
            "macro_f1": {name: fit.decision.astype(float) for name, fit in fits.items()},
        }
        for name, fit in fits.items():
            row = {"model": name, "seed": seed, "n": len(y)}
            for metric, own in scores.items():
                row[metric] = bootstrap_ci(own[name], y, metric, 1).point
                for rival, model in {"text": "text_expert", "fusion": "mm_fusion"}.items():
                    gap = bootstrap_difference(own[name], own[model], y, metric, groups=groups)
                    column = f"{metric}_minus_{rival}"
                    row |= {column: gap.point, f"{column}_low": gap.low}
                    row |= {f"{column}_high": gap.high}
            row |= {"ece": expected_calibration_error(fit.prob, y)}
            rows.append(row | {"ece_zero_truth": zero_truth_ece(fit.prob)})
    return rows


def rows_by_data_set(settings: Settings, runs: list[pd.DataFrame]) -> list[dict]:
    """A row a data set, seed and model: AUROC on val and test together, and what it is above
    TF-IDF's, with a paired interval. All models learned from all data sets."""
    memes, rows = packed_memes(settings), []
    tfidf = tfidf_margins(memes)
    found = {s: np.array([meta.get("dataset") or "" for meta in memes[s].metas]) for s in tfidf}
    of = np.concatenate(list(found.values()))
    for seed, run in enumerate(runs):
        judged_on = pd.concat([run[run["split"] == split] for split in found])
        y, groups = judged_on["label"].to_numpy(), judged_on["group"].to_numpy()
        margins = {"TF-IDF, logistic regression": np.concatenate(list(tfidf.values()))}
        margins |= {name: _margin(logits_of(judged_on, name)) for name in MODELS}
        probs = {name: prob_hate(margin) for name, margin in margins.items()}
        rival = probs["TF-IDF, logistic regression"]
        for name in sorted(set(of)):
            own = of == name
            for model, prob in probs.items():
                gap = bootstrap_difference(
                    prob[own], rival[own], y[own], "auroc", groups=groups[own]
                )
                row = {"data_set": name, "n": int(own.sum()), "hate": y[own].mean()}
                row |= {"seed": seed, "model": model, "auroc": roc_auc_score(y[own], prob[own])}
                row |= {"minus_tfidf": gap.point}
                rows.append(row | {"minus_tfidf_low": gap.low, "minus_tfidf_high": gap.high})
    return rows


def packed_memes(settings: Settings) -> dict[str, MemeShards]:
    return {
        split: MemeShards(shard_paths(settings.shards, split), pictures=False)
        for split in ("train", "val", "test")
    }


def tfidf_margins(memes: dict[str, MemeShards]) -> dict[str, np.ndarray]:
    """The margins of TF-IDF with logistic regression on val and test."""
    words = {split: [words_of(text) for text in found.texts] for split, found in memes.items()}
    model = make_pipeline(
        TfidfVectorizer(ngram_range=(1, 2), min_df=2, sublinear_tf=True),
        LogisticRegression(max_iter=1000),
    ).fit(words["train"], memes["train"].labels)
    return {split: model.decision_function(words[split]) for split in ("val", "test")}


def baselines(settings: Settings, memes: dict[str, MemeShards]) -> dict[str, dict]:
    """TF-IDF and frozen features with logistic regression, and constant scores: margins a split."""
    labels = memes["train"].labels
    encoders = load_encoders(settings)
    frozen = {}
    for split in memes:
        found = encode_shards(shard_paths(settings.shards, split), encoders, settings.features)
        frozen[split] = np.hstack([found.arrays[name][:] for name in SPACE])
    linear = make_pipeline(StandardScaler(), LogisticRegression(C=1e-3, max_iter=1000))
    linear.fit(frozen["train"], labels)
    prior = math.log(np.mean(labels) / (1 - np.mean(labels)))
    judged_on = ("val", "test")
    return {
        "TF-IDF, logistic regression": tfidf_margins(memes),
        "frozen features, logistic regression": {
            split: linear.decision_function(frozen[split]) for split in judged_on
        },
        "constant (prior)": {split: np.full(len(memes[split]), prior) for split in judged_on},
    }


@torch.inference_mode()
def without_picture(settings: Settings) -> dict[str, np.ndarray]:
    """Fusion's margins where all pictures of val and test are replaced by plain grey."""
    fusion = load_fusion(settings.models, "cpu")
    tokens = fusion.head.reads_tokens
    blank = fusion.encoders.encode_images([blank_picture()], tokens)
    found = {}
    for split in ("val", "test"):
        seen = encode_shards(
            shard_paths(settings.shards, split), fusion.encoders, settings.features, tokens
        )
        grey = {name: array.expand(len(seen), *array.shape[1:]) for name, array in blank.items()}
        seen = seen.with_arrays(**grey)
        logits = feature_logits(fusion.head, seen)["mm_fusion"]
        found[split] = (logits[:, 1] - logits[:, 0]).double().numpy()
    return found


def judged(margins: dict[str, np.ndarray], labels: dict[str, np.ndarray]) -> dict:
    """Temperature and threshold from val, then test's calibrated probabilities and metrics."""
    fit = fit_temperature(margins["val"], labels["val"])
    cut = best_threshold(prob_hate(margins["val"], fit.temperature), labels["val"], "macro_f1")
    prob = prob_hate(margins["test"], fit.temperature)
    before = prob_hate(margins["test"])
    y = labels["test"]
    metrics = {
        "auroc": bootstrap_ci(prob, y, "auroc", 1).point,
        "macro_f1": bootstrap_ci(prob, y, "macro_f1", 1, threshold=cut.threshold).point,
    }
    for metric in ("ece", "brier"):
        metrics[metric] = bootstrap_ci(prob, y, metric, 1).point
        metrics[f"{metric}_before"] = bootstrap_ci(before, y, metric, 1).point
    return {"test": prob, "threshold": cut.threshold, "metrics": metrics}


def interval(found: dict, labels: np.ndarray, metric: str, groups: np.ndarray):
    return bootstrap_ci(found["test"], labels, metric, threshold=found["threshold"], groups=groups)


def ceiling(labels: np.ndarray) -> dict:
    """What a model that knows every meme's true label would reach against labels this noisy.

    If two labellings, each wrong at random with probability e, agree in a share a, then
    a = (1 - e)^2 + e^2. Hate and non-hate are taken to be mislabelled alike.
    """
    error = (1 - math.sqrt(2 * AGREEMENT - 1)) / 2
    hate = labels.mean()
    true_hate = (hate - error) / (1 - 2 * error)
    # Of the memes labelled hate (or not), the share that truly is hate.
    of_hate = (1 - error) * true_hate / hate
    of_rest = error * true_hate / (1 - hate)
    auroc = of_hate * (1 - of_rest) + (of_hate * of_rest + (1 - of_hate) * (1 - of_rest)) / 2
    tp, fp = hate * of_hate, (1 - hate) * of_rest
    fn, tn = hate - tp, 1 - hate - fp
    macro_f1 = (2 * tp / (2 * tp + fp + fn) + 2 * tn / (2 * tn + fp + fn)) / 2
    row = {"model": f"label noise ceiling (labellings agree in {AGREEMENT:.0%})"}
    return row | {"n_test": len(labels), "auroc": auroc, "macro_f1": macro_f1}


def across_sets(options: argparse.Namespace) -> list[dict]:
    """Train on one data set, test on each: as calibrated at home, and after a few labels there."""
    names, runs = data_sets(options), {}
    for name in names:
        settings = settings_of(options, f"only-{name}", model_seed=0)
        every = examples_for(settings)
        own = [e for e in every if not isinstance(e, Example) or e.dataset == name]
        runs[name] = settings, trained_predictions(settings, own)
    rows = []
    for home, (settings, predictions) in runs.items():
        for away, (other, own) in runs.items():
            there = own if home == away else foreign_predictions(settings, other)
            rows += [
                {"trained_on": home, "tested_on": away} | row
                for row in repaired(
                    predictions[predictions["part"] == CALIBRATE],
                    there[there["split"] == "val"],
                    there[there["split"] == "test"],
                )
            ]
    return rows


def data_sets(options: argparse.Namespace) -> list[str]:
    every = examples_for(settings_of(options, "seed-0", 0))
    return sorted({e.dataset for e in every if isinstance(e, Example)})


def foreign_predictions(settings: Settings, other: Settings) -> pd.DataFrame:
    """Predictions of one run's models on another's val and test."""
    shards = packed_splits(other)
    return predict_shards(
        {split: shards[split] for split in ("val", "test")}, settings.models, settings.features
    )


def repaired(home: pd.DataFrame, labelled: pd.DataFrame, test: pd.DataFrame) -> list[dict]:
    """Fusion on a new data set: with home's numbers, then with what FEW labels there repair."""
    few = labelled.sample(min(FEW, len(labelled)), random_state=0)
    y, margin = test["label"].to_numpy(), _margin(logits_of(test, "mm_fusion"))
    fits = {
        "home": (home, 0.0, home),
        f"threshold from {len(few)} labels": (home, 0.0, few),
        f"prevalence from {len(few)} labels": (home, shift(home, few), None),
        f"temperature and threshold from {len(few)} labels": (few, 0.0, few),
    }
    rows = []
    for name, (calibrating, offset, choosing) in fits.items():
        own = _margin(logits_of(calibrating, "mm_fusion"))
        t = fit_temperature(own, calibrating["label"]).temperature
        prob = prob_hate(margin + offset * t, t)
        cutting = home if choosing is None else choosing
        cut = best_threshold(
            prob_hate(_margin(logits_of(cutting, "mm_fusion")) + offset * t, t),
            cutting["label"],
            "macro_f1",
        ).threshold
        row = {"calibrated_on": name, "n_test": len(y), "hate": y.mean(), "temperature": t}
        row |= {"threshold": cut}
        for metric in METRICS:
            found = bootstrap_ci(prob, y, metric, threshold=cut, groups=groups_of(test))
            row |= {metric: found.point, f"{metric}_low": found.low, f"{metric}_high": found.high}
        rows.append(row)
    return rows


def shift(home: pd.DataFrame, few: pd.DataFrame) -> float:
    """The change in log-odds of hate between two sets (Saerens et al. 2002, prior shift)."""
    odds = [np.log(f["label"].mean() / (1 - f["label"].mean())) for f in (home, few)]
    return float(odds[1] - odds[0])


def _margin(logits: pd.DataFrame) -> np.ndarray:
    return (logits.iloc[:, 1] - logits.iloc[:, 0]).to_numpy()


if __name__ == "__main__":
    main()
