"""A daemon's facts, made by hand."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from drkit.daemon.api import ArchiveFacts, DaemonFacts, NextRun, Outcome, RunRecord, TargetFacts

NOW = datetime(2026, 7, 1, tzinfo=UTC)
SECOND, HOUR = timedelta(seconds=1), timedelta(hours=1)


def record(outcome: Outcome = Outcome.DONE, *, due: datetime = NOW - HOUR, why: str = "") -> RunRecord:
    return RunRecord("backup.orders.1", "backup", "orders", due, due, due + SECOND, outcome, 0, why, {"id": "b1"})


def archive(*, ready: int = 0, oldest: datetime | None = None, owed: int = 0, problem: str = "") -> ArchiveFacts:
    since = NOW - HOUR if owed else None
    target = TargetFacts("a", owed, owed << 20, since, "000000010000000000000007", NOW - SECOND, "")
    return ArchiveFacts(
        "orders", 7_300_000_000_000_000_001, target.last_file, NOW, ready, ready << 24, oldest, (target,), problem
    )


def facts(
    *,
    recent: Sequence[RunRecord] = (),
    archives: Sequence[ArchiveFacts] = (),
    next_at: datetime = NOW + HOUR,
    running: Sequence[RunRecord] = (),
) -> DaemonFacts:
    bell = NextRun("backup.orders.1", "backup", "orders", next_at)
    return DaemonFacts(
        42, NOW - HOUR, NOW, "/etc/drkit/drkit.toml", tuple(archives), tuple(running), tuple(recent), (bell,)
    )
