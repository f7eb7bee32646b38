"""Handles that only read, and objects that are not to be seen."""

from __future__ import annotations

import pytest

from storage_backends.api import Key, key
from storage_backends.errors import Denied, NotFound
from storage_backends.memory import MemoryBackend
from storage_backends.veil import ReadOnly, Veiled


def filled() -> MemoryBackend:
    store = MemoryBackend()
    for name in ("a/1", "a/2", "b/1"):
        with store.create(key(name)) as upload:
            upload.write(name.encode())
            upload.commit()
    return store


def test_nothing_can_be_written_or_deleted_through_it() -> None:
    store = filled()
    veil = ReadOnly(store)
    with pytest.raises(Denied, match="create c"):
        veil.create(Key("c"))
    with pytest.raises(Denied, match="delete a/1"):
        veil.delete(Key("a/1"))
    assert [info.key for info in store.list()] == ["a/1", "a/2", "b/1"]
    with veil.open(Key("a/1")) as reader:
        assert reader.read() == b"a/1"


def test_what_is_hidden_is_as_if_it_were_not_there() -> None:
    store = filled()
    veil = Veiled(store, lambda name: name == "a/2")
    assert [info.key for info in veil.list()] == ["a/1", "b/1"]
    assert [info.key for info in veil.list("a/", "a/1")] == []
    for look in (veil.stat, veil.open):
        with pytest.raises(NotFound):
            look(Key("a/2"))
    assert veil.stat(Key("b/1")).size_bytes == 3
    assert store.stat(Key("a/2")).size_bytes == 3
