from __future__ import annotations

import threading
import time

import pytest

from raykd.train.feed import prefetch


def test_items_come_in_order_and_one_ahead():
    made, ready = [], threading.Event()

    def items():
        for item in range(5):
            made.append(item)
            if item == 2:
                ready.set()
            yield item

    stream = prefetch(items())
    assert [next(stream), next(stream)] == [0, 1]
    assert ready.wait(5)  # made while the one before is used
    assert made == [0, 1, 2]
    assert list(stream) == [2, 3, 4]


def test_none_is_an_item():
    assert list(prefetch(iter([None, 1, None]))) == [None, 1, None]


def test_what_goes_wrong_is_raised_where_the_item_is_used():
    def items():
        yield 0
        raise IndexError("rows 9 asked")

    stream = prefetch(items())
    assert next(stream) == 0
    with pytest.raises(IndexError, match="rows 9 asked"):
        next(stream)


def test_a_stream_that_is_left_ends_its_thread():
    before = threading.active_count()
    stream = prefetch(iter(range(100)))
    next(stream)
    assert threading.active_count() == before + 1
    stream.close()
    until = time.monotonic() + 5
    while threading.active_count() > before and time.monotonic() < until:
        time.sleep(0.01)
    assert threading.active_count() == before
