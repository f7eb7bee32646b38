"""A bound on bytes per second, by a token bucket that any number of threads may share."""

from __future__ import annotations

import threading
from collections.abc import Callable

from storage_backends.api import Key, ObjectInfo, Reader, StorageBackend, Upload
from storage_backends.passthrough import Passthrough, PassthroughReader, PassthroughUpload


class TokenBucket:
    """Lets `rate_bytes_s` through on average, and at most `burst_bytes` at once after a rest. Thread-safe.

    clock: monotonic seconds. sleep: may raise to cancel; what was asked for then stays spent.
    """

    def __init__(
        self,
        rate_bytes_s: float,
        *,
        burst_bytes: int,
        clock: Callable[[], float],
        sleep: Callable[[float], None],
    ) -> None:
        if rate_bytes_s <= 0 or burst_bytes <= 0:
            raise ValueError("rate and burst of a limit are positive")
        self._rate, self._burst = rate_bytes_s, burst_bytes
        self._clock, self._sleep = clock, sleep
        self._lock = threading.Lock()
        self._level = float(burst_bytes)
        self._at = clock()

    def take(self, size_bytes: int) -> None:
        """Return when `size_bytes` may pass; more than the burst may be asked for.

        The level may go below zero: who comes later waits for that debt too, so nobody starves.
        """
        with self._lock:
            now = self._clock()
            self._level = min(self._burst, self._level + (now - self._at) * self._rate)
            self._at = now
            self._level -= size_bytes
            wait_s = -self._level / self._rate
        if wait_s > 0:
            self._sleep(wait_s)


class Limited(Passthrough):
    """Bounds what is written and what is read; None leaves a direction free. Other verbs are not counted.

    Writes are counted where they are made: a store that sends a whole object at commit sends it at once,
    at the right average. Put it under `Retrying`, so that repetitions count.
    """

    def __init__(
        self,
        inner: StorageBackend,
        *,
        upload: TokenBucket | None = None,
        download: TokenBucket | None = None,
    ) -> None:
        super().__init__(inner)
        self._upload, self._download = upload, download

    def create(self, key: Key, size_bytes: int | None = None, *, replacing: ObjectInfo | None = None) -> Upload:
        upload = self._inner.create(key, size_bytes, replacing=replacing)
        return upload if self._upload is None else _LimitedUpload(upload, self._upload)

    def open(self, key: Key, start: int = 0, length: int | None = None) -> Reader:
        reader = self._inner.open(key, start, length)
        return reader if self._download is None else _LimitedReader(reader, self._download)


class _LimitedUpload(PassthroughUpload):
    def __init__(self, inner: Upload, bucket: TokenBucket) -> None:
        super().__init__(inner)
        self._bucket = bucket

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self._bucket.take(memoryview(data).nbytes)
        self._inner.write(data)


class _LimitedReader(PassthroughReader):
    def __init__(self, inner: Reader, bucket: TokenBucket) -> None:
        super().__init__(inner)
        self._bucket = bucket

    def read(self, size_bytes: int = -1, /) -> bytes:
        """Counted after the fact, as only then the size is known."""
        data = self._inner.read(size_bytes)
        self._bucket.take(len(data))
        return data
