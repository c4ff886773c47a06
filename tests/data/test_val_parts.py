import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lib.data.val_parts import CALIBRATE, SELECT, selecting_rows, val_parts


@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 30)), min_size=1, max_size=80))
@settings(deadline=None)  # the first call imports scikit-learn
@pytest.mark.filterwarnings("ignore:val")
def test_a_group_is_never_in_both_halves(rows):
    labels = [label for label, _ in rows]
    groups = [f"g{group}" for _, group in rows]

    parts = val_parts(labels, groups)

    assert set(parts) <= {SELECT, CALIBRATE}
    for group in set(groups):
        assert len({part for part, own in zip(parts, groups, strict=True) if own == group}) == 1


def test_lone_memes_are_halved_with_labels_in_proportion():
    labels = np.tile([0, 0, 0, 1], 50)

    parts = val_parts(labels, [str(i) for i in range(200)])

    assert (parts == SELECT).sum() == 100
    assert labels[parts == SELECT].sum() == 25
    assert (
        selecting_rows(labels, [str(i) for i in range(200)])
        == np.flatnonzero(parts == SELECT).tolist()
    )


def test_what_cannot_be_divided_selects_and_calibrates_with_a_warning():
    with pytest.warns(UserWarning, match="cannot be divided"):
        parts = val_parts([0, 0, 1], ["a", "b", "c"])
    assert set(parts) == {CALIBRATE}
    with pytest.warns(UserWarning, match="flatters"):
        assert selecting_rows([0, 0, 1], ["a", "b", "c"]) == [0, 1, 2]


@pytest.mark.filterwarnings("ignore:val")
def test_no_half_is_left_with_one_class():
    # Two groups of each class, but one half would be "c" alone
    parts = val_parts([0, 0, 0, 0, 1, 1], ["a", "a", "a", "b", "b", "c"])
    assert set(parts) == {CALIBRATE}
