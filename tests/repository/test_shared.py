"""Values shared between threads: made once, failures passed on, the budget kept."""

from __future__ import annotations

import threading

import pytest

from drkit.repository.shared import Shared


def test_a_value_is_made_once_however_many_ask() -> None:
    shared: Shared[str, bytes] = Shared(100, len)
    made: list[int] = []
    gate = threading.Barrier(8)
    results: list[bytes] = []

    def ask() -> None:
        gate.wait()
        results.append(shared.get("k", lambda: made.append(1) or b"value"))  # type: ignore[func-returns-value]

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert made == [1]
    assert results == [b"value"] * 8


def test_a_failure_reaches_who_waits_and_the_next_one_may_try_again() -> None:
    shared: Shared[str, bytes] = Shared(100, len)
    slot, mine = shared.claim("k")
    other, theirs = shared.claim("k")
    assert mine and not theirs and other is slot
    shared.fail("k", OSError("gone"))
    with pytest.raises(OSError, match="gone"):
        other.result()
    assert shared.get("k", lambda: b"x") == b"x"


def test_the_longest_unused_go_first() -> None:
    shared: Shared[int, bytes] = Shared(30, len)
    for number in range(3):
        shared.get(number, lambda: bytes(10))
    shared.get(0, lambda: bytes(99))
    shared.get(3, lambda: bytes(10))
    assert shared.held_bytes == 30
    assert not shared.claim(0)[1]
    assert shared.claim(1)[1]
