"""The files of a backup on their way into its manifest: rows in its order, outside of memory.

A listing holds what the walk found and what earlier runs know of it; copying makes another one of it, in which every
file has its content; what must be read anew later makes a third one. Only files in flight are objects.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from drkit.core.scratch import Rows, Scratch
from drkit.engines.postgres.walk import Entry as Found
from drkit.engines.postgres.walk import EntryKind
from drkit.pipeline.digests import file_digest
from drkit.pipeline.mapping import Map, decode, encode
from drkit.pipeline.stager import Placed
from drkit.repository.manifest import FILE, FOLDER, NOTHING

SETTLED, UNREAD, UNCHANGED, ADOPTED, LATE = 1, 2, 4, 8, 16
Extents = tuple[tuple[bytes, int], ...]


class Row(NamedTuple):
    """A file or folder. size, times, inode and device: as listed; of a folder mode and mtime are all that counts.

    state: bits: SETTLED as a manifest has it · UNREAD: not all of it has a place yet · UNCHANGED since an earlier
    run · ADOPTED: nothing of it was read · LATE: read when all others were, `Files.settle` brings it.
    segment: number of the relation's file, -1 where pages have no checksums · kept, digest, crc, extents: of what was
    read, (map id, extent) each · again: bytes stored again though an earlier run has them
    known: of an UNREAD file, what each earlier run knows of it · base: the one since which it is unchanged, or -1
    """

    type: int
    path: bytes
    state: int
    mode: int
    size: int
    mtime: int
    ctime: int
    inode: int
    device: int
    segment: int
    kept: int = 0
    digest: bytes = NOTHING
    crc: int = 0
    extents: Extents = ()
    again: int = 0
    known: tuple[Extents, ...] = ()
    base: int = -1

    def anew(self) -> Row:
        """To be read whole; nothing of an earlier run is trusted."""
        state = self.state & SETTLED | UNREAD
        return self._replace(state=state, extents=(), again=0, known=(), base=-1)

    def done(self, placed: Iterable[Placed]) -> Row:
        """With its content. placed: its extents in order, without gaps."""
        placed = list(placed)
        digest, crc = file_digest((p.digest, p.crc, p.length) for p in placed)
        return self._replace(
            state=self.state & ~(UNREAD | LATE),
            kept=sum(p.length for p in placed),
            digest=digest,
            crc=crc,
            extents=tuple((p.map_id, p.index) for p in placed),
            again=sum(p.again_bytes for p in placed),
            known=(),
            base=-1,
        )


def row_of(found: Found, state: int) -> Row:
    """found: a file, folder or tablespace."""
    return Row(
        type=FILE if found.kind is EntryKind.FILE else FOLDER,
        path=os.fsencode(found.path),
        state=state,
        mode=found.mode,
        size=found.size,
        mtime=found.mtime_ns,
        ctime=found.ctime_ns,
        inode=found.inode,
        device=found.device,
        segment=found.segment if found.has_checksums else -1,
    )


class Files:
    """Rows, appended in the order of a manifest, and read in it as often as wanted; what they sum up to so far.

    Memory: as `core.scratch.Rows`. Not thread-safe while rows are appended.
    """

    def __init__(self, room: Path) -> None:
        self._rows: Rows[tuple[object, ...]] = Rows(room)
        self._settled: dict[bytes, Row] = {}
        self.files = self.size_bytes = self.again_bytes = self.adopted_files = self.adopted_extents = 0

    def append(self, row: Row) -> None:
        self._rows.append(tuple(row))
        if row.type == FILE and not row.state & LATE:
            self._count(row)

    def settle(self, row: Row) -> None:
        """Put a file in the place of its row, which is LATE."""
        self._settled[row.path] = row
        self._count(row)

    def _count(self, row: Row) -> None:
        self.files += 1
        self.size_bytes += row.kept
        self.again_bytes += row.again
        if row.state & ADOPTED:
            self.adopted_files += 1
            self.adopted_extents += len(row.extents)

    def __iter__(self) -> Iterator[Row]:
        for plain in self._rows:
            row = Row._make(plain)
            yield self._settled.get(row.path, row) if row.state & LATE else row

    def placements(self) -> Iterator[tuple[bytes, int]]:
        """(map id, extent) of all that is placed."""
        return (extent for row in self for extent in row.extents)

    def close(self) -> None:
        self._rows.close()


class OwnMaps:
    """The maps that a run made, outside of memory. Thread-safe."""

    def __init__(self, room: Path) -> None:
        self._bytes = Scratch(room)
        self._places: dict[bytes, tuple[int, int]] = {}

    def add(self, map_id: bytes, table: Map) -> None:
        data = encode(table)
        self._places[map_id] = (self._bytes.append(data), len(data))

    def __contains__(self, map_id: bytes) -> bool:
        return map_id in self._places

    def __getitem__(self, map_id: bytes) -> Map:
        return decode(self._bytes.read(*self._places[map_id]), "a map of this run")
