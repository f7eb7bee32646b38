"""Faults come when the script says so, and are what it says."""

from __future__ import annotations

import pytest

from storage_backends.api import key
from storage_backends.conformance import get, put
from storage_backends.errors import Denied, NotFound, NotThisTarget, OutOfSpace, Unavailable
from storage_backends.faulty import Faulty, Rule, parse
from storage_backends.memory import MemoryBackend


def stored(name: str = "t/one", data: bytes = b"12345678") -> MemoryBackend:
    store = MemoryBackend("one")
    put(store, name, data)
    return store


def test_faults_come_in_turn_and_end() -> None:
    backend = Faulty(stored(), "stat:ok,503,denied")
    one = key("t/one")
    backend.stat(one)
    with pytest.raises(Unavailable):
        backend.stat(one)
    with pytest.raises(Denied):
        backend.stat(one)
    backend.stat(one)


def test_the_last_fault_may_go_on() -> None:
    backend = Faulty(stored(), "stat:ok,gone*")
    backend.stat(key("t/one"))
    for _ in range(3):
        with pytest.raises(NotThisTarget):
            backend.stat(key("t/one"))
    backend.heal()
    backend.stat(key("t/one"))


def test_a_rule_may_be_for_some_keys() -> None:
    store = stored()
    put(store, "u/one", b"")
    backend = Faulty(store, "stat=t/:missing*")
    backend.stat(key("u/one"))
    with pytest.raises(NotFound):
        backend.stat(key("t/one"))
    backend.add(Rule("stat", ("503",), prefix="u/"))
    with pytest.raises(Unavailable):
        backend.stat(key("u/one"))


def test_a_lost_acknowledgement_has_its_effect() -> None:
    store = stored()
    backend = Faulty(store, "commit:503,lost;delete:lost")
    with pytest.raises(Unavailable):
        put(backend, "t/two", b"two")
    with pytest.raises(NotFound):
        store.stat(key("t/two"))
    with pytest.raises(Unavailable):
        put(backend, "t/two", b"two")
    assert get(store, "t/two") == b"two"
    with pytest.raises(Unavailable):
        backend.delete(key("t/two"))
    with pytest.raises(NotFound):
        store.stat(key("t/two"))


def test_short_and_flipped_reads() -> None:
    backend = Faulty(stored(), "read:short;read:flip")
    with backend.open(key("t/one")) as reader:
        assert reader.read() == b"1234"
        assert reader.read() == b""
    assert get(backend, "t/one") == b"1234" + bytes([ord("5") ^ 0x10]) + b"678"
    assert get(backend, "t/one") == b"12345678"


def test_short_and_flipped_writes() -> None:
    store = stored()
    backend = Faulty(store, "write:short,flip")
    with pytest.raises(Unavailable):
        put(backend, "t/two", b"1234")
    put(backend, "t/two", b"1234")
    assert get(store, "t/two") != b"1234"


def test_out_of_space_and_slowness() -> None:
    slept: list[float] = []
    backend = Faulty(stored(), "write:full;list:slow=1.5", sleep=slept.append)
    with pytest.raises(OutOfSpace):
        put(backend, "t/two", b"two")
    assert len(list(backend.list())) == 1
    assert slept == [1.5]


def test_a_listing_may_break_in_the_middle() -> None:
    store = stored()
    put(store, "t/two", b"")
    listing = Faulty(store, "list:lost").list()
    assert next(listing).key == "t/one"
    with pytest.raises(Unavailable):
        next(listing)


@pytest.mark.parametrize("script", ["stat", "stat:often", "walk:503", "stat:flip", "stat:"])
def test_a_wrong_script_is_refused(script: str) -> None:
    with pytest.raises(ValueError, match=r"no |for read"):
        parse(script)
