"""Lines, columns, bands and slopes, as a person reads them."""

import numpy as np
import pytest

from lib.data.reading_order import reading_order


def box(left: float, top: float, width: float = 80, height: float = 20) -> list[list[float]]:
    right, bottom = left + width, top + height
    return [[left, top], [right, top], [right, bottom], [left, bottom]]


def test_lines_are_read_from_top_to_bottom_and_from_left_to_right():
    boxes = [box(200, 100), box(0, 100), box(50, 40), box(100, 104)]
    assert reading_order(np.array(boxes, dtype=float)) == [2, 1, 3, 0]


def test_a_higher_word_stays_on_its_line():
    boxes = [box(90, 0, height=40), box(0, 8), box(190, 10)]
    assert reading_order(np.array(boxes, dtype=float)) == [1, 0, 2]


def test_two_panels_are_read_one_after_the_other_under_their_common_title():
    title = box(0, 0, width=400)
    left = [box(0, 25 * row) for row in (1, 2, 3)]
    right = [box(300, 25 * row + 4) for row in (1, 2, 3)]
    boxes = [title, left[0], right[0], left[1], right[1], left[2], right[2]]
    assert reading_order(np.array(boxes, dtype=float)) == [0, 1, 3, 5, 2, 4, 6]


def test_columns_whose_lines_stand_at_different_heights_are_columns_too():
    left, right = [box(0, 24 * row) for row in range(4)], [box(200, 12 + 24 * r) for r in range(4)]
    boxes = [side[row] for row in range(4) for side in (left, right)]
    assert reading_order(np.array(boxes, dtype=float)) == [0, 2, 4, 6, 1, 3, 5, 7]


def test_four_panels_are_read_row_by_row():
    boxes = [box(x, y + line) for y in (0, 200) for x in (0, 250) for line in (0, 22)]
    order = [5, 1, 7, 3, 0, 2, 4, 6]
    shuffled = np.array(boxes, dtype=float)[order]
    assert [order[place] for place in reading_order(shuffled)] == list(range(8))


def test_a_single_line_of_words_far_apart_is_one_line():
    boxes = [box(0, 0), box(300, 2), box(0, 30, width=380)]
    assert reading_order(np.array(boxes, dtype=float)) == [0, 1, 2]


@pytest.mark.parametrize("degrees", [-25, 12, 30])
def test_text_aslant_is_read_as_if_it_were_level(degrees):
    boxes = np.array([box(x, y) for y in (0, 26, 52) for x in (0, 90, 180)], dtype=float)
    angle = np.deg2rad(degrees)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    shuffled = np.random.default_rng(0).permutation(9)
    order = reading_order((boxes @ turn + 300)[shuffled])
    assert [int(shuffled[place]) for place in order] == list(range(9))


def test_each_box_is_read_once_whatever_there_is():
    rng = np.random.default_rng(1)
    for n in (0, 1, 2, 30):
        corners = rng.uniform(0, 300, (n, 4, 2))
        assert sorted(reading_order(corners)) == list(range(n))
    assert sorted(reading_order(np.zeros((3, 4, 2)))) == [0, 1, 2]
