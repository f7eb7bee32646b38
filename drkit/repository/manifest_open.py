"""Opens manifests as streams: what is sealed stays in a file, and the entries come out frame by frame."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import blake3

from drkit.core.errors import Damage
from drkit.core.scratch import Scratch
from drkit.crypto.container import (
    DIGEST_BYTES,
    END_BYTES,
    FRAME_BYTES,
    HEADER_BYTES,
    LAST,
    MAX_RAW_BYTES,
    TAG_BYTES,
    Header,
    Opener,
    parse_header,
    parse_open_section,
)
from drkit.crypto.keys import Ring
from drkit.repository.layout import ClusterLayout, Kind, RunId
from drkit.repository.manifest import (
    FRAME_ENTRIES,
    FRAME_HEAD,
    FRAME_MAPS,
    Entry,
    Manifest,
    Summary,
    cut_entries,
    maps_of,
    parse_head,
    unpack_entries,
    unpack_references,
)

_READ = 1 << 20


@dataclass(frozen=True, slots=True)
class Entries(Iterable[Entry]):
    """The entries of a manifest, opened anew whenever they are iterated. Thread-safe. Memory: a frame and an entry."""

    ring: Ring
    header: Header
    opened: bytes
    sealed: Scratch
    where: str

    def __iter__(self) -> Iterator[Entry]:
        return unpack_entries(self.frames(), self.where)

    def frames(self) -> Iterator[bytes]:
        return (raw for type_, raw in self.all_frames() if type_ == FRAME_ENTRIES)

    def all_frames(self) -> Iterator[tuple[int, bytes]]:
        """(type, raw bytes) in order, each authenticated, to the last one; raises Damage."""
        opener = Opener(self.ring, self.header, self.opened, self.where)
        number, position, end = 0, self.header.open_bytes, self.sealed.size_bytes - DIGEST_BYTES
        while True:
            head = self.sealed.read(position, FRAME_BYTES)
            length = min(int.from_bytes(head[:4], "little"), MAX_RAW_BYTES + TAG_BYTES, end - position - FRAME_BYTES)
            data = head + self.sealed.read(position + FRAME_BYTES, length)
            raw, type_, flags, used = opener.frame(memoryview(data), number)
            number, position = number + 1, position + used
            if flags & LAST:
                break
            yield type_, raw
        if raw or type_ or position != end:
            raise Damage("the manifest does not end with its last frame", where=self.where)


def open_manifest(ring: Ring, sealed: Scratch, layout: ClusterLayout, run: RunId) -> Manifest:
    """Open a whole manifest; every frame and entry was checked on return. Raises Damage or KeyMissing."""
    name = layout.manifest(run)
    digest = _check_digest(sealed, name)
    opened = sealed.read(0, parse_header(sealed.read(0, HEADER_BYTES), name).open_bytes)
    header, value, references = parse_open_section(opened, name)
    if header.kind != Kind.MANIFEST:
        raise Damage("the object is of another kind", where=name, why=f"kind {header.kind}, not {Kind.MANIFEST}")
    if value.get("name") != name:
        raise Damage("the object belongs under another name", where=name, why=str(value.get("name", "")))
    if header.object_id != run.binary + bytes(4):
        raise Damage("the manifest belongs to another backup", where=name)
    entries = Entries(ring, header, opened, sealed, name)
    first: dict[int, bytes] = {FRAME_HEAD: b"", FRAME_MAPS: b""}

    def listed() -> Iterator[bytes]:
        for type_, raw in entries.all_frames():
            if type_ == FRAME_ENTRIES:
                yield raw
            elif type_ in first:
                first[type_] += raw

    used = max(
        (index for data, start, end in cut_entries(listed(), name) for index in maps_of(data, start, end)), default=-1
    )
    ids = first[FRAME_MAPS]
    if len(ids) % 16:
        raise Damage("the list of maps of a manifest is cut", where=name)
    if used >= len(ids) // 16:
        raise Damage("an entry of the manifest names a map that is not there", where=name)
    maps = tuple(ids[at : at + 16] for at in range(0, len(ids), 16))
    head = parse_head(first[FRAME_HEAD], name)
    rows = tuple(unpack_references(references, name))
    return Manifest(Summary.of(value, name), head, rows, maps, entries, digest)


def _check_digest(sealed: Scratch, where: str) -> bytes:
    """As `container.check_digest`, piece by piece."""
    end = sealed.size_bytes - DIGEST_BYTES
    if sealed.size_bytes < HEADER_BYTES + END_BYTES:
        raise Damage("the object is truncated", where=where, why=f"{sealed.size_bytes} bytes")
    found = blake3.blake3()
    for at in range(0, end, _READ):
        found.update(sealed.read(at, min(_READ, end - at)))
    digest = sealed.read(end, DIGEST_BYTES)
    if found.digest() != digest:
        raise Damage("the object's digest does not hold", where=where, why=f"{sealed.size_bytes} bytes")
    return digest
