"""Answers a recovering server: the file into the descriptor that it opened, and what follows into its prefetch folder.

The data folder comes as a descriptor and is used as /proc/self/fd/N: no path is believed. For another user than root
or our own, nothing is written there: a link planted in that folder would be followed with our rights.
"""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TypeVar

from drkit.core.clock import Clock
from drkit.core.errors import DrkitError, Failed, Refused
from drkit.core.log import Log
from drkit.daemon.peers import Gate, Peer
from drkit.daemon.protocol import Answer, Status
from drkit.daemon.socket import Call, access_of
from drkit.daemon.targets import OpenTargets
from drkit.engines.postgres.control import read_control
from drkit.engines.postgres.wal import WalKind, WalName, parse_name
from drkit.jobs import wal_get
from drkit.jobs.recovery_file import RecoveryFile, read_recovery_file
from drkit.jobs.wal_fetch import Opening, cure_of, fetch
from drkit.jobs.wal_get import Found, Wanted
from drkit.jobs.wal_prefetch import IDLE_S, clear, in_recovery, prefetch
from drkit.repository.spool import Spool
from storage_backends.errors import StorageError

R = TypeVar("R")

_FOLDERS = 4  # prefetched into at a time


class Fetcher:
    """What the verbs `get` and `ahead` do. Thread-safe."""

    def __init__(
        self, targets: OpenTargets, spool: Spool, owns: Callable[[int, int], bool], gate: Gate, clock: Clock, log: Log
    ) -> None:
        """owns: whether a user owns the data folder of a cluster, by (uid, system identifier)."""
        self._targets, self._spool, self._owns, self._gate = targets, spool, owns, gate
        self._clock, self._log = clock, log
        self._wanting = threading.Condition()
        self._after: dict[tuple[int, int], Wanted | None] = {}

    def get(self, call: Call) -> Answer:
        """`get <system identifier> <name>` with the destination, opened for writing, and the data folder."""
        dest, at = call.descriptors
        facts = os.fstat(dest)
        if not stat.S_ISREG(facts.st_mode) or access_of(dest) == os.O_RDONLY:
            return Answer(Status.REFUSED, "the destination is no regular file opened for writing")
        wanted, recovery, folder = self._wanted(call, at)
        trusted = self._gate.trusts(call.peer)
        resting = self._spool.resting(self._clock.now())
        opening = Opening(self._targets.repository if resting else None, self._targets.again)
        put = partial(_write, dest)
        noted = folder if trusted else None
        found = fetch(wanted, put, recovery, opening, self._clock, self._log, folder=noted, spool=self._spool)
        if found.answer is wal_get.Answer.GOT and trusted:
            self._prefetch(at, wanted, recovery)
        return _answer(found)

    def ahead(self, call: Call) -> Answer:
        """`ahead <system identifier> <name>` with the data folder: `name` was taken there, fetch what follows."""
        (at,) = call.descriptors
        if not self._gate.trusts(call.peer):
            return Answer(Status.REFUSED, "prefetching is for root and the daemon's own user")
        wanted, recovery, _ = self._wanted(call, at)
        self._prefetch(at, wanted, recovery)
        return Answer(Status.OK)

    def _wanted(self, call: Call, at: int) -> tuple[Wanted, RecoveryFile | None, Path]:
        if not stat.S_ISDIR(os.fstat(at).st_mode):
            raise Refused("the data folder is no folder")
        system, name, folder = system_of(call.words[0]), parse_name(call.words[1]), Path(f"/proc/self/fd/{at}")
        self._check(call.peer, system)
        recovery = read_recovery_file(folder)
        if recovery is None:
            _, control = read_control(folder, self._clock.sleep)
            found, segment_bytes = control.system_identifier, control.wal_segment_size
        else:
            found, segment_bytes = recovery.system_identifier, recovery.segment_bytes
        if found != system:
            raise Refused("the data folder is of another cluster", why=f"{found} is not {system}")
        return Wanted(name, system, segment_bytes), recovery, folder

    def _check(self, peer: Peer, system: int) -> None:
        if not self._gate.trusts(peer) and not self._owns(peer.uid, system):
            self._gate.refused(peer, f"get of {system}")
            raise Refused(f"user {peer.uid} does not own this cluster", where=str(system))

    # --- prefetching ---

    def _prefetch(self, at: int, after: Wanted, recovery: RecoveryFile | None) -> None:
        """One thread for a folder, a few in all; where there are more, `get` fetches without."""
        facts = os.fstat(at)
        folder = (facts.st_dev, facts.st_ino)
        if after.name.kind is not WalKind.SEGMENT or not in_recovery(Path(f"/proc/self/fd/{at}")):
            return
        with self._wanting:
            known = folder in self._after
            if not known and len(self._after) >= _FOLDERS:
                return
            self._after[folder] = after
            self._wanting.notify_all()
            if known:
                return
        root = partial(self._root, os.dup(at), folder, recovery)
        threading.Thread(target=root, name="prefetch", daemon=True).start()

    def _root(self, at: int, folder: tuple[int, int], recovery: RecoveryFile | None) -> None:
        """A thread; what ends it is told, and nothing more: the server asks for the file itself."""
        data_dir = Path(f"/proc/self/fd/{at}")
        try:
            while (after := self._next(folder)) is not None:
                prefetch(
                    data_dir, after, recovery, self._targets.repository, self._spool, self._clock, self._log,
                    idle_s=IDLE_S, moved=partial(self._moved, folder),
                )  # fmt: skip
                if not in_recovery(data_dir):
                    break
            if not in_recovery(data_dir):
                clear(data_dir)
        except (DrkitError, StorageError, OSError) as error:
            self._log.warn("prefetch ended", why=str(error))
        finally:
            os.close(at)
            with self._wanting:
                self._after.pop(folder, None)

    def _moved(self, folder: tuple[int, int]) -> WalName | None:
        with self._wanting:
            after, self._after[folder] = self._after.get(folder), None
            return None if after is None else after.name

    def _next(self, folder: tuple[int, int]) -> Wanted | None:
        """The file to go on from; None after a while without any."""
        with self._wanting:
            if self._after.get(folder) is None:
                self._wanting.wait_for(lambda: self._after.get(folder) is not None, IDLE_S)
            after, self._after[folder] = self._after.get(folder), None
            return after


def system_of(word: str) -> int:
    """Raises Refused."""
    if not word.isdecimal() or len(word) > 20:
        raise Refused("no system identifier", why=word[:40])
    return int(word)


def _write(dest: int, pieces: Iterator[bytes]) -> int:
    """Into a descriptor, from its begin; what an earlier attempt left there goes. Whoever opened it drops it unless
    it is told that it is whole."""
    size_bytes = 0
    _local(lambda: os.ftruncate(dest, 0))
    for piece in pieces:
        rest = memoryview(piece)
        while rest:
            written = _local(partial(os.pwrite, dest, rest, size_bytes))
            size_bytes, rest = size_bytes + written, rest[written:]
    return size_bytes


def _local(call: Callable[[], R]) -> R:
    try:
        return call()
    except OSError as error:
        cure = "is there space, and may this user write there?"
        raise Failed("the fetched WAL cannot be written", why=str(error), cure=cure) from error


def _answer(found: Found) -> Answer:
    if found.answer is wal_get.Answer.GOT:
        return Answer(Status.OK, found.source)
    if found.answer is wal_get.Answer.ABSENT:
        return Answer(Status.ABSENT, found.why)
    why = "; ".join(part for part in (found.why, found.told) if part)
    return Answer(Status.DOUBT, f"in doubt: {why}; {cure_of(found)}")
