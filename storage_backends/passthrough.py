"""What the decorators share: every verb handed on untouched."""

from __future__ import annotations

from collections.abc import Iterator

from storage_backends.api import Key, ObjectInfo, Reader, StorageBackend, Traits, Upload


class Passthrough:
    """A backend that hands every verb to `inner`."""

    def __init__(self, inner: StorageBackend) -> None:
        self._inner = inner

    @property
    def url(self) -> str:
        return self._inner.url

    @property
    def traits(self) -> Traits:
        return self._inner.traits

    def create(self, key: Key, size_bytes: int | None = None, *, replacing: ObjectInfo | None = None) -> Upload:
        return self._inner.create(key, size_bytes, replacing=replacing)

    def open(self, key: Key, start: int = 0, length: int | None = None) -> Reader:
        return self._inner.open(key, start, length)

    def stat(self, key: Key) -> ObjectInfo:
        return self._inner.stat(key)

    def list(self, prefix: str = "", after: str = "") -> Iterator[ObjectInfo]:
        return self._inner.list(prefix, after)

    def delete(self, key: Key) -> None:
        self._inner.delete(key)

    def close(self) -> None:
        self._inner.close()


class PassthroughUpload:
    """An upload that hands everything to `inner`."""

    def __init__(self, inner: Upload) -> None:
        self._inner = inner

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self._inner.write(data)

    def commit(self) -> ObjectInfo:
        return self._inner.commit()

    def abort(self) -> None:
        self._inner.abort()

    def __enter__(self) -> Upload:
        return self

    def __exit__(self, *exc: object) -> None:
        self.abort()


class PassthroughReader:
    """A reader that hands everything to `inner`."""

    def __init__(self, inner: Reader) -> None:
        self._inner = inner

    def read(self, size_bytes: int = -1, /) -> bytes:
        return self._inner.read(size_bytes)

    def close(self) -> None:
        self._inner.close()

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
