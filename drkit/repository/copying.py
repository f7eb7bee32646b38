"""One sealed object from one target to another: the same bytes, checked while they pass, visible only when they hold.

Packs, maps and fingerprints pass unopened: kind, repository, name, digest, and for what a manifest references its size
and digest. WAL, history and the small kinds are opened as they pass, so that nothing false spreads from one store.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum

import blake3

from drkit.core.errors import Damage, DrkitError
from drkit.crypto.container import (
    DIGEST_BYTES,
    END_BYTES,
    HEADER_BYTES,
    Header,
    Opener,
    open_object,
    parse_header,
    parse_open_section,
)
from drkit.crypto.keys import Ring
from drkit.repository.holds import is_release
from drkit.repository.layout import Kind
from drkit.repository.target import Target
from drkit.repository.wal import WalStream
from storage_backends.api import Key, Reader, Upload
from storage_backends.errors import AlreadyExists, Damaged, StorageError

PIECE_BYTES = 8 << 20  # of a few threads; a compressed segment of 16 MB fits, and is then checked before it is sent
UNOPENED = frozenset({Kind.PACK, Kind.MAP, Kind.FINGERPRINTS})
ARCHIVED = frozenset({Kind.WAL, Kind.HISTORY})
_OPEN_READ_BYTES = 4096
_MAX_OPEN_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Item:
    """What is to be copied. object_id: of kinds without JSON · size_bytes, digest: as a manifest references it ·
    identity: of WAL and history, where a manifest references it."""

    key: Key
    kind: Kind
    object_id: bytes = b""
    size_bytes: int | None = None
    digest: bytes = b""
    identity: bytes = b""


class Met(StrEnum):
    """What became of an item at the destination.

    COPIED: it is there now, and durable · SAME: it was there, sound as far as its beginning and end tell (a twin too:
    the same content, sealed in other bytes) · OTHER: something else stands there and stays, other content or damage.
    """

    COPIED = "copied"
    SAME = "same"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class Copied:
    """size_bytes: written to the destination, 0 unless COPIED · why: of OTHER · conflict: OTHER is sound, as far as
    was seen."""

    met: Met
    size_bytes: int = 0
    why: str = ""
    conflict: bool = False


class DestinationFailed(Exception):
    """The destination, not the source, failed: no other source helps. `error` is what it raised."""

    def __init__(self, error: StorageError) -> None:
        super().__init__(str(error))
        self.error = error


def copy(ring: Ring, item: Item, source: Target, to: Target, check: Callable[[], None]) -> Copied:
    """Copy one object; durable at the destination where the result is COPIED, and nothing there is ever replaced.

    check: called between pieces, may raise to cancel. Memory: a few pieces; the small kinds whole.
    Raises NotFound, Damage, KeyMissing or a StorageError of the source; DestinationFailed for the destination's.
    """
    if item.kind in ARCHIVED:
        return _archived(ring, item, source, to, check)
    if item.kind in UNOPENED:
        return _unopened(ring, item, source, to, check)
    return _small(ring, item, source, to)


def standing(ring: Ring, item: Item, to: Target) -> Copied:
    """What stands under an item's name at a target: SAME or OTHER. Raises NotFound, KeyMissing, StorageError.

    Two short reads; an object is SAME when its size and digest are the referenced ones, or, where nothing references
    it, when its last frame authenticates its open section.
    """
    try:
        size_bytes = to.backend.stat(item.key).size_bytes
        if item.digest:
            tail = to.read(item.key, max(0, size_bytes - DIGEST_BYTES))
            same = (size_bytes, tail) == (item.size_bytes, item.digest)
            return Copied(Met.SAME) if same else Copied(Met.OTHER, why=f"{size_bytes} bytes of another digest")
        return _identified(item, authenticated(ring, item, to, size_bytes))
    except (Damage, Damaged) as error:
        return Copied(Met.OTHER, why=str(error))


def _identified(item: Item, identity: bytes) -> Copied:
    if item.identity and identity != item.identity:
        return Copied(Met.OTHER, why=f"it holds identity {identity[:8].hex()}", conflict=True)
    return Copied(Met.SAME)


def authenticated(ring: Ring, item: Item, target: Target, size_bytes: int) -> bytes:
    """Authenticate an object's open section by its last frame, without its content; the identity that it states.

    size_bytes: as stored. b"" for kinds without one. Raises Damage, KeyMissing, NotFound or a StorageError.
    """
    where = f"{target.where}: {item.key}"
    opened = target.read(item.key, 0, min(size_bytes, _OPEN_READ_BYTES))
    header = _checked(ring, item, opened, where)
    if len(opened) < header.open_bytes:
        opened += target.read(item.key, len(opened), header.open_bytes - len(opened))
    opener = Opener(ring, header, memoryview(opened)[: header.open_bytes], where)
    opener.authenticate_end(target.read(item.key, max(0, size_bytes - END_BYTES)))
    return _identity(item, opened, where)


def _identity(item: Item, opened: bytes, where: str) -> bytes:
    _, value, _ = parse_open_section(opened, where)
    if item.kind in UNOPENED:
        return b""
    if value.get("name") != item.key:
        raise Damage("the object belongs under another name", where=where, why=str(value.get("name", "")))
    try:
        return bytes.fromhex(str(value.get("identity", "")))
    except ValueError as error:
        raise Damage("the open section is not as the format says", where=where, why=str(error)) from error


def _checked(ring: Ring, item: Item, data: bytes, where: str) -> Header:
    header = parse_header(data, where)
    if header.kind != item.kind:
        raise Damage("the object is of another kind", where=where, why=f"kind {header.kind}, not {int(item.kind)}")
    if header.repository != ring.repository:
        raise Damage("the object belongs to another repository", where=where, why=header.repository.hex())
    if item.kind in UNOPENED and (header.object_id != item.object_id or header.open_bytes != HEADER_BYTES):
        raise Damage("the object belongs under another name", where=where, why=header.object_id.hex())
    if header.open_bytes > _MAX_OPEN_BYTES:
        raise Damage("the object's open section has an impossible size", where=where, why=f"{header.open_bytes} bytes")
    return header


# --- copying ------------------------------------------------------------------------------------------------------


class _Passing:
    """A source's bytes, handed on to an upload as they are read. size_bytes: of the object, as the source says."""

    def __init__(self, item: Item, source: Target, reader: Reader, check: Callable[[], None]) -> None:
        self._reader, self._check = reader, check
        self._first: bytes = reader.read(PIECE_BYTES)
        self._upload: Upload | None = None
        whole = len(self._first) < PIECE_BYTES
        self.size_bytes = len(self._first) if whole else source.backend.stat(item.key).size_bytes
        self.is_whole = whole

    @property
    def head(self) -> bytes:
        return self._first

    def pour_into(self, upload: Upload) -> None:
        self._upload = upload

    def read(self, size_bytes: int = -1, /) -> bytes:
        self._check()
        data = self._first[:size_bytes] if size_bytes >= 0 else self._first
        self._first = self._first[len(data) :]
        if not self.is_whole and len(data) < size_bytes:
            data += self._reader.read(size_bytes - len(data))
        if self._upload is not None and data:
            with _blaming():
                self._upload.write(data)
        return data

    def close(self) -> None:
        self._reader.close()

    def __enter__(self) -> _Passing:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


@contextmanager
def _blaming() -> Iterator[None]:
    """Storage errors within are the destination's; who was faster is no failure."""
    try:
        yield
    except AlreadyExists:
        raise
    except StorageError as error:
        raise DestinationFailed(error) from error


@contextmanager
def _upload(to: Target, key: Key, size_bytes: int) -> Iterator[Upload]:
    with _blaming():
        upload = to.backend.create(key, size_bytes)
    with upload:
        yield upload
        with _blaming():
            upload.commit()


def _archived(ring: Ring, item: Item, source: Target, to: Target, check: Callable[[], None]) -> Copied:
    """Opened as it passes; a segment of another identity than the referenced one is as good as damaged here."""
    identity = item.identity

    def drain(passing: _Passing) -> None:
        nonlocal identity
        stream = WalStream(ring, passing, item.key, item.kind, f"{source.where}: {item.key}")
        for _ in stream.pieces():
            check()
        if item.identity and stream.facts.identity != item.identity:
            why = f"identity {stream.facts.identity[:8].hex()}, the backup needs {item.identity[:8].hex()}"
            raise Damage("the segment has other content than a backup needs", where=source.where, why=why)
        identity = stream.facts.identity

    try:
        with source.backend.open(item.key) as reader:
            passing = _Passing(item, source, reader, check)
            if passing.is_whole:
                data = passing.head
                drain(passing)
                with _blaming():
                    to.write(item.key, [data], len(data))
            else:
                with _upload(to, item.key, passing.size_bytes) as upload:
                    passing.pour_into(upload)
                    drain(passing)
    except AlreadyExists:
        return _blamed(ring, Item(item.key, item.kind, identity=identity), to)
    return Copied(Met.COPIED, passing.size_bytes)


def _unopened(ring: Ring, item: Item, source: Target, to: Target, check: Callable[[], None]) -> Copied:
    where = f"{source.where}: {item.key}"
    try:
        with source.backend.open(item.key) as reader:
            passing = _Passing(item, source, reader, check)
            header = _checked(ring, item, passing.head, where)
            if item.size_bytes is not None and passing.size_bytes != item.size_bytes:
                why = f"{passing.size_bytes} bytes instead of {item.size_bytes}"
                raise Damage("the object has another size than its reference", where=where, why=why)
            opened = passing.head[:HEADER_BYTES]
            with _upload(to, item.key, passing.size_bytes) as upload:
                passing.pour_into(upload)
                end = _sound_end(passing, where)
                if item.digest and end[-DIGEST_BYTES:] != item.digest:
                    raise Damage("the object has another digest than its reference", where=where)
                if not item.digest:
                    Opener(ring, header, opened, where).authenticate_end(end)
    except AlreadyExists:
        return _blamed(ring, item, to)
    return Copied(Met.COPIED, passing.size_bytes)


def _sound_end(passing: _Passing, where: str) -> bytes:
    """Read to the end; the last `END_BYTES` of an object whose digest holds. Raises Damage."""
    digest, tail, end, size_bytes = blake3.blake3(), b"", b"", 0
    while piece := passing.read(PIECE_BYTES):
        size_bytes += len(piece)
        held = tail + piece
        digest.update(memoryview(held)[:-DIGEST_BYTES])
        tail, end = held[-DIGEST_BYTES:], (end + piece)[-END_BYTES:]
    if size_bytes != passing.size_bytes:
        raise Damage("the object is truncated", where=where, why=f"{size_bytes} of {passing.size_bytes} bytes")
    if digest.digest() != tail:
        raise Damage("the object's digest does not hold", where=where, why=f"{size_bytes} bytes")
    return end


def _small(ring: Ring, item: Item, source: Target, to: Target) -> Copied:
    data = source.read(item.key)
    open_object(ring, data, kind=item.kind, name=item.key)
    try:
        with _blaming():
            to.write(item.key, [data], len(data))
    except AlreadyExists:
        return same_small(ring, item, data, to)
    return Copied(Met.COPIED, len(data))


def same_small(ring: Ring, item: Item, data: bytes, to: Target) -> Copied:
    """Whether a small object's very bytes stand at the destination, or as good ones. Raises DestinationFailed."""
    with _blaming():
        found = to.read(item.key)
    if found == data:
        return Copied(Met.SAME)
    try:
        open_object(ring, found, kind=item.kind, name=item.key)
    except DrkitError as error:
        return Copied(Met.OTHER, why=str(error))
    if item.kind is Kind.HOLD and is_release(item.key):
        return Copied(Met.SAME)
    return Copied(Met.OTHER, why="another object of the same kind", conflict=True)


def _blamed(ring: Ring, item: Item, to: Target) -> Copied:
    with _blaming():
        return standing(ring, item, to)
