import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.preprocessing import StandardScaler

from lib.modeling.rows import Rows, moments

SIZES = st.lists(st.integers(0, 5), min_size=1, max_size=5).filter(sum)


def parts_of(sizes, width=3):
    numbers = torch.arange(sum(sizes) * width, dtype=torch.float32).reshape(-1, width)
    return list(numbers.split(sizes)), numbers


@st.composite
def indices(draw):
    sizes = draw(SIZES)
    n = sum(sizes)
    rows = st.lists(st.integers(0, n - 1), max_size=8)
    index = draw(
        st.one_of(
            st.slices(n),
            rows.map(lambda r: torch.tensor(r, dtype=torch.long)),
            rows.map(lambda r: np.array(r, dtype=int)),
            st.lists(st.booleans(), min_size=n, max_size=n).map(torch.tensor),
        )
    )
    return sizes, index


@given(indices())
def test_rows_are_those_of_the_parts_put_together(drawn):
    sizes, index = drawn
    parts, whole = parts_of(sizes)
    rows = Rows(parts)
    assert (rows.shape, rows.ndim, rows.dtype, len(rows)) == (
        whole.shape,
        2,
        whole.dtype,
        len(whole),
    )
    if isinstance(index, slice) and (index.step or 1) < 0:
        expected = whole[torch.arange(len(whole)).numpy()[index].copy()]
    else:
        expected = whole[index]
    assert torch.equal(rows[index], expected)
    assert torch.equal(rows.take(index)[:], expected)


@given(SIZES, st.data())
def test_chosen_rows_are_chosen_from_again(sizes, data):
    parts, whole = parts_of(sizes)
    first = data.draw(st.lists(st.integers(0, len(whole) - 1), min_size=1, max_size=8))
    then = data.draw(st.lists(st.integers(0, len(first) - 1), max_size=8))
    chosen = Rows(parts).take(np.array(first))
    then = np.array(then, dtype=int)
    assert torch.equal(chosen.take(then)[:], whole[first][then])
    assert torch.equal(chosen[then], whole[first][then])
    assert torch.equal(torch.stack(list(chosen)), whole[first])


@given(SIZES, SIZES, st.sets(st.sampled_from([0, 1])), st.data())
def test_rows_behind_rows_are_those_of_both(first, then, chosen, data):
    (one, all_of_one), (other, all_of_other) = parts_of(first), parts_of(then)
    rows, expected = [Rows(one), Rows(other)], [all_of_one, -all_of_other]
    rows[1] = Rows([-part for part in other])
    for k in chosen:
        places = data.draw(st.lists(st.integers(0, len(expected[k]) - 1), min_size=1, max_size=8))
        rows[k], expected[k] = rows[k].take(places), expected[k][places]
    joined = rows[0].followed_by(rows[1])
    assert torch.equal(joined[:], torch.cat(expected))


def test_what_is_read_is_a_copy_and_what_is_not_there_an_error():
    parts, whole = parts_of([2, 3])
    rows = Rows(parts)
    for read in (rows[:], rows[0], rows[torch.tensor([0])]):
        read.zero_()
    assert torch.equal(rows[:], whole)
    assert torch.equal(rows[-1], whole[-1])
    for row in (5, -6, torch.tensor([5]), torch.tensor([-1])):
        with pytest.raises(IndexError):
            rows[row]


def test_a_row_may_be_one_number():
    rows = Rows([torch.tensor([1.0, 2.0]), torch.tensor([3.0])])
    assert rows[:].tolist() == rows[torch.arange(3)].tolist() == [1, 2, 3]
    assert rows[2] == 3


def test_shorter_texts_are_filled_up_with_zeros():
    rows = Rows([torch.ones(2, 1, 3), torch.ones(1, 4, 3).half().float()])
    assert rows.shape == (3, 4, 3)
    for read in (rows[:], rows[torch.arange(3)]):
        assert read.sum(dim=(1, 2)).tolist() == [3, 3, 12]
        assert read[0, 0].tolist() == [1, 1, 1]


@pytest.mark.parametrize("most", [3, 21, 10_000])
def test_moments_by_parts_are_those_of_the_whole(most):
    rng = np.random.default_rng(0)
    whole = torch.tensor(rng.normal(5, [1, 100, 0.01], (500, 3)), dtype=torch.float32)
    mean, std, bounds = moments(Rows(list(whole.split(7))), most=most)
    expected = StandardScaler().fit(whole.double())
    np.testing.assert_allclose(mean, expected.mean_, rtol=1e-5)
    np.testing.assert_allclose(std, expected.scale_ * (500 / 499) ** 0.5, rtol=1e-4)
    assert torch.equal(bounds, torch.stack([whole.amin(0), whole.amax(0)]))


def test_moments_in_one_part_are_pytorchs_own_and_leave_out_what_is_masked():
    states = torch.randn(40, 6, 3, generator=torch.Generator().manual_seed(0))
    mask = torch.ones(40, 6)
    mask[:, 4:] = 0
    states[:, 4:] = 1e6
    mean, std, _ = moments(states, mask)
    seen = states[:, :4].flatten(0, 1)
    assert torch.equal(mean, seen.mean(0))
    assert torch.equal(std, seen.std(0))


def test_rows_of_one_number_each():
    whole = torch.arange(7.0)
    rows = Rows([whole[:3], whole[3:]])
    assert torch.equal(rows[:], whole)
    assert torch.equal(rows[torch.tensor([5, 0, 3])], whole[torch.tensor([5, 0, 3])])
    assert torch.equal(rows.take(np.array([6, 1]))[:], whole[torch.tensor([6, 1])])
