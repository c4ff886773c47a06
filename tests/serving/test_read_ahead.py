import threading

import pytest

from lib.serving.read_ahead import read_ahead


@pytest.mark.parametrize("number", [0, 1, 2, 5])
def test_items_come_in_their_order(number):
    assert list(read_ahead(lambda item: 2 * item, range(number))) == [2 * k for k in range(number)]


def test_the_next_item_is_read_while_the_caller_is_busy():
    second = threading.Event()

    def read(item):
        if item == 1:
            second.set()
        return item

    found = read_ahead(read, range(3))
    assert next(found) == 0
    assert second.wait(timeout=10)
    assert list(found) == [1, 2]


def test_no_more_than_one_item_is_read_ahead():
    read = []
    found = read_ahead(lambda item: read.append(item) or item, range(10))
    next(found)
    found.close()
    assert read in ([0], [0, 1])


def test_an_error_is_raised_in_its_turn():
    def read(item):
        if item == 1:
            raise ValueError("broken")
        return item

    found = read_ahead(read, range(3))
    assert next(found) == 0
    with pytest.raises(ValueError, match="broken"):
        next(found)
