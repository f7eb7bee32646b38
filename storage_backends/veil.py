"""Decorators for who looks without leaving a trace: no writing, and objects that are not to be seen."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from storage_backends.api import Key, ObjectInfo, Reader, StorageBackend, Upload
from storage_backends.errors import Denied, NotFound
from storage_backends.passthrough import Passthrough


class ReadOnly(Passthrough):
    """Refuses to create and to delete: Denied, before the store hears of it."""

    def create(self, key: Key, size_bytes: int | None = None, *, replacing: ObjectInfo | None = None) -> Upload:
        raise self._denied(f"create {key}")

    def delete(self, key: Key) -> None:
        raise self._denied(f"delete {key}")

    def _denied(self, what: str) -> Denied:
        return Denied(what, where=self.url, why="this handle only reads")


class Veiled(Passthrough):
    """Objects whose key `hidden` names are as if they were not there; nothing is touched. Thread-safe as `hidden` is.

    A key that is hidden can still be created, and then meets what is there: put ReadOnly around it.
    """

    def __init__(self, inner: StorageBackend, hidden: Callable[[str], bool]) -> None:
        super().__init__(inner)
        self._hidden = hidden

    def open(self, key: Key, start: int = 0, length: int | None = None) -> Reader:
        self._look(f"open {key}", key)
        return self._inner.open(key, start, length)

    def stat(self, key: Key) -> ObjectInfo:
        self._look(f"stat {key}", key)
        return self._inner.stat(key)

    def list(self, prefix: str = "", after: str = "") -> Iterator[ObjectInfo]:
        return (info for info in self._inner.list(prefix, after) if not self._hidden(info.key))

    def _look(self, what: str, key: str) -> None:
        if self._hidden(key):
            raise NotFound(what, where=self.url, why="it is hidden")
