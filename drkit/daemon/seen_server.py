"""What the server says of its archiver, and what waits in its folder."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from drkit.core.errors import DrkitError
from drkit.engines.postgres.session import Session
from drkit.engines.postgres.wal import WalKind, WalNameError, parse_name
from drkit.jobs.policy_facts import Server
from policies.protection import ServerSeen


@dataclass(frozen=True, slots=True)
class Archiver:
    """Of pg_stat_archiver: the last file that was archived, and the last one that failed since then, "" for none."""

    last_file: str
    last_at: datetime | None
    failing: str

    def last_number(self, timeline: int, segment_bytes: int) -> int | None:
        """The segment number of the last file where it is a segment of this timeline."""
        try:
            name = parse_name(self.last_file)
        except WalNameError:
            return None
        return name.number(segment_bytes) if name.kind is WalKind.SEGMENT and name.timeline == timeline else None


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


def server_seen(server: Server, archiver: Archiver | None, data_dir: Path | None) -> ServerSeen:
    count, oldest = waiting(server.folder or data_dir)
    return ServerSeen(server.reachable, server.why, count, oldest, archiver.failing if archiver else "")


def waiting(data_dir: Path | None) -> tuple[int | None, datetime | None]:
    """How many files wait for archive_command, and since when the oldest does; None where the folder is not seen."""
    if data_dir is None:
        return None, None
    count, oldest = 0, None
    try:
        for path in (data_dir / "pg_wal" / "archive_status").iterdir():
            if path.suffix == ".ready":
                try:
                    made = path.stat().st_mtime
                except FileNotFoundError:
                    continue  # it was archived just now
                count, oldest = count + 1, made if oldest is None else min(oldest, made)
    except OSError:
        return None, None
    return count, None if oldest is None else datetime.fromtimestamp(oldest, UTC)
