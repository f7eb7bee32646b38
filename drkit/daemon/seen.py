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
from drkit.daemon.seen_server import Testimony, hear, server_seen
from drkit.daemon.seen_wal import Ends, window_seen
from drkit.jobs.means import Means
from drkit.jobs.policy_facts import PolicyOrder, Stored, gather, nothing_answers, read_stored
from drkit.jobs.policy_judge import judge
from drkit.jobs.policy_server import Server, ask_server
from drkit.repository.catalogue import Backup, Catalogue, State
from drkit.repository.identity import read_descriptor, unlock_target
from drkit.repository.repository import Problem, Repository
from drkit.repository.spool import Spool
from drkit.repository.target import Target
from policies.sights import BackupFault, BackupSeen, ClusterSeen, TargetSeen, Trouble
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
        server = ask_server(order.connection, order.data_dir, self.clock.sleep)
        heard = hear(server, order.connection, order.data_dir)
        stored = self._stored(server)
        drills, ends = self._drills(stored), self._ends(stored, heard)
        now = self.clock.now()
        facts = by_drill(gather(order, server, stored, now), drills)
        judged = judge(facts, order.promises)
        cluster = ClusterSeen(
            name=order.cluster,
            server=server_seen(heard),
            targets=tuple(self._target(one.name, stored, ends, drills) for one in order.targets),
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

    def _ends(self, stored: Stored, heard: Testimony) -> Ends | None:
        return Ends.of(stored, heard, self.opened.repository) if isinstance(self.opened, Means) else None

    def _target(self, name: str, stored: Stored, ends: Ends | None, drills: Drills) -> TargetSeen:
        owed, since = self._debts(name)
        why = stored.unreadable.get(name, "")
        if why or not isinstance(self.opened, Means):
            return TargetSeen(name, why or str(self.opened), self._cure(name), owed=owed, owed_since=since)
        repository = self.opened.repository
        target = repository.target(name)
        try:
            window = ends.newest(name) if ends else None
            return TargetSeen(
                name=name,
                key_fault=self._key_fault(target, repository),
                backup=backup_seen(stored.newest(name)),
                faults=tuple(faults_of(stored.catalogue, name)),
                windows=tuple(window_seen(one, stored) for one in stored.windows if one.target == name),
                last_file=window.last_wal if window else "",
                last_at=ends.stored_at(target, window.last_wal) if ends and window else None,
                lack=ends.lack(name) if ends else None,
                owed=owed,
                owed_since=since,
                resting=self.spool.resting(self.clock.now()).get(name, ""),
                drilled=drills.by_target.get(name),
            )
        except (StorageError, DrkitError) as error:
            return TargetSeen(name, str(error), error.cure, owed=owed, owed_since=since)

    def _cure(self, name: str) -> str:
        """Of a target that cannot be read, as what kept it from being opened says."""
        problem = self.opened.repository.absent.get(name) if isinstance(self.opened, Means) else self.opened
        return problem.cure if problem is not None else ""

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


def faults_of(catalogue: Catalogue | None, target: str) -> Iterator[BackupFault]:
    """Backups that the target does not have whole, the newest first, those whose manifest is gone among them."""
    if catalogue is None:
        return
    for ident, standings in sorted(catalogue.unopened.items(), reverse=True):
        here = standings.get(target)
        if here is not None and here.state is State.BROKEN:
            yield BackupFault(ident, here.why, damaged=True, manifest=f"{catalogue.layout.folder('manifests')}{ident}")
    for backup in reversed(catalogue.backups):
        standing = backup.standings[target]
        if standing.state in _FAULTS:
            elsewhere = next(iter(backup.good_on), "")
            yield BackupFault(backup.summary.backup, standing.why, _FAULTS[standing.state], elsewhere)
