"""Makes what a restore wrote durable: writing back begins with each extent, one syncfs at the end waits for it."""

from __future__ import annotations

import ctypes
import os
import platform
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

from drkit.jobs.restore_folder import folders_of
from storage_backends import durable
from storage_backends.oserrors import os_errors

_SYNCFS_TELLS = (5, 8)  # Linux: syncfs(2) reports lost writes since 5.8
_WORTH_BYTES = 1 << 20
_WRITE = 2  # SYNC_FILE_RANGE_WRITE: begin, wait for nothing


class Disks:
    """The filesystems under some folders. To be made before the first file is written and used as a context.

    syncfs tells of writes that were lost since its descriptor was opened (syncfs(2), Linux 5.8): one that is opened
    after them would not know. Where the kernel cannot tell, every file and folder is synced by itself.
    """

    def __init__(self, roots: Iterable[Path]) -> None:
        """roots: existing folders. Raises StorageError."""
        self._roots = list(roots)
        self._stack = ExitStack()
        self._open: dict[int, int] = {}
        self._range = getattr(ctypes.CDLL(None), "sync_file_range", None)
        for root in self._roots if _syncfs_tells() else ():
            with os_errors("open the destination", str(root)):
                descriptor = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                self._stack.callback(os.close, descriptor)
                self._open.setdefault(os.fstat(descriptor).st_dev, descriptor)

    def __enter__(self) -> Disks:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stack.close()

    def begin(self, descriptor: int, offset: int, size_bytes: int) -> None:
        """Have the kernel write these bytes of a file out while the next ones are made. Promises nothing."""
        if self._range is not None and size_bytes >= _WORTH_BYTES:
            self._range(descriptor, ctypes.c_int64(offset), ctypes.c_int64(size_bytes), ctypes.c_uint(_WRITE))

    def sync(self, check: Callable[[], None]) -> None:
        """All below the folders is durable on return; `check` may raise. Raises StorageError for lost writes."""
        for root in self._roots:
            with os_errors("sync the restored files", str(root)):
                self._sync(root, check)

    def _sync(self, root: Path, check: Callable[[], None]) -> None:
        synced: set[int] = set()
        for here in folders_of(root):
            check()
            device = here.stat().st_dev
            if device in synced:
                continue
            if device in self._open:
                _syncfs(self._open[device], root)
                synced.add(device)
                continue
            with os.scandir(here) as items:
                for item in items:
                    if not item.is_dir(follow_symlinks=False):
                        sync_file(Path(item.path))
            durable.sync_dir(here)


def sync_file(path: Path) -> None:
    """Raises OSError; a link is left alone."""
    if path.is_symlink():
        return
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _syncfs_tells() -> bool:
    release = platform.release().split(".")
    known = platform.system() == "Linux" and tuple(int(x) for x in release[:2] if x.isdigit()) >= _SYNCFS_TELLS
    return known and hasattr(ctypes.CDLL(None), "syncfs")


def _syncfs(descriptor: int, root: Path) -> None:
    if ctypes.CDLL(None, use_errno=True).syncfs(descriptor) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(root))
