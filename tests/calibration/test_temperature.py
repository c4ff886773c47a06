import math
import warnings

import mpmath
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.special import expit, logit, softmax
from sklearn.calibration import _TemperatureScaling
from sklearn.metrics import log_loss

from lib.calibration import fit_temperature, prob_hate


def sample(n=300, k=2, seed=0, true_t=1.7):
    rng = np.random.default_rng(seed)
    z = rng.normal(0, 3, (n, k))
    return z, np.argmax(z / true_t + rng.gumbel(size=z.shape), axis=1)


def reference(z, y):
    """T by bisection of the likelihood's derivative in 50 digits."""
    with mpmath.workdps(50):
        away = [
            [mpmath.mpf(v) - mpmath.mpf(row[k]) for v in row] for row, k in zip(z, y, strict=True)
        ]

        def rising(b):
            total = mpmath.mpf(0)
            for row in away:
                weights = [mpmath.exp(b * d) for d in row]
                total += sum(d * w for d, w in zip(row, weights, strict=True)) / sum(weights)
            return total > 0

        low, high = mpmath.mpf(0), 1 / max(abs(d) for row in away for d in row)
        while not rising(high):
            low, high = high, 2 * high
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (low, middle) if rising(middle) else (middle, high)
        return float(2 / (low + high))


def two_columns(margins):
    return np.column_stack([np.zeros_like(margins), margins])


# ---- the optimum


def test_closed_form_of_one_margin_size():
    # 3 of 4 equal margins are right, so the optimum predicts 3/4: sigmoid(2 / T) = 3/4.
    fit = fit_temperature([2.0, 2.0, -2.0, 2.0], [1, 1, 0, 0])
    assert fit.temperature == pytest.approx(2 / math.log(3), rel=1e-14)
    assert (fit.status, fit.n) == ("ok", 4)
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert fit.nll_after == pytest.approx(entropy, rel=1e-14)
    assert fit.nll_before == pytest.approx(log_loss([1, 1, 0, 0], expit([2, 2, -2, 2])), rel=1e-14)


@pytest.mark.parametrize("k", [2, 3, 7])
def test_agrees_with_bisection_at_high_precision(k):
    z, y = sample(60, k)
    assert fit_temperature(z, y).temperature == pytest.approx(reference(z, y), rel=1e-12)


@pytest.mark.parametrize(
    "margins",
    [
        # Almost separable, almost uninformative, extreme in size, and all of these in one.
        [5.0, 3.0, 1.0, -1e-9],
        [1.0, -1.0, 1e-7, 2.0, -2.0],
        [1e300, 1e300, -1e-300],
        [1.7e308, 3e150, -1.7e307, 1e-200],
        [1e-13, -1e-13, 3e-13, 5e-13],
        [1e290, -3e289, 2e290],
        [1e-290, -3e-291, 2e-290],
        [1e-308, -3e-309, 2e-308],
        [1e150, 1.0, -1e-100],
    ],
)
def test_extreme_margins_agree_with_bisection(margins):
    m = np.array(margins)
    y = np.arange(len(m)) % 2
    fit = fit_temperature(np.where(y, m, -m), y)
    expected = reference(two_columns(m), np.ones(len(m), int))
    assert fit.status == "ok"
    assert fit.temperature == pytest.approx(expected, rel=1e-11)


def test_large_set_started_from_a_subsample_is_as_exact():
    z, y = sample(200_000, seed=3)
    margins = np.sort(np.where(y == 1, 1, -1) * (z[:, 1] - z[:, 0]))
    t = fit_temperature(z, y).temperature
    # The likelihood's derivative at the optimum, against its own size.
    terms = margins * expit(-margins / t)
    assert abs(math.fsum(terms)) < 1e-13 * math.fsum(np.abs(terms))


@pytest.mark.parametrize("n", [100_000, 6 * 16_384])
def test_subsample_that_misses_what_matters_does_no_harm(n):
    margins = np.zeros(n)
    margins[1:5] = [2, 2, 2, -2]
    y = np.arange(n) % 2
    fit = fit_temperature(np.where(y, margins, -margins), y)
    assert fit.temperature == pytest.approx(2 / math.log(3), rel=1e-12)
    # Every sixth margin, those a stride would take, is a thousand times the others.
    margins = np.tile([1e3, 1.0, 2.0, -1.0, 3.0, 1.0], n // 6)
    y = np.arange(len(margins)) % 2
    fit = fit_temperature(np.where(y, margins, -margins), y)
    small = fit_temperature([1e3, 1.0, 2.0, 1.0, -3.0, 1.0], [1, 1, 1, 0, 0, 1])
    assert fit.temperature == pytest.approx(small.temperature, rel=1e-12)


def test_agrees_with_scikit_learn():
    z, y = sample(2_000, 4)
    peer = 1 / _TemperatureScaling().fit(z, y).beta_
    assert fit_temperature(z, y).temperature == pytest.approx(peer, rel=1e-6)


def test_three_inputs_of_one_problem_agree():
    z, y = sample()
    margins = z[:, 1] - z[:, 0]
    shared = fit_temperature(z, y)
    assert fit_temperature(margins, y).temperature == shared.temperature
    flat = fit_temperature(margins.reshape(-1, 3), y.reshape(-1, 3))
    assert flat.temperature == pytest.approx(shared.temperature, rel=1e-14)


def test_per_label_fits_each_column():
    z, _ = sample(400, 3)
    y = np.random.default_rng(1).random(z.shape) < expit(z / [1, 2, 3])
    y[:, 2] = z[:, 2] > 0
    fit = fit_temperature(z, y, per_label=True)
    single = [fit_temperature(z[:, j], y[:, j]) for j in range(3)]
    assert fit.temperature.tolist() == [s.temperature for s in single]
    assert fit.status.tolist() == ["ok", "ok", "separable"]
    assert fit.nll_after.tolist() == [s.nll_after for s in single]
    assert fit.n == 400


# ---- where there is none


@pytest.mark.parametrize(
    ("logits", "labels", "status", "limit"),
    [
        ([3.0, -1.0], [1, 0], "separable", 0),
        ([3.0, 0.0, -1.0], [1, 1, 0], "separable", 0),
        ([-3.0, 1.0], [1, 0], "uninformative", math.inf),
        ([1.0, 1.0], [1, 0], "uninformative", math.inf),
        ([0.0, 0.0], [1, 0], "uninformative", math.inf),
        ([3.0, -1.0], [1, 1], "one_class", math.nan),
        ([[0.1, 0.3, 0.7]] * 3, [0, 1, 2], "uninformative", math.inf),
        ([[2.0, 0.0, 0.0], [0.0, 5.0, 5.0]], [0, 2], "separable", 0),
        ([[2.0, 0.0, 1.0]] * 2, [2, 2], "one_class", math.nan),
        ([[2.0, -1.0], [3.0, -2.0]], [[1, 0], [1, 0]], "separable", 0),
    ],
)
def test_without_an_optimum_says_so_and_keeps_t_at_1(logits, labels, status, limit):
    fit = fit_temperature(logits, labels)
    assert (fit.temperature, fit.status, fit.iterations) == (1.0, status, 0)
    assert fit.nll_before == fit.nll_after
    assert fit.limit == limit or (math.isnan(fit.limit) and math.isnan(limit))


def test_shrinkage_keeps_a_separable_set_finite_and_fades():
    z, y = np.array([2.0, 1.0, -1.0, -2.0]), [1, 1, 0, 0]
    fit = fit_temperature(z, y, shrinkage=1)
    assert fit.status == "ok"
    # One uniform pseudo-example in five: each label counts 0.9, its opposite 0.1.
    soft = fit_temperature(np.repeat(z, 10), ([1] * 9 + [0]) * 2 + ([0] * 9 + [1]) * 2)
    assert fit.temperature == pytest.approx(soft.temperature, rel=1e-12)
    many = fit_temperature(np.tile(z, 500), y * 500, shrinkage=1)
    assert many.temperature < fit.temperature
    scaled = fit_temperature(8 * z, y, shrinkage=1)
    assert scaled.temperature == 8 * fit.temperature


@pytest.mark.parametrize("shrinkage", [1e-3, 1.0, 1e6, 1e12, 1e20])
def test_shrinkage_in_closed_form(shrinkage):
    # With d = (right - wrong) / (n + shrinkage), tanh(1 / T) = d for margins of size 2.
    fit = fit_temperature([2.0, 2.0, -2.0, 2.0], [1, 1, 0, 0], shrinkage=shrinkage)
    assert fit.temperature == pytest.approx(1 / math.atanh(2 / (4 + shrinkage)), rel=1e-13)


def test_shrinkage_counts_examples_not_entries():
    # A pseudo-example has a uniform label in each of its three entries, like three margins.
    z, _ = sample(30, 3)
    y = np.random.default_rng(1).random(z.shape) < expit(z / 2)
    fit = fit_temperature(z, y, shrinkage=2)
    flat = fit_temperature(z.ravel(), y.ravel(), shrinkage=6)
    assert fit.temperature == pytest.approx(flat.temperature, rel=1e-14)
    assert fit.nll_after == pytest.approx(flat.nll_after, rel=1e-14)


def test_vanishing_shrinkage_still_has_an_optimum():
    # Of 2 + s examples s / 2 are wrong, so that e^(1 / T), the odds, is 4 / s but for s itself.
    fit = fit_temperature([1.0, -1.0], [1, 0], shrinkage=5e-324)
    assert fit.temperature == pytest.approx(1 / (math.log(4) - math.log(5e-324)), rel=1e-12)


def test_limit_of_a_per_label_fit():
    z = [[1.0, 2.0, 1.0], [-1.0, 3.0, 2.0], [2.0, -1.0, 3.0]]
    fit = fit_temperature(z, [[1, 0, 1], [0, 1, 1], [1, 1, 1]], per_label=True)
    assert np.array_equal(fit.limit, [0, math.inf, math.nan], equal_nan=True)


# ---- properties

quick = settings(deadline=None, max_examples=60, derandomize=True)


@st.composite
def problems(draw):
    n, k = draw(st.integers(2, 40)), draw(st.integers(2, 4))
    values = st.floats(-30, 30, width=32)
    z = draw(st.lists(st.lists(values, min_size=k, max_size=k), min_size=n, max_size=n))
    y = draw(st.lists(st.integers(0, k - 1), min_size=n, max_size=n))
    return np.array(z), np.array(y)


@quick
@given(problems(), st.integers(-300, 300))
def test_temperature_scales_with_the_logits(problem, exponent):
    z, y = problem
    fit, scaled = fit_temperature(z, y), fit_temperature(np.ldexp(z, exponent), y)
    assert scaled.status == fit.status
    if fit.status == "ok":
        assert scaled.temperature == pytest.approx(math.ldexp(fit.temperature, exponent), rel=1e-9)


@quick
@given(problems(), st.randoms(use_true_random=False))
def test_order_duplication_and_class_names_do_not_matter(problem, random):
    z, y = problem
    fit = fit_temperature(z, y)
    order = list(range(len(y)))
    random.shuffle(order)
    k = z.shape[1]
    for other in (
        fit_temperature(z[order], y[order]),
        fit_temperature(np.repeat(z, 3, axis=0), np.repeat(y, 3)),
        fit_temperature(z[:, ::-1], k - 1 - y),
    ):
        assert other.status == fit.status
        assert other.temperature == pytest.approx(fit.temperature, rel=1e-9)


@quick
@given(problems())
def test_label_flip_mirrors_the_margins(problem):
    z, y = problem
    margins, y = z[:, 0], y > 0
    assert fit_temperature(-margins, ~y) == fit_temperature(margins, y)


@quick
@given(problems())
def test_never_worse_than_neighbouring_temperatures(problem):
    z, y = problem
    fit = fit_temperature(z, y)
    assume(fit.status == "ok")

    def nll(t):
        return log_loss(y, softmax(z / t, axis=1), labels=range(z.shape[1]))

    clipped = softmax(z / fit.temperature, axis=1)[np.arange(len(y)), y].min() < 1e-12
    assume(not clipped)
    assert fit.nll_after == pytest.approx(nll(fit.temperature), rel=1e-9)
    assert fit.nll_after <= fit.nll_before + 1e-12
    for near in (0.9, 1.1):
        assert fit.nll_after <= nll(near * fit.temperature) + 1e-12


anything = st.floats(allow_nan=False, allow_infinity=False)


@quick
@given(
    st.lists(st.tuples(anything, anything, anything, st.integers(0, 2)), min_size=1, max_size=8),
    st.sampled_from([0, 0.3, 1]),
)
def test_no_finite_logits_break_it(rows, shrinkage):
    z, y = np.array([row[:3] for row in rows]), np.array([row[3] for row in rows])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for fit in (
            fit_temperature(z, y, shrinkage=shrinkage),
            fit_temperature(z[:, :2], y > 0, shrinkage=shrinkage),
            fit_temperature(z[:, 0], y > 0, shrinkage=shrinkage),
        ):
            assert 0 < fit.temperature < math.inf
            assert fit.nll_before >= 0 and fit.nll_after >= 0


def test_fuzz_four_thousand_cases():
    rng = np.random.default_rng(2026)
    statuses = dict.fromkeys(("ok", "separable", "uninformative", "one_class"), 0)
    for case in range(4_000):
        n, k = rng.integers(1, 30), rng.integers(2, 6)
        shape = (n,) if case % 3 == 0 else (n, k)
        z = rng.normal(rng.normal(), 10.0 ** rng.integers(-2, 3), shape)
        if case % 5 == 0:
            z = np.round(z)
        if case % 7 == 0:
            z *= 10.0 ** rng.integers(-300, 300)
        if case % 11 == 0:
            z *= 10.0 ** rng.integers(-8, 8, shape)
        y = rng.integers(0, 2, shape) if case % 3 < 2 else rng.integers(0, k, n)
        if case % 2:
            best = z > 0 if case % 3 < 2 else z.argmax(axis=1)
            y = np.where(rng.random(y.shape) < 0.8, best, y)
        with np.errstate(over="ignore"):
            z = np.clip(z, -1.7e308, 1.7e308)
        fit = fit_temperature(z, y, shrinkage=case % 13 == 0)
        statuses[fit.status] += 1
        assert 0 < fit.temperature < math.inf
        assert fit.nll_before >= 0 and fit.nll_after >= 0
        if fit.status == "ok":
            assert fit.iterations <= 60
            assert case % 13 == 0 or fit.nll_after <= fit.nll_before * (1 + 1e-12)
            if case % 13:
                low, high = (derivative(z, y, fit.temperature * f) for f in (1 - 1e-9, 1 + 1e-9))
                assert low >= 0 >= high, (case, fit)
    assert min(statuses.values()) > 100, statuses


def derivative(z, y, t):
    """Of the log-likelihood by T in extended precision; 0 where even that has no certain sign."""
    if z.shape == y.shape:
        z, y = two_columns(z.ravel()), y.ravel().astype(int)
    z = z.astype(np.longdouble)
    x = z / np.longdouble(t)
    p = np.exp(x - x.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    terms = p * (z - z[np.arange(len(y)), y][:, None])
    total = terms.sum()
    return total if abs(total) > 1e-17 * np.abs(terms).sum() else 0


# ---- inputs


@pytest.mark.parametrize(
    "wrap",
    [
        np.float32,
        torch.tensor,
        lambda a: torch.tensor(a, requires_grad=a.dtype == float),
        pd.DataFrame,
        lambda a: a.tolist(),
    ],
)
def test_takes_arrays_of_every_kind(wrap):
    z, y = sample()
    z = z.astype(np.float32).astype(float)
    labels = y if wrap in (np.float32, pd.DataFrame) else wrap(y)
    assert fit_temperature(wrap(z), labels) == fit_temperature(z, y)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_takes_half_precision(dtype):
    z, y = sample()
    half = torch.tensor(z).to(dtype)
    assert fit_temperature(half, torch.tensor(y)) == fit_temperature(half.double().numpy(), y)


@pytest.mark.parametrize(
    ("logits", "labels", "message"),
    [
        ([], [], "logits is empty"),
        ([1.0, np.nan, np.inf], [0, 1, 1], "2 of 3 values that are NaN or infinite.*index 1"),
        ([1.0, 2.0], [0, 2], "labels holds 1 of 2 values that are neither 0 nor 1.*index 1"),
        ([1.0, 2.0], [0, np.nan], "labels holds 1 of 2 values that are NaN"),
        ([1.0, 2.0], [0, 1, 1], "shape"),
        ([[1.0, 2.0]] * 2, [0, 1, 1], "2 rows but labels has 3"),
        ([[1.0, 2.0, 3.0]] * 2, [0, 3], "not whole numbers from 0 to 2.*index 1"),
        ([[1.0, 2.0, 3.0]] * 2, [0, 0.5], "not whole numbers"),
        ([[1.0, 2.0]], [[1, 0, 1]], "shape"),
        ([1.0, 2.0], [[0, 1]], "fit no case"),
        (["a", "b"], [0, 1], "real numbers"),
        ([1j, 2], [0, 1], "real numbers"),
    ],
)
def test_bad_input_is_named(logits, labels, message):
    with pytest.raises(ValueError, match=message):
        fit_temperature(logits, labels)


def test_bad_options_are_named():
    with pytest.raises(ValueError, match="shrinkage"):
        fit_temperature([1.0, -1.0], [0, 1], shrinkage=-1)
    with pytest.raises(ValueError, match="per_label needs multi-hot"):
        fit_temperature([1.0, -1.0], [0, 1], per_label=True)


def test_prob_hate():
    z, _ = sample()
    assert prob_hate(z, 2.5) == pytest.approx(softmax(z / 2.5, axis=1)[:, 1], rel=1e-12)
    assert logit(prob_hate([-3.0, 2.0], 4)) == pytest.approx([-0.75, 0.5])
    assert prob_hate([[1e308, -1e308], [-1e308, 1e308]]).tolist() == [0, 1]
    for t in (0, -1, math.nan, math.inf):
        with pytest.raises(ValueError, match="temperature must be positive"):
            prob_hate(z, t)
    with pytest.raises(ValueError, match="shape"):
        prob_hate(np.zeros((3, 3)))
