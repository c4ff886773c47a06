import numpy as np

from lib.modeling.like_lengths import LikeLengths

LENGTHS = np.random.default_rng(0).integers(3, 120, 1000).tolist()


def batches(sampler, size=10):
    rows = list(sampler)
    return [rows[start : start + size] for start in range(0, len(rows), size)]


def test_every_row_comes_once():
    assert sorted(LikeLengths(LENGTHS, 10, seed=0)) == list(range(1000))


def test_batches_hold_texts_of_like_length():
    spread = [np.ptp([LENGTHS[row] for row in rows]) for rows in batches(range(1000))]
    like = [np.ptp([LENGTHS[row] for row in rows]) for rows in batches(LikeLengths(LENGTHS, 10, 0))]
    assert np.mean(like) < np.mean(spread) / 5


def test_long_and_short_batches_are_mixed():
    means = [
        np.mean([LENGTHS[row] for row in rows]) for rows in batches(LikeLengths(LENGTHS, 10, 0))
    ]
    assert abs(np.corrcoef(means, np.arange(len(means)))[0, 1]) < 0.4


def test_the_order_is_that_of_seed_and_epoch():
    one, two = LikeLengths(LENGTHS, 10, seed=1), LikeLengths(LENGTHS, 10, seed=1)
    assert list(one) == list(two)
    two.set_epoch(1)
    assert list(one) != list(two)
    one.set_epoch(1)
    assert list(one) == list(two)
