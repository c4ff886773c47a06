"""Train memes whose label looks wrong, to be read again: what models say that never saw it.

Each train meme is judged by the logits of both experts trained without its fold (Step 5,
`fusion_features: out_of_fold`) and, where the cache has the features of train, by the vote of the
nearest train memes outside its group, as fusion is. A logistic regression weighs these scores that
was fitted without the meme's fold too.
Confident learning (Northcutt, Jiang and Chuang 2021), as cleanlab has it, then estimates from these
probabilities how many labels of each class are wrong, and takes the memes of least
`label_quality`: the probability of the label as it is given.
"""

import numpy as np
import pandas as pd
from cleanlab.filter import find_label_issues
from cleanlab.rank import get_label_quality_scores
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import PredefinedSplit, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from lib.artifacts import write_csv
from lib.config import Settings
from lib.data.datasets import MemeShards, shard_paths
from lib.decisions.nearest import all_cached, compared_with, features_of
from lib.decisions.spreadsheets import for_spreadsheets
from lib.modeling.encoders import EXPERTS
from lib.modeling.folds import folds_of_train
from lib.modeling.fusion import load_fusion
from lib.modeling.fusion_inputs import fold_files, out_of_fold, with_votes
from lib.modeling.stacking import VOTE

COLUMNS = ("id", "text", "label", "prob_hate", "label_quality", "suspect_rank")


def label_suspects(settings: Settings) -> pd.DataFrame:
    """The `suspects` among the train memes, written to `label_suspects_<m>.csv` of Step 7.

    Without out-of-fold logits, as in a pilot, it says so and the table is empty.
    """
    table = pd.DataFrame(columns=list(COLUMNS))
    if reason := why_none(settings):
        print(f"no label can be doubted: {reason}")
    else:
        memes = MemeShards(shard_paths(settings.shards, "train"), pictures=False)
        labels = np.array(memes.labels)
        prob = out_of_fold_prob(out_of_fold_scores(settings), labels, folds_of_train(settings))
        table = suspects(memes.ids, memes.texts, labels, prob)
    write_csv(settings.artifact(7, "label_suspects.csv"), for_spreadsheets(table))
    return table


def why_none(settings: Settings) -> str:
    """Why there are no out-of-fold logits of the train memes; empty where there are."""
    if settings.fusion_features != "out_of_fold":
        return (
            f"fusion_features is {settings.fusion_features}, and only out_of_fold gives scores of "
            "train memes by models that have not seen them"
        )
    if not all(file.exists() for name in EXPERTS for file in fold_files(name, settings)):
        return "Step 5's out-of-fold logits for these settings and memes are not in its cache"
    return ""


def out_of_fold_scores(settings: Settings) -> np.ndarray:
    """What is said of each train meme by others: both experts' differences of logits, and the vote
    of the nearest where the cache has features, (N, 2 or 3)."""
    fold = folds_of_train(settings)
    logits = [out_of_fold(name, settings, fold) for name in EXPERTS]
    margins = [(each[:, 1] - each[:, 0]).double().numpy() for each in logits]
    votes = _votes(settings)
    return np.column_stack(margins if votes is None else [*margins, votes])


def out_of_fold_prob(scores: np.ndarray, labels: np.ndarray, fold: np.ndarray) -> np.ndarray:
    """p(hate) (N,) from scores (N, k), each by weights fitted to the labels outside its fold."""
    weighing = make_pipeline(StandardScaler(), LogisticRegression())
    kept = PredefinedSplit(fold)
    return cross_val_predict(weighing, scores, labels, cv=kept, method="predict_proba")[:, 1]


def suspects(
    ids: list[str], texts: list[str], labels: np.ndarray, prob: np.ndarray
) -> pd.DataFrame:
    """The memes whose label is probably wrong, `COLUMNS`, the worst first (`suspect_rank` 1).

    `labels` and `prob`, p(hate) by models that have not seen the label, are (N,).
    """
    both = np.column_stack([1 - prob, prob])
    found = find_label_issues(labels, both, return_indices_ranked_by="self_confidence", n_jobs=1)
    quality = get_label_quality_scores(labels, both)
    return pd.DataFrame(
        {
            "id": np.array(ids, dtype=object)[found],
            "text": np.array(texts, dtype=object)[found],
            "label": labels[found],
            "prob_hate": prob[found],
            "label_quality": quality[found],
            "suspect_rank": np.arange(1, len(found) + 1),
        }
    )


def _votes(settings: Settings) -> np.ndarray | None:
    """The vote of the nearest train memes on each other group's, None without cached features."""
    shards = shard_paths(settings.shards, "train")
    try:
        fusion = load_fusion(settings.models)
    except (OSError, ValueError):
        return None
    if not all_cached(settings, fusion, shards):
        return None
    train = features_of(settings, fusion, shards)
    groups = np.array(MemeShards(shards, pictures=False).groups)
    most = min(settings.retrieval_memes, compared_with(len(train)))
    return with_votes(train, groups, most=most)[0].arrays[VOTE].double().numpy()
