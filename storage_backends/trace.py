"""Every verb as an event before and after it: counts of calls and bytes, and a place to die at each effect."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from storage_backends.api import Key, ObjectInfo, Reader, StorageBackend, Upload
from storage_backends.passthrough import Passthrough, PassthroughReader, PassthroughUpload

Verb = Literal["create", "write", "commit", "abort", "open", "read", "stat", "list", "delete", "close"]

_REQUESTS: Mapping[Verb, str] = {"commit": "create", "open": "open", "stat": "stat", "list": "list", "delete": "delete"}


@dataclass(frozen=True, slots=True)
class Event:
    """One verb of a backend, an upload or a reader.

    phase: "begin" before the inner verb, "end" when it returned or raised. key: for list the prefix.
    size_bytes: written or read by this verb; commit: of the whole object; list: the number of objects.
    outcome: "" at begin, then "ok", or the name of the error's class. seconds: 0.0 at begin.
    """

    verb: Verb
    phase: Literal["begin", "end"]
    url: str
    key: str
    size_bytes: int = 0
    seconds: float = 0.0
    outcome: str = ""


class Traffic:
    """What one store was asked, of the events that `record` is given. Thread-safe.

    A request is a verb of the store: open, stat, list and delete as they are called, create by its commit, in however
    many parts. Those that failed and those that are repeated count, and so do their bytes.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._requests: Counter[str] = Counter()
        self._read_bytes = self._written_bytes = 0

    def record(self, event: Event) -> None:
        if event.phase == "begin":
            return
        with self._lock:
            if event.verb in _REQUESTS:
                self._requests[_REQUESTS[event.verb]] += 1
            elif event.verb == "read":
                self._read_bytes += event.size_bytes
            elif event.verb == "write":
                self._written_bytes += event.size_bytes

    @property
    def facts(self) -> Mapping[str, int]:
        """Requests by verb, and `read_bytes` and `written_bytes`."""
        with self._lock:
            verbs = {verb: self._requests[verb] for verb in _REQUESTS.values()}
            return verbs | {"read_bytes": self._read_bytes, "written_bytes": self._written_bytes}


class _Call:
    """One verb under way: says "begin" on entering, "end" on leaving, and lets errors through."""

    def __init__(self, trace: Traced, verb: Verb, key: str, size_bytes: int = 0) -> None:
        self._trace, self.size_bytes = trace, size_bytes
        self._event = Event(verb, "begin", trace.url, key, size_bytes)

    def __enter__(self) -> _Call:
        self._trace.record(self._event)
        self._began = self._trace.clock()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        seconds = self._trace.clock() - self._began
        outcome = "ok" if kind in (None, GeneratorExit) else str(getattr(kind, "__name__", kind))
        self._trace.record(
            replace(self._event, phase="end", size_bytes=self.size_bytes, seconds=seconds, outcome=outcome)
        )


class Traced(Passthrough):
    """Tells `record` of every verb. As thread-safe as `record`, which is called in the thread of the verb.

    What `record` raises at "begin" comes out in place of the verb, which is then not called.
    clock: monotonic seconds.
    """

    def __init__(self, inner: StorageBackend, record: Callable[[Event], None], *, clock: Callable[[], float]) -> None:
        super().__init__(inner)
        self.record, self.clock = record, clock

    def create(self, key: Key, size_bytes: int | None = None, *, replacing: ObjectInfo | None = None) -> Upload:
        with _Call(self, "create", key):
            return _TracedUpload(self, key, self._inner.create(key, size_bytes, replacing=replacing))

    def open(self, key: Key, start: int = 0, length: int | None = None) -> Reader:
        with _Call(self, "open", key):
            return _TracedReader(self, key, self._inner.open(key, start, length))

    def stat(self, key: Key) -> ObjectInfo:
        with _Call(self, "stat", key):
            return self._inner.stat(key)

    def list(self, prefix: str = "", after: str = "") -> Iterator[ObjectInfo]:
        with _Call(self, "list", prefix) as call:
            for info in self._inner.list(prefix, after):
                call.size_bytes += 1
                yield info

    def delete(self, key: Key) -> None:
        with _Call(self, "delete", key):
            self._inner.delete(key)

    def close(self) -> None:
        with _Call(self, "close", ""):
            self._inner.close()


class _TracedUpload(PassthroughUpload):
    def __init__(self, trace: Traced, key: Key, inner: Upload) -> None:
        super().__init__(inner)
        self._trace, self._key, self._written_bytes, self._ended = trace, key, 0, False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        size_bytes = memoryview(data).nbytes
        with _Call(self._trace, "write", self._key, size_bytes):
            self._inner.write(data)
        self._written_bytes += size_bytes

    def commit(self) -> ObjectInfo:
        with _Call(self._trace, "commit", self._key, self._written_bytes):
            info = self._inner.commit()
        self._ended = True
        return info

    def abort(self) -> None:
        if self._ended:
            return  # the end of every `with`: nothing happens, nothing to tell
        self._ended = True
        with _Call(self._trace, "abort", self._key):
            self._inner.abort()


class _TracedReader(PassthroughReader):
    def __init__(self, trace: Traced, key: Key, inner: Reader) -> None:
        super().__init__(inner)
        self._trace, self._key = trace, key

    def read(self, size_bytes: int = -1, /) -> bytes:
        with _Call(self._trace, "read", self._key) as call:
            data = self._inner.read(size_bytes)
            call.size_bytes = len(data)
        return data
