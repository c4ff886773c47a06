import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import logsumexp

from lib.calibration.temperature_problem import FEW, Problem
from lib.calibration.temperature_solver import sum_of_log1p

quick = settings(deadline=None, max_examples=100, derandomize=True)


def reference(z, y):
    """`wrong`, `right` and status from their definitions, in exact arithmetic."""
    wrong = right = Fraction(0)
    for row, label in zip(z, y, strict=True):
        row = [Fraction(v) for v in row]
        wrong += max(row) - row[label]
        right += row[label] - sum(row) / len(row)
    status = "uninformative" if right <= 0 else "ok" if wrong > 0 else "separable"
    return wrong, right, status


# Logits whose sums cancel, wholly or but for the last digits.
cancelling = st.sampled_from([0.0, 1.0, 3.0, 1e16, 1e-16, 0.1, 2.0**60, 1 + 2.0**-52])
logit = st.tuples(st.one_of(cancelling, st.floats(0, 30)), st.sampled_from([-1, 1])).map(math.prod)


@st.composite
def class_problems(draw):
    n, k = draw(st.integers(1, 8)), draw(st.integers(3, 4))
    z = draw(st.lists(st.lists(logit, min_size=k, max_size=k), min_size=n, max_size=n))
    return z, draw(st.lists(st.integers(0, k - 1), min_size=n, max_size=n))


@st.composite
def balanced_problems(draw):
    """Each row occurs once with each label, so `right` is 0; one last row decides."""
    rows = draw(
        st.lists(st.lists(st.floats(0, 30), min_size=3, max_size=3), min_size=1, max_size=4)
    )
    last = draw(st.lists(st.sampled_from([0.0, 1e-14, -1e-14]), min_size=3, max_size=3))
    z = [row for row in rows for _ in range(3)]
    return [*z, last], [*[0, 1, 2] * len(rows), draw(st.integers(0, 2))]


def check(problem, z, y):
    wrong, right, status = reference(z, y)
    assert problem.status() == status
    scale = 2.0**problem.shift
    size = float(max(abs(Fraction(v)) for row in z for v in row)) * len(z) + 1e-300
    assert problem.wrong * scale == pytest.approx(float(wrong), abs=1e-15 * size)
    assert problem.right * scale == pytest.approx(float(right), abs=1e-15 * size)


@quick
@given(st.one_of(class_problems(), balanced_problems()))
def test_gaps_of_classes_are_their_definition_and_the_status_is_exact(problem):
    z, y = problem
    check(Problem.of(np.array(z), np.array(y)), z, y)


@quick
@given(st.lists(st.tuples(logit, st.booleans()), min_size=1, max_size=12))
def test_gaps_of_margins_are_their_definition_and_the_status_is_exact(rows):
    margins, y = zip(*rows, strict=True)
    columns = [[0.0, m] for m in margins]
    check(Problem.of(np.array(margins), np.array(y)), columns, [int(label) for label in y])


@quick
@given(class_problems(), st.floats(0.01, 100))
def test_nll_is_the_mean_of_each_example_s(problem, t):
    z, y = (np.array(a) for a in problem)
    x = np.clip(z, -1e3, 1e3) / t
    expected = np.mean(logsumexp(x, axis=1) - x[np.arange(len(y)), y])
    found = Problem.of(np.clip(z, -1e3, 1e3), y).nll(t)
    assert found == pytest.approx(expected, rel=1e-10, abs=1e-10)


@pytest.mark.parametrize("size", [1e-308, 1e-200, 1e200, 1.7e308])
def test_logits_of_any_size_scale_the_temperature(size):
    z, y = np.array([[1.0, 0.5, -1.0], [1.0, -0.25, 0.5], [0.5, 1.0, 0.0]]), np.zeros(3, int)
    problem = Problem.of(size * z, y)
    # The gap of the last label is half the size; the labels exceed their means by 17/12 of it.
    scaled = math.ldexp(size, -problem.shift)
    assert problem.wrong == pytest.approx(scaled / 2, rel=1e-12)
    assert problem.right == pytest.approx(scaled * 17 / 12, rel=1e-12)
    assert problem.optimum(3)[0] / size == pytest.approx(Problem.of(z, y).optimum(3)[0], rel=1e-12)


def test_shrinkage_moves_the_target_towards_chance():
    # Margins of 2, one wrong: of n examples and s pseudo-examples, 1 + s / 2 are wrong.
    for n in (3, 9):
        problem = Problem.of(np.array([2.0] * (n - 1) + [-2.0]), np.ones(n, bool))
        for s in (0, 1, 3):
            odds = (n - 1 + s / 2) / (1 + s / 2)
            assert problem.optimum(n, s)[0] == pytest.approx(2 / math.log(odds), rel=1e-14)


@pytest.mark.parametrize("n", [1, 1023, 1024, 8192, 9999])
@pytest.mark.parametrize("scale", [1e-6, 0.3, 2.0, 40.0])
def test_logarithms_of_products_are_the_sum_of_logarithms(n, scale):
    e = np.exp(-scale * np.random.default_rng(n).exponential(size=n))
    exact = math.fsum(math.log1p(x) for x in e)
    assert sum_of_log1p(e) == pytest.approx(exact, rel=1e-14)


@pytest.mark.parametrize("scale", [1e-9, 0.1, 1.0, 30.0, 1e9])
@pytest.mark.parametrize("classes", [2, 4])
def test_many_and_few_examples_have_one_optimum(scale, classes):
    """Beyond FEW gaps the search begins at T = 1; the same examples repeated change nothing."""
    rng = np.random.default_rng(3)
    y = rng.integers(0, classes, 300)
    z = scale * (rng.normal(0, 1, (300, classes)) + 2 * (np.arange(classes) == y[:, None]))
    labels = y.astype(bool) if classes == 2 else y
    few = Problem.of(z, labels)
    many = Problem.of(np.tile(z, (5, 1)), np.tile(labels, 5))
    assert len(few.gaps) < FEW < len(many.gaps)
    one, other = few.optimum(300), many.optimum(1_500)
    assert other.temperature == pytest.approx(one.temperature, rel=1e-12)
    assert other.nll_before == pytest.approx(one.nll_before, rel=1e-12)
    assert other.nll_after == pytest.approx(one.nll_after, rel=1e-12)
    assert other.nll_after == pytest.approx(many.nll(other.temperature), rel=1e-12)
