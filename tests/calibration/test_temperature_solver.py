import math

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lib.calibration.temperature_solver import (
    BLOCK,
    _moments,
    blocks,
    log_sum,
    solve,
    solve_in_logs,
    sums,
    tangent,
)

quick = settings(deadline=None, max_examples=60, derandomize=True)


def reference_moments(gaps, b):
    """U(b), its variance and its third moment, by definition in 40 digits."""
    with mpmath.workdps(40):
        totals = [mpmath.mpf(0)] * 3
        for row in gaps:
            weights = [mpmath.exp(-mpmath.mpf(b) * g) for g in row]
            p = [w / sum(weights) for w in weights]
            mean = sum(q * g for q, g in zip(p, row, strict=True))
            moments = [
                sum(q * (g - mean) ** k for q, g in zip(p, row, strict=True)) for k in (2, 3)
            ]
            totals = [total + m for total, m in zip(totals, [mean, *moments], strict=True)]
        return totals


def reference_root(gaps, wrong):
    """b with U(b) = wrong, by bisection in 40 digits."""
    with mpmath.workdps(40):
        low, high = mpmath.mpf(0), mpmath.mpf(1)
        while reference_moments(gaps, high)[0] > wrong:
            low, high = high, 2 * high
        for _ in range(60):
            middle = (low + high) / 2
            above = reference_moments(gaps, middle)[0] > wrong
            low, high = (middle, high) if above else (low, middle)
        return float(low)


# Rows of gaps, of which one is always 0.
@st.composite
def gap_rows(draw, classes=(2, 4)):
    n, k = draw(st.integers(1, 6)), draw(st.integers(*classes))
    gap = st.one_of(st.sampled_from([0.0, 1.0, 2.0]), st.floats(0.01, 20))
    rows = draw(st.lists(st.lists(gap, min_size=k - 1, max_size=k - 1), min_size=n, max_size=n))
    rows[0][0] = draw(st.floats(0.5, 20))
    return [[0.0, *row] for row in rows]


def arrays(rows):
    """The gaps as the solver takes them: all K columns, or of two columns the second."""
    g = np.array(rows)
    return [g, g[:, 1].copy()] if g.shape[1] == 2 else [g]


@quick
@given(gap_rows(), st.floats(1e-3, 10))
def test_moments_are_their_definitions(rows, b):
    u, variance, third = reference_moments(rows, b)
    v = reference_moments(rows, 0)[0] - u
    for gaps in arrays(rows):
        for use_v, value in ((False, u), (True, v)):
            found = _moments(gaps, b, use_v)
            assert found[:2] == pytest.approx([float(value), float(variance)], rel=1e-12)
            assert found[2] == pytest.approx(float(third), rel=1e-9, abs=1e-9 * float(variance))


@quick
@given(gap_rows(), st.integers(3, 250))
def test_v_does_not_cancel_where_b_is_tiny(rows, digits):
    b = 10.0**-digits
    # To first order V is the variance of the gaps under a uniform p, times b.
    variance = reference_moments(rows, 0)[1]
    for gaps in arrays(rows):
        assert _moments(gaps, b, use_v=True)[0] == pytest.approx(
            float(b * variance), rel=200 * b + 1e-13
        )


@settings(quick, max_examples=30)
@given(gap_rows(), st.integers(-10, 10))
def test_root_is_that_of_bisection(rows, log_odds):
    """At any share of wrong in chance, from almost nothing to almost all."""
    chance = float(reference_moments(rows, 0)[0])
    wrong, right = (chance / (1 + 10.0**sign_odds) for sign_odds in (-log_odds, log_odds))
    if log_odds > 0:
        # So little right is known to so many digits, and wrong follows.
        with mpmath.workdps(40):
            exact = reference_moments(rows, 0)[0] - mpmath.mpf(right)
    else:
        exact = mpmath.mpf(wrong)
    expected = reference_root(rows, exact)
    for gaps in arrays(rows):
        b, passes, _ = solve(gaps, wrong, right)
        assert b == pytest.approx(expected, rel=1e-12)
        assert passes <= 20


@quick
@given(gap_rows(), st.floats(0.001, 0.999))
def test_the_last_pass_knows_the_likelihood_at_the_root(rows, share):
    chance = float(reference_moments(rows, 0)[0])
    wrong, right = share * chance, (1 - share) * chance
    for gaps in arrays(rows):
        begun_at_1 = solve(gaps, wrong, right, sums(gaps, 1.0, right < wrong))
        for root in (begun_at_1, solve(gaps, wrong, right)):
            with mpmath.workdps(40):
                exact = sum(
                    mpmath.log(sum(mpmath.exp(-mpmath.mpf(root.b) * g) for g in row))
                    for row in rows
                )
            assert log_sum(gaps, root.b) == pytest.approx(float(exact), rel=1e-13, abs=1e-15)
            if not math.isnan(root.log_sum):
                assert root.log_sum == pytest.approx(float(exact), rel=1e-12, abs=1e-15)
        assert begun_at_1.b == pytest.approx(solve(gaps, wrong, right).b, rel=1e-12)


@quick
@given(gap_rows(), st.floats(-25, -5))
def test_logarithms_find_the_same_root(rows, exponent):
    chance = float(reference_moments(rows, 0)[0])
    wrong = chance * 10**exponent
    for gaps in arrays(rows):
        start = math.log(tangent(gaps, chance - wrong))
        found = solve_in_logs(gaps, math.log(wrong), start)
        assert found.b == pytest.approx(solve(gaps, wrong, chance - wrong)[0], rel=1e-11)


@quick
@given(gap_rows())
def test_tangent_falls_as_fast_as_u_at_0(rows):
    variance = float(reference_moments(rows, 0)[1])
    for gaps in arrays(rows):
        assert tangent(gaps, 1.0) == pytest.approx(1 / variance, rel=1e-12)


@quick
@given(gap_rows(), st.floats(0.01, 0.99))
def test_tangent_never_passes_the_root(rows, share):
    chance = float(reference_moments(rows, 0)[0])
    wrong, right = share * chance, (1 - share) * chance
    for gaps in arrays(rows):
        assert tangent(gaps, right) <= solve(gaps, wrong, right)[0] * (1 + 1e-12)


@pytest.mark.parametrize("shape", [(5,), (BLOCK + 1,), (3 * BLOCK, 2), (2, BLOCK + 1)])
def test_blocks_hold_each_example_once_and_few_values(shape):
    gaps = np.arange(math.prod(shape)).reshape(shape)
    parts = blocks(gaps)
    assert np.array_equal(np.concatenate(parts), gaps)
    assert all(part.size <= BLOCK or len(part) == 1 for part in parts)
