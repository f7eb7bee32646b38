"""WAL and history objects on one target (docs/format.md, section 7): seal, open, compare, store, quarantine.

The identity of such an object is its plaintext. Who meets an existing object opens it and compares; what does not
open is damage, never a conflict, and what opens is never overwritten.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import BinaryIO

import blake3
import zstandard

from drkit.core.errors import Damage, KeyMissing
from drkit.crypto.container import (
    CODEC_STORED,
    DIGEST_BYTES,
    FRAME,
    FRAME_BYTES,
    HEADER_BYTES,
    LAST,
    MAX_RAW_BYTES,
    TAG_BYTES,
    DataKey,
    Header,
    Json,
    Opener,
    Sealed,
    canonical,
    compress,
    parse_header,
    parse_open_section,
)
from drkit.crypto.keys import Ring
from drkit.repository.layout import ClusterLayout, Kind
from drkit.repository.leases import tombstones
from drkit.repository.target import Target
from storage_backends.api import Key, Reader
from storage_backends.errors import AlreadyExists, Damaged, NotFound

PIECE_BYTES = 4 << 20
_MAX_JSON_BYTES = 64 << 10
_FIRST_READ_BYTES = 4096


@dataclass(frozen=True, slots=True)
class WalFacts:
    """What an object says of its file: PostgreSQL's name, size of the plain bytes, identity (32 bytes)."""

    file: str
    size_bytes: int
    identity: bytes
    segment_bytes: int


@dataclass(frozen=True, slots=True)
class Blob:
    """A sealed object as bytes, in parts. digest: its last 32 bytes."""

    parts: Sequence[bytes]
    size_bytes: int
    digest: bytes

    @classmethod
    def of(cls, sealed: Sealed) -> Blob:
        return cls(sealed.parts, sealed.size_bytes, sealed.digest)


# --- sealing ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Packed:
    """A file, compressed but not yet sealed. payloads: (payload, raw bytes, codec) for each piece."""

    facts: WalFacts
    payloads: Sequence[tuple[bytes | memoryview, int, int]]


def kind_of(file: str) -> Kind:
    return Kind.HISTORY if file.endswith(".history") else Kind.WAL


def pack(ring: Ring, file: str, source: BinaryIO, segment_bytes: int, level: int) -> Packed:
    """Read `source` (buffered) to its end and compress it; level 0: store it as it is. Memory: its compressed size."""
    identity = blake3.blake3(key=ring.identity_key)
    compressor = zstandard.ZstdCompressor(level=level, write_content_size=True)
    payloads, size_bytes = [], 0
    while piece := source.read(PIECE_BYTES):
        identity.update(piece)
        size_bytes += len(piece)
        payload, codec = compress(compressor, piece) if level else (piece, CODEC_STORED)
        payloads.append((payload, len(piece), codec))
    return Packed(WalFacts(file, size_bytes, identity.digest(), segment_bytes), tuple(payloads))


def seal(ring: Ring, packed: Packed, key: Key, kind: Kind, rival: bytes | None = None) -> Blob:
    """The object under `key`: equal input gives equal bytes on any host. What is returned was opened again.

    rival: for quarantine, the identity that was met. Memory: the compressed size once more.
    """
    facts = packed.facts
    value: Json = {
        "name": key,
        "file": facts.file,
        "size": facts.size_bytes,
        "identity": facts.identity.hex(),
        "segment_bytes": facts.segment_bytes,
    }
    if rival is not None:
        value["rival"] = rival.hex()
    opened = canonical(value)
    seed = _seed(ring, opened, packed)
    data_key = DataKey(ring, _no_entropy, key=seed[:32])
    writer = data_key.writer(kind, seed[32:48], opened)
    for payload, raw_bytes, codec in packed.payloads:
        writer.frame(payload, raw_bytes, codec=codec)
    blob = Blob.of(writer.finish())
    _check_sealed(ring, blob, key, kind, facts.identity)
    return blob


def _seed(ring: Ring, opened: bytes, packed: Packed) -> bytes:
    frames = hashlib.sha256()
    for number, (payload, raw_bytes, codec) in enumerate(packed.payloads):
        frames.update(FRAME.pack(len(payload) + TAG_BYTES, raw_bytes, number, 0, codec, 0, 0))
        frames.update(payload)
    message = b"drkit wal" + ring.repository + hashlib.sha256(opened).digest() + frames.digest()
    return hmac.digest(ring.wal_key(ring.epoch), message, "sha512")


def _no_entropy(size_bytes: int) -> bytes:
    raise AssertionError("the data key of a WAL object is derived, not drawn")


def _check_sealed(ring: Ring, blob: Blob, key: Key, kind: Kind, identity: bytes) -> None:
    """Open what was sealed: a fault of memory here would otherwise be archived as the only copy."""
    found = WalStream(ring, _PartsReader(blob.parts), key, kind, f"sealed {key}")
    for _ in found.pieces():
        pass
    if found.facts.identity != identity:
        raise Damage("what was sealed does not open to what was read", where=key)


# --- opening ------------------------------------------------------------------------------------------------------


def read_facts(target: Target, key: Key) -> WalFacts:
    """Identity and sizes by one ranged read of the open section; not authenticated: for listings and plans.

    Raises Damage, NotFound or what kept it from being read.
    """
    where = f"{target.where}: {key}"
    data = target.read(key, 0, _FIRST_READ_BYTES)
    header = _checked_header(data, where, None)
    if len(data) < header.open_bytes:
        data += target.read(key, len(data), header.open_bytes - len(data))
    _, value, _ = parse_open_section(data, where)
    return _facts(value, key, where)


@contextmanager
def open_wal(ring: Ring, target: Target, key: Key, kind: Kind, keep: list[bytes] | None = None) -> Iterator[WalStream]:
    """An object of a target, read as a stream. Raises NotFound here, Damage or KeyMissing here or in `pieces`.

    keep: takes the sealed bytes as they are read; they are a whole object once `pieces` has ended.
    """
    with target.backend.open(key) as reader:
        yield WalStream(ring, reader, key, kind, f"{target.where}: {key}", keep)


class WalStream:
    """An object being opened. `facts` may be believed only when `pieces` has come to its end. Not thread-safe."""

    def __init__(
        self,
        ring: Ring,
        reader: Reader | _PartsReader,
        key: Key,
        kind: Kind,
        where: str,
        keep: list[bytes] | None = None,
    ) -> None:
        self._ring, self._reader, self._where, self._keep = ring, reader, where, keep
        self._digest = blake3.blake3()
        self.size_bytes = 0
        opened = self._take(HEADER_BYTES)
        header = _checked_header(opened, where, kind)
        opened += self._take(header.open_bytes - HEADER_BYTES)
        _, value, _ = parse_open_section(opened, where)
        self.facts = _facts(value, key, where)
        try:
            self._opener = Opener(ring, header, opened, where)
        except KeyMissing:
            # A flipped bit in the epoch looks like a key that we lack; the digest tells which it is.
            if not self._is_sound():
                raise Damage("the object's digest does not hold", where=where) from None
            raise
        self.digest = b""

    def pieces(self) -> Iterator[bytes]:
        """The plain bytes in order, once. Raises Damage unless every frame, the end and the identity hold.

        Memory: one frame. What was given out before a Damage must not be used.
        """
        identity, size_bytes, number = blake3.blake3(key=self._ring.identity_key), 0, 0
        while True:
            raw, flags = self._frame(number)
            if flags & LAST:
                break
            identity.update(raw)
            size_bytes += len(raw)
            number += 1
            yield raw
        expected = self._digest.digest()
        self.digest = self._take(DIGEST_BYTES)
        if self.digest != expected or self._reader.read(1):
            raise Damage("the object's end is not as expected", where=self._where)
        if identity.digest() != self.facts.identity or size_bytes != self.facts.size_bytes:
            raise Damage("the object's content is not what its open section says", where=self._where)

    def _is_sound(self) -> bool:
        tail = b""
        while piece := self._reader.read(PIECE_BYTES):
            tail += piece
            self._digest.update(tail[:-DIGEST_BYTES])
            tail = tail[-DIGEST_BYTES:]
        return self._digest.digest() == tail

    def _frame(self, number: int) -> tuple[bytes, int]:
        head = self._take(FRAME_BYTES)
        sealed_bytes = int.from_bytes(head[:4], "little")
        if not TAG_BYTES <= sealed_bytes <= MAX_RAW_BYTES + TAG_BYTES:
            raise Damage("a frame header is not as expected", where=self._where, why=f"frame {number}")
        sealed = self._take(sealed_bytes)
        raw, type_, flags, _ = self._opener.frame(memoryview(head + sealed), number)
        if type_ != 0 or flags & ~LAST:
            raise Damage("a frame header is not as expected", where=self._where, why=f"frame {number}")
        return raw, flags

    def _take(self, size_bytes: int) -> bytes:
        data = self._reader.read(size_bytes)
        if len(data) != size_bytes:
            raise Damage("the object is truncated", where=self._where, why=f"it ends at {self.size_bytes + len(data)}")
        self.size_bytes += size_bytes
        self._digest.update(data)
        if self._keep is not None:
            self._keep.append(data)
        return data


class _PartsReader:
    """Parts of an object as a reader."""

    def __init__(self, parts: Sequence[bytes]) -> None:
        self._parts = iter(parts)
        self._rest = memoryview(b"")

    def read(self, size_bytes: int, /) -> bytes:
        pieces: list[memoryview] = []
        while size_bytes:
            if not self._rest:
                part = next(self._parts, None)
                if part is None:
                    break
                if not pieces and len(part) == size_bytes:
                    return part  # a frame: no copy
                self._rest = memoryview(part)
            pieces.append(self._rest[:size_bytes])
            self._rest = self._rest[size_bytes:]
            size_bytes -= len(pieces[-1])
        return b"".join(pieces)


def _checked_header(data: bytes, where: str, kind: Kind | None) -> Header:
    header = parse_header(data, where)
    if kind is not None and header.kind != kind:
        raise Damage("the object is of another kind", where=where, why=f"kind {header.kind}, not {int(kind)}")
    if header.json_bytes > _MAX_JSON_BYTES or header.reference_bytes:
        raise Damage("the object's open section has an impossible size", where=where, why=f"{header.open_bytes} bytes")
    return header


def _facts(value: Json, key: Key, where: str) -> WalFacts:
    if value.get("name") != key:
        raise Damage("the object belongs under another name", where=where, why=str(value.get("name", "")))
    size_bytes, segment_bytes = value.get("size"), value.get("segment_bytes")
    try:
        identity = bytes.fromhex(str(value.get("identity")))
    except ValueError:
        identity = b""
    if not isinstance(size_bytes, int) or not isinstance(segment_bytes, int) or len(identity) != 32:
        raise Damage("the open section of a WAL object is not as the format says", where=where)
    return WalFacts(str(value.get("file")), size_bytes, identity, segment_bytes)


# --- storing ------------------------------------------------------------------------------------------------------


class Outcome(StrEnum):
    """What became of an object on one target. Only STORED and SAME mean that it is there.

    DAMAGED: something is there that does not open; the target is out for this object until it is repaired.
    CONFLICT: a valid object of other content is there and stays. EXPIRED: it has a tombstone there.
    """

    STORED = "stored"
    SAME = "same"
    DAMAGED = "damaged"
    CONFLICT = "conflict"
    EXPIRED = "expired"


@dataclass(frozen=True, slots=True)
class Met:
    """The outcome on one target. blob: the sealed bytes there (SAME) · rival: the identity there (CONFLICT)."""

    outcome: Outcome
    why: str = ""
    blob: Blob | None = None
    rival: bytes = b""

    @property
    def there(self) -> bool:
        return self.outcome in (Outcome.STORED, Outcome.SAME)


def meet(ring: Ring, target: Target, layout: ClusterLayout, file: str, identity: bytes) -> Met | None:
    """What a target holds under a file's name, compared with `identity`; None: nothing, and it may be created.

    Raises StorageError or KeyMissing where that could not be found out.
    """
    key = layout.archived(file)
    kept: list[bytes] = []
    try:
        with open_wal(ring, target, key, kind_of(file), kept) as found:
            for _ in found.pieces():
                pass
    except NotFound:
        return _entombed(ring, target, layout, key)
    except (Damage, Damaged) as error:
        return Met(Outcome.DAMAGED, str(error))
    if found.facts.identity != identity:
        return Met(Outcome.CONFLICT, f"it holds identity {found.facts.identity[:8].hex()}", rival=found.facts.identity)
    return Met(Outcome.SAME, blob=Blob(tuple(kept), found.size_bytes, found.digest))


def _entombed(ring: Ring, target: Target, layout: ClusterLayout, key: Key) -> Met | None:
    if key not in tombstones(target, layout, ring):
        return None
    return Met(Outcome.EXPIRED, "it was expired there")


def store(ring: Ring, target: Target, layout: ClusterLayout, file: str, blob: Blob, identity: bytes) -> Met:
    """Create the object where `meet` found nothing; durable on return when `there`.

    Who was faster is opened and compared, as by `meet`. Raises StorageError or KeyMissing: nothing is known then.
    """
    try:
        target.write(layout.archived(file), blob.parts, blob.size_bytes)
    except AlreadyExists as taken:
        met = meet(ring, target, layout, file, identity)
        if met is None:
            raise taken
        return met
    return Met(Outcome.STORED, blob=blob)


def quarantine(ring: Ring, target: Target, layout: ClusterLayout, packed: Packed, rival: bytes) -> Key:
    """Keep the newcomer of a conflict; durable on return, idempotent."""
    key = layout.quarantine(packed.facts.file, packed.facts.identity)
    blob = seal(ring, packed, key, Kind.QUARANTINE, rival)
    try:
        target.write(key, blob.parts, blob.size_bytes)
    except AlreadyExists:
        pass  # its name holds its identity: an earlier attempt put it there
    return key
