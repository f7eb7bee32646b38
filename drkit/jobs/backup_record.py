"""What a backup writes down about itself: the entries, head and summary of its manifest. Pure."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from drkit.engines.postgres.control import ControlFile
from drkit.engines.postgres.session import BackupStart, BackupStop, ServerFacts
from drkit.engines.postgres.wal import name_at, name_before
from drkit.engines.postgres.walk import Entry as Found
from drkit.engines.postgres.walk import EntryKind
from drkit.jobs.backup_copy import FileCopy
from drkit.pipeline.adopting import Sizes
from drkit.pipeline.digests import file_digest
from drkit.repository.layout import Kind, RunId
from drkit.repository.manifest import (
    FILE,
    FOLDER,
    NOTHING,
    SETTLED,
    Entry,
    Head,
    Reference,
    Source,
    Summary,
    Tablespace,
)


@dataclass(frozen=True, slots=True)
class Taken:
    """Everything known once the database's part is over. damaged: (path, block)."""

    run: RunId
    cluster: str
    label: str
    writer: str
    facts: ServerFacts
    control: ControlFile
    source: Source
    sizes: Sizes
    started_at: datetime
    start: BackupStart
    stop: BackupStop
    found: Sequence[Found]
    copies: Sequence[FileCopy]
    damaged: Sequence[tuple[str, int]]
    parent: str | None
    new_bytes: int


def entries(taken: Taken) -> tuple[list[Entry], list[bytes]]:
    """Files and folders in manifest order, and the ids of the maps that they point into, in index order."""
    by_path = {copy.found.path: copy for copy in taken.copies if not copy.vanished}
    index: dict[bytes, int] = {}
    result = []
    for item in taken.found:
        if item.kind in (EntryKind.FOLDER, EntryKind.TABLESPACE):
            path = os.fsencode(item.path)
            result.append(Entry(FOLDER, 0, item.mode, 0, item.mtime_ns, 0, 0, 0, NOTHING, 0, path, ()))
        elif item.kind is EntryKind.FILE and item.path in by_path:
            result.append(_file(by_path[item.path], taken.sizes.extent, index))
    result.sort(key=lambda e: e.path + b"/" if e.type == FOLDER else e.path)
    return result, list(index)


def _file(copy: FileCopy, extent_bytes: int, index: dict[bytes, int]) -> Entry:
    found, placed = copy.found, copy.extents(extent_bytes)
    digest, crc = file_digest((p.digest, p.crc, p.length) for p in placed)
    extents = tuple((index.setdefault(p.map_id, len(index)), p.index) for p in placed)
    size = sum(p.length for p in placed)
    return Entry(
        type=FILE,
        flags=SETTLED if copy.settled and size == found.size else 0,
        mode=found.mode,
        size=size,
        mtime=found.mtime_ns,
        ctime=found.ctime_ns,
        inode=found.inode,
        device=found.device,
        digest=digest,
        crc=crc,
        path=os.fsencode(found.path),
        extents=extents,
    )


def head(taken: Taken) -> Head:
    control = taken.control
    spaces = (f for f in taken.found if f.kind is EntryKind.TABLESPACE)
    folders = (f for f in taken.found if f.kind is EntryKind.FOLDER and f.path == "pg_wal")
    return Head(
        label=taken.label,
        backup_label=taken.stop.label,
        tablespace_map=taken.stop.tablespace_map,
        chunk_bytes=taken.sizes.chunk,
        extent_bytes=taken.sizes.extent,
        page_bytes=control.block_size,
        relation_segment_pages=control.relation_segment_blocks,
        catalog_version=control.catalog_version,
        control_version=control.control_version,
        checksums=taken.facts.data_checksums,
        control={
            "max_connections": control.max_connections,
            "max_worker_processes": control.max_worker_processes,
            "max_wal_senders": control.max_wal_senders,
            "max_prepared_transactions": control.max_prepared_transactions,
            "max_locks_per_transaction": control.max_locks_per_transaction,
        },
        tablespaces=tuple(Tablespace(f.oid, f.location or "", f.location is None) for f in spaces),
        wal_link=next((f.location for f in folders), None),
        source=taken.source,
        damaged=tuple(taken.damaged),
        vanished=sum(copy.vanished for copy in taken.copies),
        writer=taken.writer,
    )


def summary(
    taken: Taken,
    listed: Iterable[Entry],
    references: Iterable[Reference],
    useful_bytes: int,
    epochs: Iterable[int],
    now: datetime,
) -> Summary:
    segment, start, stop = taken.facts.wal_segment_size, taken.start, taken.stop
    listed = list(listed)
    return Summary(
        backup=str(taken.run),
        cluster=taken.cluster,
        system_identifier=str(taken.facts.system_identifier),
        timeline=start.timeline,
        start_lsn=str(start.lsn),
        stop_lsn=str(stop.lsn),
        start_wal=name_at(start.timeline, start.lsn, segment).text,
        stop_wal=name_before(start.timeline, stop.lsn, segment).text,
        segment_bytes=segment,
        started_at=iso(taken.started_at),
        stopped_at=iso(now),
        parent=taken.parent,
        engine="postgres",
        engine_version=taken.facts.version_num,
        size_bytes=sum(e.size for e in listed),
        stored_bytes=sum(r.size for r in references if r.kind in (Kind.PACK, Kind.MAP)),
        useful_bytes=useful_bytes,
        new_bytes=taken.new_bytes,
        files=sum(e.type == FILE for e in listed),
        page_errors=len(taken.damaged),
        epochs=sorted(set(epochs)),
    )


def iso(moment: datetime) -> str:
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")
