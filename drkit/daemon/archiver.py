"""Pushes of WAL files by the daemon, whoever asks: the server's archive_command, the look-ahead, a backfill.

What was acknowledged is remembered by the digest of its content under its name: who hands the same content over again
is answered at once, and one that has changed is pushed (and refused) as any other. Two pushes of one file are one.

A file is read once on its way to the targets, and not again when it is handed over unchanged: see `Mark`. For a
segment of 16 MiB a reading is 6 ms of processor time.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
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
from drkit.jobs.wal_push import Pushed, PushSettings, push_source
from drkit.jobs.wal_rule import ack_rule
from drkit.jobs.wal_source import Recycled, WalSource, check_source
from drkit.repository.repository import Repository
from drkit.repository.spool import Spool
from policies.acks import AckRule, Wanted
from storage_backends.errors import StorageError

_PIECE_BYTES = 1 << 20
_REMEMBERED = 4096
_SETTLED_S = 2.0
_FAST_LEVEL = 1

_Name = tuple[int, str]
"""System identifier and file."""


@dataclass(frozen=True, slots=True)
class ArchiveSettings:
    """level: of zstd · wal_ack: as configured."""

    level: int = 1
    wal_ack: Wanted = None
    patience: Patience = field(default_factory=Patience)


@dataclass(frozen=True, slots=True)
class Mark:
    """What fstat says of a file's content without a look at it; times in nanoseconds.

    Whoever writes to a file changes its times. An equal mark is the same content where the file had been left alone
    for 2 s when it was read: no filesystem's times are coarser (ext3, FAT), so that a later write shows.
    """

    device: int
    inode: int
    size_bytes: int
    modified_ns: int
    changed_ns: int

    @classmethod
    def of(cls, file: BinaryIO) -> Mark:
        found = os.fstat(file.fileno())
        return cls(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)

    def is_settled(self, now: datetime) -> bool:
        return now.timestamp() - max(self.modified_ns, self.changed_ns) / 1e9 >= _SETTLED_S


@dataclass(frozen=True, slots=True)
class _Known:
    """mark: of the file that was read, taken before that; None where it was too young to vouch for its content."""

    identity: str
    acknowledged: tuple[str, ...]
    mark: Mark | None


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
        self._acknowledged: OrderedDict[_Name, _Known] = OrderedDict()
        self._flights: dict[tuple[_Name, Mark], Future[Pushed]] = {}
        self._rules: dict[Place, tuple[Repository, AckRule]] = {}
        self._last: dict[tuple[str, str], Last] = {}
        self._failing: dict[str, str] = {}

    def push(self, place: Place, name: WalName, file: BinaryIO, *, hurried: bool = False) -> tuple[str, ...]:
        """Archive an open file; the targets that have it. On return it is durable where the rule wants it.

        hurried: much waits, so that time is worth more than bytes: compress no harder than level 1. Raises as
        `push_source` and `check_source`, or what keeps the repository from being opened.
        """
        repository = self._targets.repository()
        mark, key = Mark.of(file), (place.system_identifier, name.text)
        source = check_source(name, file, place.system_identifier, place.segment_bytes)
        looked_at: _Known | None = None
        while True:
            with self._lock:
                known, flight = self._acknowledged.get(key), self._flights.get((key, mark))
                if known is not None and known.mark == mark:
                    return known.acknowledged
                if flight is None and (known is None or known is looked_at):
                    ours = self._flights[key, mark] = Future()
                    break
            if flight is not None:
                with suppress(Recycled):  # the other one's file was; this one may be a copy
                    flight.result()
            elif known is not None:
                if known.identity == _digest(repository, file):
                    return known.acknowledged
                looked_at = known
        level = min(self._settings.level, _FAST_LEVEL) if hurried else self._settings.level
        return self._fly(ours, mark, place, source, repository, level).acknowledged

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
        self, flight: Future[Pushed], mark: Mark, place: Place, source: WalSource, repository: Repository, level: int
    ) -> Pushed:
        """Push, and let those that wait for the same file have the outcome, whatever it is."""
        key = (place.system_identifier, source.name.text)
        vouching = mark if mark.is_settled(self._clock.now()) else None
        try:
            settings = self._push_settings(place, repository, level)
            done = push_source(source, repository, self._spool, settings, self._clock, self._log)
        except BaseException as error:
            with self._lock:
                del self._flights[key, mark]
            flight.set_exception(error)
            if isinstance(error, DrkitError | StorageError) and not isinstance(error, Recycled):
                self._failed(place.cluster, source.name, error)
            raise
        with self._lock:
            self._remember(key, _Known(done.identity, done.acknowledged, vouching))
            del self._flights[key, mark]
            at = self._clock.now()
            for target in ("", *done.acknowledged):
                entry = (place.cluster, target)
                self._last[entry] = self._last.get(entry, Last()).after(source.name, at)
        flight.set_result(done)
        self._works(place.cluster)
        return done

    def _remember(self, key: _Name, known: _Known) -> None:
        self._acknowledged[key] = known
        self._acknowledged.move_to_end(key)
        while len(self._acknowledged) > _REMEMBERED:
            self._acknowledged.popitem(last=False)

    def _push_settings(self, place: Place, repository: Repository, level: int) -> PushSettings:
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
        return PushSettings(place.cluster, place.data_dir, known[1], level, self._settings.patience)

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


def _digest(repository: Repository, file: BinaryIO) -> str:
    """The identity of an open file's content, hex; leaves it at its begin."""
    digest = blake3.blake3(key=repository.ring.identity_key)
    file.seek(0)
    while piece := file.read(_PIECE_BYTES):
        digest.update(piece)
    file.seek(0)
    return digest.hexdigest()
