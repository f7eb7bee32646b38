"""What can be seen of a cluster now: its targets, its server and this host's spool, as `policies.protection` judges it.

A target, server or folder that cannot be asked is a fact among others; nothing here raises for it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from drkit.core.clock import Clock
from drkit.core.errors import Damage, DrkitError, KeyMissing, Unreachable
from drkit.core.units import parse_time
from drkit.crypto.slots import Secret
from drkit.daemon.seen_drills import Drills, by_drill, read_drills
from drkit.daemon.seen_server import Archiver, ask_archiver, server_seen
from drkit.jobs.means import Means
from drkit.jobs.policy_facts import PolicyOrder, Server, Stored, ask_server, gather, nothing_answers, read_stored
from drkit.jobs.policy_judge import judge
from drkit.jobs.windows import Window
from drkit.repository.catalogue import Backup, State
from drkit.repository.identity import read_descriptor, unlock_target
from drkit.repository.inventory import Inventory
from drkit.repository.layout import ClusterLayout, RunId
from drkit.repository.leases import Verdict, read_verdict
from drkit.repository.repository import Problem, Repository
from drkit.repository.spool import Spool
from drkit.repository.target import Target
from policies.protection import BackupFault, BackupSeen, ClusterSeen, GapSeen, Lack, TargetSeen, Trouble, WindowSeen
from storage_backends.errors import StorageError

_FAULTS = {State.BROKEN: True, State.PENDING: False}


@dataclass(frozen=True, slots=True)
class Seen:
    """A cluster and when it was seen. exposure: what would be lost with the server · None: nobody knows.

    system_identifier None: no target holds anything of it, or none could be asked.
    """

    cluster: ClusterSeen
    system_identifier: int | None
    exposure: timedelta | None
    rto_forecast: timedelta | None
    at: datetime


@dataclass(frozen=True, slots=True)
class Look:
    """How to look at one cluster. opened: the repository, or why it could not be opened · secret: what opens its keys,
    None where there is none · kept_for: the pitr_window."""

    order: PolicyOrder
    kept_for: timedelta | None
    opened: Means | Problem
    secret: Secret | None
    spool: Spool
    clock: Clock

    def see(self) -> Seen:
        """Cost: the listings of `read_stored`, a few reads for each target, two sessions at the server."""
        order = self.order
        server = ask_server(order, self.clock.sleep)
        archiver = ask_archiver(order.connection) if server.reachable else None
        stored = self._stored(server)
        drills = self._drills(stored)
        now = self.clock.now()
        facts = by_drill(gather(order, server, stored, now), drills)
        judged = judge(facts, order.promises)
        cluster = ClusterSeen(
            name=order.cluster,
            server=server_seen(server, archiver, order.data_dir),
            targets=tuple(self._target(one.name, stored, server, archiver, drills) for one in order.targets),
            promises=order.promises,
            trouble=None if isinstance(self.opened, Means) else trouble_of(self.opened),
            decisions=judged.decisions,
            breaches=judged.breaches,
            kept_for=self.kept_for,
            last_drill=drills.last,
            passed_drill=drills.passed,
        )
        system = stored.catalogue.layout.system_identifier if stored.catalogue else server.system_identifier
        return Seen(cluster, system, facts.objectives.exposure, facts.objectives.rto_forecast, now)

    def _stored(self, server: Server) -> Stored:
        if not isinstance(self.opened, Means):
            return nothing_answers(self.order, str(self.opened))
        try:
            return read_stored(self.order, self.opened, server.system_identifier)
        except Unreachable as error:
            return nothing_answers(self.order, str(error))

    def _drills(self, stored: Stored) -> Drills:
        if not isinstance(self.opened, Means) or stored.catalogue is None:
            return Drills()
        return read_drills(self.opened.repository, stored.catalogue.layout.system_identifier, self.order.cluster)

    def _target(
        self, name: str, stored: Stored, server: Server, archiver: Archiver | None, drills: Drills
    ) -> TargetSeen:
        owed, since = self._debts(name)
        why = stored.unreadable.get(name, "")
        if why or not isinstance(self.opened, Means):
            return TargetSeen(name, why or str(self.opened), owed=owed, owed_since=since)
        repository = self.opened.repository
        target = repository.target(name)
        try:
            ends = _Ends.of(stored, server, archiver, repository)
            window = ends.newest(name)
            return TargetSeen(
                name=name,
                key_fault=self._key_fault(target, repository),
                backup=backup_seen(stored.newest(name)),
                faults=tuple(faults_of(stored, target, repository)),
                windows=tuple(window_seen(one, stored) for one in stored.windows if one.target == name),
                last_file=window.last_wal if window else "",
                last_at=ends.stored_at(target, window.last_wal) if window else None,
                lack=ends.lack(name),
                owed=owed,
                owed_since=since,
                resting=self.spool.resting(self.clock.now()).get(name, ""),
                drilled=drills.by_target.get(name),
            )
        except (StorageError, DrkitError) as error:
            return TargetSeen(name, str(error), owed=owed, owed_since=since)

    def _debts(self, target: str) -> tuple[int, datetime | None]:
        """How many files this host owes it, and since when the first; a debt that cannot be read is still one."""
        count = self.spool.count(target)
        try:
            first = next(self.spool.debts(target), None)
            return count, parse_time(first.since) if first else None
        except DrkitError:
            return count, None

    def _key_fault(self, target: Target, repository: Repository) -> str:
        """Why our secret does not open this target without help of the others; "" where it does."""
        if self.secret is None:
            return "there is no key"
        try:
            ring = unlock_target(self.secret, target, read_descriptor(target))
        except (KeyMissing, Damage) as error:
            return str(error)
        if ring.epoch < repository.ring.epoch:
            return f"its key slots lead to epoch {ring.epoch}, the newest is {repository.ring.epoch}"
        return ""


def trouble_of(problem: Problem) -> Trouble | None:
    """A key that is missing or wrong and damage concern all targets; that none answers is told of each."""
    if isinstance(problem, KeyMissing):
        return Trouble("key", str(problem), problem.cure)
    if isinstance(problem, StorageError | Unreachable):
        return None
    return Trouble("damage", str(problem), problem.cure)


# --- backups and windows ------------------------------------------------------------------------------------------


def backup_seen(backup: Backup | None) -> BackupSeen | None:
    if backup is None:
        return None
    summary = backup.summary
    return BackupSeen(summary.backup, summary.stopped, summary.size_bytes, summary.stored_bytes, summary.new_bytes)


def window_seen(window: Window, stored: Stored) -> WindowSeen:
    stops = {backup.summary.backup: backup.summary.stopped for backup in stored.backups}
    gaps = tuple(
        GapSeen(gap.first, gap.last, gap.missing, gap.bridge, stops.get(gap.bridge) if gap.bridge else None)
        for gap in window.gaps
    )
    return WindowSeen(
        window.timeline, window.start_at, window.end_at, str(window.start), str(window.end), window.last_wal, gaps
    )


def faults_of(stored: Stored, target: Target, repository: Repository) -> Iterator[BackupFault]:
    """Backups that the target does not have whole, the newest first, those whose manifest is gone among them.

    Raises StorageError.
    """
    catalogue = stored.catalogue
    if catalogue is None:
        return
    lost = set(_lost_manifests(catalogue.inventories[target.name], target, repository))
    for ident in sorted(lost, reverse=True):
        yield BackupFault(ident, "its manifest is missing, it was good here once", damaged=True)
    for backup in reversed(catalogue.backups):
        ident, standing = backup.summary.backup, backup.standings[target.name]
        if standing.state in _FAULTS and ident not in lost:
            yield BackupFault(ident, standing.why, _FAULTS[standing.state])
    for ident, standings in catalogue.unopened.items():
        here = standings.get(target.name)
        if here is not None and here.state is State.BROKEN:
            yield BackupFault(ident, here.why, damaged=True)


def _lost_manifests(inventory: Inventory, target: Target, repository: Repository) -> Iterator[str]:
    """Runs that were found good here and whose manifest is neither there nor expired."""
    layout: ClusterLayout = inventory.layout
    for ident in inventory.verdicts - inventory.manifests.keys():
        try:
            run = RunId.parse(ident)
            if layout.manifest(run) in inventory.tombstones:
                continue
            if read_verdict(target, layout, run, repository.ring) is Verdict.GOOD:
                yield ident
        except (DrkitError, ValueError):
            continue  # a verdict that does not open says nothing of a manifest


# --- where WAL ends -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Ends:
    """How far each target's WAL goes on the newest timeline. proven: the last segment number that is known to be
    archived, by a target or by the server's own word."""

    stored: Stored
    repository: Repository
    segment_bytes: int
    furthest: Window | None
    proven: int

    @classmethod
    def of(cls, stored: Stored, server: Server, archiver: Archiver | None, repository: Repository) -> _Ends:
        furthest = max(stored.windows, key=lambda one: (one.timeline, one.end), default=None)
        if furthest is None:
            return cls(stored, repository, 0, None, 0)
        size = stored.backups[-1].summary.segment_bytes
        proven = _last_number(furthest, size)
        if archiver is not None and server.timeline == furthest.timeline:
            proven = max(proven, archiver.last_number(furthest.timeline, size) or 0)
        return cls(stored, repository, size, furthest, proven)

    def newest(self, target: str) -> Window | None:
        mine = (window for window in self.stored.windows if window.target == target)
        return max(mine, key=lambda one: (one.timeline, one.end), default=None)

    def lack(self, target: str) -> Lack | None:
        """What it lacks behind the end of its unbroken WAL; a gap in front of WAL that it has is told as a gap."""
        furthest, mine = self.furthest, self.newest(target)
        if furthest is None or mine is None:
            return None
        if any(gap.bridge is None for gap in mine.gaps):
            return None
        last = _last_number(mine, self.segment_bytes)
        if last >= self.proven:
            return None
        first = furthest.path.segment(last + 1, self.segment_bytes).text
        return Lack(first, self.proven - last, self._since(first, last + 1, furthest))

    def _since(self, name: str, number: int, furthest: Window) -> datetime | None:
        """When another target got it; None where no target has it."""
        if number > _last_number(furthest, self.segment_bytes):
            return None
        return self.stored_at(self.repository.target(furthest.target), name)

    def stored_at(self, target: Target, name: str) -> datetime | None:
        """When the store got a WAL file, by its own clock."""
        catalogue = self.stored.catalogue
        assert catalogue is not None, "there is a window"
        return target.backend.stat(catalogue.layout.wal(name)).modified_at


def _last_number(window: Window, segment_bytes: int) -> int:
    return window.end.segment_before(segment_bytes)
