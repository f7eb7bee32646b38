"""How far each target's WAL goes, what is missing in between, and what it lacks at the end of what is known to be
archived: by other targets, by backups, or by the server's own word."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from drkit.core.errors import DrkitError, Missing
from drkit.daemon.seen_server import Testimony
from drkit.engines.postgres.lsn import Lsn
from drkit.engines.postgres.timeline import Timeline
from drkit.jobs.archive import known_timelines, read_histories
from drkit.jobs.policy_facts import Stored
from drkit.jobs.windows import Gap, Window
from drkit.repository.catalogue import Catalogue
from drkit.repository.repository import Repository
from drkit.repository.target import Target
from policies.sights import GapSeen, Lack, WindowSeen
from storage_backends.errors import StorageError


def window_seen(window: Window, stored: Stored) -> WindowSeen:
    stops = {backup.summary.backup: backup.summary.stopped for backup in stored.backups}
    gaps = tuple(
        GapSeen(
            gap.first,
            gap.last,
            gap.missing,
            gap.bridge,
            stops.get(gap.bridge) if gap.bridge else None,
            next((one.target for one in stored.windows if _spans(one, window, gap)), ""),
        )
        for gap in window.gaps
    )
    return WindowSeen(
        window.timeline, window.start_at, window.end_at, str(window.start), str(window.end), window.last_wal, gaps
    )


def _spans(one: Window, other: Window, gap: Gap) -> bool:
    """Whether a window has all of the gap in another."""
    along = one.timeline == other.timeline and one.start <= gap.start and gap.end <= one.end
    return along and all(mine.end <= gap.start or gap.end <= mine.start for mine in one.gaps)


@dataclass(frozen=True, slots=True)
class Ends:
    """path, proven: the newest timeline on which WAL is known to be archived, and the number of its last segment."""

    stored: Stored
    repository: Repository
    segment_bytes: int
    path: Timeline
    proven: int

    @classmethod
    def of(cls, stored: Stored, heard: Testimony, repository: Repository) -> Ends | None:
        """None where no target has a window: then there is nothing that could lack only its end.

        Cost: where the server is on a timeline that leads nowhere yet, the history files.
        """
        if not stored.windows or stored.catalogue is None:
            return None
        size = stored.backups[-1].summary.segment_bytes
        ends = [(one.timeline, _last(one, size)) for one in stored.windows]
        for backup in stored.backups:
            ends.append((backup.summary.timeline, Lsn.parse(backup.summary.stop_lsn).segment_before(size)))
        timeline, proven = max([*ends, *heard.archived(size)])
        return cls(stored, repository, size, _path(timeline, stored, stored.catalogue, repository), proven)

    def newest(self, target: str) -> Window | None:
        mine = (window for window in self.stored.windows if window.target == target)
        return max(mine, key=lambda one: (one.timeline, one.end), default=None)

    def lack(self, target: str) -> Lack | None:
        """What it lacks behind the end of its unbroken WAL; a gap in front of WAL that it has is told as a gap."""
        mine = self.newest(target)
        if mine is None or any(gap.bridge is None for gap in mine.gaps):
            return None
        first = self._first_lacking(mine)
        if first > self.proven:
            return None
        name = self.path.segment(first, self.segment_bytes).text
        catalogue = self.stored.catalogue
        assert catalogue is not None, "there is a window"
        inventory, holder = catalogue.inventories[target], self._holder(first)
        since = self.stored_at(self.repository.target(holder), name) if holder else None
        return Lack(name, self.proven - first + 1, since, catalogue.layout.wal(name) in inventory.unsound)

    def _first_lacking(self, mine: Window) -> int:
        """Where its own path is an older one, it ends where that was left: the segment which holds the switch point
        goes by the new timeline's name."""
        after = _last(mine, self.segment_bytes) + 1
        if mine.timeline == self.path.id or not self.path.ancestors:
            return after
        on_it = mine.timeline in self.path.path
        left = self.path.end_of(mine.timeline) if on_it else self.path.begin
        return after if left is None else min(after, left.segment(self.segment_bytes))

    def _holder(self, number: int) -> str:
        """A target whose window on the path reaches so far."""
        reach = ((one.target, _last(one, self.segment_bytes)) for one in self._on_path())
        return next((target for target, last in reach if last >= number), "")

    def _on_path(self) -> Iterator[Window]:
        return (one for one in self.stored.windows if one.timeline == self.path.id)

    def stored_at(self, target: Target, name: str) -> datetime | None:
        """When the store got a WAL file, by its own clock."""
        catalogue = self.stored.catalogue
        assert catalogue is not None, "there is a window"
        return target.backend.stat(catalogue.layout.wal(name)).modified_at


def _path(number: int, stored: Stored, catalogue: Catalogue, repository: Repository) -> Timeline:
    for window in stored.windows:
        if window.timeline == number:
            return window.path
    asked = {name: one for name, one in catalogue.inventories.items() if name not in stored.unreadable}
    try:
        found = read_histories(repository.ring, asked, _silent)
        return known_timelines(found.timelines, {b.summary.timeline for b in stored.backups}).get(number)
    except (Missing, StorageError):
        return Timeline(number)  # its history is lost too, or not archived yet: where it begins is not known


def _silent(target: Target, key: str, problem: DrkitError | StorageError) -> None:
    """Which history does not open was said when the windows were read."""


def _last(window: Window, segment_bytes: int) -> int:
    return window.end.segment_before(segment_bytes)
