"""The conformance suite notices backends that lie."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from storage_backends import conformance, conformance_replacing
from storage_backends.api import Key, ObjectInfo, Reader, Upload
from storage_backends.conformance import CHECKS, Check, Subject
from storage_backends.errors import NotFound, StorageError
from storage_backends.memory import MemoryBackend
from storage_backends.passthrough import Passthrough


class _Overwriting(Passthrough):
    def create(self, key: Key, size_bytes: int | None = None, *, replacing: ObjectInfo | None = None) -> Upload:
        self._inner.delete(key)
        return self._inner.create(key, size_bytes)


class _Careless(Passthrough):
    """Replaces whatever is there."""

    def create(self, key: Key, size_bytes: int | None = None, *, replacing: ObjectInfo | None = None) -> Upload:
        if replacing is not None:
            replacing = self._inner.stat(key)
        return self._inner.create(key, size_bytes, replacing=replacing)


class _Gapped(Passthrough):
    """Deletes, then creates."""

    def create(self, key: Key, size_bytes: int | None = None, *, replacing: ObjectInfo | None = None) -> Upload:
        if replacing is not None:
            self._inner.delete(key)
        return self._inner.create(key, size_bytes)


class _ByFolder(Passthrough):
    """Lists as a naive walk of folders does."""

    def list(self, prefix: str = "", after: str = "") -> Iterator[ObjectInfo]:
        yield from sorted(self._inner.list(prefix, after), key=lambda info: info.key.split("/"))


class _Inclusive(Passthrough):
    def list(self, prefix: str = "", after: str = "") -> Iterator[ObjectInfo]:
        return (info for info in self._inner.list(prefix) if info.key >= after)


class _FirstPageOnly(Passthrough):
    def list(self, prefix: str = "", after: str = "") -> Iterator[ObjectInfo]:
        return (info for info, _ in zip(self._inner.list(prefix, after), range(1000), strict=False))


class _LateAbsence(Passthrough):
    """Opens what is not there as something empty."""

    def open(self, key: Key, start: int = 0, length: int | None = None) -> Reader:
        try:
            return self._inner.open(key, start, length)
        except NotFound:
            store = MemoryBackend()
            conformance.put(store, "empty", b"")
            return store.open(Key("empty"))


class _Silent(Passthrough):
    """Takes silence for absence."""

    def stat(self, key: Key) -> ObjectInfo:
        raise NotFound(f"stat {key}", where=self.url)


@pytest.mark.parametrize(
    ("kind", "check"),
    [
        (_Overwriting, conformance.never_overwrites),
        (_Overwriting, conformance.big_objects_never_overwrite),
        (_Careless, conformance_replacing.replaces_nothing_else),
        (_Gapped, conformance_replacing.the_old_one_is_there_until_commit),
        (_ByFolder, conformance.lists_in_byte_order),
        (_Inclusive, conformance.lists_after_a_key),
        (_FirstPageOnly, conformance.lists_many),
        (_LateAbsence, conformance.absence_is_not_found),
    ],
)
def test_liars_fail(kind: type[Passthrough], check: Check) -> None:
    store = kind(MemoryBackend("one"))
    with pytest.raises((AssertionError, StorageError)):
        check(Subject(open=lambda: store))


def test_silence_taken_for_absence_fails() -> None:
    store = _Silent(MemoryBackend("one"))
    with pytest.raises((AssertionError, StorageError)):
        conformance.silence_is_unavailable(Subject(open=lambda: store, unreachable=lambda: store))


def test_every_check_is_in_the_list() -> None:
    public = {
        value
        for module in (conformance, conformance_replacing)
        for name, value in vars(module).items()
        if callable(value) and getattr(value, "__module__", "") == module.__name__
    }
    helpers = {conformance.put, conformance.get, conformance.Subject, conformance_replacing.Opens}
    checks = {value for value in public if not value.__name__.startswith("_")} - helpers
    assert checks == set(CHECKS)
