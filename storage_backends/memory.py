"""Objects in memory: the model that the other backends are compared with, and a store for tests."""

from __future__ import annotations

import bisect
import itertools
import threading
from collections.abc import Callable, Iterator, MutableSequence, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from storage_backends.api import Key, ObjectInfo, Reader, Traits, Upload, key
from storage_backends.errors import AlreadyExists, NotFound

_PAGE = 1000


def _now() -> datetime:
    return datetime.now(UTC)


class MemoryBackend:
    """A dictionary of objects. Thread-safe.

    clock: the store's clock; aware, UTC. name: tells two of them apart in `url` and `traits.device`.
    """

    def __init__(self, name: str = "", *, clock: Callable[[], datetime] = _now) -> None:
        self._name, self._clock = name, clock
        self._lock = threading.Lock()
        self._objects: dict[str, _Stored] = {}
        self._versions = itertools.count(1)
        self._order: MutableSequence[str] = []

    @property
    def url(self) -> str:
        return f"memory:{self._name}"

    @property
    def traits(self) -> Traits:
        return Traits(
            scheme="memory",
            conditional_create=True,
            atomic_create_max_bytes=2**63 - 1,
            max_object_bytes=2**63 - 1,
            range_read_min_bytes=1,
            device=self.url,
            conditional_replace=True,
        )

    def create(self, key: Key, size_bytes: int | None = None, *, replacing: ObjectInfo | None = None) -> Upload:
        _check(key)
        self._refuse(key, replacing)
        return _MemoryUpload(self, key, replacing)

    def open(self, key: Key, start: int = 0, length: int | None = None) -> Reader:
        data = self._find("open", key).data
        return _MemoryReader(data, start, len(data) if length is None else min(len(data), start + length))

    def stat(self, key: Key) -> ObjectInfo:
        return self._find("stat", key).info(key)

    def list(self, prefix: str = "", after: str = "") -> Iterator[ObjectInfo]:
        while page := self._page(prefix, after):
            yield from page
            after = page[-1].key

    def delete(self, key: Key) -> None:
        _check(key)
        with self._lock:
            if self._objects.pop(key, None) is not None:
                del self._order[bisect.bisect_left(self._order, key)]

    def close(self) -> None:
        """Nothing to give back; the objects stay."""

    def _page(self, prefix: str, after: str) -> Sequence[ObjectInfo]:
        page: list[ObjectInfo] = []
        with self._lock:
            at = max(bisect.bisect_left(self._order, prefix), bisect.bisect_right(self._order, after))
            while at < len(self._order) and len(page) < _PAGE and self._order[at].startswith(prefix):
                page.append(self._objects[self._order[at]].info(Key(self._order[at])))
                at += 1
        return page

    def _find(self, verb: str, key: Key) -> _Stored:
        _check(key)
        try:
            return self._objects[key]
        except KeyError:
            raise NotFound(f"{verb} {key}", where=self.url) from None

    def _insert(self, key: Key, data: bytes, replacing: ObjectInfo | None) -> ObjectInfo:
        with self._lock:
            self._refuse(key, replacing)
            found = self._objects[key] = _Stored(data, self._clock(), str(next(self._versions)))
            if replacing is None:
                bisect.insort(self._order, key)
        return found.info(key)

    def _refuse(self, key: Key, replacing: ObjectInfo | None) -> None:
        found = self._objects.get(key)
        if replacing is None:
            if found is not None:
                raise AlreadyExists(f"create {key}", where=self.url)
        elif found is None:
            raise NotFound(f"replace {key}", where=self.url)
        elif found.version != replacing.version:
            raise AlreadyExists(f"replace {key}", where=self.url, why="another object is there by now")


@dataclass(frozen=True, slots=True)
class _Stored:
    data: bytes
    modified_at: datetime
    version: str

    def info(self, key: Key) -> ObjectInfo:
        return ObjectInfo(key, len(self.data), self.modified_at, self.version)


class _MemoryUpload:
    def __init__(self, backend: MemoryBackend, key: Key, replacing: ObjectInfo | None) -> None:
        self._backend, self._key, self._replacing = backend, key, replacing
        self._data: bytearray | None = bytearray()

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self._data is None:
            raise ValueError(f"the upload of {self._key} has ended")
        self._data += data

    def commit(self) -> ObjectInfo:
        if self._data is None:
            raise ValueError(f"the upload of {self._key} has ended")
        data, self._data = bytes(self._data), None
        return self._backend._insert(self._key, data, self._replacing)

    def abort(self) -> None:
        self._data = None

    def __enter__(self) -> Upload:
        return self

    def __exit__(self, *exc: object) -> None:
        self.abort()


class _MemoryReader:
    def __init__(self, data: bytes, start: int, stop: int) -> None:
        self._data, self._at, self._stop = data, start, stop

    def read(self, size_bytes: int = -1, /) -> bytes:
        stop = self._stop if size_bytes < 0 else min(self._stop, self._at + size_bytes)
        piece = self._data[self._at : stop]
        self._at += len(piece)
        return piece

    def close(self) -> None:
        self._data = b""

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def _check(text: Key) -> None:
    key(text)
