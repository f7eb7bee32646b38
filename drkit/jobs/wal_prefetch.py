"""Segments fetched ahead of a recovering server, into pg_wal/drkit-prefetch/<plan>/, each under its own name.

A file appears there by rename, after every check, and synced: a crash leaves no zeros that would look like the end
of WAL. <plan> is the CRC-32 of the recovery file, so that another recovery in the same folder never meets them.
`drkit-wal get` takes a file by one rename (drkit/walclient.py has its own copy of these names and checks).
"""

from __future__ import annotations

import binascii
import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from drkit.core.errors import Conflict, Damage, KeyMissing
from drkit.core.log import Log
from drkit.engines.postgres.wal import LONG_HEADER_BYTES, SegmentError, WalKind, WalName, check_segment, next_name
from drkit.jobs.recovery_events import Fetch, note
from drkit.jobs.recovery_file import RECOVERY_FILE, RecoveryFile
from drkit.jobs.wal_get import Wanted, verified
from drkit.repository.layout import ClusterLayout
from drkit.repository.repository import Repository
from drkit.repository.spool import Spool
from storage_backends import durable
from storage_backends.errors import Damaged, NotFound, StorageError

FOLDER = "drkit-prefetch"
SIGNALS = ("recovery.signal", "standby.signal")
_MOST_FILES, _MOST_BYTES, _SPARE = 16, 256 << 20, 4


def ahead(segment_bytes: int) -> int:
    """How many segments are kept ready: at most 16, at most 256 MiB, at least one."""
    return max(1, min(_MOST_FILES, _MOST_BYTES // segment_bytes))


def base(data_dir: Path) -> Path:
    return data_dir / "pg_wal" / FOLDER


def folder(data_dir: Path) -> Path:
    """The folder of the plan that is in force."""
    try:
        plan = (data_dir / RECOVERY_FILE).read_bytes()
    except FileNotFoundError:
        plan = b""
    return base(data_dir) / f"{binascii.crc32(plan):08x}"


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
    log: Log,
) -> list[str]:
    """Fetch what follows `after` and is not there yet; returns the names fetched.

    Stops at the first file that no target gives: the server asks for it itself, and hears why. The repository is
    opened only when something is to be fetched. Files of other plans, and those already behind, are removed.
    """
    if after.segment_bytes is None:
        return []
    with prefetching(data_dir) as ours:
        if not ours:
            return []
        names = following(after.name, after.segment_bytes, recovery)
        into = folder(data_dir)
        _clean(data_dir, into, {name.text for name in names})
        missing = [name for name in names if not (into / name.text).exists()]
        if not missing or not _has_space(data_dir, len(missing) * after.segment_bytes):
            return []
        durable.make_dirs(into)
        repository, fetched = open_repository(), []
        for name in missing:
            wanted = Wanted(name, after.system_identifier, after.segment_bytes)
            if not in_recovery(data_dir):
                break
            done = _fetch(repository, recovery, wanted, into, log)
            if done is None:
                break
            if done.damaged:
                spool.suspect([ClusterLayout(wanted.system_identifier).archived(name.text)])
            if recovery is not None:
                note(data_dir, done)
            fetched.append(name.text)
    if not in_recovery(data_dir):
        clear(data_dir)
    return fetched


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
            durable.write_new(into / wanted.name.text, verified(repository.ring, target, wanted))
        except NotFound as error:
            missing[target.name] = str(error)
            continue
        except (Damaged, Damage, Conflict) as error:
            log.error("wal damaged", file=wanted.name.text, target=target.name, why=str(error))
            damaged[target.name] = str(error)
            continue
        except (StorageError, KeyMissing) as error:
            log.warn("wal not prefetched", file=wanted.name.text, target=target.name, why=str(error))
            continue
        return Fetch(wanted.name.text, target.name, wanted.segment_bytes or 0, damaged, missing=missing)
    return None


def _clean(data_dir: Path, into: Path, wanted: set[str]) -> None:
    for entry in base(data_dir).iterdir():
        if entry.is_dir() and entry != into:
            shutil.rmtree(entry, ignore_errors=True)
    if into.is_dir():
        for entry in into.iterdir():
            if entry.name not in wanted:
                entry.unlink(missing_ok=True)


def _has_space(data_dir: Path, size_bytes: int) -> bool:
    found = os.statvfs(data_dir / "pg_wal")
    return found.f_bavail * found.f_frsize > _SPARE * size_bytes


def clear(data_dir: Path) -> None:
    """Remove all that was prefetched; a history file is asked for when recovery begins and when it ends."""
    with suppress(OSError):
        shutil.rmtree(base(data_dir))
