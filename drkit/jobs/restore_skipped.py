"""Backups that would have led to the point, had they been whole: never passed over in silence."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from drkit.core.errors import Damage, UsageError
from drkit.engines.postgres.lsn import Lsn
from drkit.engines.postgres.timeline import Timeline
from drkit.jobs.restore_points import Facts, Skipped, stop_of
from drkit.repository.catalogue import Backup, Standing, State
from drkit.repository.layout import RunId

_GONE = frozenset({State.EXPIRED, State.WITHDRAWN})  # on purpose: nobody misses them


@dataclass(frozen=True, slots=True)
class Point:
    """fits: whether a backup ended before the point · moment: its time, None where only the WAL tells."""

    fits: Callable[[Backup], bool]
    moment: datetime | None = None


ANYWHERE = Point(lambda _: True)


def at_time(moment: datetime) -> Point:
    return Point(lambda backup: backup.summary.stopped <= moment, moment)


def at_lsn(lsn: Lsn) -> Point:
    return Point(lambda backup: stop_of(backup) <= lsn)


def told(standings: Mapping[str, Standing]) -> str:
    """`target: state, why` of each."""
    return "; ".join(f"{n}: {s.state.value}" + (f", {s.why}" if s.why else "") for n, s in standings.items())


def among(standings: Mapping[str, Standing], sources: Sequence[str]) -> dict[str, Standing]:
    """The standings on the targets that are read."""
    return {name: one for name, one in standings.items() if name in sources}


def is_lost(backup: Backup, sources: Sequence[str]) -> bool:
    """Whether damage keeps it from being used: broken on a target that is read, good on none of them."""
    states = {one.state for one in among(backup.standings, sources).values()}
    return State.BROKEN in states and State.GOOD not in states


def passed_over(
    facts: Facts, sources: Sequence[str], path: Timeline, chosen: Backup, point: Point
) -> tuple[Skipped, ...]:
    """The backups between `chosen` and the point that are good on none of the sources, rising by their end.

    Then those whose manifest opens nowhere, and that began after `chosen` did: whether they would have served cannot
    be known.
    """
    found = []
    for backup in facts.backups:
        here = among(backup.standings, sources)
        states = {one.state for one in here.values()}
        newer = path.holds(backup.summary.timeline, stop_of(backup)) and stop_of(backup) > stop_of(chosen)
        if newer and point.fits(backup) and State.GOOD not in states and not states <= _GONE:
            found.append(Skipped(backup.summary.backup, here, opened=True))
    began = chosen.summary.run.seconds
    for name, standings in facts.unopened.items():
        here = among(standings, sources)
        if here and _may_lie_between(name, began, point.moment):
            found.append(Skipped(name, here, opened=False))
    return tuple(found)


def ending_behind(backups: Sequence[Backup], path: Timeline, end: Lsn) -> str | None:
    """A backup on the path that ended behind `end`, in words: its WAL was archived, or its manifest were not there."""
    later = [
        backup for backup in backups if stop_of(backup) > end and path.holds(backup.summary.timeline, stop_of(backup))
    ]
    if not later:
        return None
    last = max(later, key=stop_of)
    return f"backup {last.summary.backup} ended behind it, at {stop_of(last)}, {last.summary.stopped_at}"


def _may_lie_between(name: str, began: int, moment: datetime | None) -> bool:
    try:
        seconds = RunId.parse(name).seconds
    except UsageError:
        return False
    return seconds > began and (moment is None or datetime.fromtimestamp(seconds, UTC) <= moment)


def note_of(skipped: Skipped) -> str:
    """The plan's sentence."""
    what = "" if skipped.opened else ", which no target can open,"
    return f"PASSED OVER: newer backup {skipped.backup}{what} cannot be used ({told(skipped.standings)})"


def refuse_other_end(skipped: Sequence[Skipped], chosen: Backup, facts: Facts) -> None:
    """Raises Damage where a damaged backup's end was meant: WAL cannot make up for it without another point."""
    for one in reversed(skipped):
        if State.BROKEN not in {s.state for s in one.standings.values()}:
            continue
        stops = [b.summary.stop_lsn for b in facts.backups if b.summary.backup == one.backup]
        cure = f"an older one is whole: --to end --backup {chosen.summary.backup}"
        cure += f"; with WAL it reaches the same point: --to-lsn {stops[0]}" if stops else "; or --to latest"
        raise Damage("the newest backup is damaged", where=one.backup, why=told(one.standings), cure=cure)


def only_damaged(point: str, lost: Sequence[Backup], sources: Sequence[str]) -> Damage:
    """The error where no whole backup leads to the point and a damaged one would."""
    names = ", ".join(backup.summary.backup for backup in lost)
    why = "; ".join(told(among(backup.standings, sources)) for backup in lost[-3:])
    cure = "`drkit verify --repair` mends what any other target has whole"
    return Damage(f"the backups that lead to {point} are damaged", where=names, why=why, cure=cure)
