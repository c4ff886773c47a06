import threading

import pytest

from lib.serving.read_ahead import read_ahead


@pytest.mark.parametrize("number", [0, 1, 2, 5])
def test_items_come_in_their_order(number):
    found = [future.result() for future in read_ahead(lambda item: 2 * item, range(number))]
    assert found == [2 * k for k in range(number)]


def test_the_next_item_is_read_while_the_caller_is_busy():
    second = threading.Event()

    def read(item):
        if item == 1:
            second.set()
        return item

    found = read_ahead(read, range(3))
    assert next(found).result() == 0
    assert second.wait(timeout=10)
    assert [future.result() for future in found] == [1, 2]


def test_no_more_than_one_item_is_read_ahead():
    read = []
    found = read_ahead(lambda item: read.append(item) or item, range(10))
    next(found).result()
    found.close()
    assert read in ([0], [0, 1])


def test_an_error_waits_for_its_turn():
    def read(item):
        if item == 1:
            raise ValueError("broken")
        return item

    found = read_ahead(read, range(3))
    assert next(found).result() == 0
    broken = next(found)
    with pytest.raises(ValueError, match="broken"):
        broken.result()
    assert next(found).result() == 2
