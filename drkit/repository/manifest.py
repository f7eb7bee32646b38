"""The manifest: the commit record of a backup (docs/format.md, section 6, to the byte)."""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from pathlib import Path

import zstandard

from drkit.core.errors import Damage
from drkit.core.scratch import Pieces
from drkit.crypto.container import (
    CODEC_STORED,
    CODEC_ZSTD,
    DataKey,
    Json,
    Sealed,
    canonical,
)
from drkit.repository.layout import ClusterLayout, Kind, RunId

FRAME_HEAD, FRAME_MAPS, FRAME_ENTRIES = 1, 2, 3
FILE, FOLDER = 1, 2
SETTLED = 1
NOTHING = bytes(32)
_REFERENCE = struct.Struct("<B7s24sQQ32s")
_ENTRY = struct.Struct("<BBHIQqqQQ32sII")
_LENGTHS = struct.Struct("<2xH80xI")  # of an entry: bytes of its path, number of its extents
_FRAME_RAW = 1 << 20
_FILE = re.compile(rb"[0-9A-F]{24}\Z|[0-9A-F]{8}\.history\Z")
REFERENCE_BYTES = _REFERENCE.size


@dataclass(frozen=True, slots=True, order=True)
class Reference:
    """One object of a backup's closure. name: object id (16 bytes) of a pack or map, else the file name in ASCII.

    size: bytes of the object (pack, map) or of the plain file; digest: the object's, or the plain file's identity.
    """

    kind: int
    name: bytes
    size: int
    live: int
    digest: bytes

    def key(self, layout: ClusterLayout) -> str:
        if self.kind in (Kind.PACK, Kind.MAP):
            return layout.data(Kind(self.kind), self.name)
        return layout.archived(self.name.decode("ascii"))


def pack_references(references: Iterable[Reference]) -> bytes:
    """80 bytes each, sorted as bytes, without duplicates."""
    rows = {_REFERENCE.pack(r.kind, b"", r.name, r.size, r.live, r.digest) for r in references}
    return b"".join(sorted(rows))


def unpack_references(data: bytes, where: str) -> list[Reference]:
    if len(data) % REFERENCE_BYTES:
        raise Damage("the references of a manifest are cut", where=where)
    found = []
    before = b""
    for at in range(0, len(data), REFERENCE_BYTES):
        row = data[at : at + REFERENCE_BYTES]
        if row <= before:
            raise Damage("the references of a manifest are not sorted", where=where, why=f"at byte {at}")
        before = row
        kind, _, name, size, live, digest = _REFERENCE.unpack(row)
        if kind in (Kind.PACK, Kind.MAP):
            name = name[:16]
        elif kind not in (Kind.WAL, Kind.HISTORY) or not _FILE.match(name := name.rstrip(b"\0")):
            raise Damage("a reference of a manifest names no object", where=where, why=f"kind {kind}, at byte {at}")
        found.append(Reference(kind, name, size, live, digest))
    return found


@dataclass(frozen=True, slots=True)
class Summary:
    """What is open in a manifest: enough to list, copy and expire without a key. LSNs are `X/Y` text."""

    backup: str
    cluster: str
    system_identifier: str
    timeline: int
    start_lsn: str
    stop_lsn: str
    start_wal: str
    stop_wal: str
    segment_bytes: int
    started_at: str
    stopped_at: str
    parent: str | None
    engine: str
    engine_version: int
    size_bytes: int
    stored_bytes: int
    useful_bytes: int
    new_bytes: int
    files: int
    page_errors: int
    epochs: list[int]

    @property
    def run(self) -> RunId:
        return RunId.parse(self.backup)

    @property
    def stopped(self) -> datetime:
        return datetime.fromisoformat(self.stopped_at)

    @classmethod
    def of(cls, value: Json, where: str) -> Summary:
        try:
            return cls(**{f.name: value[f.name] for f in fields(cls)})  # type: ignore[arg-type]
        except KeyError as error:
            raise Damage("a manifest lacks a member", where=where, why=str(error)) from None


@dataclass(frozen=True, slots=True)
class Tablespace:
    oid: int
    location: str
    in_place: bool


@dataclass(frozen=True, slots=True)
class Source:
    """Where the files were read: what makes adopting a file unread safe."""

    machine: str
    data_dir: str
    device: int


@dataclass(frozen=True, slots=True)
class Head:
    """What is sealed in a manifest beside maps and entries. backup_label and tablespace_map: exact bytes."""

    label: str
    backup_label: bytes
    tablespace_map: bytes
    chunk_bytes: int
    extent_bytes: int
    page_bytes: int
    relation_segment_pages: int
    catalog_version: int
    control_version: int
    checksums: bool
    control: dict[str, int]
    tablespaces: tuple[Tablespace, ...]
    wal_link: str | None
    source: Source
    damaged: tuple[tuple[str, int], ...]
    vanished: int
    writer: str

    def to_json(self) -> Json:
        value: Json = asdict(self)
        value["backup_label"], value["tablespace_map"] = self.backup_label.hex(), self.tablespace_map.hex()
        value["damaged"] = [{"path": path, "block": block} for path, block in self.damaged[:10000]]
        return value

    @classmethod
    def of_json(cls, value: Json, where: str) -> Head:
        try:
            plain = {f.name: value[f.name] for f in fields(cls)}
            plain["backup_label"] = bytes.fromhex(str(plain["backup_label"]))
            plain["tablespace_map"] = bytes.fromhex(str(plain["tablespace_map"]))
            plain["tablespaces"] = tuple(Tablespace(**t) for t in plain["tablespaces"])  # type: ignore[attr-defined]
            plain["source"] = Source(**plain["source"])  # type: ignore[arg-type]
            plain["damaged"] = tuple((d["path"], d["block"]) for d in plain["damaged"])  # type: ignore[attr-defined]
            return cls(**plain)  # type: ignore[arg-type]
        except (KeyError, TypeError, ValueError) as error:
            raise Damage("the head of a manifest is not as the format says", where=where, why=str(error)) from error


@dataclass(frozen=True, slots=True)
class Entry:
    """A file or folder of the backup. path: relative, as bytes; times: ns since 1970; extents: (map index, extent)."""

    type: int
    flags: int
    mode: int
    size: int
    mtime: int
    ctime: int
    inode: int
    device: int
    digest: bytes
    crc: int
    path: bytes
    extents: Sequence[tuple[int, int]]

    @property
    def settled(self) -> bool:
        return bool(self.flags & SETTLED)


def _pack_entry(e: Entry) -> bytes:
    head = _ENTRY.pack(
        e.type, e.flags, len(e.path), e.mode, e.size, e.mtime, e.ctime, e.inode, e.device, e.digest, e.crc,
        len(e.extents),
    )  # fmt: skip
    flat = [number for pair in e.extents for number in pair]
    return head + e.path + struct.pack(f"<{len(flat)}I", *flat)


def unpack_entries(pieces: Iterable[bytes], where: str) -> Iterator[Entry]:
    """Entries from the joined frames, read as a stream: memory is a frame and an entry."""
    return (_unpack_entry(data, start, end) for data, start, end in cut_entries(pieces, where))


def cut_entries(pieces: Iterable[bytes], where: str) -> Iterator[tuple[bytes, int, int]]:
    """Of each entry the buffer that it lies in, and its start and end there."""
    buffer = b""
    for piece in pieces:
        buffer = buffer + piece if buffer else piece
        position = 0
        while (end := _entry_end(buffer, position)) is not None:
            yield buffer, position, end
            position = end
        buffer = buffer[position:]
    if buffer:
        raise Damage("the entries of a manifest are cut", where=where, why=f"{len(buffer)} bytes are left")


def maps_of(data: bytes, start: int, end: int) -> Sequence[int]:
    """Indices of the maps that an entry names."""
    _, count = _LENGTHS.unpack_from(data, start)
    return struct.unpack_from(f"<{2 * count}I", data, end - 8 * count)[::2] if count else ()


def _entry_end(data: bytes, at: int) -> int | None:
    if len(data) - at < _ENTRY.size:
        return None
    path_bytes, extents = _LENGTHS.unpack_from(data, at)
    end = at + _ENTRY.size + path_bytes + 8 * extents
    return end if end <= len(data) else None


def _unpack_entry(data: bytes, at: int, end: int) -> Entry:
    type_, flags, path_bytes, mode, size, mtime, ctime, inode, device, digest, crc, count = _ENTRY.unpack_from(data, at)
    path_end = at + _ENTRY.size + path_bytes
    flat = struct.unpack_from(f"<{2 * count}I", data, path_end) if count else ()
    pairs = tuple(zip(flat[::2], flat[1::2], strict=True)) if count else ()
    path = data[at + _ENTRY.size : path_end]
    return Entry(type_, flags, mode, size, mtime, ctime, inode, device, digest, crc, path, pairs)


@dataclass(frozen=True, slots=True)
class Manifest:
    """A manifest, opened. maps: object ids in index order; entries: sorted by path, read as often as wanted."""

    summary: Summary
    head: Head
    references: Sequence[Reference]
    maps: Sequence[bytes]
    entries: Iterable[Entry]
    digest: bytes


def seal_manifest(
    data_key: DataKey,
    layout: ClusterLayout,
    summary: Summary,
    head: Head,
    references: Iterable[Reference],
    maps: Sequence[bytes],
    entries: Iterable[Entry],
    room: Path | None = None,
) -> Sealed:
    """The manifest object; entries must come sorted by path. room: where its bytes are kept, as `Scratch` has it."""
    run = summary.run
    value: Json = {"name": layout.manifest(run), **asdict(summary)}
    object_id, parts = run.binary + bytes(4), Pieces(room)
    writer = data_key.writer(Kind.MANIFEST, object_id, canonical(value), pack_references(references), parts)
    compressor = zstandard.ZstdCompressor(level=3, write_content_size=True)

    def emit(type_: int, raw: bytes) -> None:
        packed = compressor.compress(raw)
        smaller = len(packed) < len(raw)
        writer.frame(packed if smaller else raw, len(raw), codec=CODEC_ZSTD if smaller else CODEC_STORED, type=type_)

    def stream(type_: int, pieces: Iterable[bytes]) -> None:
        buffer = bytearray()
        for piece in pieces:
            buffer += piece
            if len(buffer) >= _FRAME_RAW:
                for start in range(0, len(buffer), 16 * _FRAME_RAW):
                    emit(type_, bytes(buffer[start : start + 16 * _FRAME_RAW]))
                buffer.clear()
        if buffer:
            emit(type_, bytes(buffer))

    stream(FRAME_HEAD, [canonical(head.to_json())])
    stream(FRAME_MAPS, maps)
    stream(FRAME_ENTRIES, (_pack_entry(e) for e in entries))
    return writer.finish()


def parse_head(data: bytes, where: str) -> Head:
    """The head from its joined frames."""
    try:
        value = json.loads(data)
    except ValueError as error:
        raise Damage("the head of a manifest is not JSON", where=where, why=str(error)) from error
    return Head.of_json(value, where)
