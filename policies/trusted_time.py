"""Which backups' times can be believed, and what therefore counts as now. Pure: no clock, no I/O.

Retention never asks the wall clock: what counts as now is when the newest backup with a believable time ended, so a
dead scheduler or a clock that jumps lets nothing expire. A time is believed when the store's own clock agrees with it
and it is not before that of the backup before it. Where host and store share a clock that is years ahead, both agree:
a long time without any backup is not counted either, until it has been followed by a third of its length of backups.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise

SILENCE = timedelta(days=62)
"""So long a time without a backup is always counted: monthly backups, and one of them missed."""
_FOLLOWED = 3
_YEAR = timedelta(days=366)  # a longer silence is no schedule: it does not count as what followed an earlier one either
_COMMIT = timedelta(hours=1)  # from the end of a backup until its manifest is stored on the last target


@dataclass(frozen=True, slots=True)
class Stamp:
    """When a backup ended. stop: its last position, bytes · stopped: by its host's clock · stored: by the earliest
    that any store tells of its manifest, None where none does.
    """

    id: str
    timeline: int
    stop: int
    stopped: datetime
    stored: datetime | None


def doubts(stamps: Iterable[Stamp], skew: timedelta, latest: datetime | None) -> Mapping[str, str]:
    """Of one system: id -> why its time is not believed.

    latest: the store's clock now, None where unknown; what lies past it is of a clock that was wrong.
    """
    lines: dict[int, list[Stamp]] = {}
    for one in stamps:
        lines.setdefault(one.timeline, []).append(one)
    found: dict[str, str] = {}
    for line in lines.values():
        line.sort(key=lambda one: (one.stop, one.stopped, one.id))
        before: datetime | None = None
        for one in line:
            why = _doubt(one, before, skew, latest)
            if why:
                found[one.id] = why
            elif before is None and _late(one, skew):
                found[one.id] = "it was stored long after its time, and no backup before it bears that out"
                before = one.stopped
            else:
                before = one.stopped if before is None else max(before, one.stopped)
    return found


def _doubt(one: Stamp, before: datetime | None, skew: timedelta, latest: datetime | None) -> str:
    if one.stored is None:
        return "no store tells when it was stored"
    if latest is not None and max(one.stopped, one.stored) > latest + skew:
        return "its time lies in the future of the store's clock"
    if one.stopped > one.stored + skew:
        return "by its time it ended after it was stored"
    if before is not None and one.stopped < before - skew:
        return "by its time it ended before the backup before it"
    return ""


def _late(one: Stamp, skew: timedelta) -> bool:
    """A copy made later, or a clock that was behind: what came before it tells them apart."""
    return one.stored is not None and one.stored > one.stopped + skew + _COMMIT


@dataclass(frozen=True, slots=True)
class Reference:
    """What counts as now. leaps: (end of a long silence, how much of it is not counted), the newest first."""

    now: datetime
    leaps: tuple[tuple[datetime, timedelta], ...] = ()

    def of(self, moment: datetime) -> datetime:
        """What counts as now for a backup that ended at `moment`."""
        return self.now - sum((length for end, length in self.leaps if moment < end), timedelta(0))

    def opens(self, window: timedelta) -> datetime:
        """Where a window that reaches back from now begins; a silence within it is not counted."""
        begin = self.now - window
        for end, length in self.leaps:
            if end > begin:
                begin -= length
        return begin


def reference(trusted: Sequence[datetime]) -> Reference | None:
    """From the ends of a system's backups whose times are believed; None where there is none."""
    ends = sorted(set(trusted), reverse=True)
    if not ends:
        return None
    leaps: list[tuple[datetime, timedelta]] = []
    left_out = timedelta(0)
    for younger, older in pairwise(ends):
        silence, since = younger - older, ends[0] - younger - left_out
        if silence > SILENCE and silence > _FOLLOWED * since:
            leaps.append((younger, silence))
            if silence > _YEAR:
                left_out += silence
    return Reference(ends[0], tuple(leaps))
