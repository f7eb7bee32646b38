"""Makes an existing folder safe to restore into: first it cannot start, then it holds nothing that is not wanted."""

from __future__ import annotations

import os
import stat
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path

from drkit.core.scratch import in_order
from drkit.engines.postgres.control import CONTROL_PATH
from drkit.engines.postgres.recovery import RECOVERY_SIGNAL, STANDBY_SIGNAL
from drkit.jobs.recovery_file import RECOVERY_FILE
from drkit.jobs.restore_folder import KEPT_CONTROL, LOST_FOUND
from storage_backends import durable
from storage_backends.oserrors import os_errors

STALE = ("backup_label", "tablespace_map", RECOVERY_SIGNAL, STANDBY_SIGNAL, "backup_manifest")


def disarm(folder: Path) -> None:
    """Remove pg_control and make that durable before anything else changes: from here no server starts on it.

    Then backup_label and its kin: with another pg_control they would lead recovery astray. A copy of pg_control stays
    under another name until the folder is cleared: without it nothing would tell the next restore whose folder it is.
    """
    with os_errors("remove the old pg_control", str(folder)):
        _keep_control(folder)
        inner = folder / Path(CONTROL_PATH).parent
        if inner.is_symlink():
            inner.unlink()
        elif inner.is_dir():
            (folder / CONTROL_PATH).unlink(missing_ok=True)
            durable.sync_dir(inner)
        for name in STALE:
            (folder / name).unlink(missing_ok=True)
        durable.sync_dir(folder)


def _keep_control(folder: Path) -> None:
    try:
        content = (folder / CONTROL_PATH).read_bytes()
    except OSError:
        return  # what cannot be read tells nothing; something else did
    durable.replace(folder / KEPT_CONTROL, content)


class _Wanted:
    """What a backup holds, asked for in about the order of paths; who asks for an earlier one begins anew."""

    def __init__(self, keys: Iterable[bytes]) -> None:
        self._keys = keys
        self._left: Iterator[bytes] = iter(())
        self._ahead: bytes | None = None
        self._last: bytes | None = None

    def has(self, key: bytes) -> bool:
        if self._last is None or key < self._last:
            self._left = iter(self._keys)
            self._ahead = next(self._left, None)
        self._last = key
        while self._ahead is not None and self._ahead < key:
            self._ahead = next(self._left, None)
        return self._ahead == key


class Clearing:
    """Removes from a data folder what the backup does not hold. Links and mount points are never followed, mount
    points never removed; what stays on one is in `spared`.

    wanted: paths relative to the data folder, those of folders with '/' behind them, sorted; read as a stream, once for
    each row of folders in path order · links: path -> where the link must lead
    Memory: does not grow with the files that are there or wanted, as names are sorted by `core.scratch`.
    """

    def __init__(self, wanted: Iterable[bytes], links: Mapping[bytes, bytes]) -> None:
        self._wanted, self._links = _Wanted(wanted), links
        self.removed = 0
        self.spared: list[str] = []

    def folder(self, root: Path, prefix: bytes = b"") -> None:
        """Clear `root`, which holds the backup's paths below `prefix`. Raises a StorageError."""
        with os_errors("clear the destination", str(root)):
            self._folder(root, prefix, root.lstat().st_dev)

    def _folder(self, place: Path, prefix: bytes, device: int) -> None:
        for key in in_order(_names(place)):
            name = key.rstrip(b"/")
            path = prefix + b"/" + name if prefix else name
            if not prefix and name in _KEPT:
                continue
            item = f"{place}/{os.fsdecode(name)}"
            status = os.lstat(item)
            if stat.S_ISDIR(status.st_mode):
                self._inner(Path(item), path, status.st_dev, device)
            elif not self._may_stay(item, path, status):
                Path(item).unlink()
                self.removed += 1

    def _inner(self, place: Path, path: bytes, its_device: int, device: int) -> None:
        wanted = self._has(path + b"/") and path not in self._links
        self._folder(place, _NOTHING if path in self._links else path, its_device)
        if wanted:
            return
        if its_device != device or place.is_mount() or any(place.iterdir()):
            self.spared.append(str(place))
            return
        place.rmdir()
        self.removed += 1

    def _has(self, key: bytes) -> bool:
        return not key.startswith(_NOTHING) and self._wanted.has(key)

    def _may_stay(self, place: str, path: bytes, status: os.stat_result) -> bool:
        """A plain file of the backup with no other name (a hard link may lead into a live folder), or a right link."""
        if stat.S_ISLNK(status.st_mode):
            return path in self._links and os.fsencode(Path(place).readlink()) == self._links[path]
        return stat.S_ISREG(status.st_mode) and status.st_nlink == 1 and self._has(path)


def _names(place: Path) -> Iterator[bytes]:
    """As the backup's paths are sorted."""
    with os.scandir(place) as items:
        for item in items:
            yield os.fsencode(item.name) + b"/" * item.is_dir(follow_symlinks=False)


_NOTHING = b"\0"  # no path of a backup begins so
_KEPT: Collection[bytes] = {LOST_FOUND.encode(), RECOVERY_FILE.encode()}
