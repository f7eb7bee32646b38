"""A point in time as it is asked for, what is known when it is chosen, and the course that leads to it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from drkit.engines.postgres.lsn import Lsn
from drkit.engines.postgres.records import RestorePoint, Transaction
from drkit.engines.postgres.recovery import RecoveryTarget
from drkit.engines.postgres.timeline import Timeline, Timelines
from drkit.jobs.archive import Archived
from drkit.repository.catalogue import Backup, Standing


@dataclass(frozen=True, slots=True)
class Wish:
    """What was asked for. target: its `timeline` is not used; timeline: 'latest', 'current', a number, "": the default.

    source: read from this target only · without: targets given up · scan: whether WAL may be read to find the point
    text: the point as it was typed, to be echoed beside what was understood.
    """

    target: RecoveryTarget
    backup: str = ""
    timeline: str = ""
    source: str = ""
    without: frozenset[str] = frozenset()
    scan: bool = True
    text: str = ""


@dataclass(frozen=True, slots=True)
class Facts:
    """backups: rising by stop; readable: targets in the order of reading; doubtful: target -> why it cannot be asked.

    Targets given up are in neither. unread: history files that open nowhere -> why · unopened: backups whose manifest
    opens nowhere -> standing by target.
    """

    backups: Sequence[Backup]
    timelines: Timelines
    segment_bytes: int
    readable: Sequence[str]
    doubtful: Mapping[str, str]
    unread: Mapping[str, str]
    unopened: Mapping[str, Mapping[str, Standing]] = field(default_factory=dict)


class Look(Protocol):
    """Facts that cost reading, asked for only when needed. Segment numbers count along the path."""

    def archived(self, path: Timeline, first: int) -> Archived: ...
    def last_transaction(self, path: Timeline, first: int, last: int) -> Transaction | None: ...
    def record_at_or_after(self, path: Timeline, lsn: Lsn, last: int) -> Lsn | None: ...
    def ends_of(self, path: Timeline, first: int, last: int, xid: int) -> Iterator[Transaction]: ...
    def restore_points(self, path: Timeline, first: int, last: int) -> Iterator[RestorePoint]: ...
    def stored_at(self, path: Timeline, number: int) -> datetime | None: ...


@dataclass(frozen=True, slots=True)
class Reach:
    """The WAL of a path from a backup's start: segments first to last without a gap on the targets to read from."""

    archived: Archived
    first: int
    last: int
    end: Lsn


@dataclass(frozen=True, slots=True)
class Skipped:
    """A newer backup that could not be used. standings: on the targets that are read · opened: its manifest's head."""

    backup: str
    standings: Mapping[str, Standing]
    opened: bool


@dataclass(frozen=True, slots=True)
class Course:
    """What recovery will do. target: as the server gets it, timeline resolved.

    sources: targets that hold the backup; wal_sources: targets that recovery asks for WAL, also such as cannot be asked
    just now; both in order.
    last_commit: time of the latest reachable commit, None where nobody looked.
    skipped: newer backups that would have been taken, had they been whole; each has its note.
    """

    backup: Backup
    path: Timeline
    target: RecoveryTarget
    sources: Sequence[str]
    wal_sources: Sequence[str]
    reach: Reach
    last_commit: datetime | None
    notes: Sequence[str]
    skipped: Sequence[Skipped] = ()


def stop_of(backup: Backup) -> Lsn:
    return Lsn.parse(backup.summary.stop_lsn)
