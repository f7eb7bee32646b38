"""Timelines as retention sees them: which backups lead along a path, and from which the recoverable time begins.

Pure. Positions are bytes in the log; a path is the ancestry of one timeline, oldest first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Protocol


class Placed(Protocol):
    """A backup's place: all of it lies before `stop` on `timeline`."""

    @property
    def id(self) -> str: ...
    @property
    def timeline(self) -> int: ...
    @property
    def start(self) -> int: ...
    @property
    def stop(self) -> int: ...
    @property
    def stopped(self) -> datetime: ...


@dataclass(frozen=True, slots=True)
class Step:
    """A timeline of a path, from `begin` to where the path leaves it; end None: the last one."""

    timeline: int
    begin: int
    end: int | None


@dataclass(frozen=True, slots=True)
class Path:
    """The path that recovery to the timeline `id` follows, oldest first; its last step is that timeline."""

    id: int
    steps: tuple[Step, ...]

    def holds(self, one: Placed) -> bool:
        """Whether recovery along this path can begin with a backup."""
        return any(s.timeline == one.timeline and (s.end is None or one.stop <= s.end) for s in self.steps)


@dataclass(frozen=True, slots=True)
class Lines:
    """The timelines of one system. alive: when the newest WAL of a timeline was stored, by the store's clock.

    unread: why a history could not be read; nothing is known then of who descends from whom.
    """

    paths: tuple[Path, ...] = ()
    alive: Mapping[int, datetime] = field(default_factory=dict)
    unread: str = ""


def in_use(path: Path, lines: Lines, backups: Sequence[Placed], since: datetime, slack: timedelta) -> bool:
    """Whether anything was written on a path's own timeline after `since`; stores' clocks may be `slack` behind."""
    stored = lines.alive.get(path.id)
    if stored is not None and stored + slack >= since:
        return True
    return any(one.timeline == path.id and one.stopped + slack >= since for one in backups)


def base(path: Path, trusted: Sequence[Placed], opens: datetime | None) -> Placed | None:
    """From which backup everything since `opens` can be reached along a path: the newest that ended before.

    The oldest one where none did, or where `opens` is None; None: no backup leads along the path.
    """
    fitting = [one for one in trusted if path.holds(one)]
    before = [] if opens is None else [one for one in fitting if one.stopped < opens]
    if before:
        return max(before, key=lambda one: (one.stopped, one.stop))
    return min(fitting, key=lambda one: one.start, default=None)


def superseded(one: Placed, trusted: Sequence[Placed], lines: Lines) -> bool:
    """Whether a later backup continues what this one holds: it lies on the path of the later one's timeline."""
    paths = {path.id: path for path in lines.paths}
    for later in trusted:
        if later.stopped <= one.stopped or later.id == one.id:
            continue
        if later.timeline == one.timeline:
            return True
        path = paths.get(later.timeline)
        if path is not None and path.holds(one):
            return True
    return False
