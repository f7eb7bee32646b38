"""Pushes of WAL files by the daemon, whoever asks: the server's archive_command, the look-ahead, a backfill.

What was acknowledged is remembered by the digest of its content under its name: who hands the same file over again
is answered at once, and one that has changed is pushed (and refused) as any other. Two pushes of one content are one.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Collection
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import BinaryIO

import blake3

from drkit.core.clock import Clock
from drkit.core.errors import DrkitError, Unreachable
from drkit.core.log import Log
from drkit.daemon.api import Telling
from drkit.daemon.clusters import Place
from drkit.daemon.targets import OpenTargets
from drkit.engines.postgres.wal import WalKind, WalName
from drkit.jobs.fanout import Patience
from drkit.jobs.wal_push import PushSettings, push_source
from drkit.jobs.wal_rule import ack_rule
from drkit.jobs.wal_source import Recycled, WalSource, check_source
from drkit.repository.repository import Repository
from drkit.repository.spool import Spool
from policies.acks import AckRule, Wanted
from storage_backends.errors import StorageError

_PIECE_BYTES = 1 << 20
_REMEMBERED = 4096

_Key = tuple[int, str, bytes]


@dataclass(frozen=True, slots=True)
class ArchiveSettings:
    """level: of zstd · wal_ack: as configured."""

    level: int = 3
    wal_ack: Wanted = None
    patience: Patience = field(default_factory=Patience)


@dataclass(frozen=True, slots=True)
class Last:
    """The newest segment known to be archived, and when the last of any was."""

    file: str = ""
    at: datetime | None = None

    def after(self, name: WalName, at: datetime) -> Last:
        file = max(self.file, name.text) if name.kind is WalKind.SEGMENT else self.file
        return Last(file, at)


class Archiver:
    """Thread-safe."""

    def __init__(
        self, targets: OpenTargets, spool: Spool, settings: ArchiveSettings, clock: Clock, log: Log, telling: Telling
    ) -> None:
        self._targets, self._spool, self._settings = targets, spool, settings
        self._clock, self._log, self._telling = clock, log, telling
        self._lock = threading.Lock()
        self._acknowledged: OrderedDict[_Key, tuple[str, ...]] = OrderedDict()
        self._flights: dict[_Key, Future[tuple[str, ...]]] = {}
        self._rules: dict[Place, tuple[Repository, AckRule]] = {}
        self._last: dict[tuple[str, str], Last] = {}
        self._failing: dict[str, str] = {}

    def push(self, place: Place, name: WalName, file: BinaryIO) -> tuple[str, ...]:
        """Archive an open file; the targets that have it. On return it is durable where the rule wants it.

        Raises as `push_source` and `check_source`, or what keeps the repository from being opened.
        """
        repository = self._targets.repository()
        source = check_source(name, file, place.system_identifier, place.segment_bytes)
        source = replace(source, identity=_digest(repository, file))
        key = (place.system_identifier, name.text, source.identity)
        while True:
            with self._lock:
                known = self._acknowledged.get(key)
                if known is not None:
                    return known
                flight = self._flights.get(key)
                if flight is None:
                    ours = self._flights[key] = Future()
                    break
            try:
                return flight.result()
            except Recycled:  # the other one's file was; this one may be a copy
                continue
        return self._fly(ours, key, place, source, repository)

    @property
    def busy(self) -> bool:
        """Whether anything is being pushed."""
        with self._lock:
            return bool(self._flights)

    def last(self, cluster: str, target: str = "") -> Last:
        """On a target, or (without one) acknowledged by the rule; since this process began."""
        with self._lock:
            return self._last.get((cluster, target), Last())

    def problem(self, cluster: str) -> str:
        """Why the last push failed; "" when it did not."""
        with self._lock:
            return self._failing.get(cluster, "")

    def _fly(
        self, flight: Future[tuple[str, ...]], key: _Key, place: Place, source: WalSource, repository: Repository
    ) -> tuple[str, ...]:
        """Push, and let those that wait for the same content have the outcome, whatever it is."""
        try:
            done = push_source(
                source, repository, self._spool, self._push_settings(place, repository), self._clock, self._log
            )
        except BaseException as error:
            with self._lock:
                del self._flights[key]
            flight.set_exception(error)
            if isinstance(error, DrkitError | StorageError) and not isinstance(error, Recycled):
                self._failed(place.cluster, source.name, error)
            raise
        with self._lock:
            self._remember(key, done.acknowledged)
            del self._flights[key]
            at = self._clock.now()
            for target in ("", *done.acknowledged):
                entry = (place.cluster, target)
                self._last[entry] = self._last.get(entry, Last()).after(source.name, at)
        flight.set_result(done.acknowledged)
        self._works(place.cluster)
        return done.acknowledged

    def _remember(self, key: _Key, acknowledged: Collection[str]) -> None:
        self._acknowledged[key] = tuple(acknowledged)
        while len(self._acknowledged) > _REMEMBERED:
            self._acknowledged.popitem(last=False)

    def _push_settings(self, place: Place, repository: Repository) -> PushSettings:
        with self._lock:
            known = self._rules.get(place)
        if known is None or known[0] is not repository:
            wanted, names = self._settings.wal_ack, self._targets.names
            try:
                rule = ack_rule(wanted, names, repository, self._spool, place.cluster, place.data_dir)
            except OSError as error:
                raise Unreachable("the data folder cannot be read", where=place.cluster, why=str(error)) from error
            with self._lock:
                self._rules = {p: r for p, r in self._rules.items() if p.cluster != place.cluster}
                self._rules[place] = known = (repository, rule)
        return PushSettings(place.cluster, place.data_dir, known[1], self._settings.level, self._settings.patience)

    def _failed(self, cluster: str, name: WalName, error: DrkitError | StorageError) -> None:
        with self._lock:
            before = self._failing.get(cluster)
            self._failing[cluster] = str(error)
        if not before:
            self._log.error("archiving fails", cluster=cluster, file=name.text, why=str(error))
            text = f"{cluster} is not archived: {error}"
            self._telling.tell("archive.failing", "error", cluster, text, file=name.text)

    def _works(self, cluster: str) -> None:
        with self._lock:
            before = self._failing.pop(cluster, "")
        if before:
            self._log.info("archiving works", cluster=cluster)
            self._telling.tell("archive.works", "info", cluster, f"{cluster} is archived again")


def _digest(repository: Repository, file: BinaryIO) -> bytes:
    """The identity of an open file's content; leaves it at its begin."""
    digest = blake3.blake3(key=repository.ring.identity_key)
    file.seek(0)
    while piece := file.read(_PIECE_BYTES):
        digest.update(piece)
    file.seek(0)
    return digest.digest()
