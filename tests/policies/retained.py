"""Histories of backups for tests of retention: made by a server with clocks that may be wrong."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from policies.lineage import Lines, Path, Step
from policies.retention import Copy, Plan, Windows, decide

START = datetime(2026, 1, 1, 1, tzinfo=UTC)
DAY = timedelta(days=1)
SKEW = timedelta(minutes=1)
SEGMENT = 1 << 24
ONE = Lines((Path(1, (Step(1, 0, None),)),))


@dataclass(frozen=True, slots=True)
class Span:
    """Calendar time as a test needs it."""

    days: float = 0
    months: int = 0

    def before(self, moment: datetime) -> datetime:
        if not self.months:
            return moment - self.days * DAY
        index = moment.year * 12 + moment.month - 1 - self.months
        return moment.replace(year=index // 12, month=index % 12 + 1, day=min(moment.day, 28)) - self.days * DAY


GFS = Windows("Europe/Berlin", 14 * DAY, Span(7), Span(28), Span(months=12), Span(months=84), 3)


def copy(number: int, at: datetime, **facts: object) -> Copy:
    """The `number`th backup of a server, by its position in the log; stored when it ended."""
    base = {"system": "1", "timeline": 1, "start": number * 10 * SEGMENT, "stop": number * 10 * SEGMENT + SEGMENT}
    # the name says nothing of the order
    named = {"id": f"{(number * 7919) % 10007:05}-{number}", "stopped": at, "stored": at + timedelta(seconds=5)}
    return Copy(**{**base, **named, **facts})  # type: ignore[arg-type]


def daily(days: int, start: datetime = START, first: int = 1) -> list[Copy]:
    return [copy(first + day, start + day * DAY) for day in range(days)]


def plan(copies: Iterable[Copy], windows: Windows = GFS, lines: Lines = ONE, latest: datetime | None = None) -> Plan:
    members = list(copies)
    systems = {one.system: lines for one in members}
    return decide(members, windows, systems, skew=SKEW, latest=latest)


def reasons(found: Plan) -> dict[str, tuple[str, ...]]:
    return {item.copy.id: item.reasons for item in found.items}


def gone(found: Plan) -> set[str]:
    return {item.copy.id for item in found.going}
