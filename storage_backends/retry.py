"""Try again what may go through later: the only place in the project where storage calls are repeated.

The unit of repetition is the smallest that can be replayed: one request for stat and delete, the rest of a
range for a reader, what comes after the last key for a listing, a part of a large upload (`Resumable`), and a
whole object up to `replay_bytes`, whose bytes are kept until it is committed.

A create whose answer was lost meets its own object when it is repeated: after an Unavailable attempt, an
object of the same bytes is success. So it is with a replacing one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from storage_backends.api import Key, ObjectInfo, Reader, StorageBackend, Upload
from storage_backends.api import key as check_key
from storage_backends.errors import AlreadyExists, Resumable, StorageError
from storage_backends.passthrough import Passthrough

_READ_STEP = 8 * 1024 * 1024
_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often and how far apart: the pause before attempt n+1 is random between half of and the whole of
    first_pause_s * factor**(n-1), at most max_pause_s.

    replay_bytes: objects up to this size are kept in memory until they are committed.
    """

    attempts: int = 5
    first_pause_s: float = 0.2
    factor: float = 3.0
    max_pause_s: float = 10.0
    replay_bytes: int = 64 * 1024 * 1024

    def pause_s(self, attempt: int, random: float) -> float:
        """The pause after the failed attempt number `attempt` (from 1); random in [0, 1)."""
        whole = min(self.max_pause_s, self.first_pause_s * self.factor ** (attempt - 1))
        return whole * (0.5 + random / 2)


class Retrying(Passthrough):
    """Repeats what failed with a retryable error. Thread-safe when `inner`, `sleep` and `random` are.

    sleep: may raise to cancel. random: in [0, 1). The last error is raised unchanged.
    """

    def __init__(
        self,
        inner: StorageBackend,
        policy: RetryPolicy,
        *,
        sleep: Callable[[float], None],
        random: Callable[[], float],
    ) -> None:
        super().__init__(inner)
        self.policy, self._sleep, self._random = policy, sleep, random

    def create(self, key: Key, size_bytes: int | None = None, *, replacing: ObjectInfo | None = None) -> Upload:
        """Small objects meet the store at commit only: what it refuses comes there."""
        check_key(key)
        return _RetryingUpload(self, key, size_bytes, replacing)

    def open(self, key: Key, start: int = 0, length: int | None = None) -> Reader:
        reader = self.run(lambda: self._inner.open(key, start, length))
        return _RetryingReader(self, reader, key, start, length)

    def stat(self, key: Key) -> ObjectInfo:
        return self.run(lambda: self._inner.stat(key))

    def delete(self, key: Key) -> None:
        self.run(lambda: self._inner.delete(key))

    def list(self, prefix: str = "", after: str = "") -> Iterator[ObjectInfo]:
        attempt = 1
        while True:
            try:
                for info in self._inner.list(prefix, after):
                    after, attempt = info.key, 1
                    yield info
            except StorageError as error:
                self.pause_or_raise(error, attempt)
                attempt += 1
            else:
                return

    def run(self, call: Callable[[], _Result]) -> _Result:
        """Call until it returns, or fails for good."""
        attempt = 1
        while True:
            try:
                return call()
            except StorageError as error:
                self.pause_or_raise(error, attempt)
                attempt += 1

    def pause_or_raise(self, error: StorageError, attempt: int) -> None:
        """Sleep after the failed attempt number `attempt`, or raise what it failed with."""
        if not error.retryable or attempt >= self.policy.attempts:
            raise error
        self._sleep(self.policy.pause_s(attempt, self._random()))

    def begin(self, key: Key, size_bytes: int | None, replacing: ObjectInfo | None) -> Upload:
        return self._inner.create(key, size_bytes, replacing=replacing)

    def reopen(self, key: Key, start: int, stop: int | None) -> Reader:
        return self._inner.open(key, start, None if stop is None else stop - start)

    def holds(self, key: Key, chunks: Iterator[bytes], size_bytes: int) -> bool:
        """Whether the stored object is exactly these bytes."""
        if self.stat(key).size_bytes != size_bytes:
            return False
        with self.open(key) as reader:
            return all(reader.read(len(chunk)) == chunk for chunk in chunks) and not reader.read(1)


class _RetryingUpload:
    """Keeps the bytes up to the bound and writes them at commit; past the bound it streams.

    While streaming only `Resumable` is repeated: the caller has the rest of the bytes, not we.
    """

    def __init__(self, backend: Retrying, key: Key, size_bytes: int | None, replacing: ObjectInfo | None) -> None:
        self._backend, self._key, self._size, self._replacing = backend, key, size_bytes, replacing
        self._kept: list[bytes] | None = []
        self._kept_bytes = 0
        self._stream: Upload | None = None
        if size_bytes is not None and size_bytes > backend.policy.replay_bytes:
            self._start_streaming()

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self._stream is not None:
            self._send(self._stream, data)
            return
        if self._kept is None:
            raise ValueError(f"the upload of {self._key} has ended")
        self._kept.append(bytes(data))  # no copy of what is bytes already
        self._kept_bytes += len(self._kept[-1])
        if self._kept_bytes > self._backend.policy.replay_bytes:
            self._start_streaming()

    def commit(self) -> ObjectInfo:
        stream, kept = self._stream, self._kept
        try:
            if stream is not None:
                return self._commit_stream(stream)
            if kept is None:
                raise ValueError(f"the upload of {self._key} has ended")
            return self._commit_kept(kept)
        finally:
            self.abort()

    def abort(self) -> None:
        self._kept = None
        stream, self._stream = self._stream, None
        if stream is not None:
            stream.abort()

    def __enter__(self) -> Upload:
        return self

    def __exit__(self, *exc: object) -> None:
        self.abort()

    def _start_streaming(self) -> None:
        self._stream = self._backend.run(lambda: self._backend.begin(self._key, self._size, self._replacing))
        kept, self._kept = self._kept or [], None
        for chunk in kept:
            self._send(self._stream, chunk)

    def _send(self, stream: Upload, data: bytes | bytearray | memoryview) -> None:
        attempt = 1
        while True:
            try:
                return stream.write(data)
            except Resumable as error:
                self._backend.pause_or_raise(error, attempt)
                attempt += 1
                data = b""

    def _commit_stream(self, stream: Upload) -> ObjectInfo:
        attempt = 1
        while True:
            try:
                return stream.commit()
            except Resumable as error:
                self._backend.pause_or_raise(error, attempt)
                attempt += 1

    def _commit_kept(self, kept: list[bytes]) -> ObjectInfo:
        attempt = 1
        while True:
            try:
                with self._backend.begin(self._key, self._kept_bytes, self._replacing) as upload:
                    for chunk in kept:
                        upload.write(chunk)
                    return upload.commit()
            except AlreadyExists:
                if attempt > 1 and self._backend.holds(self._key, iter(kept), self._kept_bytes):
                    return self._backend.stat(self._key)
                raise
            except StorageError as error:
                self._backend.pause_or_raise(error, attempt)
                attempt += 1


class _RetryingReader:
    """Opens the rest of the range again where the connection broke; objects are immutable."""

    def __init__(self, backend: Retrying, reader: Reader, key: Key, start: int, length: int | None) -> None:
        self._backend, self._reader = backend, reader
        self._key, self._at = key, start
        self._stop = None if length is None else start + length
        self._broken = False

    def read(self, size_bytes: int = -1, /) -> bytes:
        if 0 <= size_bytes <= _READ_STEP:
            return self._read_step(size_bytes)
        pieces, left = [], size_bytes
        while left:
            piece = self._read_step(_READ_STEP if left < 0 else min(left, _READ_STEP))
            if not piece:
                break
            pieces.append(piece)
            left = left if left < 0 else left - len(piece)
        return b"".join(pieces)

    def close(self) -> None:
        self._reader.close()

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _read_step(self, size_bytes: int) -> bytes:
        piece = self._backend.run(lambda: self._try(size_bytes))
        self._at += len(piece)
        return piece

    def _try(self, size_bytes: int) -> bytes:
        if self._broken:
            self._reader.close()
            self._reader = self._backend.reopen(self._key, self._at, self._stop)
            self._broken = False
        try:
            return self._reader.read(size_bytes)
        except StorageError:
            self._broken = True
            raise
