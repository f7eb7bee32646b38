"""Pushes the segments that PostgreSQL will hand over, before it does: when it does, they are acknowledged at once.

PostgreSQL marks what is to be archived by `pg_wal/archive_status/<file>.ready` and hands over one file at a time,
history files first. Here several are on their way at once; none is said to be archived by this, whoever hands a file
over has its content compared (`Archiver`).
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import chain, islice, zip_longest
from pathlib import Path
from typing import BinaryIO

from drkit.core.cancel import CancelToken
from drkit.core.clock import Clock
from drkit.core.errors import Cancelled, DrkitError
from drkit.core.flow import Channel, Group
from drkit.core.log import Log
from drkit.daemon.archiver import Archiver
from drkit.daemon.clusters import Clusters, Place
from drkit.engines.postgres.wal import WalName, WalNameError, parse_name
from storage_backends.errors import StorageError

_READY, _DONE = ".ready", ".done"
_DONE_LENGTH = 24 + len(_DONE)  # of a segment
_WINDOW = 1024  # files of one cluster that are pushed ahead: results of more than that are remembered
_REST_S = 10.0
_BACKLOG = 16  # files that wait: from more on, compression costs more than bytes


@dataclass(frozen=True, slots=True)
class Waiting:
    """What PostgreSQL has not handed over. files: the first of them, in its order · count, size_bytes: of all
    oldest_at: when the first was finished.

    done, done_at: the newest segment that it marks as archived, by whomever, and when; "" and None on a standby, which
    marks what it received.
    """

    files: tuple[WalName, ...] = ()
    count: int = 0
    size_bytes: int = 0
    oldest_at: datetime | None = None
    done: str = ""
    done_at: datetime | None = None


def waiting(place: Place) -> Waiting:
    """Read archive_status: one pass over its names, two stats. Raises OSError.

    100,000 files take 0.1 s: only the names that are given back are looked at more closely.
    """
    found: list[str] = []
    done = ""
    with os.scandir(place.status) as entries:
        for entry in entries:
            name = entry.name
            if name.endswith(_READY):
                found.append(name[: -len(_READY)])
            elif name.endswith(_DONE) and len(name) == _DONE_LENGTH and not place.standby:
                done = max(done, name[: -len(_DONE)])
    histories = [text for text in found if text.endswith(".history")]
    found.sort()
    first = list(islice(_parsed(chain(sorted(histories), found)), _WINDOW))
    whole = sum(len(text) == 24 or text.endswith(".partial") for text in found)
    oldest_at = _changed_at(place.status / f"{first[0].text}{_READY}") if first else None
    done_at = _changed_at(place.status / f"{done}{_DONE}") if done else None
    return Waiting(tuple(first), len(found), whole * place.segment_bytes, oldest_at, done, done_at)


def _parsed(texts: Iterable[str]) -> Iterator[WalName]:
    """Each once: history files are met in both lists."""
    seen: set[str] = set()
    for text in texts:
        if text not in seen:
            seen.add(text)
            with suppress(WalNameError):
                yield parse_name(text)


def _changed_at(path: Path) -> datetime | None:
    """Of a mark: when it was made, renaming (from ready to done) included. None where it is gone."""
    try:
        return datetime.fromtimestamp(path.stat().st_ctime, UTC)
    except FileNotFoundError:
        return None


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

    def hurries(self, cluster: str) -> bool:
        """Whether more waits than is compressed as hard as configured."""
        return self.waiting(cluster).count > _BACKLOG

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
            window = 1 if self._archiver.problem(place.cluster) else None  # one finds out whether it works again
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
        """With the lock held: what PostgreSQL has handed over, and what is no longer among the first."""
        for key in [key for key in self._taken if key[0] == cluster and key[1] not in ready]:
            del self._taken[key]

    def _work(self, queue: Channel[tuple[Place, WalName]]) -> None:
        for place, name in queue:
            try:
                with open_wal_file(place, name) as file:
                    self._archiver.push(place, name, file, hurried=self.hurries(place.cluster))
            except (DrkitError, StorageError, OSError) as error:
                # Nobody asked for it. When the server does, it hears what is wrong, and so does the operator.
                self._log.debug("not pushed ahead", cluster=place.cluster, file=name.text, why=str(error))
                with self._lock:
                    self._taken[place.cluster, name.text] = self._clock.monotonic() + _REST_S
