"""Every verb is told before and after it, with its bytes and its outcome."""

from __future__ import annotations

import itertools

import pytest

from storage_backends.api import key
from storage_backends.conformance import get, put
from storage_backends.errors import NotFound
from storage_backends.faulty import Faulty
from storage_backends.memory import MemoryBackend
from storage_backends.retry import Retrying, RetryPolicy
from storage_backends.trace import Event, Traced, Traffic


def test_every_verb_is_told() -> None:
    events: list[Event] = []
    backend = Traced(MemoryBackend("one"), events.append, clock=itertools.count().__next__)
    put(backend, "t/one", b"four")
    assert get(backend, "t/one", 1, 2) == b"ou"
    assert len(list(backend.list("t/"))) == 1
    with pytest.raises(NotFound):
        backend.stat(key("t/two"))
    backend.create(key("t/two")).abort()
    backend.delete(key("t/one"))
    backend.close()
    ends = [(event.verb, event.key, event.size_bytes, event.outcome) for event in events if event.phase == "end"]
    assert ends == [
        ("create", "t/one", 0, "ok"),
        ("write", "t/one", 4, "ok"),
        ("commit", "t/one", 4, "ok"),
        ("open", "t/one", 0, "ok"),
        ("read", "t/one", 2, "ok"),
        ("list", "t/", 1, "ok"),
        ("stat", "t/two", 0, "NotFound"),
        ("create", "t/two", 0, "ok"),
        ("abort", "t/two", 0, "ok"),
        ("delete", "t/one", 0, "ok"),
        ("close", "", 0, "ok"),
    ]
    assert [event.phase for event in events] == ["begin", "end"] * len(ends)
    assert {event.seconds for event in events if event.phase == "end"} == {1}
    assert {event.url for event in events} == {"memory:one"}


def test_traffic_counts_requests_and_bytes_failed_and_repeated_ones_too() -> None:
    traffic = Traffic()
    inner = Faulty(MemoryBackend(), "write=a:503;open=a:503")
    traced = Traced(inner, traffic.record, clock=lambda: 0.0)
    store = Retrying(traced, RetryPolicy(attempts=3), sleep=lambda _: None, random=lambda: 0.0)
    put(store, "a", b"four")
    assert get(store, "a") == b"four"
    assert list(store.list()) and store.stat(key("a")).size_bytes == 4
    with pytest.raises(NotFound):
        store.stat(key("b"))
    store.delete(key("a"))
    facts = dict(traffic.facts)
    assert facts == {
        "create": 1, "open": 2, "stat": 2, "list": 1, "delete": 1, "read_bytes": 4, "written_bytes": 8
    }  # fmt: skip


def test_a_listing_given_up_is_told() -> None:
    events: list[Event] = []
    store = MemoryBackend()
    for name in "abc":
        put(store, name, b"")
    listing = Traced(store, events.append, clock=lambda: 0.0).list()
    next(listing)
    del listing
    assert (events[-1].phase, events[-1].size_bytes, events[-1].outcome) == ("end", 1, "ok")


@pytest.mark.parametrize("effect", range(3))
def test_dying_at_an_effect_stops_it(effect: int) -> None:
    """How to kill at each effect: raise at the n-th "begin"."""

    class Killed(BaseException):
        pass

    left = effect

    def die(event: Event) -> None:
        nonlocal left
        if event.phase == "begin" and event.verb != "abort":
            if left == 0:
                raise Killed
            left -= 1

    store = MemoryBackend()
    with pytest.raises(Killed):
        put(Traced(store, die, clock=lambda: 0.0), "t/one", b"one")
    assert list(store.list()) == []
