import numpy as np
import pandas as pd
import pytest

from lib.data.datasets import MemeShards, shard_paths
from lib.decisions.label_suspects import (
    COLUMNS,
    label_suspects,
    out_of_fold_prob,
    out_of_fold_scores,
    suspects,
    why_none,
)
from lib.modeling.folds import folds_of_train
from lib.modeling.fusion_inputs import fold_files, out_of_fold


def test_planted_labels_are_found_and_come_first():
    rng = np.random.default_rng(0)
    truth = np.arange(400) % 2
    prob = np.clip(0.5 + 0.4 * (2 * truth - 1) + 0.05 * rng.normal(size=400), 0.01, 0.99)
    wrong = rng.choice(400, 12, replace=False)
    labels = truth.copy()
    labels[wrong] = 1 - labels[wrong]
    ids = [f"m{i}" for i in range(400)]
    found = suspects(ids, [f"text {i}" for i in range(400)], labels, prob)
    assert tuple(found) == COLUMNS
    assert set(found["id"]) == {f"m{i}" for i in wrong}
    assert found["suspect_rank"].tolist() == list(range(1, 13))
    assert found["label_quality"].is_monotonic_increasing
    own = np.where(found["label"] == 1, found["prob_hate"], 1 - found["prob_hate"])
    np.testing.assert_allclose(found["label_quality"], own)
    rows = [int(id_[1:]) for id_ in found["id"]]
    assert found["text"].tolist() == [f"text {row}" for row in rows]
    np.testing.assert_array_equal(found["label"], labels[rows])


def test_clean_labels_and_sure_models_give_no_suspects():
    labels = np.arange(100) % 2
    found = suspects(["m"] * 100, ["t"] * 100, labels, np.where(labels == 1, 0.95, 0.05))
    assert found.empty
    assert tuple(found) == COLUMNS


def test_a_full_run_judges_each_train_meme_by_models_without_its_fold(full_root, capsys):
    table = label_suspects(full_root)
    assert capsys.readouterr().out == ""
    written = pd.read_csv(full_root.artifact(7, "label_suspects.csv"))
    assert tuple(written) == COLUMNS
    assert len(written) == len(table)
    memes = MemeShards(shard_paths(full_root.shards, "train"), pictures=False)
    assert set(table["id"]) <= set(memes.ids)


def test_a_label_has_no_say_in_its_own_probability():
    rng = np.random.default_rng(0)
    labels, fold = rng.integers(0, 2, 200), rng.integers(0, 4, 200)
    scores = rng.normal(size=(200, 3)) + labels[:, None]
    before = out_of_fold_prob(scores, labels, fold)
    after = out_of_fold_prob(scores, np.where(fold == 0, 1 - labels, labels), fold)
    np.testing.assert_allclose(after[fold == 0], before[fold == 0])
    assert not np.allclose(after[fold == 1], before[fold == 1])


def test_the_scores_are_those_that_fusion_stacks(full_root):
    found = out_of_fold_scores(full_root)
    fold = folds_of_train(full_root)
    for column, name in enumerate(("text_expert", "vision_expert")):
        logits = out_of_fold(name, full_root, fold).double().numpy()
        np.testing.assert_allclose(found[:, column], logits[:, 1] - logits[:, 0])
    votes = found[:, 2]
    assert (votes >= 0).all() and (votes <= 1).all()
    assert np.ptp(votes) > 0


def test_without_out_of_fold_scores_the_table_is_empty_and_it_says_why(full_root, tmp_path, capsys):
    pilot = full_root.model_copy(update={"fusion_features": "experts", "root": tmp_path})
    assert label_suspects(pilot).empty
    assert "fusion_features is experts, and only out_of_fold" in capsys.readouterr().out
    header = ",".join(COLUMNS) + "\n"
    assert pilot.artifact(7, "label_suspects.csv").read_text() == header


def test_logits_that_are_not_cached_are_not_trained_for(full_root, tmp_path):
    elsewhere = full_root.model_copy(update={"root": tmp_path})
    (tmp_path / "Step_3").symlink_to(full_root.root / "Step_3")
    assert "not in its cache" in why_none(elsewhere)
    assert why_none(full_root) == ""


@pytest.mark.parametrize("name", ["text_expert", "vision_expert"])
def test_the_files_of_the_folds_are_those_that_step_5_wrote(full_root, name):
    files = fold_files(name, full_root)
    assert len(files) == full_root.folds
    dates = [file.stat().st_mtime_ns for file in files]
    assert out_of_fold(name, full_root, folds_of_train(full_root)).abs().sum() > 0
    assert [file.stat().st_mtime_ns for file in files] == dates
