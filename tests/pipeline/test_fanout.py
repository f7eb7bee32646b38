"""One pass to several targets: a failing one leaves, too few end the run."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from drkit.core.cancel import CancelToken
from drkit.core.errors import Failed
from drkit.core.flow import Group
from drkit.pipeline.fanout import FanOut, Parcel
from storage_backends.api import Key, StorageBackend
from storage_backends.errors import OutOfSpace
from storage_backends.faulty import Faulty
from storage_backends.memory import MemoryBackend


def parcels(count: int) -> list[Parcel]:
    return [Parcel(Key(f"p/{n:03}"), (b"head", bytes([n]) * 100), 104) for n in range(count)]


def sent(backends: Mapping[str, StorageBackend], required: int, count: int = 30) -> FanOut:
    with Group(CancelToken(), name="test") as group:
        fan = FanOut(backends, required=required, group=group)
        for parcel in parcels(count):
            fan.send(parcel)
        fan.finish()
    return fan


def content(backend: StorageBackend) -> dict[str, bytes]:
    found = {}
    for info in backend.list():
        with backend.open(info.key) as reader:
            found[str(info.key)] = reader.read()
    return found


WHOLE = {str(p.key): b"".join(p.parts) for p in parcels(30)}


def test_every_target_has_every_parcel_when_the_group_was_joined() -> None:
    backends = {name: MemoryBackend(name) for name in "abc"}
    fan = sent(backends, 3)
    assert not fan.failures and fan.sent_bytes == dict.fromkeys("abc", 30 * 104)
    assert all(content(backend) == WHOLE for backend in backends.values())


@pytest.mark.parametrize("script", ["create=p/007:full", "write=p/007:503", "commit=p/000:denied", "commit=p/029:gone",
                                    "create:503*"])  # fmt: skip
def test_a_target_that_fails_leaves_the_run_and_is_named(script: str) -> None:
    good = MemoryBackend("a")
    fan = sent({"a": good, "b": Faulty(MemoryBackend("b"), script)}, 1)
    assert list(fan.failures) == ["b"] and "on purpose" in str(fan.failures["b"])
    assert content(good) == WHOLE


def test_what_a_failed_target_holds_is_whole_objects_only() -> None:
    inner = MemoryBackend("b")
    sent({"a": MemoryBackend("a"), "b": Faulty(inner, "write=p/005:ok,short")}, 1)
    assert set(content(inner).items()) < set(WHOLE.items())


def test_too_few_targets_end_the_run_with_every_cause() -> None:
    backends = {name: Faulty(MemoryBackend(name), "create=p/003:full") for name in "ab"}
    with pytest.raises(Failed, match=r"[01] of 1") as error:
        sent(backends, 1)
    assert "a:" in error.value.why and "b:" in error.value.why
    with pytest.raises(Failed, match="1 of 2 required"):
        sent({"a": MemoryBackend(), "b": Faulty(MemoryBackend(), "create:full")}, 2)


def test_the_cause_is_kept_as_it_was() -> None:
    fan = sent({"a": MemoryBackend(), "b": Faulty(MemoryBackend(), "create:full")}, 1)
    assert isinstance(fan.failures["b"], OutOfSpace)
