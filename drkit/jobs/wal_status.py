"""How far archiving is on each target, what is missing in between, what is owed and what waits."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from drkit.core.errors import DrkitError
from drkit.crypto.keys import Ring
from drkit.engines.postgres.timeline import Timeline, Timelines, parse_history
from drkit.engines.postgres.wal import WalKind, WalName, WalNameError, parse_name, segment_name
from drkit.repository.layout import ClusterLayout, Kind
from drkit.repository.leases import tombstones
from drkit.repository.repository import Repository
from drkit.repository.spool import Spool
from drkit.repository.target import Target
from drkit.repository.wal import open_wal, read_facts
from storage_backends.api import Key
from storage_backends.errors import StorageError


@dataclass(frozen=True, slots=True)
class Gap:
    """Segments that are missing, first and last included."""

    first: str
    last: str
    count: int


@dataclass(frozen=True, slots=True)
class TimelineStatus:
    """One timeline on one target. gaps: inside it, and between its parent's end and its begin; expired WAL is none."""

    timeline: int
    first: str
    last: str
    segments: int
    gaps: tuple[Gap, ...]


@dataclass(frozen=True, slots=True)
class TargetStatus:
    """error: why the target could not be listed; then nothing else is known. stored_bytes: of all WAL objects.

    owed: debts of this host to it, the first of them and since when · resting: why it is not asked just now.
    """

    name: str
    error: str = ""
    timelines: tuple[TimelineStatus, ...] = ()
    stored_bytes: int = 0
    owed: int = 0
    owed_first: str = ""
    owed_since: str = ""
    resting: str = ""


@dataclass(frozen=True, slots=True)
class WalStatus:
    """waiting: files that PostgreSQL has not handed over yet (archive_status/*.ready), oldest first; None: not seen."""

    system_identifier: int
    segment_bytes: int | None
    targets: tuple[TargetStatus, ...]
    waiting: tuple[str, ...] | None

    @property
    def whole(self) -> bool:
        """Every target was listed, and nothing is missing or owed."""
        return not any(t.error or t.owed or any(line.gaps for line in t.timelines) for t in self.targets)


def wal_status(
    repository: Repository,
    system_identifier: int,
    spool: Spool,
    *,
    segment_bytes: int | None,
    data_dir: Path | None,
    resting: Mapping[str, str],
) -> WalStatus:
    """List the WAL of every target. A target that fails is told of, never taken for empty.

    segment_bytes None: what the first object found says. Cost: one listing of all WAL names for each target.
    """
    layout = ClusterLayout(system_identifier)
    found: list[TargetStatus] = []
    for target in repository.targets:
        try:
            size = segment_bytes or _segment_bytes(target, layout)
            segment_bytes = size or segment_bytes
            lines, stored = _lines(target, layout, repository.ring, size) if size else ((), 0)
        except (StorageError, DrkitError) as error:
            found.append(_with_debts(TargetStatus(target.name, error=str(error)), spool, resting))
            continue
        found.append(_with_debts(TargetStatus(target.name, "", tuple(lines), stored), spool, resting))
    for name, problem in repository.absent.items():
        found.append(_with_debts(TargetStatus(name, error=str(problem)), spool, resting))
    return WalStatus(system_identifier, segment_bytes, tuple(found), _waiting(data_dir))


def _with_debts(status: TargetStatus, spool: Spool, resting: Mapping[str, str]) -> TargetStatus:
    first = next(spool.debts(status.name), None)
    return TargetStatus(
        status.name,
        status.error,
        status.timelines,
        status.stored_bytes,
        spool.count(status.name),
        first.file if first else "",
        first.since if first else "",
        resting.get(status.name, ""),
    )


def _segment_bytes(target: Target, layout: ClusterLayout) -> int | None:
    for info in target.backend.list(layout.folder("wal")):
        return read_facts(target, info.key).segment_bytes
    return None


def _lines(target: Target, layout: ClusterLayout, ring: Ring, size: int) -> tuple[Sequence[TimelineStatus], int]:
    numbers: dict[int, list[int]] = {}
    stored = 0
    for info in target.backend.list(layout.folder("wal")):
        stored += info.size_bytes
        name = _segment(info.key)
        if name is not None:
            numbers.setdefault(name.timeline, []).append(name.number(size))
    expired: dict[int, list[int]] = {}
    for key in tombstones(target, layout, ring):
        name = _segment(key)
        if name is not None:
            expired.setdefault(name.timeline, []).append(name.number(size))
    timelines = Timelines(_histories(target, layout, ring), also=numbers)
    seen = {timeline: sorted({*known, *expired.get(timeline, ())}) for timeline, known in numbers.items()}
    lines = []
    for timeline in sorted(numbers):
        known = sorted(numbers[timeline])
        gaps = [*_before(timelines.get(timeline), seen, size), *_inside(timeline, seen[timeline], size)]
        first, last = (segment_name(timeline, number, size).text for number in (known[0], known[-1]))
        lines.append(TimelineStatus(timeline, first, last, len(known), tuple(gaps)))
    return lines, stored


def _segment(key: str) -> WalName | None:
    try:
        name = parse_name(key.rsplit("/", 1)[-1])
    except WalNameError:
        return None
    return name if name.kind is WalKind.SEGMENT else None


def _histories(target: Target, layout: ClusterLayout, ring: Ring) -> Iterator[Timeline]:
    for info in target.backend.list(layout.folder("history")):
        name = parse_name(info.key.rsplit("/", 1)[-1])
        with open_wal(ring, target, Key(info.key), Kind.HISTORY) as found:
            yield parse_history(name.timeline, b"".join(found.pieces()))


def _inside(timeline: int, known: Sequence[int], size: int) -> Iterator[Gap]:
    for before, after in pairwise(known):
        if after > before + 1:
            yield _gap(timeline, before + 1, after - 1, size)


def _before(timeline: Timeline, numbers: Mapping[int, Sequence[int]], size: int) -> Iterator[Gap]:
    """What lacks between the parent's last segment and this timeline's first, where the parent is archived at all."""
    if not timeline.ancestors:
        return
    parent, begin = timeline.ancestors[-1].timeline, timeline.begin.segment(size)
    mine = min(numbers[timeline.id])
    if mine > begin:
        yield _gap(timeline.id, begin, mine - 1, size)
    below = [number for number in numbers.get(parent, ()) if number < begin]
    if below and max(below) < begin - 1:
        yield _gap(parent, max(below) + 1, begin - 1, size)


def _gap(timeline: int, first: int, last: int, size: int) -> Gap:
    one, other = (segment_name(timeline, number, size).text for number in (first, last))
    return Gap(one, other, last - first + 1)


def _waiting(data_dir: Path | None) -> tuple[str, ...] | None:
    if data_dir is None:
        return None
    try:
        ready = (data_dir / "pg_wal" / "archive_status").glob("*.ready")
        return tuple(sorted((path.stem for path in ready), key=_order))
    except OSError:
        return None


def _order(name: str) -> tuple[bool, str]:
    """History files first, as PostgreSQL hands them over; then by name."""
    return not name.endswith(".history"), name


def lines_of(status: WalStatus) -> Iterable[tuple[TargetStatus, TimelineStatus | None]]:
    """One row for each timeline of each target; a target without any has one row."""
    for target in status.targets:
        yield from ((target, line) for line in target.timelines or (None,))
