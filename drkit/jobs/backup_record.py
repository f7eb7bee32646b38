"""What a backup writes down about itself: the entries, head and summary of its manifest. Pure."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from drkit.core.errors import Failed
from drkit.engines.postgres.control import ControlFile
from drkit.engines.postgres.session import BackupStart, BackupStop, ServerFacts
from drkit.engines.postgres.wal import name_at, name_before
from drkit.jobs.backup_files import SETTLED as STATE_SETTLED
from drkit.jobs.backup_files import Files, Row
from drkit.pipeline.adopting import Sizes
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
    """Everything known once the database's part is over. damaged: (path, block); wal_link: where pg_wal leads to."""

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
    files: Files
    tablespaces: Sequence[Tablespace]
    wal_link: str | None
    vanished: int
    damaged: Sequence[tuple[str, int]]
    parent: str | None
    new_bytes: int


def entries(taken: Taken, maps: Sequence[bytes]) -> Iterator[Entry]:
    """Files and folders in manifest order. maps: ids of those that they point into, in index order."""
    index = {map_id: number for number, map_id in enumerate(maps)}
    before = b""
    for row in taken.files:
        key = row.path + b"/" if row.type == FOLDER else row.path
        if key <= before:
            raise Failed("the files of the backup came out of order", where=os.fsdecode(row.path))
        before = key
        if row.type == FOLDER:
            yield Entry(FOLDER, 0, row.mode, 0, row.mtime, 0, 0, 0, NOTHING, 0, row.path, ())
        else:
            yield _file(row, index)


def _file(row: Row, index: Mapping[bytes, int]) -> Entry:
    return Entry(
        type=FILE,
        flags=SETTLED if row.state & STATE_SETTLED and row.kept == row.size else 0,
        mode=row.mode,
        size=row.kept,
        mtime=row.mtime,
        ctime=row.ctime,
        inode=row.inode,
        device=row.device,
        digest=row.digest,
        crc=row.crc,
        path=row.path,
        extents=tuple((index[map_id], extent) for map_id, extent in row.extents),
    )


def head(taken: Taken) -> Head:
    control = taken.control
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
        tablespaces=tuple(taken.tablespaces),
        wal_link=taken.wal_link,
        source=taken.source,
        damaged=tuple(taken.damaged),
        vanished=taken.vanished,
        writer=taken.writer,
    )


def summary(
    taken: Taken,
    references: Iterable[Reference],
    useful_bytes: int,
    epochs: Iterable[int],
    now: datetime,
) -> Summary:
    segment, start, stop = taken.facts.wal_segment_size, taken.start, taken.stop
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
        size_bytes=taken.files.size_bytes,
        stored_bytes=sum(r.size for r in references if r.kind in (Kind.PACK, Kind.MAP)),
        useful_bytes=useful_bytes,
        new_bytes=taken.new_bytes,
        files=taken.files.files,
        page_errors=len(taken.damaged),
        epochs=sorted(set(epochs)),
    )


def iso(moment: datetime) -> str:
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")
