"""Is a stored object what its name says, whole and unchanged? Answered without a key, in bounded memory.

The trailing digest tells damage, the open section whose object it is. Neither proves anything against who means harm:
the sealed frames do, and only the key opens them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum

import blake3

from drkit.core.errors import Damage
from drkit.crypto.container import (
    DIGEST_BYTES,
    END_BYTES,
    FRAME_BYTES,
    HEADER_BYTES,
    LAST,
    Header,
    Json,
    parse_header,
)
from drkit.repository.layout import Kind
from drkit.repository.names import Place
from drkit.repository.target import Target
from storage_backends.api import Key, Reader
from storage_backends.errors import Damaged

STEP_BYTES = 1 << 20
_MAX_OPEN_BYTES = 256 << 20  # references of a backup of 100 TB


class Fault(StrEnum):
    """What is wrong with an object. FLIPPED: its bytes changed · FOREIGN: it belongs under another name, or elsewhere
    OTHER: sound in itself, and not the one that is referenced or that the other targets have."""

    MISSING = "missing"
    TRUNCATED = "truncated"
    FLIPPED = "flipped"
    FOREIGN = "foreign"
    OTHER = "other content"
    UNREADABLE = "unreadable"


class Unsound(Damage):
    """An object is not whole; `fault` says how."""

    def __init__(self, fault: Fault, what: str, *, where: str = "", why: str = "") -> None:
        super().__init__(what, where=where, why=why)
        self.fault = fault


@dataclass(frozen=True, slots=True)
class Sound:
    """An object as its open section tells, its digest holding. header None: it is not a sealed one.

    references: as bytes, of manifests and rounds of tombstones alone. Nothing here is authenticated.
    """

    size_bytes: int
    digest: bytes
    header: Header | None
    json: Json
    references: bytes = b""

    @property
    def identity(self) -> bytes:
        """Of the plain bytes of WAL and history; empty for all else."""
        try:
            return bytes.fromhex(str(self.json.get("identity", "")))
        except ValueError:
            return b""


Count = Callable[[int], None]
Taken = Callable[[bytes], object]


def uncounted(_: int) -> None:
    return None


def examine(
    target: Target, key: Key, place: Place, repository: bytes, *, count: Count = uncounted, take: Taken | None = None
) -> Sound:
    """Read an object whole and judge it. count: hears of bytes read · take: of the bytes themselves, in order.

    Memory: 1 MiB and the open section. Raises Unsound; NotFound and other StorageErrors as the store does.
    """
    where = f"{target.where}: {key}"
    with target.backend.open(key) as reader, _damaged_there(where):
        stream = _Stream(reader, count, take, plain=place.kind is None)
        if place.kind is None:
            return Sound(stream.drain(), stream.whole, None, {})
        try:
            header = _header(stream, place, where)
            opened = stream.take(header.open_bytes - HEADER_BYTES)
        except Unsound as error:
            raise _verdict(stream, error, where) from error
        size_bytes = stream.drain()
        if stream.digest_holds:
            value, references = _open_section(opened, header, place, key, repository, where)
            return Sound(size_bytes, stream.tail, header, value, references)
        fault = Fault.TRUNCATED if _is_cut(target, key, header.open_bytes, size_bytes) else Fault.FLIPPED
        raise Unsound(fault, "the object's digest does not hold", where=where, why=f"{size_bytes} bytes")


@contextmanager
def _damaged_there(where: str) -> Iterator[None]:
    """What the store itself calls damaged is."""
    try:
        yield
    except Damaged as error:
        raise Unsound(Fault.FLIPPED, "the store says that its copy is damaged", where=where, why=error.why) from error


class _Stream:
    """An object being read, its digest computed over all but the last 32 bytes; of a plain one over all."""

    def __init__(self, reader: Reader, count: Count, take: Taken | None, *, plain: bool) -> None:
        self._reader, self._count, self._take = reader, count, take
        self._digest = blake3.blake3()
        self._kept = 0 if plain else DIGEST_BYTES
        self.tail = b""
        self.size_bytes = 0

    def take(self, size_bytes: int) -> bytes:
        """The next bytes; Unsound where the object ends before."""
        data = b"".join(self._steps(size_bytes))
        if len(data) != size_bytes:
            raise Unsound(Fault.TRUNCATED, "the object is truncated", why=f"{self.size_bytes} bytes")
        return data

    def drain(self) -> int:
        """Read to the end; the object's size."""
        for _ in self._steps(None):
            pass
        return self.size_bytes

    @property
    def digest_holds(self) -> bool:
        return self.size_bytes >= HEADER_BYTES + END_BYTES and self._digest.digest() == self.tail

    @property
    def whole(self) -> bytes:
        """BLAKE3 of what was read, the last 32 bytes of a sealed object apart."""
        return self._digest.digest()

    def _steps(self, size_bytes: int | None) -> Iterator[bytes]:
        left = size_bytes
        while left is None or left:
            data = self._reader.read(STEP_BYTES if left is None else min(left, STEP_BYTES))
            if not data:
                return
            self.size_bytes += len(data)
            self._count(len(data))
            if self._take is not None:
                self._take(data)
            joined = self.tail + data
            end = max(0, len(joined) - self._kept)
            self._digest.update(memoryview(joined)[:end])
            self.tail = joined[end:]
            left = None if left is None else left - len(data)
            yield data


def _verdict(stream: _Stream, error: Unsound, where: str) -> Unsound:
    """An object that begins wrongly: if its digest holds it is whole, and not of this kind."""
    stream.drain()
    fault = error.fault
    if fault is Fault.FOREIGN and not stream.digest_holds:
        fault = Fault.FLIPPED
    return Unsound(fault, error.what, where=where, why=error.why)


def _header(stream: _Stream, place: Place, where: str) -> Header:
    """The header, as far as it must hold before the rest can be read."""
    data = stream.take(HEADER_BYTES)
    try:
        header = parse_header(data, where)
    except Damage as error:
        raise Unsound(Fault.FOREIGN, error.what, why=error.why) from error
    if header.open_bytes > _MAX_OPEN_BYTES:
        raise Unsound(Fault.FLIPPED, "the object's open section has an impossible size", why=f"{header.open_bytes}")
    if header.kind != kind_in(place):
        raise Unsound(Fault.FOREIGN, "the object is of another kind", why=f"kind {header.kind}")
    return header


def kind_in(place: Place) -> int:
    """The kind code that an object of this place has: history files and segments lie apart."""
    assert place.kind is not None
    return int(Kind.HISTORY if place.kind is Kind.WAL and place.last.endswith(".history") else place.kind)


def _open_section(
    opened: bytes, header: Header, place: Place, key: Key, repository: bytes, where: str
) -> tuple[Json, bytes]:
    if header.repository != repository:
        raise Unsound(Fault.FOREIGN, "the object is of another repository", where=where, why=header.repository.hex())
    if place.object_id is not None and header.object_id != place.object_id:
        raise Unsound(Fault.FOREIGN, "the object belongs under another name", where=where, why=header.object_id.hex())
    if not header.json_bytes:
        if place.object_id is None:
            raise Unsound(Fault.FOREIGN, "the object has no name", where=where)
        return {}, b""
    try:
        value = json.loads(opened[: header.json_bytes])
    except (ValueError, RecursionError) as error:
        raise Unsound(Fault.FOREIGN, "the open section is not JSON", where=where, why=str(error)) from error
    if not isinstance(value, dict) or value.get("name") != key:
        why = str(value.get("name", "")) if isinstance(value, dict) else ""
        raise Unsound(Fault.FOREIGN, "the object belongs under another name", where=where, why=why)
    return value, opened[header.json_bytes :] if place.kind in (Kind.MANIFEST, Kind.TOMBSTONE) else b""


def _is_cut(target: Target, key: Key, start: int, size_bytes: int) -> bool:
    """Whether the chain of frames leads past the object's end, or does not end with a last frame.

    A flipped length looks the same: it is a word in a message, nothing is decided by it.
    """
    position, end = start, size_bytes - DIGEST_BYTES
    while position + FRAME_BYTES <= end:
        head = target.read(key, position, FRAME_BYTES)
        position += FRAME_BYTES + int.from_bytes(head[:4], "little")
        if len(head) == FRAME_BYTES and head[14] & LAST:
            return position != end
    return True
