import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib.modeling.folds import assign_folds, folds_of_train, head_rows, richest_fold


@given(st.integers(2, 5), st.integers(0, 9))
def test_groups_stay_whole_and_every_fold_has_both_labels(folds, seed):
    rng = np.random.default_rng(seed)
    labels = np.arange(120) % 2
    groups = [f"g{k}" for k in np.repeat(np.arange(60), 2)[rng.permutation(120)]]
    fold = assign_folds(labels, groups, folds, seed)
    assert set(fold) == set(range(folds))
    for group in set(groups):
        assert len({k for k, own in zip(fold, groups, strict=True) if own == group}) == 1
    for k in range(folds):
        assert set(labels[fold != k]) == {0, 1}


def test_the_seed_decides():
    labels, groups = np.arange(60) % 2, [f"g{i}" for i in range(60)]
    one, two, other = (assign_folds(labels, groups, 3, seed) for seed in (1, 1, 2))
    assert np.array_equal(one, two) and not np.array_equal(one, other)


@pytest.mark.parametrize("labels", [[0] * 9, [0] * 8 + [1], [0] * 7 + [1] * 2])
def test_too_few_of_a_label_say_what_to_set(labels):
    with pytest.raises(ValueError, match=r"label 1 .* fusion_features=experts"):
        assign_folds(labels, [f"g{i}" for i in range(9)], 3, 0)


def test_the_packed_memes_are_folded_and_one_fold_is_for_the_head(fresh):
    settings = fresh(fusion_features="held_out")
    fold = folds_of_train(settings)
    assert len(set(fold[head_rows(settings)])) == 1
    assert 0 < len(head_rows(settings)) < len(fold) / 2


def test_a_head_does_not_learn_from_one_large_group():
    labels = [0, 1] * 500
    groups = ["template"] * 400 + [f"g{row}" for row in range(600)]
    fold = assign_folds(labels, groups, 4, 0)
    chosen = richest_fold(labels, groups, fold)
    assert "template" not in {groups[row] for row in np.flatnonzero(fold == chosen)}
    # Of equal ones the first; one of a single label is none.
    assert richest_fold([0, 1, 0, 1], list("abcd"), np.array([0, 0, 1, 1])) == 0
    assert richest_fold([0, 0, 0, 1], list("abcd"), np.array([0, 0, 1, 1])) == 1
    with pytest.raises(ValueError, match=r"both labels.*fusion_features=experts"):
        richest_fold([0, 0, 1, 1], list("abcd"), np.array([0, 0, 1, 1]))
