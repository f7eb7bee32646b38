"""Six verbs over bytes under keys: create, open, stat, list, delete, close.

A backend knows nothing of databases, encryption or policies. All implementations and all decorators
(`retry`, `limit`, `trace`, `faulty`) share this one interface and pass `storage_backends.conformance`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import NewType, Protocol

from storage_backends.errors import Unsupported

Key = NewType("Key", str)
"""A relative name: 1 to 512 ASCII characters of [A-Za-z0-9._=+-] in parts joined by '/'. No part starts with '.'
or ends with '.tmp', and no key is the folder of another ('a' beside 'a/b')."""

_PART = re.compile(r"[A-Za-z0-9_=+-][A-Za-z0-9._=+-]*\Z")


def is_key_part(text: str) -> bool:
    """Whether `text` may stand between the '/' of a Key."""
    return _PART.match(text) is not None and not text.endswith(".tmp")


def key(text: str) -> Key:
    """Check `text` and return it as a Key; raises Unsupported naming what is wrong."""
    if not text or len(text) > 512:
        raise Unsupported(f"key {text[:80]!r}", why="a key has 1 to 512 characters")
    for part in text.split("/"):
        if not is_key_part(part):
            raise Unsupported(f"key {text!r}", why=f"the part {part!r} is not allowed")
    return Key(text)


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """What a store tells about one object, by its own clock.

    version: tells it from another object under the same key; only ever compared, "" where nobody asked the store.
    """

    key: Key
    size_bytes: int
    modified_at: datetime  # aware, UTC, the store's clock
    version: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class Traits:
    """Facts about a backend that its callers decide by; data instead of isinstance.

    conditional_create: two concurrent creates of one key: exactly one succeeds (probed where it can lie).
    atomic_create_max_bytes: the largest object for which that holds; larger ones are checked, then written.
    conditional_replace: a replacing create that meets another object than it names is refused by the store itself;
    elsewhere the backend looks right before it replaces.
    range_read_min_bytes: below this a ranged read costs as much as this many bytes.
    device: what tells two targets on one medium apart: a device number, or endpoint and account.
    free_bytes: asks how much more fits; None for a store without a known end. Raises as the verbs do.
    sweep: removes what writers that died left and no listing shows, last changed so many seconds before a moment of the
    store's clock; returns how many. None where nothing is ever left. Raises as the verbs do.
    prove: asks the store now what the first create would ask it, and what that waits for. None where nothing is asked.
    """

    scheme: str
    conditional_create: bool
    atomic_create_max_bytes: int
    max_object_bytes: int
    range_read_min_bytes: int
    device: str
    conditional_replace: bool = False
    free_bytes: Callable[[], int] | None = field(default=None, compare=False)
    sweep: Callable[[datetime, float], int] | None = field(default=None, compare=False)
    prove: Callable[[], None] | None = field(default=None, compare=False)


class Upload(Protocol):
    """One object being written. Nothing is visible before commit; a dropped upload leaves no object.

    Not thread-safe: one writer. Use as a context manager: leaving without commit aborts.
    """

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Append bytes; `data` may be reused by the caller on return.

        After Resumable the bytes are taken and the upload is intact: write(b"") sends them again.
        After any other error only abort is left.
        """
        ...

    def commit(self) -> ObjectInfo:
        """Make the object visible, whole and durable (fsynced with its folder, or confirmed by the store).

        Raises AlreadyExists when the key is taken (of a replacing one: by another object than the one named), and
        of a replacing one NotFound when nothing is there; the store is then untouched. After Resumable the same
        commit may be called again.
        """
        ...

    def abort(self) -> None:
        """Drop what was written. Idempotent; after commit it does nothing."""
        ...

    def __enter__(self) -> Upload: ...
    def __exit__(self, *exc: object) -> None: ...


class Reader(Protocol):
    """Bytes of one object, in order. A context manager; not thread-safe."""

    def read(self, size_bytes: int = -1, /) -> bytes:
        """Up to `size_bytes` bytes, b"" at the end; -1 reads all. Never short before the end of the range.

        Raises Unavailable where the connection broke in the middle: a short object never looks whole.
        """
        ...

    def close(self) -> None: ...
    def __enter__(self) -> Reader: ...
    def __exit__(self, *exc: object) -> None: ...


class StorageBackend(Protocol):
    """A store of immutable objects. Thread-safe: any verb from any thread; an upload or reader is for one."""

    @property
    def url(self) -> str:
        """Where it is, without credentials; for messages and for comparing targets."""
        ...

    @property
    def traits(self) -> Traits: ...

    def create(self, key: Key, size_bytes: int | None = None, *, replacing: ObjectInfo | None = None) -> Upload:
        """Begin an object; `size_bytes`, where known, lets the store choose the one-request way.

        Never overwrites: AlreadyExists may come here or at commit. For repair alone, `replacing` names the one object
        (as stat, list or commit told of it) in whose place the new one comes at commit, in one step: at every moment
        one of the two is there, whole. Between the look and that step a store without `conditional_replace` may be
        changed by others: who replaces must bring bytes that are right whatever they replace.
        """
        ...

    def open(self, key: Key, start: int = 0, length: int | None = None) -> Reader:
        """Read from byte `start`, `length` bytes or to the end. NotFound here, not at the first read.

        A range that reaches past the end is cut at the end; one that starts there or past it reads b"".
        """
        ...

    def stat(self, key: Key) -> ObjectInfo:
        """Raises NotFound when the store says so, and only then."""
        ...

    def list(self, prefix: str = "", after: str = "") -> Iterator[ObjectInfo]:
        """All objects whose key starts with `prefix` and is greater than `after`, in key (byte) order.

        Uploads that are not committed are never listed. An empty listing means that the store was asked.
        """
        ...

    def delete(self, key: Key) -> None:
        """Remove one object durably. Deleting what is not there succeeds."""
        ...

    def close(self) -> None: ...
