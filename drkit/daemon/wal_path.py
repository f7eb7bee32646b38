"""The way of WAL through the daemon: one constructor for its parts, verbs and facts."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from drkit.core.clock import Clock
from drkit.core.log import Log
from drkit.daemon.ahead import Ahead
from drkit.daemon.api import ArchiveFacts, Part, TargetFacts, Telling
from drkit.daemon.archiver import Archiver, ArchiveSettings
from drkit.daemon.backfill import Backfill, BackfillSettings
from drkit.daemon.clusters import Clusters, ClusterSpec
from drkit.daemon.fetch import Fetcher, system_of
from drkit.daemon.ledger import Ledger, Owed
from drkit.daemon.payer import Payer
from drkit.daemon.peers import Gate
from drkit.daemon.protocol import Answer, Status
from drkit.daemon.socket import Bounds, Call, Listener, Verb, access_of, ping
from drkit.daemon.targets import Doors, OpenTargets
from drkit.engines.postgres.wal import parse_name
from drkit.repository.spool import Spool


@dataclass(frozen=True, slots=True)
class WalPathSettings:
    """socket: its path · workers: files pushed ahead at once · pushes: requests of archive_commands served at once."""

    socket: Path
    archive: ArchiveSettings = field(default_factory=ArchiveSettings)
    backfill: BackfillSettings = field(default_factory=BackfillSettings)
    bounds: Bounds = field(default_factory=Bounds)
    workers: int = 3
    pushes: int = 8
    scan_s: float = 0.5


class WalPath:
    """parts: to be run by the daemon, which holds the claim on spool and socket.

    A death at any moment leaves what the death of a single `drkit wal push` leaves: nothing is acknowledged before it
    is durable where the policy's rule wants it and every debt is recorded (`drkit/jobs/wal_push.py`).
    """

    def __init__(
        self,
        clusters: Sequence[ClusterSpec],
        doors: Doors,
        spool: Spool,
        settings: WalPathSettings,
        clock: Clock,
        log: Log,
        telling: Telling,
    ) -> None:
        self._spool, self._clock = spool, clock
        self.clusters = Clusters(clusters, clock, log, telling)
        self.targets = OpenTargets(doors, spool, clock, log, telling)
        self.archiver = Archiver(self.targets, spool, settings.archive, clock, log, telling)
        self._ahead = Ahead(self.clusters, self.archiver, clock, log, workers=settings.workers, scan_s=settings.scan_s)
        backfill = Backfill(self.clusters, self.targets, self.archiver, clock, log, settings.backfill)
        payer = Payer(self.targets, self.archiver, spool, clock, log)
        self._ledger = Ledger(spool)
        self._gate = Gate(os.geteuid(), self.clusters.owners, clock, log)
        fetcher = Fetcher(self.targets, spool, self._owns, self._gate, clock, log)
        verbs = [
            ping(),
            Verb("push", self._push, words=2, descriptors=1, at_once=settings.pushes),
            Verb("get", fetcher.get, words=2, descriptors=2, at_once=8),
            Verb("ahead", fetcher.ahead, words=2, descriptors=1),
        ]
        self.listener = Listener(
            settings.socket, self._gate, verbs, clock, log, bounds=settings.bounds, group=self._group
        )
        self.parts: tuple[Part, ...] = (self.clusters, self.targets, self.listener, self._ahead, backfill, payer)

    def add(self, verb: Verb) -> None:
        """One more verb on the socket, such as `status`; before the parts run."""
        self.listener.add(verb)

    def facts(self) -> tuple[ArchiveFacts, ...]:
        """Of each cluster, from memory and the spool; no target is asked."""
        resting = self._spool.resting(self._clock.now())
        owed = {target: self._ledger.owed(target) for target in self.targets.names}
        return tuple(self._facts(name, resting, owed) for name in self.clusters.names)

    def _facts(self, cluster: str, resting: dict[str, str], owed: dict[str, dict[int, Owed]]) -> ArchiveFacts:
        place, waiting, last = self.clusters.place(cluster), self._ahead.waiting(cluster), self.archiver.last(cluster)
        system = place.system_identifier if place else None
        rows = []
        for target in self.targets.names:
            debts, there = owed[target].get(system or 0, Owed()), self.archiver.last(cluster, target)
            why = resting.get(target, "")
            rows.append(TargetFacts(target, debts.count, debts.size_bytes, debts.since, there.file, there.at, why))
        newer = waiting.done >= last.file and waiting.done_at is not None  # by the command line, or before this began
        file, at = (waiting.done, waiting.done_at) if newer else (last.file, last.at)
        problem = self.archiver.problem(cluster) or self.clusters.problem(cluster)
        ready, ready_bytes = waiting.count, waiting.size_bytes
        return ArchiveFacts(cluster, system, file, at, ready, ready_bytes, waiting.oldest_at, tuple(rows), problem)

    # --- the verb push ---

    def _push(self, call: Call) -> Answer:
        """`push <system identifier> <name>` with the file, opened for reading."""
        (descriptor,) = call.descriptors
        if not stat.S_ISREG(os.fstat(descriptor).st_mode) or access_of(descriptor) == os.O_WRONLY:
            return Answer(Status.REFUSED, "what was handed over is no regular file opened for reading")
        place, name = self.clusters.owner_of(system_of(call.words[0])), parse_name(call.words[1])
        if not self._gate.trusts(call.peer) and call.peer.uid != place.uid:
            self._gate.refused(call.peer, f"push to {place.cluster}")
            return Answer(Status.REFUSED, f"user {call.peer.uid} does not own the cluster {place.cluster}")
        with os.fdopen(os.dup(descriptor), "rb") as file:
            hurried = self._ahead.hurries(place.cluster)
            return Answer(Status.OK, ",".join(self.archiver.push(place, name, file, hurried=hurried)))

    def _owns(self, uid: int, system_identifier: int) -> bool:
        return self.clusters.owner_of(system_identifier).uid == uid

    def _group(self) -> int | None:
        """Root's socket is for the servers' group: who may connect is decided by the peer's user all the same."""
        self.clusters.look(asking=False)
        return self.clusters.group()
