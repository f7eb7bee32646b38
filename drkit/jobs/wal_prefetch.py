"""Segments fetched ahead of a recovering server, into pg_wal/drkit-prefetch/<plan>/, each under its own name.

A file appears there by rename, after every check. None is synced (17 ms for 16 MiB, as long as all else together): they
are a cache, served from memory while this kernel runs, and never after that: <plan> is the CRC-32 of the kernel's
boot id and of the recovery file. So nobody meets what a crash of the machine left, where zeros would look like the end
of WAL, nor the files of another recovery in the same folder. The server itself makes durable what it keeps
(KeepFileRestoredFromArchive, xlogarchive.c).

`drkit-wal get` takes a file by one rename (drkit/walclient.py has its own copy of these names and checks). How many are
kept ready goes by how fast they are taken (`depth`).
"""

from __future__ import annotations

import binascii
import fcntl
import os
import queue
import shutil
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from math import ceil
from pathlib import Path

from drkit.core.clock import Clock
from drkit.core.errors import Conflict, Damage, Failed, KeyMissing
from drkit.core.log import Log
from drkit.engines.postgres.wal import (
    LONG_HEADER_BYTES,
    SegmentError,
    WalKind,
    WalName,
    check_segment,
    next_name,
    parse_name,
)
from drkit.jobs.recovery_events import Fetch, note
from drkit.jobs.recovery_file import RECOVERY_FILE, RecoveryFile
from drkit.jobs.wal_get import Wanted, verified, write_file
from drkit.repository.layout import ClusterLayout
from drkit.repository.repository import Repository
from drkit.repository.spool import Spool
from storage_backends import durable
from storage_backends.errors import Damaged, NotFound, StorageError

FOLDER = "drkit-prefetch"
SIGNALS = ("recovery.signal", "standby.signal")
BOOT = Path("/proc/sys/kernel/random/boot_id")
_MOST_FILES, _MOST_BYTES, _SPARE = 16, 256 << 20, 4
_LEAST_FILES, _READY_S = 4, 2.0
_NAME_LENGTH = 24  # files that are not finished have longer names
IDLE_S = 5.0
"""So long after the last one was taken a prefetching process goes on."""
_AT_ONCE = 2
"""Fetches. One opens and writes 50 segments of 16 MiB a second from a disk, and a replay takes some 20; a store that
is far away is waited for, so two."""
_POLL_S = 0.02
"""Between two looks at what was taken: 30 us each."""


def ahead(segment_bytes: int) -> int:
    """How many segments are kept ready at most: 16, and 256 MiB; at least one."""
    return max(1, min(_MOST_FILES, _MOST_BYTES // segment_bytes))


def depth(taken: int, seconds: float, most: int) -> int:
    """How many to keep ready for a server that took so many in so long: what it takes in 2 s, at least 4.

    So a store that stands still for 2 s stops no replay, and a slow replay gets no more than it will soon use.
    """
    wanted = ceil(_READY_S * taken / seconds) if seconds > 0 else 0
    return min(most, max(_LEAST_FILES, wanted))


def base(data_dir: Path) -> Path:
    return data_dir / "pg_wal" / FOLDER


def folder(data_dir: Path) -> Path:
    """The folder of the plan that is in force, since this kernel was booted."""
    try:
        plan = (data_dir / RECOVERY_FILE).read_bytes()
    except FileNotFoundError:
        plan = b""
    return base(data_dir) / f"{binascii.crc32(BOOT.read_bytes() + plan):08x}"


def following(name: WalName, segment_bytes: int, recovery: RecoveryFile | None) -> list[WalName]:
    """The names that the server asks for after `name`, as far as the plan (or, without one, the timeline) goes."""
    if name.kind is not WalKind.SEGMENT:
        return []
    count = ahead(segment_bytes)
    if recovery is None:
        names = [name]
        for _ in range(count):
            names.append(next_name(names[-1], segment_bytes))
        return names[1:]
    first = name.number(segment_bytes) + 1
    end = first + count if recovery.standby else min(first + count, recovery.horizon_number + 1)
    return [recovery.timeline.segment(number, segment_bytes) for number in range(first, end)]


def take(data_dir: Path, wanted: Wanted, dest: Path) -> bool:
    """Move a prefetched segment to `dest`, if there is one that is whole; a wrong one is removed."""
    path = folder(data_dir) / wanted.name.text
    if wanted.name.kind is not WalKind.SEGMENT:
        return False
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            first = file.read(LONG_HEADER_BYTES)
        facts = check_segment(first, wanted.name, size, wanted.system_identifier)
        if wanted.segment_bytes not in (None, facts.segment_size):
            raise Damage("the prefetched segment has the wrong length", where=str(path), why=f"{size} bytes")
        path.replace(dest)
    except OSError:
        return False
    except (SegmentError, Damage):
        path.unlink(missing_ok=True)
        return False
    return True


def in_recovery(data_dir: Path) -> bool:
    return any((data_dir / name).exists() for name in SIGNALS)


@contextmanager
def prefetching(data_dir: Path) -> Iterator[bool]:
    """Whether we are the one process that prefetches into this data folder; never waits."""
    durable.make_dirs(base(data_dir))
    descriptor = os.open(base(data_dir) / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True
    finally:
        os.close(descriptor)


def prefetch(
    data_dir: Path,
    after: Wanted,
    recovery: RecoveryFile | None,
    open_repository: Callable[[], Repository],
    spool: Spool,
    clock: Clock,
    log: Log,
    *,
    idle_s: float = 0.0,
    moved: Callable[[], WalName | None] = lambda: None,
) -> list[str]:
    """Fetch what follows `after` and is not there yet, and go on as the server takes it; returns the names fetched.

    Ends when recovery does, when nothing was taken for `idle_s`, or at the first file that no target gives: the
    server asks for it itself, and hears why. The repository is opened for each fetch, and not for nothing. Files of
    other plans, and those already behind, are removed. moved: a file that the server was given by another way since
    it was asked last. Raises what `open_repository` raises.
    """
    if after.segment_bytes is None:
        return []
    with prefetching(data_dir) as ours:
        if not ours:
            return []
        run = _Run(data_dir, after, after.segment_bytes, recovery, open_repository, log)
        try:
            run.go(clock, idle_s, moved)
        finally:
            run.leave()
            layout = ClusterLayout(after.system_identifier)
            spool.suspect([layout.archived(done.file) for done in run.fetched if done.damaged])
        if run.errors:
            raise run.errors[0]
    if not in_recovery(data_dir):
        clear(data_dir)
    return sorted(done.file for done in run.fetched)


class _Run:
    """The fetches of one prefetching process. `go` and `leave` are called by one thread."""

    def __init__(
        self,
        data_dir: Path,
        after: Wanted,
        segment_bytes: int,
        recovery: RecoveryFile | None,
        open_repository: Callable[[], Repository],
        log: Log,
    ) -> None:
        self._data_dir, self._recovery, self._open, self._log = data_dir, recovery, open_repository, log
        self._system, self._segment_bytes, self._after = after.system_identifier, segment_bytes, after.name
        self._into, self._most = folder(data_dir), ahead(segment_bytes)
        self._window = following(after.name, segment_bytes, recovery)
        self._ready: set[str] = set()
        self._flying: set[str] = set()
        self._taken: deque[float] = deque(maxlen=2 * _MOST_FILES)  # when
        self._landed: queue.SimpleQueue[tuple[str, Fetch | BaseException | None]] = queue.SimpleQueue()
        self.fetched: list[Fetch] = []
        self.errors: list[BaseException] = []

    def go(self, clock: Clock, idle_s: float, moved: Callable[[], WalName | None]) -> None:
        _clean(self._data_dir, self._into)
        last, whole = clock.monotonic(), True
        while in_recovery(self._data_dir):
            now = clock.monotonic()
            window = self._look(moved(), now)
            last = max([last, *self._taken])
            missing = [name for name in window if name.text not in self._ready | self._flying]
            if whole and missing and len(self._flying) < _AT_ONCE:
                if not _has_space(self._data_dir, len(window) * self._segment_bytes):
                    break
                self._begin(missing[0])
            elif self._flying:
                whole &= self._land(_POLL_S)
            elif not whole or now - last >= idle_s:
                break
            else:
                clock.sleep(_POLL_S)

    def leave(self) -> None:
        """Wait for what is under way: it ends as its target's time-outs say."""
        while self._flying:
            self._land(None)

    def _look(self, moved: WalName | None, now: float) -> list[WalName]:
        """Go on from what the server took last; what is to be ready now. What lies behind is removed."""
        there = _names(self._into)
        gone = [parse_name(text) for text in self._ready - there]
        if gone or moved is not None or there != self._ready:
            self._taken.extend([now] * (len(gone) + (moved is not None)))
            self._after = max([moved or self._after, *gone], key=lambda name: name.number(self._segment_bytes))
            self._window = following(self._after, self._segment_bytes, self._recovery)
            self._ready = there & {name.text for name in self._window}
            for text in there - self._ready:
                (self._into / text).unlink(missing_ok=True)
        since_s = now - self._taken[0] if self._taken else 0.0
        return self._window[: depth(len(self._taken), since_s, self._most)]

    def _begin(self, name: WalName) -> None:
        durable.make_dirs(self._into)
        repository = self._open()
        self._flying.add(name.text)

        def root() -> None:
            wanted = Wanted(name, self._system, self._segment_bytes)
            try:
                self._landed.put((name.text, _fetch(repository, self._recovery, wanted, self._into, self._log)))
            except BaseException as error:  # noqa: BLE001  a thread root: raised by who waits for it
                self._landed.put((name.text, error))

        threading.Thread(target=root, name=f"prefetch/{name.text}", daemon=True).start()

    def _land(self, timeout_s: float | None) -> bool:
        """Take the outcome of one fetch, if there is one in time; False where no target gave the file."""
        try:
            text, found = self._landed.get(timeout=timeout_s)
        except queue.Empty:
            return True
        self._flying.discard(text)
        if isinstance(found, BaseException):
            self.errors.append(found)
            return False
        if found is None:
            return False
        self._ready.add(text)
        self.fetched.append(found)
        if self._recovery is not None:
            note(self._data_dir, found)
        return True


def _fetch(repository: Repository, recovery: RecoveryFile | None, wanted: Wanted, into: Path, log: Log) -> Fetch | None:
    """None where no target gave it: the server asks for it itself, and that is noted then."""
    damaged: dict[str, str] = {}
    missing: dict[str, str] = {}
    given_up = recovery.without if recovery is not None else ()
    order = recovery.targets if recovery is not None else tuple(t.name for t in repository.targets)
    for target in sorted(repository.targets, key=lambda t: order.index(t.name) if t.name in order else len(order)):
        if target.name in given_up or target.name not in order:
            continue
        try:
            write_file(verified(repository.ring, target, wanted), into / wanted.name.text, mode=0o600)
        except NotFound as error:
            missing[target.name] = str(error)
            continue
        except (Damaged, Damage, Conflict) as error:
            log.error("wal damaged", file=wanted.name.text, target=target.name, why=str(error))
            damaged[target.name] = str(error)
            continue
        except (StorageError, KeyMissing, Failed) as error:
            log.warn("wal not prefetched", file=wanted.name.text, target=target.name, why=str(error))
            continue
        return Fetch(wanted.name.text, target.name, wanted.segment_bytes or 0, damaged, missing=missing)
    return None


def _clean(data_dir: Path, into: Path) -> None:
    """Remove what other recoveries and earlier boots left, and files that an earlier process did not finish."""
    for entry in base(data_dir).iterdir():
        if entry.is_dir() and entry != into:
            shutil.rmtree(entry, ignore_errors=True)
    if into.is_dir():
        for entry in into.iterdir():
            if entry.name not in _names(into):
                entry.unlink(missing_ok=True)


def _names(into: Path) -> set[str]:
    try:
        return {text for text in os.listdir(into) if len(text) == _NAME_LENGTH}  # noqa: PTH208  50 times a second
    except FileNotFoundError:
        return set()


def _has_space(data_dir: Path, size_bytes: int) -> bool:
    found = os.statvfs(data_dir / "pg_wal")
    return found.f_bavail * found.f_frsize > _SPARE * size_bytes


def clear(data_dir: Path) -> None:
    """Remove all that was prefetched; a history file is asked for when recovery begins and when it ends."""
    with suppress(OSError):
        shutil.rmtree(base(data_dir))
