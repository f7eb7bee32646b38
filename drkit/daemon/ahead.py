"""Pushes the segments that PostgreSQL will hand over, before it does: when it does, they are acknowledged at once.

PostgreSQL marks what is to be archived by `pg_wal/archive_status/<file>.ready` and hands over one file at a time,
history files first. Here several are on their way at once; none is said to be archived by this, whoever hands a file
over has its content compared (`Archiver`).
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import zip_longest
from typing import BinaryIO

from drkit.core.cancel import CancelToken
from drkit.core.clock import Clock
from drkit.core.errors import Cancelled, DrkitError
from drkit.core.flow import Channel, Group
from drkit.core.log import Log
from drkit.daemon.archiver import Archiver
from drkit.daemon.clusters import Clusters, Place
from drkit.engines.postgres.wal import WalKind, WalName, WalNameError, parse_name
from storage_backends.errors import StorageError

_READY = ".ready"
_WINDOW = 64  # files of one cluster that are pushed ahead: what is remembered of results is more
_REST_S = 10.0


@dataclass(frozen=True, slots=True)
class Waiting:
    """What PostgreSQL has not handed over. files: in its order · oldest_at: when the first of them was finished."""

    files: tuple[WalName, ...] = ()
    size_bytes: int = 0
    oldest_at: datetime | None = None


def waiting(place: Place) -> Waiting:
    """Read archive_status: one pass over its names, one stat. Raises OSError."""
    found: list[WalName] = []
    with os.scandir(place.status) as entries:
        for entry in entries:
            if entry.name.endswith(_READY):
                with suppress(WalNameError):
                    found.append(parse_name(entry.name.removesuffix(_READY)))
    found.sort(key=lambda name: (name.kind is not WalKind.HISTORY, name.text))
    whole = sum(name.kind in (WalKind.SEGMENT, WalKind.PARTIAL) for name in found)
    oldest = None
    for name in found[:1]:
        with suppress(FileNotFoundError):
            seconds = (place.status / f"{name.text}{_READY}").stat().st_mtime
            oldest = datetime.fromtimestamp(seconds, UTC)
    return Waiting(tuple(found), whole * place.segment_bytes, oldest)


def open_wal_file(place: Place, name: WalName) -> BinaryIO:
    """A file of pg_wal. Raises OSError; a link is none of the server's files."""
    descriptor = os.open(place.wal / name.text, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    return os.fdopen(descriptor, "rb")


class Ahead:
    """A part of the daemon. workers: files on their way at once · scan_s: pause between two looks."""

    name = "ahead"

    def __init__(
        self, clusters: Clusters, archiver: Archiver, clock: Clock, log: Log, *, workers: int = 3, scan_s: float = 0.5
    ) -> None:
        self._clusters, self._archiver, self._clock, self._log = clusters, archiver, clock, log
        self._workers, self._scan_s = workers, scan_s
        self._lock = threading.Lock()
        self._waiting: dict[str, Waiting] = {}
        self._taken: dict[tuple[str, str], float] = {}

    def waiting(self, cluster: str) -> Waiting:
        """As it was seen last."""
        with self._lock:
            return self._waiting.get(cluster, Waiting())

    def run(self, token: CancelToken) -> None:
        with suppress(Cancelled), Group(token, name=self.name) as group:
            queue: Channel[tuple[Place, WalName]] = Channel(2 * self._workers, group.token, name=self.name)
            for number in range(self._workers):
                group.start(str(number), self._work, queue)
            while not group.token.cancelled:
                began = self._clock.monotonic()
                self._feed(queue, self.scan())
                # A folder with a hundred thousand names takes a while to read: never more than a tenth of the time.
                group.token.wait(max(self._scan_s, 10 * (self._clock.monotonic() - began)))

    def scan(self) -> list[tuple[Place, WalName]]:
        """What is to be pushed now, the clusters in turn."""
        rows = []
        for place in self._clusters.readable():
            try:
                found = waiting(place)
            except OSError as error:
                self._log.debug("archive status not read", cluster=place.cluster, why=str(error))
                continue
            with self._lock:
                self._waiting[place.cluster] = found
                self._forget(place.cluster, {name.text for name in found.files})
            window = 1 if self._archiver.problem(place.cluster) else _WINDOW  # one finds out whether it works again
            rows.append([(place, name) for name in found.files[:window] if self._is_due(place, name)])
        return [one for row in zip_longest(*rows) for one in row if one is not None]

    def _feed(self, queue: Channel[tuple[Place, WalName]], due: Iterable[tuple[Place, WalName]]) -> None:
        for place, name in due:
            key = (place.cluster, name.text)
            with self._lock:
                self._taken[key] = float("inf")
            if not queue.offer((place, name), self._scan_s):
                with self._lock:
                    del self._taken[key]
                return

    def _is_due(self, place: Place, name: WalName) -> bool:
        with self._lock:
            return self._clock.monotonic() >= self._taken.get((place.cluster, name.text), 0.0)

    def _forget(self, cluster: str, ready: set[str]) -> None:
        """With the lock held: what PostgreSQL has handed over."""
        for key in [key for key in self._taken if key[0] == cluster and key[1] not in ready]:
            del self._taken[key]

    def _work(self, queue: Channel[tuple[Place, WalName]]) -> None:
        for place, name in queue:
            try:
                with open_wal_file(place, name) as file:
                    self._archiver.push(place, name, file)
            except (DrkitError, StorageError, OSError) as error:
                # Nobody asked for it. When the server does, it hears what is wrong, and so does the operator.
                self._log.debug("not pushed ahead", cluster=place.cluster, file=name.text, why=str(error))
                with self._lock:
                    self._taken[place.cluster, name.text] = self._clock.monotonic() + _REST_S
