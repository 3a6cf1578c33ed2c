"""Background work: order, errors, early ends."""

import threading
import time

import pytest

from fd2talk_core.ahead import ahead


def test_items_come_in_order():
    assert list(ahead(range(50))) == list(range(50))


def test_work_goes_on_while_an_item_is_used():
    started = []

    def slow():
        for index in range(3):
            started.append(index)
            yield index

    made = ahead(slow())
    next(made)
    deadline = time.monotonic() + 5
    while len(started) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert started == [0, 1, 2]
    made.close()


def test_errors_come_after_the_items_before_them():
    def failing():
        yield 1
        raise ValueError("no more")

    made = ahead(failing())
    assert next(made) == 1
    with pytest.raises(ValueError, match="no more"):
        next(made)


def test_a_cancel_raised_by_the_maker_passes_through():
    def cancelled():
        yield 1
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(ahead(cancelled()))


def test_closing_early_ends_the_thread():
    made_until = []

    def endless():
        index = 0
        while True:
            made_until.append(index)
            yield index
            index += 1

    before = threading.active_count()
    made = ahead(endless(), depth=2)
    next(made)
    made.close()
    assert threading.active_count() == before
    assert len(made_until) < 10
