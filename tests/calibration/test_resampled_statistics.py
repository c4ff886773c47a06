import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from lib.calibration.resampled_statistics import Sums, _Draw, specify

quick = settings(deadline=None, max_examples=60, derandomize=True)


class EveryBit:
    """In place of a generator: random bits are 0 to 65,535, each once; all else is 0."""

    def __init__(self):
        self.asked_again = 0

        self.bit_generator = self

    def random_raw(self, size):
        return np.arange(65_536, dtype=np.uint16).view(np.uint64)[:size]

    def integers(self, low, high, size):
        self.asked_again += size
        return np.zeros(size, np.int64)


@quick
@given(st.integers(1, 4_096))
def test_sixteen_bits_draw_every_value_equally_often(n):
    rng, draw = EveryBit(), _Draw()
    draw.from_values(np.arange(n, dtype=np.float64))
    drawn = np.bincount(draw(65_536, rng).astype(int), minlength=n)
    # The surplus of 65,536 over a multiple of n is drawn again, here always as value 0.
    assert rng.asked_again == 65_536 % n
    drawn[0] -= rng.asked_again
    assert set(drawn.tolist()) == {65_536 // n}


def reference(name, p, y):
    """A named statistic at 0.5, as scikit-learn computes it."""
    hate = p >= 0.5
    return {
        "accuracy": lambda: sk.accuracy_score(y, hate),
        "precision": lambda: sk.precision_score(y, hate, zero_division=0),
        "recall": lambda: sk.recall_score(y, hate),
        "f1": lambda: sk.f1_score(y, hate),
        "macro_f1": lambda: sk.f1_score(y, hate, average="macro"),
        "brier": lambda: sk.brier_score_loss(y, p),
        "nll": lambda: sk.log_loss(y, p),
        "auroc": lambda: sk.roc_auc_score(y, p),
        "average_precision": lambda: sk.average_precision_score(y, p),
    }[name]()


NAMES = ["accuracy", "precision", "recall", "f1", "macro_f1", "ece"]
NAMES += ["brier", "nll", "auroc", "average_precision"]


# A sample of few distinct scores, and the examples of a resample that has both classes.
@st.composite
def resampled(draw):
    n = draw(st.integers(2, 15))
    p = draw(st.lists(st.sampled_from([0.1, 0.3, 0.5, 0.9]), min_size=n, max_size=n))
    y = draw(st.lists(st.booleans(), min_size=n, max_size=n))
    y[:2] = [False, True]
    drawn = draw(st.lists(st.integers(0, n - 1), min_size=n - 2, max_size=n - 2))
    return np.array(p), np.array(y), np.array([0, 1, *drawn])


@quick
@given(resampled(), st.sampled_from(NAMES))
def test_counts_are_as_good_as_the_repeated_examples(ece_by_definition, case, name):
    p, y, drawn = case
    spec = specify(name, p, y, 0.5)
    weighted = spec.of_units(np.arange(len(p))) if isinstance(spec, Sums) else spec
    (found,) = weighted(np.bincount(drawn, minlength=len(p))[None].astype(float))
    p, y = p[drawn], y[drawn]
    expected = ece_by_definition(p, y) if name == "ece" else reference(name, p, y)
    assert found == pytest.approx(expected, abs=1e-12)
    again = specify(name, p, y, 0.5)
    if isinstance(again, Sums):
        assert again.point == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("values", [np.arange(6.0), np.ones(6), np.arange(5_000.0)])
def test_sums_of_groups_have_the_mean_and_variance_of_resampling(values):
    groups = np.arange(len(values)) % 2
    spec = Sums(values, groups, finish=lambda sums, n: sums[:, 0])
    found = spec.resample(4_000, np.random.default_rng(0))
    # A resample's sum over group 0 is that of n draws of the value, or of 0 from group 1.
    each = np.where(groups == 0, values, 0.0)
    n, sd = len(values), np.std(each) * np.sqrt(len(values))
    assert found.mean() == pytest.approx(n * each.mean(), abs=4 * sd / np.sqrt(4_000))
    assert found.std() == pytest.approx(sd, rel=0.06)
