"""Which archived WAL a target keeps, as stretches of segments. Pure; segments are counted from position 0.

Inside the recovery window all WAL stays from the start of the backup with which it begins, on every path in use;
outside of it what each kept backup needs by itself. Without a window all WAL stays from the oldest kept backup on.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta

from policies.lineage import Lines, Path, base, in_use
from policies.retention import Copy
from policies.trusted_time import Reference


@dataclass(frozen=True, slots=True)
class Stretch:
    """Segments of one timeline, both ends inclusive; last None: and all that follow."""

    timeline: int
    first: int
    last: int | None
    reason: str

    def holds(self, timeline: int, number: int) -> bool:
        return timeline == self.timeline and self.first <= number and (self.last is None or number <= self.last)


def kept_wal(
    kept: Sequence[Copy],
    trusted: frozenset[str],
    lines: Lines,
    found: Reference | None,
    pitr: timedelta | None,
    *,
    segment_bytes: int,
    skew: timedelta,
    timelines: Iterable[int],
) -> list[Stretch]:
    """Of one system on one target. kept: its backups that stay · timelines: those that have WAL there.

    What exact segments kept backups reference is not repeated here: references say that to the byte.
    """
    known = {path.id for path in lines.paths}
    if lines.unread:
        return [Stretch(t, 0, None, f"a timeline's history cannot be read: {lines.unread}") for t in timelines]
    if not kept or (pitr is not None and found is None):
        return [Stretch(t, 0, None, "no backup tells what is needed") for t in timelines]
    spans = [Stretch(t, 0, None, "nothing tells where this timeline comes from") for t in timelines if t not in known]
    good = [one for one in kept if one.whole and one.id in trusted]
    opens = None if pitr is None or found is None else found.opens(pitr)
    for path in lines.paths:
        if opens is not None and not in_use(path, lines, kept, opens, skew):
            continue
        first = base(path, good, opens)
        if first is None:
            spans.append(Stretch(path.id, 0, None, "no backup leads along this timeline"))
            continue
        why = f"recovery from {first.id} to any instant since"
        spans += _along(path, first.start, segment_bytes, why)
    spans += [
        Stretch(one.timeline, one.start // segment_bytes, max(0, one.stop - 1) // segment_bytes, f"backup {one.id}")
        for one in kept
    ]
    return spans


def _along(path: Path, start: int, segment_bytes: int, reason: str) -> list[Stretch]:
    """From a position to the end of a path; the segment of a switch point counts for both timelines."""
    found = []
    for step in path.steps:
        if step.end is not None and step.end < start:
            continue
        first = max(start, step.begin) // segment_bytes
        found.append(Stretch(step.timeline, first, None if step.end is None else step.end // segment_bytes, reason))
    return found
