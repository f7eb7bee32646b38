"""Calls at once: results in order, a bound on how many, the first error."""

from __future__ import annotations

import threading

import pytest

from drkit.core.spread import spread


def test_results_come_in_the_order_of_the_items() -> None:
    assert spread(lambda n: n * n, range(50), 4) == [n * n for n in range(50)]
    assert spread(lambda n: n, [], 4) == []


def test_as_many_as_may_are_under_way_together() -> None:
    meeting, lock = threading.Barrier(3), threading.Lock()
    under_way = most = 0

    def call(_: int) -> None:
        nonlocal under_way, most
        with lock:
            under_way += 1
            most = max(most, under_way)
        meeting.wait(timeout=60)
        with lock:
            under_way -= 1

    spread(call, range(9), 3)
    assert most == 3


def test_one_at_a_time_runs_in_the_callers_thread() -> None:
    assert spread(lambda _: threading.get_ident(), range(3), 1) == [threading.get_ident()] * 3
    assert spread(lambda _: threading.get_ident(), [0]) == [threading.get_ident()]


def test_the_error_of_the_first_item_is_raised_when_all_have_ended_and_nothing_more_begins() -> None:
    meeting, seen = threading.Barrier(2), set[int]()

    def call(number: int) -> None:
        seen.add(number)
        meeting.wait(timeout=60)
        raise ValueError(number)

    with pytest.raises(ValueError, match=r"^0$"):
        spread(call, range(100), 2)
    assert seen == {0, 1}
