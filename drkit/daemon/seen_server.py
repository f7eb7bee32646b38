"""What the server says of its archiver, and what waits in its folder."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from drkit.core.errors import DrkitError
from drkit.engines.postgres.session import Session
from drkit.engines.postgres.wal import WalKind, WalNameError, parse_name
from drkit.jobs.policy_server import Server
from policies.sights import ServerSeen


@dataclass(frozen=True, slots=True)
class Archiver:
    """Of pg_stat_archiver: the last file that was archived, and the last one that failed since then, "" for none."""

    last_file: str
    last_at: datetime | None
    failing: str


@dataclass(frozen=True, slots=True)
class Queue:
    """Of pg_wal/archive_status: the files that wait for archive_command, since when the oldest does, and those that it
    has taken and that are still there."""

    ready: frozenset[str]
    oldest: datetime | None
    done: frozenset[str]


@dataclass(frozen=True, slots=True)
class Testimony:
    """What a server and its folder say of archiving, taken before the targets are listed: what they call archived must
    then be there. archiver, queue None: not seen."""

    server: Server
    archiver: Archiver | None
    queue: Queue | None

    def archived(self, segment_bytes: int) -> Iterator[tuple[int, int]]:
        """(timeline, number) of segments that were archived by this word, the last ones of it.

        The statistics are empty after a crash. The folder then tells: a segment that is complete is marked .ready when
        its last byte is written and .done when it was archived, and keeps the mark as long as it is there
        (XLogArchiveNotify, XLogArchiveCleanup in src/backend/access/transam/xlogarchive.c). A server that recovers
        from an archive marks what it got .done as well, under the timelines of before.
        """
        if self.archiver is not None:
            yield from _numbered([self.archiver.last_file], segment_bytes)
        timeline, queue = self.server.timeline, self.queue
        if timeline is None or queue is None:
            return
        ends = [number for line, number in _numbered(queue.done, segment_bytes) if line == timeline]
        if self.server.archives and self.server.position is not None:
            ends.append(self.server.position.segment(segment_bytes) - 1)
        waiting = [number - 1 for line, number in _numbered(queue.ready, segment_bytes) if line == timeline]
        if ends:
            yield timeline, min([max(ends), *waiting])


def _numbered(names: Iterable[str], segment_bytes: int) -> Iterator[tuple[int, int]]:
    """The segments that WAL files are about; history files are about none."""
    for text in names:
        with suppress(WalNameError):
            name = parse_name(text)
            if name.kind is not WalKind.HISTORY:
                yield name.timeline, name.number(segment_bytes)


def hear(server: Server, connection: str, data_dir: Path | None) -> Testimony:
    """One session at a server that answers, one listing."""
    return Testimony(server, ask_archiver(connection) if server.reachable else None, queue(server.folder or data_dir))


def ask_archiver(connection: str) -> Archiver | None:
    """None where the server does not say."""
    sql = """select coalesce(last_archived_wal, ''), last_archived_time,
                    case when last_failed_time > coalesce(last_archived_time, '-infinity')
                         then last_failed_wal else '' end
             from pg_stat_archiver"""
    try:
        with Session.open(connection, "drkit status") as session:
            ((last, at, failing),) = session.rows(sql)
    except DrkitError:
        return None
    return Archiver(str(last), at, str(failing or ""))


def server_seen(heard: Testimony) -> ServerSeen:
    server, queue = heard.server, heard.queue
    count, oldest = (len(queue.ready), queue.oldest) if queue else (None, None)
    return ServerSeen(server.reachable, server.why, count, oldest, heard.archiver.failing if heard.archiver else "")


def queue(data_dir: Path | None) -> Queue | None:
    """None where the folder is not seen."""
    if data_dir is None:
        return None
    ready, done, oldest = set[str](), set[str](), None
    try:
        for path in (data_dir / "pg_wal" / "archive_status").iterdir():
            if path.suffix == ".done":
                done.add(path.stem)
            if path.suffix == ".ready":
                try:
                    made = path.stat().st_mtime
                except FileNotFoundError:
                    continue  # it was archived just now
                ready.add(path.stem)
                oldest = made if oldest is None else min(oldest, made)
    except OSError:
        return None
    return Queue(frozenset(ready), None if oldest is None else datetime.fromtimestamp(oldest, UTC), frozenset(done))
