"""The words of the demo: what each step found, as lines and rows. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import timedelta

from drills.demo.report import BackupFigures, Decision, Report
from drills.demo.setup import Target
from drills.report.model import DrillReport
from drkit.core.units import format_duration, format_size

DROPPED_TABLE = "A drill drops a table of its own, under load, never one of yours; and restores aside, to just before."
DISK_LOST = "The cluster is configured as sacrificial: kill -9, and its data folder deleted, while clients write."


def server(report: Report) -> Iterator[str]:
    size = format_size(report.database_bytes)
    yield f"PostgreSQL {report.version} with {report.rows:,} orders ({size}), in {report.folder}."
    yield f"It runs as the user {report.user}, with archive_command = 'drkit-wal push %p'."


def repository(targets: Sequence[Target]) -> str:
    names = " and ".join(f"{t.name} ({t.medium}, {t.site})" for t in targets)
    return f"A key, and an encrypted repository on {names}."


def checked(findings: Sequence[dict[str, object]]) -> str:
    return f"{len(findings)} things looked at, none in the way."


def backup(run: BackupFigures) -> str:
    return str(run)


def status(lines: Sequence[str]) -> list[str]:
    return list(lines)


def copies(decisions: Sequence[Decision], targets: Sequence[Target]) -> str:
    return str(decisions)


def verdict(report: DrillReport) -> str:
    return report.sentence


def dropped_table(report: DrillReport) -> list[tuple[str, str]]:
    return []


def disk_lost(report: DrillReport) -> list[tuple[str, str]]:
    return []


def summary(report: Report) -> list[tuple[str, str]]:
    return [("page", str(report.page)), ("time", format_duration(timedelta(seconds=report.seconds)))]
