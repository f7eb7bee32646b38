"""Reads packs and maps back with nothing but the layout of docs/format.md, section 5: no code of `drkit.pipeline`."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass

import blake3
import google_crc32c

from drkit.crypto.container import Header, Opener, open_object
from drkit.crypto.keys import Ring

PACK, MAP, FINGERPRINTS = 3, 4, 5
ZEROS = 0xFFFFFFFF


@dataclass(frozen=True)
class Tables:
    packs: list[tuple[bytes, int, int, bytes]]
    frames: list[tuple[int, int, int, int, int]]
    extents: list[tuple[bytes, int, int, int, int]]
    runs: list[tuple[int, int, int, int]]


def read_tables(data: bytes) -> Tables:
    packs, frames, extents, runs = struct.unpack_from("<IIII", data)
    at = 16
    read: list[list[tuple[object, ...]]] = []
    for layout, count in (("<16sII40s", packs), ("<QIIII", frames), ("<32sIIII", extents), ("<IIII", runs)):
        size = struct.calcsize(layout)
        read.append(list(struct.iter_unpack(layout, data[at : at + size * count])))
        at += size * count
    assert at == len(data)
    return Tables(*read)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Store:
    """Objects by (kind, id), as they would lie on a target."""

    ring: Ring
    chunk_bytes: int
    objects: Mapping[tuple[int, bytes], bytes]

    def tables(self, map_id: bytes) -> Tables:
        opened = open_object(self.ring, self.objects[MAP, map_id], kind=MAP, name="map", object_id=map_id)
        assert opened.json == {} and opened.references == b""
        return read_tables(opened.joined())

    def extent(self, map_id: bytes, index: int) -> bytes:
        """The bytes of an extent; asserts everything that the format promises of its runs."""
        tables = self.tables(map_id)
        digest, crc, length, first, count = tables.extents[index]
        data, expected = bytearray(), 0
        for chunk, chunks, frame, offset in tables.runs[first : first + count]:
            assert chunk == expected and chunks > 0, "runs are sorted and cover without gap or overlap"
            expected += chunks
            size = min(chunks * self.chunk_bytes, length - chunk * self.chunk_bytes)
            assert size > (chunks - 1) * self.chunk_bytes, "only the last chunk of a file is short"
            data += bytes(size) if frame == ZEROS else self._raw(tables, frame)[offset : offset + size]
        assert len(data) == length and expected == -(-length // self.chunk_bytes)
        assert blake3.blake3(data).digest() == digest and google_crc32c.value(bytes(data)) == crc
        return bytes(data)

    def _raw(self, tables: Tables, index: int) -> bytes:
        offset, pack_index, number, sealed_bytes, raw_bytes = tables.frames[index]
        pack_id, epoch, zero, wrap = tables.packs[pack_index]
        assert zero == 0
        header = Header(PACK, self.ring.repository, pack_id, epoch, 0, 0, wrap)
        pack = self.objects[PACK, pack_id]
        assert pack[:128] == header.pack(), "with the map no pack's header need be fetched"
        frame = pack[offset : offset + 16 + sealed_bytes]
        raw, type_, flags, _ = Opener(self.ring, header, header.pack(), "pack").frame(memoryview(frame), number)
        assert (len(raw), type_, flags) == (raw_bytes, 0, 0)
        return raw

    def marks(self, map_id: bytes) -> list[list[bytes]]:
        """The fingerprints object of a map: 8 bytes for each chunk of each extent."""
        name = (FINGERPRINTS, map_id)
        content = open_object(self.ring, self.objects[name], kind=FINGERPRINTS, name="f", object_id=map_id).joined()
        extents, zero = struct.unpack_from("<II", content)
        assert zero == 0
        counts = struct.unpack_from(f"<{extents}I", content, 8)
        at, found = 8 + 4 * extents, []
        for count in counts:
            found.append([content[at + 8 * n : at + 8 * n + 8] for n in range(count)])
            at += 8 * count
        assert at == len(content)
        return found
