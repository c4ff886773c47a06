import math
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mapie.risk_control import BinaryClassificationController, BinaryRisk
from scipy.stats import beta, binom, binomtest, norm

from lib.decisions.policy_certificates import (
    GRID,
    Sample,
    certified,
    clopper_pearson,
    cuts_of,
    miss_tests,
    needed,
    one_per_group,
    precision_tests,
    share_tests,
    walk_down,
    walk_up,
)

CONFIDENCE = 0.9
# Worlds: margins of the two classes are normal, so that the truth at each cut is known.
HATE, OTHER, SHARE = norm(1.8, 1.5), norm(-1.8, 1.5), 0.4
CUTS = np.linspace(-4, 6, 201)
PRECISION, MISS = 0.85, 0.1


def precision_at(cut):
    hate, other = SHARE * HATE.sf(cut), (1 - SHARE) * OTHER.sf(cut)
    return hate / (hate + other)


def draw(rng, n, labels=None):
    labels = (rng.random(n) < SHARE).astype(int) if labels is None else labels
    return Sample(np.where(labels == 1, 1.8, -1.8) + 1.5 * rng.normal(size=len(labels)), labels)


def violations(sample_of, select_of=None, worlds=1000):
    """In how many worlds each side is certified, and in how many its promise is broken."""
    found = np.zeros((2, 2), dtype=int)
    for world in range(worlds):
        rng = np.random.default_rng(world)
        sample, select = sample_of(rng), select_of(rng) if select_of else None
        down = walk_down(sample, select, CUTS, PRECISION, CONFIDENCE).cut
        up = walk_up(sample, CUTS, MISS, CONFIDENCE).cut
        found[0] += down is not None, down is not None and precision_at(down) < PRECISION
        found[1] += up is not None, up is not None and HATE.cdf(up) > MISS
    return found


# At most a tenth of the worlds, and what chance adds to a tenth once in a thousand times.
MOST = int(binom.ppf(0.999, 1000, 1 - CONFIDENCE))


@pytest.mark.parametrize("selects", [True, False])
def test_certified_sides_are_wrong_in_no_more_worlds_than_promised(selects):
    select_of = (lambda rng: draw(rng, 200)) if selects else None
    for certified_in, broken in violations(lambda rng: draw(rng, 300), select_of):
        assert certified_in > 900
        assert 10 < broken <= MOST  # neither broken too often nor certified too timidly


def groups_of_copies(rng):
    """60 memes, each in up to nine near copies, with the group of every row."""
    meme = draw(rng, 60)
    group = np.repeat(np.arange(60), rng.integers(1, 10, 60))
    return Sample(meme.prob[group], meme.labels[group]), group


def test_one_meme_a_group_keeps_the_promise_that_copies_break():
    def apart(rng):
        sample, group = groups_of_copies(rng)
        rows = one_per_group(group, seed=0)
        return Sample(sample.prob[rows], sample.labels[rows])

    def select_of(rng):
        return draw(rng, 200)

    for _, broken in violations(apart, select_of):
        assert broken <= MOST
    naive = violations(lambda rng: groups_of_copies(rng)[0], select_of, worlds=300)
    assert naive[:, 1].max() > 1.3 * MOST * 300 / 1000


def test_the_tests_are_the_exact_binomial_ones():
    sample = draw(np.random.default_rng(0), 80)
    cut = np.array([0.7])
    hit = sample.prob >= 0.7
    hateful = sample.labels == 1
    precise, missed = precision_tests(sample, cut, 0.8), miss_tests(sample, cut, 0.3)
    assert (precise.hits[0], precise.n[0]) == ((hit & hateful).sum(), hit.sum())
    assert (missed.hits[0], missed.n[0]) == ((~hit & hateful).sum(), hateful.sum())
    exact = binomtest(int(precise.hits[0]), int(precise.n[0]), 0.8, "greater").pvalue
    assert precise.p_value[0] == pytest.approx(exact)
    exact = binomtest(int(missed.hits[0]), int(missed.n[0]), 0.3, "less").pvalue
    assert missed.p_value[0] == pytest.approx(exact)


@pytest.mark.parametrize(("name", "target"), [("precision", 0.85), ("recall", 0.9)])
def test_mapie_certifies_the_same_cuts(name, target):
    sample = draw(np.random.default_rng(3), 400)
    prob = 1 / (1 + np.exp(-sample.prob))
    cuts = np.linspace(0.05, 0.95, 91)[:: 1 if name == "recall" else -1]
    # Its own precision and recall count 1 - rate, and n (1 - rate) may miss a whole number.
    risk = {
        "precision": BinaryRisk(lambda y, hit: 1 - y, lambda y, hit: hit == 1, False),
        "recall": BinaryRisk(lambda y, hit: 1 - hit, lambda y, hit: y == 1, False),
    }[name]
    start = int(np.argmax(cuts <= 0.8)) if name == "precision" else 0
    controller = BinaryClassificationController(
        lambda p: np.column_stack([1 - p, p]),
        risk,
        1 - target,
        CONFIDENCE,
        risk,
        list_predict_params=cuts[start:],
        fwer_method="fixed_sequence",
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        controller.calibrate(prob, sample.labels)
    ours = Sample(prob, sample.labels)
    tests = (
        precision_tests(ours, cuts[start:], target)
        if name == "precision"
        else miss_tests(ours, cuts[start:], 1 - target)
    )
    theirs = np.ravel(controller.p_values)
    assert (theirs >= tests.p_value - 1e-12).all()
    assert np.isclose(theirs, tests.p_value).mean() > 0.8
    passed = certified(theirs, CONFIDENCE)
    assert 5 < passed <= certified(tests.p_value, CONFIDENCE)
    assert np.allclose(np.sort(controller.valid_predict_params), np.sort(cuts[start:][:passed]))


def test_the_cuts_decide_alike_at_every_temperature():
    rng = np.random.default_rng(0)
    select, margins = rng.normal(size=500), rng.normal(size=300)
    decided = [
        1 / (1 + np.exp(-margins[:, None] / temperature)) >= cuts_of(select, temperature)
        for temperature in (0.5, 1.0, 3.0)
    ]
    assert np.array_equal(decided[0], decided[1])
    assert np.array_equal(decided[0], decided[2])
    assert len(cuts_of(None, 2.0)) <= len(GRID)
    assert (np.diff(cuts_of(None, 2.0)) > 0).all()


def test_the_sequence_knows_nothing_of_the_certifying_memes():
    select, sample = draw(np.random.default_rng(1), 200), draw(np.random.default_rng(2), 100)
    flipped = sample._replace(labels=1 - sample.labels)
    starts = {walk_down(s, select, CUTS, 0.9999, CONFIDENCE).judged_at for s in (sample, flipped)}
    assert len(starts) == 1


def test_between_classes_that_lie_apart_the_walk_begins_in_the_middle():
    labels = np.repeat([0, 1], 50)
    select = Sample(np.where(labels == 1, 0.9, 0.1), labels)
    # Two harmless memes lie a little above those of the select half.
    prob = np.where(labels == 1, 0.9, 0.1)
    prob[:2] = 0.2
    cuts = np.array([0.05, 0.15, 0.5, 0.85, 0.95])
    walk = walk_down(Sample(prob, labels), select, cuts, target=0.95, confidence=0.9)
    assert walk == (0.5, 0.5)


def test_a_wrong_meme_of_the_select_half_counts_however_few_the_sample_has():
    # 146 of 146 are hateful above 0.8, and 149 of 151 above 0.2: of 91 memes for 300, rounded down,
    # 44 of 44 and 45 of 45.
    prob = np.repeat([0.9, 0.3, 0.1], [146, 5, 149])
    labels = np.repeat([1, 1, 0, 0], [146, 3, 2, 149])
    sample = Sample(prob[::3][:91], labels[::3][:91])
    cuts = np.array([0.05, 0.2, 0.8])
    # No cut certifies so much: judged is where the walk begins.
    assert walk_down(sample, Sample(prob, labels), cuts, 0.9, 1 - 1e-12) == (None, 0.8)


@pytest.mark.parametrize("target", [0.5, 0.9, 0.99])
def test_whole_counts_begin_the_walk_at_the_least_binomial_tail(target):
    rng = np.random.default_rng(0)
    select = draw(rng, 200)
    tails = [
        binom.sf(select.labels[above].sum() - 1, above.sum(), target)
        for above in (select.prob >= cut for cut in CUTS)
    ]
    begins = walk_down(draw(rng, 200), select, CUTS, target, 1 - 1e-12).judged_at
    assert tails[int(np.flatnonzero(begins == CUTS)[0])] == pytest.approx(min(tails), rel=1e-9)


def test_the_meme_of_a_group_is_drawn_by_the_seed_alone():
    groups = np.array([f"g{i // 4}" for i in range(400)])
    rows = one_per_group(groups, seed=0)
    assert len(rows) == len(set(groups[rows])) == 100
    assert np.array_equal(rows, one_per_group(groups, seed=0))
    assert not np.array_equal(rows, one_per_group(groups, seed=1))
    place = np.concatenate([one_per_group(groups, seed) % 4 for seed in range(40)])
    assert np.bincount(place) / len(place) == pytest.approx([0.25] * 4, abs=0.03)
    assert one_per_group(np.arange(7), 0).tolist() == list(range(7))


@given(st.integers(0, 60), st.integers(1, 60))
def test_the_interval_is_clopper_and_pearsons(count, n):
    count = min(count, n)
    low, high = clopper_pearson(count, n)
    assert low == pytest.approx(0 if count == 0 else beta.ppf(0.025, count, n - count + 1))
    assert high == pytest.approx(1 if count == n else beta.ppf(0.975, count + 1, n - count))


def test_nothing_counted_says_nothing():
    empty = Sample(np.array([0.1, 0.2]), np.array([0, 0]))
    assert clopper_pearson(0, 0) == (0.0, 1.0)
    assert precision_tests(empty, np.array([0.9]), 0.5).p_value[0] == 1
    assert miss_tests(empty, np.array([0.9]), 0.5).p_value[0] == 1
    assert walk_up(empty, np.array([0.0, 0.5]), 0.1, 0.9).cut is None


@pytest.mark.parametrize(("target", "confidence"), [(0.9, 0.9), (0.99, 0.95), (0.5, 0.99)])
def test_without_an_error_the_memes_needed_have_a_closed_form(target, confidence):
    closed = math.ceil(math.log(1 - confidence) / math.log(target))
    assert needed(1.0, target, confidence, at_least=True) == closed
    assert needed(0.0, 1 - target, confidence, at_least=False) == closed


@settings(deadline=None, max_examples=50)
@given(st.floats(0.01, 0.99), st.floats(0.02, 0.98))
def test_as_many_memes_as_needed_certify_and_fewer_do_not(rate, target):
    found = needed(rate, target, 0.9, at_least=False)
    if rate >= target:
        assert found is None
    elif found is not None:
        hits = [math.ceil(rate * n - 1e-9) for n in (found, found - 1)]
        assert binom.cdf(hits[0], found, target) <= 0.1
        assert found == 1 or binom.cdf(hits[1], found - 1, target) > 0.1


def test_a_hopeless_rate_is_beyond_any_number_of_memes():
    assert needed(0.9, 0.9, 0.9, at_least=True) is None
    assert needed(0.90001, 0.9, 0.9, at_least=True) is None


def test_a_band_without_memes_keeps_every_budget():
    sample = draw(np.random.default_rng(0), 50)
    bands = np.array([[0.5, 0.5], [-9.0, 9.0]])
    assert share_tests(sample, bands, 0.0).p_value.tolist() == [0, 1]
    assert share_tests(sample, bands, 1.0).p_value.tolist() == [0, 0]
