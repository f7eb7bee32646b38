"""Archives from a standby, and from a promoted one, what the old primary did not.

A standby has the segments of its primary in its own pg_wal, marked as done without anybody having archived them. When
it is promoted, its first checkpoint recycles them, so that after a promotion it may be too late. Therefore:

    while it is a standby    finished segments are held open; those that a target still lacks after a while are pushed
    when it is promoted      all that are held are looked at, at once
    on any primary           every segment of the parents in its pg_wal, up to where its timeline left them

Presence is looked up by name; what is lacking is pushed, and there contents are compared and nothing is overwritten.
A file that is held open and recycled meanwhile is noticed by its first page (`WalSource.check_unchanged`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import BinaryIO

from drkit.core.cancel import CancelToken
from drkit.core.clock import Clock
from drkit.core.errors import Conflict, Damage, DrkitError, Unreachable
from drkit.core.log import Log
from drkit.daemon.ahead import open_wal_file
from drkit.daemon.archiver import Archiver
from drkit.daemon.clusters import Clusters, Place
from drkit.daemon.targets import OpenTargets
from drkit.engines.postgres.timeline import Timeline, parse_history
from drkit.engines.postgres.wal import SegmentError, WalKind, WalName, WalNameError, parse_name
from drkit.jobs.wal_present import lacking
from drkit.jobs.wal_source import Recycled
from storage_backends.errors import StorageError

_DONE = ".done"


@dataclass(frozen=True, slots=True)
class BackfillSettings:
    """grace_s: how long a standby waits for its primary to archive · held: segments kept open at most, of a cluster;
    beyond that the oldest are looked at without waiting · look_s, again_s: pauses, and after a failure."""

    grace_s: float = 60.0
    held: int = 64
    look_s: float = 1.0
    again_s: float = 10.0


@dataclass(slots=True)
class _Held:
    name: WalName
    file: BinaryIO
    since: float


@dataclass(slots=True)
class _Node:
    """What is known of one cluster on this host. settled: names that need nothing any more."""

    standby: bool | None = None
    timeline: int = 0
    held: dict[str, _Held] = field(default_factory=dict)
    settled: set[str] = field(default_factory=set)
    rest_until: float = 0.0


class Backfill:
    """A part of the daemon."""

    name = "backfill"

    def __init__(
        self,
        clusters: Clusters,
        targets: OpenTargets,
        archiver: Archiver,
        clock: Clock,
        log: Log,
        settings: BackfillSettings | None = None,
    ) -> None:
        self._clusters, self._targets, self._archiver = clusters, targets, archiver
        self._clock, self._log, self._settings = clock, log, settings or BackfillSettings()
        self._nodes: dict[str, _Node] = {}

    def run(self, token: CancelToken) -> None:
        while not token.cancelled:
            for place in self._clusters.readable():
                self.look(place)
            token.wait(self._settings.look_s)

    def look(self, place: Place) -> None:
        """One step for one cluster; what fails is tried again after a while."""
        node = self._nodes.setdefault(place.cluster, _Node())
        try:
            files = _files(place)
            if place.standby:
                self._hold(place, node, files)
            if self._clock.monotonic() < node.rest_until:
                return
            if place.standby:
                self._care(place, node, self._overdue(node))
            elif node.standby is not False or node.timeline != _newest(files):
                self._settle_parents(place, node, files)
        except (DrkitError, StorageError, OSError) as error:
            node.rest_until = self._clock.monotonic() + self._settings.again_s
            self._log.warn("backfill waits", cluster=place.cluster, why=str(error))

    # --- a standby ---

    def _hold(self, place: Place, node: _Node, files: Sequence[WalName]) -> None:
        """Open the segments that are finished and new here. The walreceiver marks a segment when it is whole."""
        there = {name.text for name in files if name.kind is WalKind.SEGMENT}
        node.settled &= there
        node.standby = True
        for text in sorted(_marked(place) & there):
            if len(node.held) >= 2 * self._settings.held:
                break  # the next look goes on: what is beyond `held` is looked at without waiting
            if text not in node.settled and text not in node.held:
                try:
                    file = open_wal_file(place, parse_name(text))
                except FileNotFoundError:
                    continue
                node.held[text] = _Held(parse_name(text), file, self._clock.monotonic())

    def _overdue(self, node: _Node) -> list[_Held]:
        before = self._clock.monotonic() - self._settings.grace_s
        oldest_first = [node.held[text] for text in sorted(node.held)]
        beyond = max(0, len(oldest_first) - self._settings.held)
        return [one for number, one in enumerate(oldest_first) if number < beyond or one.since <= before]

    def _care(self, place: Place, node: _Node, held: Sequence[_Held]) -> None:
        """See that each of them is archived, and let go of it."""
        lacks = self._lacking(place, [one.name for one in held])
        for one in held:
            if one.name.text in lacks:
                self._push(place, one.name, one.file)
            node.settled.add(one.name.text)
            del node.held[one.name.text]
            one.file.close()

    # --- a primary ---

    def _settle_parents(self, place: Place, node: _Node, files: Sequence[WalName]) -> None:
        """After a promotion, and when the daemon begins."""
        self._care(place, node, list(node.held.values()))
        newest = _newest(files)
        if newest:
            path = parse_history(newest, (place.wal / f"{newest:08X}.history").read_bytes())
            names = list(_of_parents(path, files, place.segment_bytes))
            lacks = self._lacking(place, names)
            for name in names:
                if name.text in lacks:
                    self._push_file(place, name)
            self._log.info(
                "parents archived", cluster=place.cluster, timeline=newest, files=len(names), pushed=len(lacks)
            )
        node.standby, node.timeline = False, newest
        node.settled.clear()

    def _push_file(self, place: Place, name: WalName) -> None:
        try:
            with open_wal_file(place, name) as file:
                self._push(place, name, file)
        except FileNotFoundError:
            self._gone(place, name)

    # --- both ---

    def _lacking(self, place: Place, names: Sequence[WalName]) -> frozenset[str]:
        """Those that a target lacks. Targets that rest are not asked; raises where none answered."""
        if not names:
            return frozenset()
        repository = self._targets.repository()
        found = lacking(repository.targets, place.system_identifier, names)
        if not found.asked:
            raise Unreachable("no target could be listed", why="what it lacks is not known")
        return found.files

    def _push(self, place: Place, name: WalName, file: BinaryIO) -> None:
        try:
            acknowledged = self._archiver.push(place, name, file)
        except (Recycled, SegmentError):
            self._gone(place, name)
            return
        except (Conflict, Damage) as error:  # nothing that is tried again would be better; the archiver has told
            self._log.error("wal not backfilled", cluster=place.cluster, file=name.text, why=str(error))
            return
        self._log.info("wal backfilled", cluster=place.cluster, file=name.text, targets=",".join(acknowledged))

    def _gone(self, place: Place, name: WalName) -> None:
        """Told, as nothing else may have it; `drkit wal status` shows the gap if nothing does."""
        self._log.warn("wal recycled before it was archived from here", cluster=place.cluster, file=name.text)


def _files(place: Place) -> list[WalName]:
    found = []
    for entry in place.wal.iterdir():
        try:
            found.append(parse_name(entry.name))
        except WalNameError:
            continue
    return sorted(found, key=lambda name: name.text)


def _marked(place: Place) -> set[str]:
    return {entry.name.removesuffix(_DONE) for entry in place.status.iterdir() if entry.name.endswith(_DONE)}


def _newest(files: Iterable[WalName]) -> int:
    """The newest timeline that this node has the history of, 0 where it has none: a primary is on its newest one."""
    return max((name.timeline for name in files if name.kind is WalKind.HISTORY), default=0)


def _of_parents(path: Timeline, files: Iterable[WalName], segment_bytes: int) -> Iterator[WalName]:
    """Finished segments of the parents that lie wholly before where the path left them, and the partial ones."""
    for name in files:
        if name.timeline == path.id or name.timeline not in path.path:
            continue
        switch = path.end_of(name.timeline)
        if switch is None or name.kind not in (WalKind.SEGMENT, WalKind.PARTIAL):
            continue
        number = name.number(segment_bytes)
        if number < switch.segment(segment_bytes) or (
            name.kind is WalKind.PARTIAL and number == switch.segment(segment_bytes)
        ):
            yield name
