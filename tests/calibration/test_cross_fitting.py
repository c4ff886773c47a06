import numpy as np
import pytest

from lib.calibration import best_threshold, cross_fit, fit_temperature, prob_hate
from lib.calibration.cross_fitting import stratified_folds


def sample(n=200, seed=0):
    rng = np.random.default_rng(seed)
    z = rng.normal(0, 3, (n, 2))
    return z, (rng.random(n) < prob_hate(z, 2)).astype(int)


def test_each_fold_is_judged_by_the_others():
    z, y = sample()
    out = cross_fit(z, y, n_folds=4, seed=1)
    assert sorted(np.bincount(out.fold)) == [50] * 4
    for k in range(4):
        rest, held = out.fold != k, out.fold == k
        t = fit_temperature(z[rest], y[rest]).temperature
        assert out.temperatures[k] == t
        threshold = best_threshold(prob_hate(z[rest], t), y[rest]).threshold
        assert out.thresholds[k] == threshold
        assert out.prob[held].tolist() == prob_hate(z[held], t).tolist()
        assert out.decision[held].tolist() == (prob_hate(z[held], t) >= threshold).tolist()


def test_an_example_s_own_label_does_not_touch_its_probability():
    z, y = sample()
    out = cross_fit(z, y)
    # Neighbours of one fold with different labels: after a swap the folds are dealt as before.
    alike = (out.fold[10:-1] == out.fold[11:]) & (y[10:-1] != y[11:])
    i = 10 + int(np.flatnonzero(alike)[0])
    y[[i, i + 1]] = y[[i + 1, i]]
    swapped = cross_fit(z, y)
    assert swapped.fold.tolist() == out.fold.tolist()
    held = out.fold == out.fold[i]
    assert swapped.prob[held].tolist() == out.prob[held].tolist()
    assert swapped.prob[~held].tolist() != out.prob[~held].tolist()


def test_folds_are_seeded_and_stratified():
    z, y = sample(60)
    y[:] = 0
    y[:6] = 1
    out = cross_fit(z[:, 1] - z[:, 0], y, seed=3)
    assert all(y[out.fold == k].sum() >= 1 for k in range(5))
    again = cross_fit(z, y, seed=3)
    assert again.fold.tolist() == out.fold.tolist()
    assert cross_fit(z, y, seed=4).fold.tolist() != out.fold.tolist()


def test_shrinkage_reaches_the_temperatures():
    z = np.array([3.0, 2.0, 1.0, -1.0, -2.0, -3.0])
    y = [1, 1, 1, 0, 0, 0]
    assert cross_fit(z, y, n_folds=3).temperatures.tolist() == [1, 1, 1]
    out = cross_fit(z, y, n_folds=3, shrinkage=1)
    rest = out.fold != 0
    expected = fit_temperature(z[rest], np.array(y)[rest], shrinkage=1).temperature
    assert out.temperatures[0] == expected != 1


def test_a_rare_class_makes_fewer_folds_and_a_single_example_none():
    z, y = sample(30)
    y[:] = 0
    y[:3] = 1
    assert len(cross_fit(z, y).thresholds) == 3
    y[1:] = 0
    with pytest.raises(ValueError, match="two examples of each class"):
        cross_fit(z, y)
    with pytest.raises(ValueError, match="n_folds must be at least 2"):
        cross_fit(z, y, n_folds=1)
    with pytest.raises(ValueError, match="one label per value"):
        cross_fit(z, y[1:])


def test_groups_stay_in_one_fold_with_both_classes_in_each():
    z, y = sample(60)
    groups = np.repeat(np.arange(20), 3)
    out = cross_fit(z, y, groups=groups)
    assert all(len(set(out.fold[groups == g])) == 1 for g in range(20))
    assert sorted(set(out.fold)) == [0, 1, 2, 3, 4]
    with pytest.raises(ValueError, match="two groups of each class"):
        cross_fit(z, y, groups=np.zeros(60))
    with pytest.raises(ValueError, match="groups"):
        cross_fit(z, y, groups=groups[1:])


def grouped(*counts):
    """Labels and groups, of each group as many of 1 and of 0 as `counts` say."""
    y = np.concatenate([np.repeat([1, 0], pair) for pair in counts])
    return y, np.repeat(np.arange(len(counts)), [sum(pair) for pair in counts])


@pytest.mark.parametrize("seed", [0, 1])
def test_groups_that_leave_one_class_to_fit_on_are_refused(seed):
    y, groups = grouped((25, 0), (1, 4), (0, 12), *[(0, 1)] * 8)
    with pytest.raises(ValueError, match="do not leave both classes to fit on"):
        cross_fit(np.linspace(-1, 1, len(y)), y, seed=seed, groups=groups)


def test_folds_are_fewer_where_the_rest_would_lack_a_class():
    y, groups = grouped((3, 0), (13, 3), (27, 0), (1, 0), (0, 23), (7, 2), (25, 0))
    parts = stratified_folds(y, 5, 0, groups)
    # Three are asked for, since three groups have harmless examples, which then lie in one fold.
    assert len(parts) == 2
    assert all(len(held) and set(y[rest]) == {0, 1} for rest, held in parts)


def test_the_objective_reaches_the_thresholds():
    z, y = sample(200)
    objective = {"objective": "cost", "costs": (5.0, 1.0)}
    out = cross_fit(z, y, objective=objective)
    rest = out.fold != 0
    prob = prob_hate(z[rest], out.temperatures[0])
    assert out.thresholds[0] == best_threshold(prob, y[rest], **objective).threshold
    assert (out.thresholds > cross_fit(z, y).thresholds).all()
