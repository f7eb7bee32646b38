"""The store in memory keeps the time it is given."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from storage_backends.api import key
from storage_backends.conformance import put
from storage_backends.memory import MemoryBackend


def test_the_clock_is_settable() -> None:
    now = datetime(2030, 1, 1, tzinfo=UTC)
    backend = MemoryBackend("one", clock=lambda: now)
    put(backend, "a", b"")
    now += timedelta(days=1)
    put(backend, "b", b"")
    assert backend.stat(key("a")).modified_at == now - timedelta(days=1)
    assert [info.modified_at.day for info in backend.list()] == [1, 2]


def test_names_tell_two_apart() -> None:
    one, two = MemoryBackend("one"), MemoryBackend("two")
    assert one.url != two.url and one.traits.device != two.traits.device
