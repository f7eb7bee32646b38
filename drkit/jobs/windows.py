"""What can be recovered: per target and timeline, from the first good backup's stop to the end of unbroken WAL."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from drkit.core.errors import Damage, DrkitError
from drkit.core.progress import Tally
from drkit.engines.postgres.lsn import Lsn
from drkit.engines.postgres.timeline import Timeline, Timelines
from drkit.jobs.archive import Held, known_timelines, list_archived, read_histories
from drkit.jobs.means import Means
from drkit.jobs.wal_scan import WalScan
from drkit.repository.catalogue import Backup, Catalogue
from drkit.repository.sources import Sources
from drkit.repository.target import Target
from storage_backends.errors import StorageError

_SCANNED_SEGMENTS = 4  # a window's last commit is looked for in so many segments from its end, then left open


@dataclass(frozen=True, slots=True)
class Gap:
    """Positions that cannot be reached: from the end of unbroken WAL to the stop of the backup that bridges it.

    missing: how many segments, first to last by name · bridge None: no later backup; then `to` is the end of the
    WAL behind the gap.
    """

    start: Lsn
    end: Lsn
    first: str
    last: str
    missing: int
    bridge: str | None


@dataclass(frozen=True, slots=True)
class Window:
    """start, end: positions that can be reached, but for `gaps`. start_at: the first backup's stop (host clock);
    end_at: the last commit before `end`, None where it was not found cheaply. partial: an unfinished last segment.
    """

    target: str
    timeline: int
    path: Timeline
    start: Lsn
    end: Lsn
    start_at: datetime
    end_at: datetime | None
    gaps: tuple[Gap, ...]
    backups: tuple[str, ...]
    last_wal: str
    partial: str | None


def windows_of(
    target: str,
    backups: Sequence[Backup],
    timelines: Timelines,
    held: Callable[[Timeline, int], Held],
    segment_bytes: int,
) -> list[Window]:
    """Pure but for `held`. backups: those good on the target, in any order. Rising by timeline.

    A timeline is left out when no backup leads to it, or no WAL reaches into it.
    """
    found = []
    for path in timelines:
        fitting = [b for b in backups if path.holds(b.summary.timeline, Lsn.parse(b.summary.stop_lsn))]
        if not fitting:
            continue
        fitting.sort(key=lambda b: Lsn.parse(b.summary.stop_lsn))
        first = min(Lsn.parse(b.summary.start_lsn).segment(segment_bytes) for b in fitting)
        window = _window(target, path, fitting, held(path, first), segment_bytes)
        if window is not None and window.end > path.begin:
            found.append(window)
    return found


def _window(target: str, path: Timeline, backups: Sequence[Backup], held: Held, segment_bytes: int) -> Window | None:
    gaps: list[Gap] = []
    last: int | None = None
    used: list[Backup] = []
    for backup in backups:
        start, stop = Lsn.parse(backup.summary.start_lsn), Lsn.parse(backup.summary.stop_lsn)
        end = held.segments.run_end(start.segment(segment_bytes))
        if end is None or end < stop.segment_before(segment_bytes):
            continue
        if last is not None and stop > _end(last, segment_bytes):
            gaps.append(_gap(path, held, last, stop, backup.summary.backup, segment_bytes))
        last = end if last is None else max(last, end)
        used.append(backup)
    if last is None:
        return None
    behind = held.segments.last
    if behind is not None and behind > last:
        gaps.append(_gap(path, held, last, _end(behind, segment_bytes), None, segment_bytes))
    partial = None
    if last + 1 in held.partials:
        partial = f"{path.candidates(last + 1, segment_bytes)[-1].text}.partial"
    return Window(
        target=target,
        timeline=path.id,
        path=path,
        start=Lsn.parse(used[0].summary.stop_lsn),
        end=_end(last, segment_bytes),
        start_at=used[0].summary.stopped,
        end_at=None,
        gaps=tuple(gaps),
        backups=tuple(b.summary.backup for b in used),
        last_wal=path.segment(last, segment_bytes).text,
        partial=partial,
    )


def _end(number: int, segment_bytes: int) -> Lsn:
    return Lsn((number + 1) * segment_bytes)


def _gap(path: Timeline, held: Held, last: int, end: Lsn, bridge: str | None, segment_bytes: int) -> Gap:
    upto = end.segment_before(segment_bytes)
    present = sum(b - a + 1 for a, b in held.segments.cut(last + 1, upto).spans)
    after = held.segments.after(last)
    final = upto if after is None else after - 1
    # several holes in one gap: the last missing one is the hole nearest to its end
    for low, _ in reversed(held.segments.cut(last + 1, upto).spans):
        if low - 1 > last and low - 1 not in held.segments:
            final = max(final, low - 1)
            break
    return Gap(
        start=_end(last, segment_bytes),
        end=end,
        first=path.segment(last + 1, segment_bytes).text,
        last=path.segment(final, segment_bytes).text,
        missing=upto - last - present,
        bridge=bridge,
    )


@dataclass(frozen=True, slots=True)
class Windows:
    """unreadable: targets of which nothing is known -> why."""

    windows: Sequence[Window]
    unreadable: dict[str, str]


def read_windows(catalogue: Catalogue, means: Means) -> Windows:
    """The windows of one system identifier on every target that can be asked.

    A history file that does not open hides its timeline, and is logged.
    """
    unreadable = dict(catalogue.unreadable)
    if not catalogue.backups:
        return Windows((), unreadable)
    segment_bytes = catalogue.backups[-1].summary.segment_bytes
    found: list[Window] = []
    for name, inventory in catalogue.inventories.items():
        failures: list[str] = []

        def report(target: Target, key: str, problem: DrkitError | StorageError, into: list[str] = failures) -> None:
            into.append(f"{key}: {problem}")
            means.log.warn("history cannot be read", target=target.name, key=key, why=str(problem))

        try:
            histories = read_histories(means.repository.ring, {name: inventory}, report)
            good = [b for b in catalogue.backups if name in b.good_on]
            timelines = known_timelines(histories.timelines, {b.summary.timeline for b in catalogue.backups})

            def held(path: Timeline, first: int, name: str = name) -> Held:
                archived = list_archived({name: catalogue.inventories[name]}, path, first, segment_bytes)
                if name in archived.failed:
                    raise _Unread(archived.failed[name])
                return archived.held[name]

            mine = windows_of(name, good, timelines, held, segment_bytes)
            found += [_timed(one, inventory.target, catalogue, means, segment_bytes) for one in mine]
        except _Unread as error:
            unreadable[name] = str(error)
        except (StorageError, Damage) as error:
            unreadable[name] = "; ".join([str(error), *failures[:1]])
    return Windows(tuple(found), unreadable)


class _Unread(Exception):
    """A target could not be listed."""


def _timed(window: Window, target: Target, catalogue: Catalogue, means: Means, segment_bytes: int) -> Window:
    """With the time of the last commit, from that target's own WAL; what cannot be read cheaply stays open."""
    layout, ring = catalogue.layout, means.repository.ring
    tally = Tally(means.progress, "looking into WAL", clock=means.clock)
    scan = WalScan(ring, layout, Sources([target], layout, ring), segment_bytes, means.token, tally)
    last = window.end.segment_before(segment_bytes)
    first = max(window.start.segment(segment_bytes), last - _SCANNED_SEGMENTS + 1)
    try:
        found = scan.last_transaction(window.path, first, last)
    except DrkitError as error:
        means.log.warn("last WAL cannot be read", target=target.name, file=window.last_wal, why=str(error))
        return window
    tally.finish()
    at = found.time if found is not None and found.time > window.start_at else window.start_at
    return replace(window, end_at=at if found is not None or first == window.start.segment(segment_bytes) else None)
