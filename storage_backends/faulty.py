"""Faults on purpose, by script or by rule, for the tests of whatever stands on a store.

    Faulty(backend, "commit:ok,lost;read:short,flip;list:503*", sleep=sleep)

A script is `verb[=key prefix]:fault,fault,...` joined by ';'. Each call of the verb (on keys with that prefix)
takes the next fault; `*` behind the last repeats it for ever, else the verb works again after it.

    ok          nothing
    503         Unavailable, before the effect
    lost        the effect is done, then Unavailable: a lost acknowledgement
    short       read: half of the bytes, then the end, as if the object were shorter (a store that lies)
                write: half of the bytes, then Unavailable
    flip        one bit in the middle of what is read or written is the other way round
    full        OutOfSpace
    denied      Denied
    gone        NotThisTarget, as of an unmounted disk
    missing     NotFound, though it may be there (a store that lies)
    slow=1.5    1.5 seconds pass by the injected sleep, then it works
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from storage_backends.api import Key, ObjectInfo, Reader, StorageBackend, Upload
from storage_backends.errors import (
    Denied,
    NotFound,
    NotThisTarget,
    OutOfSpace,
    StorageError,
    Unavailable,
)
from storage_backends.passthrough import Passthrough, PassthroughReader, PassthroughUpload

_VERBS = {"create", "write", "commit", "abort", "open", "read", "stat", "list", "delete"}
_PLAIN = {"ok", "503", "lost", "short", "flip", "full", "denied", "gone", "missing"}
_BYTES_ONLY = {"short", "flip"}
_ERRORS: dict[str, type[StorageError]] = {
    "503": Unavailable,
    "full": OutOfSpace,
    "denied": Denied,
    "gone": NotThisTarget,
    "missing": NotFound,
}


@dataclass(frozen=True, slots=True)
class Rule:
    """What happens to the calls of one verb on keys that start with `prefix`, in turn.

    forever: the last fault goes on. For list the prefix is compared with the prefix listed.
    """

    verb: str
    faults: tuple[str, ...]
    prefix: str = ""
    forever: bool = False

    def __post_init__(self) -> None:
        if self.verb not in _VERBS or not self.faults:
            raise ValueError(f"no such verb, or no faults: {self.verb!r}")
        for fault in self.faults:
            if fault not in _PLAIN and not fault.startswith("slow="):
                raise ValueError(f"no such fault: {fault!r}")
            if fault in _BYTES_ONLY and self.verb not in ("read", "write"):
                raise ValueError(f"{fault!r} is for read and write")


def parse(script: str) -> list[Rule]:
    """The rules of a script; ValueError names what is not understood."""
    rules = []
    for clause in filter(None, (part.strip() for part in script.split(";"))):
        head, colon, tail = clause.partition(":")
        if not colon:
            raise ValueError(f"no ':' in {clause!r}")
        verb, _, prefix = head.partition("=")
        forever = tail.endswith("*")
        faults = tuple(fault.strip() for fault in tail.removesuffix("*").split(","))
        rules.append(Rule(verb.strip(), faults, prefix.strip(), forever))
    return rules


class Faulty(Passthrough):
    """A backend with faults. Thread-safe; which thread meets which fault is then up to the threads."""

    def __init__(
        self, inner: StorageBackend, script: str = "", *, sleep: Callable[[float], None] | None = None
    ) -> None:
        super().__init__(inner)
        self._sleep = sleep
        self._lock = threading.Lock()
        self._rules: Sequence[_Running] = [_Running(rule) for rule in parse(script)]

    def add(self, rule: Rule | str) -> None:
        """Put rules before those that are there; a text is parsed as a script."""
        new = parse(rule) if isinstance(rule, str) else [rule]
        with self._lock:
            self._rules = [*(_Running(one) for one in new), *self._rules]

    def heal(self) -> None:
        """Forget all rules: everything works from here on."""
        with self._lock:
            self._rules = []

    def create(self, key: Key, size_bytes: int | None = None, *, replacing: ObjectInfo | None = None) -> Upload:
        fault = self.before("create", key)
        upload = self._inner.create(key, size_bytes, replacing=replacing)
        self.after(fault, "create", key)
        return _FaultyUpload(self, key, upload)

    def open(self, key: Key, start: int = 0, length: int | None = None) -> Reader:
        fault = self.before("open", key)
        reader = self._inner.open(key, start, length)
        self.after(fault, "open", key)
        return _FaultyReader(self, key, reader)

    def stat(self, key: Key) -> ObjectInfo:
        fault = self.before("stat", key)
        info = self._inner.stat(key)
        self.after(fault, "stat", key)
        return info

    def list(self, prefix: str = "", after: str = "") -> Iterator[ObjectInfo]:
        """`lost` fails after the first object: in the middle of a listing."""
        fault = self.before("list", prefix)
        for info in self._inner.list(prefix, after):
            yield info
            self.after(fault, "list", prefix)

    def delete(self, key: Key) -> None:
        fault = self.before("delete", key)
        self._inner.delete(key)
        self.after(fault, "delete", key)

    def before(self, verb: str, key: str) -> str:
        """Take the next fault of the first rule that matches; raise those that come before the effect."""
        with self._lock:
            fault = next((rule.take() for rule in self._rules if rule.matches(verb, key)), "ok")
        if fault.startswith("slow="):
            if self._sleep is None:
                raise ValueError("a slow store needs a sleep")
            self._sleep(float(fault.removeprefix("slow=")))
        elif fault in _ERRORS:
            raise _ERRORS[fault](f"{verb} {key}", where=self.url, why=f"{fault} on purpose")
        return fault

    def after(self, fault: str, verb: str, key: str) -> None:
        if fault == "lost":
            raise Unavailable(f"{verb} {key}", where=self.url, why="the answer was lost on purpose")


class _Running:
    """A rule and how far it has come."""

    def __init__(self, rule: Rule) -> None:
        self._rule, self._at = rule, 0

    def matches(self, verb: str, key: str) -> bool:
        spent = self._at >= len(self._rule.faults) and not self._rule.forever
        return verb == self._rule.verb and key.startswith(self._rule.prefix) and not spent

    def take(self) -> str:
        fault = self._rule.faults[min(self._at, len(self._rule.faults) - 1)]
        self._at += 1
        return fault


class _FaultyUpload(PassthroughUpload):
    def __init__(self, faulty: Faulty, key: Key, inner: Upload) -> None:
        super().__init__(inner)
        self._faulty, self._key, self._ended = faulty, key, False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        fault = self._faulty.before("write", self._key)
        sent = bytes(data)
        if fault == "flip":
            sent = _flipped(sent)
        elif fault == "short":
            sent = sent[: len(sent) // 2]
        self._inner.write(sent)
        self._faulty.after("lost" if fault == "short" else fault, "write", self._key)

    def commit(self) -> ObjectInfo:
        fault = self._faulty.before("commit", self._key)
        info = self._inner.commit()
        self._ended = True
        self._faulty.after(fault, "commit", self._key)
        return info

    def abort(self) -> None:
        if self._ended:
            return
        self._ended = True
        try:
            fault = self._faulty.before("abort", self._key)
        finally:
            self._inner.abort()
        self._faulty.after(fault, "abort", self._key)


class _FaultyReader(PassthroughReader):
    def __init__(self, faulty: Faulty, key: Key, inner: Reader) -> None:
        super().__init__(inner)
        self._faulty, self._key, self._cut = faulty, key, False

    def read(self, size_bytes: int = -1, /) -> bytes:
        if self._cut:
            return b""
        fault = self._faulty.before("read", self._key)
        data = self._inner.read(size_bytes)
        self._faulty.after(fault, "read", self._key)
        if fault == "flip":
            return _flipped(data)
        if fault == "short":
            self._cut = True
            return data[: len(data) // 2]
        return data


def _flipped(data: bytes) -> bytes:
    if not data:
        return data
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 0x10]) + data[middle + 1 :]
