"""Timelines: history files, ancestry, and the segments along a path.

History file TTTTTTTT.history (`src/backend/access/transam/timeline.c`, readTimeLineHistory): one line per ancestor,
oldest first, fields parted by white space (tabs, as the server writes it); '#' begins a comment line:

    <ancestor timeline> \\t <switch point X/Y> \\t <reason, free text>

The switch point is the end of the ancestor and the begin of what follows it. Timeline 1 has no file.

Which file holds a segment of the path (XLogFileReadAnyTLI in `src/backend/access/transam/xlogrecovery.c`): the server
asks for the newest timeline of the path that begins in or before that segment, then for older ones. So the segment that
holds a switch point goes by the *new* timeline's name: the server that switched copied the old part into it. Its old
name may exist too (full, when the old server lived on, or as .partial) and holds other bytes after the switch.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from drkit.core.errors import Damage, Missing
from drkit.engines.postgres.lsn import NO_LSN, Lsn
from drkit.engines.postgres.wal import WalName, segment_name

_LINE = re.compile(r"\s*([0-9]+)\s+([0-9A-Fa-f]{1,8}/[0-9A-Fa-f]{1,8})(?:\s+(.*))?", re.ASCII | re.DOTALL)


class HistoryDamaged(Damage):
    """A history file that the server would not accept."""


class UnknownTimeline(Missing):
    """No history file tells of this timeline, or the timeline does not lie on the path."""


@dataclass(frozen=True, slots=True)
class Ancestor:
    """`timeline` was followed until `switch`, where its successor begins."""

    timeline: int
    switch: Lsn
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Timeline:
    """A timeline with all its ancestors, oldest first: the path that recovery to it follows."""

    id: int
    ancestors: tuple[Ancestor, ...] = ()

    @property
    def path(self) -> tuple[int, ...]:
        """The timelines in the order in which replay meets them."""
        return (*(ancestor.timeline for ancestor in self.ancestors), self.id)

    @property
    def begin(self) -> Lsn:
        """Where this timeline left its parent; 0/0 for a first one."""
        return self.ancestors[-1].switch if self.ancestors else NO_LSN

    def begin_of(self, timeline: int) -> Lsn:
        """Where a timeline of the path begins. Raises UnknownTimeline when it is not on the path."""
        index = self._index(timeline)
        return self.ancestors[index - 1].switch if index else NO_LSN

    def end_of(self, timeline: int) -> Lsn | None:
        """Where the path leaves a timeline; None for the last one. Raises UnknownTimeline."""
        index = self._index(timeline)
        return self.ancestors[index].switch if index < len(self.ancestors) else None

    def timeline_at(self, lsn: Lsn) -> int:
        """The timeline that the byte at `lsn` belongs to on this path (tliOfPointInHistory)."""
        for ancestor in self.ancestors:
            if lsn < ancestor.switch:
                return ancestor.timeline
        return self.id

    def holds(self, timeline: int, end: Lsn) -> bool:
        """Whether everything before `end` on `timeline` is part of this path.

        True for a backup's (timeline, stop) means that it can be recovered along this path; a backup that stopped
        after the switch is on another branch.
        """
        if timeline not in self.path:
            return False
        switch = self.end_of(timeline)
        return switch is None or end <= switch

    def segment(self, number: int, segment_size: int) -> WalName:
        """The name under which recovery along this path first asks for a segment."""
        return self.candidates(number, segment_size)[0]

    def candidates(self, number: int, segment_size: int) -> list[WalName]:
        """All names under which the server may ask for a segment, in its order: newest timeline first.

        More than one only helps where a newer file is missing; behind the switch point the older files' bytes are
        those of another branch and the server does not read them.
        """
        names = []
        for timeline in reversed(self.path):
            if self.begin_of(timeline).segment(segment_size) <= number:
                names.append(segment_name(timeline, number, segment_size))
        return names

    def segments(self, start: Lsn, end: Lsn, segment_size: int) -> Iterator[WalName]:
        """The segments that hold the bytes [start, end) of the path, in order; at least the one of `start`."""
        last = max(end.segment_before(segment_size) if end else 0, start.segment(segment_size))
        for number in range(start.segment(segment_size), last + 1):
            yield self.segment(number, segment_size)

    def _index(self, timeline: int) -> int:
        try:
            return self.path.index(timeline)
        except ValueError:
            why = f"its path is {' > '.join(map(str, self.path))}"
            raise UnknownTimeline(f"timeline {timeline} is no ancestor of timeline {self.id}", why=why) from None


def parse_history(timeline: int, content: bytes) -> Timeline:
    """Parse the content of `timeline`'s history file.

    Raises HistoryDamaged for a line that is none, ids that do not rise up to `timeline`, or switch points that fall.
    """
    where = f"{timeline:08X}.history"
    ancestors: list[Ancestor] = []
    for line in content.decode("utf-8", "replace").split("\n"):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        match = _LINE.fullmatch(line)
        if match is None:
            raise HistoryDamaged("a history file has a line that is none", where=where, why=repr(line[:80]))
        ancestor = Ancestor(int(match[1]), Lsn.parse(match[2]), (match[3] or "").strip())
        if ancestors and ancestor.timeline <= ancestors[-1].timeline:
            raise HistoryDamaged("the timelines in a history file do not rise", where=where, why=repr(line[:80]))
        if ancestors and ancestor.switch < ancestors[-1].switch:
            raise HistoryDamaged("the switch points in a history file fall", where=where, why=repr(line[:80]))
        ancestors.append(ancestor)
    if ancestors and ancestors[-1].timeline >= timeline:
        why = f"it names timeline {ancestors[-1].timeline} as an ancestor"
        raise HistoryDamaged("a history file names later timelines than its own", where=where, why=why)
    if not ancestors and timeline != 1:
        raise HistoryDamaged("a history file names no ancestor", where=where)
    return Timeline(timeline, tuple(ancestors))


class Timelines:
    """All timelines of one cluster that are known: 1, those with a history file, and their ancestors."""

    def __init__(self, histories: Iterable[Timeline], also: Iterable[int] = ()) -> None:
        """`also` names timelines without a history file that WAL or backups prove (a cluster's first one)."""
        self._known: dict[int, Timeline] = {1: Timeline(1)}
        for timeline in also:
            self._known.setdefault(timeline, Timeline(timeline))
        for history in histories:
            self._known[history.id] = history
            for index, ancestor in enumerate(history.ancestors):
                implied = Timeline(ancestor.timeline, history.ancestors[:index])
                if not self._known.get(ancestor.timeline, Timeline(0)).ancestors:
                    self._known[ancestor.timeline] = implied

    def __iter__(self) -> Iterator[Timeline]:
        """By id."""
        return iter(sorted(self._known.values(), key=lambda timeline: timeline.id))

    def __contains__(self, timeline: int) -> bool:
        return timeline in self._known

    def get(self, timeline: int) -> Timeline:
        """Raises UnknownTimeline."""
        try:
            return self._known[timeline]
        except KeyError:
            known = ", ".join(str(one.id) for one in self)
            raise UnknownTimeline(f"timeline {timeline} is not known", why=f"known are {known}") from None

    def through(self, timeline: int, end: Lsn) -> list[Timeline]:
        """The timelines whose path holds everything up to `end` on `timeline`, by id: where a backup can go."""
        return [candidate for candidate in self if candidate.holds(timeline, end)]

    def children(self, timeline: int) -> list[Timeline]:
        """The timelines that branched off directly, by id."""
        return [one for one in self if one.ancestors and one.ancestors[-1].timeline == timeline]
