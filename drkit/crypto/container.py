"""The container of docs/format.md, section 2: header, open section, sealed frames, digest.

Sealing and opening release the GIL in AES-GCM, SHA-256 and BLAKE3. Objects here are not thread-safe; make one a thread.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import blake3
import zstandard
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from drkit.core.errors import Damage
from drkit.core.scratch import Pieces
from drkit.crypto.keys import KEY_BYTES, Entropy, Ring, object_cipher, unwrap, wrap

MAGIC = b"drkit\x00\x1a\n"
VERSION = 1
HEADER = struct.Struct("<8sHBBI16s16sIIQ40s24s")
FRAME = struct.Struct("<IIIBBBB")
HEADER_BYTES = HEADER.size
FRAME_BYTES = FRAME.size
TAG_BYTES = 16
DIGEST_BYTES = 32
END_BYTES = FRAME_BYTES + TAG_BYTES + DIGEST_BYTES
MAX_RAW_BYTES = 16 << 20
CODEC_STORED, CODEC_ZSTD = 0, 1
LAST = 1

Json = dict[str, object]


@dataclass(frozen=True, slots=True)
class Header:
    """What an object says of itself before it is opened."""

    kind: int
    repository: bytes
    object_id: bytes
    epoch: int
    json_bytes: int
    reference_bytes: int
    wrap: bytes

    def pack(self) -> bytes:
        return HEADER.pack(
            MAGIC, VERSION, self.kind, 0, HEADER_BYTES, self.repository, self.object_id, self.epoch,
            self.json_bytes, self.reference_bytes, self.wrap, b"",
        )  # fmt: skip

    @property
    def open_bytes(self) -> int:
        """Header, JSON and references: what may be read without a key."""
        return HEADER_BYTES + self.json_bytes + self.reference_bytes


def parse_header(data: bytes | bytearray | memoryview, where: str) -> Header:
    """Read the first 128 bytes; raises Damage naming what is not as the format says."""
    if len(data) < HEADER_BYTES:
        raise Damage("the object is shorter than a header", where=where, why=f"{len(data)} bytes")
    magic, version, kind, _, size, repo, oid, epoch, json_bytes, ref_bytes, wrapped, _ = HEADER.unpack_from(data)
    if magic != MAGIC or size != HEADER_BYTES:
        raise Damage("this is not an object of a drkit repository", where=where, why="the magic bytes are wrong")
    if version != VERSION:
        raise Damage(
            f"the object has format version {version}",
            where=where,
            why=f"this drkit reads version {VERSION}",
            cure="a newer drkit wrote it: update this one"
            if version > VERSION
            else "a build before format version 1 wrote it, which is not read: begin a new repository",
        )
    return Header(kind, repo, oid, epoch, json_bytes, ref_bytes, wrapped)


def canonical(value: Json) -> bytes:
    """JSON with equal bytes for equal values."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()


@dataclass(frozen=True, slots=True)
class Frame:
    """Where a frame lies in its object: offset of the frame's header, bytes."""

    offset: int
    number: int
    sealed_bytes: int
    raw_bytes: int


@dataclass(frozen=True, slots=True)
class Sealed:
    """A finished object: parts to be written in order, never changed. `digest` is its last 32 bytes."""

    header: Header
    parts: Sequence[bytes]
    size_bytes: int
    digest: bytes

    def joined(self) -> bytes:
        return b"".join(self.parts)


class DataKey:
    """A data key with its wrap; random for a run. Thread-safe after construction."""

    def __init__(self, ring: Ring, entropy: Entropy, key: bytes | None = None) -> None:
        self.repository = ring.repository
        self.epoch = ring.epoch
        self.key = entropy(KEY_BYTES) if key is None else key
        self.wrap = wrap(ring.wrap_key(ring.epoch), self.key)

    def header(self, kind: int, object_id: bytes, json_bytes: int = 0, reference_bytes: int = 0) -> Header:
        return Header(kind, self.repository, object_id, self.epoch, json_bytes, reference_bytes, self.wrap)

    def writer(
        self,
        kind: int,
        object_id: bytes,
        open_json: bytes = b"",
        references: bytes = b"",
        parts: list[bytes] | Pieces | None = None,
    ) -> Writer:
        """parts: takes what is sealed, where memory should not hold it."""
        head = self.header(kind, object_id, len(open_json), len(references))
        cipher = object_cipher(self.repository, self.key, object_id, kind)
        return Writer(head, cipher, open_json, references, [] if parts is None else parts)


class Writer:
    """Builds one object frame by frame in `parts`: in memory where that is a list (packs are tens of MiB)."""

    def __init__(
        self, header: Header, cipher: AESGCM, open_json: bytes, references: bytes, parts: list[bytes] | Pieces
    ) -> None:
        opened = header.pack() + open_json + references
        self.header = header
        self._cipher = cipher
        self._context = hashlib.sha256(opened).digest()
        self._digest = blake3.blake3(opened)
        self._parts = parts
        parts.append(opened)
        self._number = 0
        self.size_bytes = len(opened)

    def frame(self, payload: bytes | memoryview, raw_bytes: int, *, codec: int, type: int = 0, flags: int = 0) -> Frame:
        """Seal `payload` (already compressed where codec says so) as the next frame."""
        sealed_bytes = len(payload) + TAG_BYTES
        head = FRAME.pack(sealed_bytes, raw_bytes, self._number, type, codec, flags, 0)
        nonce = self._number.to_bytes(12, "big")
        sealed = self._cipher.encrypt(nonce, payload, self._context + head)
        if self._cipher.decrypt(nonce, sealed, self._context + head) != payload:
            raise Damage("a frame did not open to what was sealed", cure="test this machine's memory")
        self._parts.append(head)
        self._parts.append(sealed)
        self._digest.update(head)
        self._digest.update(sealed)
        placed = Frame(self.size_bytes, self._number, sealed_bytes, raw_bytes)
        self.size_bytes += FRAME_BYTES + sealed_bytes
        self._number += 1
        return placed

    def finish(self) -> Sealed:
        """Seal the empty last frame and append the digest; the writer is spent."""
        self.frame(b"", 0, codec=CODEC_STORED, flags=LAST)
        digest = self._digest.digest()
        self._parts.append(digest)
        return Sealed(self.header, self._parts, self.size_bytes + DIGEST_BYTES, digest)


def compress(compressor: zstandard.ZstdCompressor, raw: bytes | memoryview) -> tuple[bytes | memoryview, int]:
    """The payload and its codec: stored where compression does not pay (random bytes, TOAST of images)."""
    packed = compressor.compress(raw)
    return (packed, CODEC_ZSTD) if len(packed) < len(raw) else (raw, CODEC_STORED)


class Opener:
    """Opens frames of one object. Needs the header (and open section) once; frames may then come by range.

    Raises Damage where a frame does not authenticate, KeyMissing where no slot leads to the object's epoch.
    """

    def __init__(self, ring: Ring, header: Header, opened: bytes | memoryview, where: str) -> None:
        if header.repository != ring.repository:
            raise Damage("the object belongs to another repository", where=where, why=header.repository.hex())
        data_key = unwrap(ring.wrap_key(header.epoch), header.wrap)
        if data_key is None:
            raise Damage("the key wrap of the object does not open", where=where, why=f"epoch {header.epoch}")
        self._cipher = object_cipher(ring.repository, data_key, header.object_id, header.kind)
        self._context = hashlib.sha256(opened).digest()
        self._decompressor = zstandard.ZstdDecompressor()
        self._where = where

    def frame(self, data: memoryview, number: int) -> tuple[bytes, int, int, int]:
        """Open the frame that starts at data[0]; returns (raw, type, flags, bytes consumed)."""
        payload, raw_bytes, type_, codec, flags, end = self._payload(data, number)
        return self._plain(payload, raw_bytes, codec, number), type_, flags, end

    def frame_into(self, data: memoryview, number: int, out: memoryview) -> None:
        """Open the frame that starts at data[0], which has len(out) raw bytes, to `out`; what is there after an error
        is not to be used.
        """
        payload, raw_bytes, _, codec, _, _ = self._payload(data, number)
        if raw_bytes != len(out):
            raise Damage("a frame has another size than its map says", where=self._where, why=f"frame {number}")
        if codec != CODEC_ZSTD:
            out[:] = self._plain(payload, raw_bytes, codec, number)
            return
        try:
            with self._decompressor.stream_reader(payload) as reader:
                whole = reader.readinto(out) == len(out) and not reader.read(1)
        except zstandard.ZstdError as error:
            raise Damage("a frame does not decompress", where=self._where, why=str(error)) from error
        if not whole:
            raise Damage("a frame has another size inside", where=self._where, why=f"frame {number}")

    def authenticate(self, data: memoryview, number: int) -> tuple[int, int]:
        """Prove the frame that starts at data[0] without decompressing it; returns (flags, bytes consumed)."""
        _, raw_bytes, type_, _, flags, end = self._payload(data, number)
        if flags & LAST and (raw_bytes or type_):
            raise Damage("the last frame is not empty", where=self._where, why=f"frame {number}")
        return flags, end

    def _payload(self, data: memoryview, number: int) -> tuple[bytes, int, int, int, int, int]:
        """(payload, raw bytes, type, codec, flags, bytes consumed) of the frame that starts at data[0]."""
        if len(data) < FRAME_BYTES:
            raise Damage("the object ends inside a frame header", where=self._where, why=f"frame {number}")
        sealed_bytes, raw_bytes, found, type_, codec, flags, _ = FRAME.unpack_from(data)
        end = FRAME_BYTES + sealed_bytes
        sizes_hold = raw_bytes <= MAX_RAW_BYTES and sealed_bytes >= TAG_BYTES and len(data) >= end
        if found != number or not sizes_hold or codec not in (CODEC_STORED, CODEC_ZSTD) or flags & ~LAST:
            raise Damage("a frame header is not as expected", where=self._where, why=f"frame {number}")
        try:
            payload = self._cipher.decrypt(
                number.to_bytes(12, "big"), data[FRAME_BYTES:end], self._context + bytes(data[:FRAME_BYTES])
            )
        except InvalidTag:
            raise Damage("a frame does not authenticate", where=self._where, why=f"frame {number}") from None
        return payload, raw_bytes, type_, codec, flags, end

    def authenticate_end(self, tail: bytes) -> bytes:
        """Open the last frame from an object's last `END_BYTES`: proves the open section without reading the content.

        Returns the object's digest; raises Damage.
        """
        number = FRAME.unpack_from(tail)[2] if len(tail) == END_BYTES else 0
        raw, _, flags, used = self.frame(memoryview(tail)[: END_BYTES - DIGEST_BYTES], number)
        if raw or not flags & LAST or used != END_BYTES - DIGEST_BYTES:
            raise Damage("the object has no last frame", where=self._where)
        return tail[-DIGEST_BYTES:]

    def _plain(self, payload: bytes, raw_bytes: int, codec: int, number: int) -> bytes:
        if codec == CODEC_ZSTD:
            try:
                if zstandard.frame_content_size(payload) != raw_bytes:
                    raise Damage("a frame has another size inside", where=self._where, why=f"frame {number}")
                payload = self._decompressor.decompress(payload, max_output_size=raw_bytes)
            except zstandard.ZstdError as error:
                raise Damage("a frame does not decompress", where=self._where, why=str(error)) from error
        if len(payload) != raw_bytes:
            raise Damage("a frame has another size inside", where=self._where, why=f"frame {number}")
        return payload


@dataclass(frozen=True, slots=True)
class Opened:
    """A whole object, opened: its open section and its frames (type, raw bytes), the empty last one left out."""

    header: Header
    json: Json
    references: bytes
    frames: Sequence[tuple[int, bytes]]
    digest: bytes

    def joined(self, type_: int = 0) -> bytes:
        return b"".join(raw for kind, raw in self.frames if kind == type_)


def parse_open_section(data: bytes | bytearray | memoryview, where: str) -> tuple[Header, Json, bytes]:
    """Header, JSON and references; no key needed, and nothing of it is trusted until a frame was opened."""
    header = parse_header(data, where)
    if len(data) < header.open_bytes:
        raise Damage("the object ends inside its open section", where=where, why=f"{len(data)} bytes")
    split = HEADER_BYTES + header.json_bytes
    try:
        value = json.loads(bytes(data[HEADER_BYTES:split])) if header.json_bytes else {}
    except (ValueError, RecursionError) as error:
        raise Damage("the open section is not JSON", where=where, why=str(error)) from error
    if not isinstance(value, dict):
        raise Damage("the open section is not a JSON object", where=where)
    return header, value, bytes(data[split : header.open_bytes])


def check_digest(data: bytes | memoryview, where: str) -> bytes:
    """Recompute the digest of a whole object without a key; returns it, or raises Damage."""
    if len(data) < HEADER_BYTES + FRAME_BYTES + TAG_BYTES + DIGEST_BYTES:
        raise Damage("the object is truncated", where=where, why=f"{len(data)} bytes")
    view = memoryview(data)
    digest = bytes(view[-DIGEST_BYTES:])
    if blake3.blake3(view[:-DIGEST_BYTES]).digest() != digest:
        raise Damage("the object's digest does not hold", where=where, why=f"{len(data)} bytes")
    return digest


def frames_of(opener: Opener, data: memoryview, start: int, where: str) -> Iterator[tuple[int, bytes]]:
    """Open all frames from `start` to the digest, in order; raises Damage unless the last one closes the object."""
    number, position, end = 0, start, len(data) - DIGEST_BYTES
    while True:
        raw, type_, flags, used = opener.frame(data[position:end], number)
        position += used
        if flags & LAST:
            if raw or type_:
                raise Damage("the last frame is not empty", where=where, why=f"frame {number}")
            break
        yield type_, raw
        number += 1
    if position != end:
        raise Damage("there are bytes after the last frame", where=where, why=f"{end - position} bytes")


def open_object(ring: Ring, data: bytes, *, kind: int, name: str, object_id: bytes | None = None) -> Opened:
    """Open a whole object read from key `name`.

    Checks kind, name (JSON `name`, or `object_id` for kinds without JSON), every frame, the end and the digest.
    Raises Damage or KeyMissing; returns nothing unauthenticated.
    """
    header, value, references = parse_open_section(data, name)
    if header.kind != kind:
        raise Damage("the object is of another kind", where=name, why=f"kind {header.kind}, not {kind}")
    if (header.object_id != object_id) if object_id is not None else (value.get("name") != name):
        raise Damage("the object belongs under another name", where=name, why=str(value.get("name", "")))
    view = memoryview(data)
    opener = Opener(ring, header, view[: header.open_bytes], name)
    frames = tuple(frames_of(opener, view, header.open_bytes, name))
    return Opened(header, value, references, frames, check_digest(data, name))


def authenticate_object(ring: Ring, data: bytes | bytearray, *, kind: int, name: str, object_id: bytes) -> None:
    """As `open_object` of a kind without JSON, but no frame is decompressed. Memory: one frame. Raises as that does."""
    header, _, _ = parse_open_section(data, name)
    if (header.kind, header.object_id) != (kind, object_id):
        raise Damage("the object belongs under another name", where=name, why=f"kind {header.kind}")
    with memoryview(data) as view:
        opener = Opener(ring, header, view[: header.open_bytes], name)
        number, position, flags = 0, header.open_bytes, 0
        while not flags & LAST:
            flags, used = opener.authenticate(view[position : len(view) - DIGEST_BYTES], number)
            number, position = number + 1, position + used
    if position != len(data) - DIGEST_BYTES:
        raise Damage("there are bytes after the last frame", where=name)


def seal_json(data_key: DataKey, kind: int, object_id: bytes, value: Json, references: bytes = b"") -> Sealed:
    """An object that has an open section and no content."""
    return data_key.writer(kind, object_id, canonical(value), references).finish()
