"""Bytes per second, by a clock that only sleeping moves."""

from __future__ import annotations

import threading

import pytest

from storage_backends.api import key
from storage_backends.conformance import get, put
from storage_backends.limit import Limited, TokenBucket
from storage_backends.memory import MemoryBackend


class Clock:
    """Seconds that pass by sleeping."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds


def bucket(clock: Clock, rate: float = 1000.0, burst: int = 500) -> TokenBucket:
    return TokenBucket(rate, burst_bytes=burst, clock=clock, sleep=clock.sleep)


def test_the_average_is_the_rate() -> None:
    clock = Clock()
    tokens = bucket(clock)
    for _ in range(100):
        tokens.take(100)
    assert clock.now_s - 100.0 == pytest.approx((100 * 100 - 500) / 1000)


def test_a_rest_saves_at_most_a_burst() -> None:
    clock = Clock()
    tokens = bucket(clock)
    clock.now_s += 3600
    tokens.take(500)
    assert clock.now_s == 3700.0
    tokens.take(1000)
    assert clock.now_s == pytest.approx(3701.0)


def test_more_than_the_burst_may_be_asked_for() -> None:
    clock = Clock()
    bucket(clock).take(10_500)
    assert clock.now_s == pytest.approx(110.0)


def test_threads_share_one_rate() -> None:
    waits: list[float] = []
    tokens = TokenBucket(1000, burst_bytes=1, clock=lambda: 0.0, sleep=waits.append)
    threads = [threading.Thread(target=tokens.take, args=(1000,)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(waits) == pytest.approx([number - 0.001 for number in range(1, 9)])


def test_both_directions_are_bounded_apart() -> None:
    clock = Clock()
    store = MemoryBackend()
    put(Limited(store, download=bucket(clock)), "a", bytes(5000))
    assert clock.now_s == 100.0
    put(Limited(store, upload=bucket(clock)), "b", bytes(5500))
    assert clock.now_s == pytest.approx(105.0)
    assert len(get(Limited(store, download=bucket(clock)), "a")) == 5000
    assert clock.now_s == pytest.approx(109.5)
    Limited(store, upload=bucket(clock, burst=1)).stat(key("a"))
    assert clock.now_s == pytest.approx(109.5)


def test_nonsense_is_refused() -> None:
    with pytest.raises(ValueError, match="positive"):
        bucket(Clock(), rate=0)
