"""Durable files: write, fsync, link or rename, fsync the folder. The only copy of that order in the project.

A file under construction is `.<name>.<token>.tmp` in the folder of its final name, so that link and rename
stay within one filesystem. A crash leaves such a file and never a part of one under the final name.

An fsync that failed is never tried again on the same file: Linux reports a lost write once and marks the page
clean (fsync(2), NOTES on error reporting); the file is dropped and the caller may write it anew.
"""

from __future__ import annotations

import ctypes
import errno
import os
import secrets
import stat
from collections.abc import Callable, Iterable
from pathlib import Path

from storage_backends.errors import AlreadyExists, Unavailable, Unsupported
from storage_backends.oserrors import os_errors

TEMPORARY_SUFFIX = ".tmp"
_NO_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}
_NO_RENAME_FLAGS = {errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP}
_NO_FOLDER_SYNC = {errno.EINVAL, errno.EOPNOTSUPP}
_RENAME_NOREPLACE = 1  # linux/fs.h
_NAME_IN_TEMPORARY = 200  # names end at 255 bytes; the rest is for the token


class NewFile:
    """A file that appears under its name only at commit, whole and durable. Not thread-safe.

    folder: a descriptor of the folder, duplicated here, so that a mount that changes meanwhile is not met.
    where: for messages. mode: narrowed by the umask. wanted_bytes: the size, where known, for messages.
    """

    def __init__(
        self,
        folder: int,
        name: str,
        *,
        where: str,
        mode: int = 0o600,
        wanted_bytes: int | None = None,
        token: str = "",
    ) -> None:
        self._name, self._where, self._wanted = name, where, wanted_bytes
        self._temporary = f".{name[:_NAME_IN_TEMPORARY]}.{token or secrets.token_hex(8)}{TEMPORARY_SUFFIX}"
        self.written_bytes = 0
        self._file = -1
        with os_errors(f"write {name}", where, wanted_bytes, folder):
            self._folder = os.dup(folder)
            try:
                flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
                self._file = os.open(self._temporary, flags, mode, dir_fd=self._folder)
            except OSError:
                os.close(self._folder)
                raise

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Append; OutOfSpace tells what was wanted and what is free. After an error only abort is left."""
        rest = memoryview(data).cast("B")
        wanted = max(self._wanted or 0, self.written_bytes + len(rest))
        with os_errors(f"write {self._name}", self._where, wanted, self._folder):
            while rest:
                count = os.write(self._file, rest)
                self.written_bytes += count
                rest = rest[count:]

    def commit(
        self, *, replace: bool = False, look: Callable[[os.stat_result | None], None] | None = None
    ) -> os.stat_result:
        """Make it durable under its name; without `replace` AlreadyExists where the name is taken.

        look: with `replace`, is given what has the name (None: nothing) right before it goes, when the new bytes are
        durable already; what it raises comes out, and the name is as it was.
        The name that AlreadyExists speaks of is durable too. On any error the temporary file is gone and the
        name is as it was, except when the last fsync of the folder fails: then the name is there and may not
        survive a crash of the machine; it stays, as somebody may have met and relied on it.
        """
        try:
            wanted = max(self._wanted or 0, self.written_bytes)
            with os_errors(f"write {self._name}", self._where, wanted, self._folder):
                os.fsync(self._file)
                facts = os.fstat(self._file)
                descriptor, self._file = self._file, -1
                os.close(descriptor)  # NFS reports a spent quota here at the latest: before the name appears
                if replace:
                    if look is not None:
                        look(self._met())
                    os.replace(self._temporary, self._name, src_dir_fd=self._folder, dst_dir_fd=self._folder)
                    self._temporary = ""
                else:
                    self._publish(facts)
                sync_descriptor(self._folder)
            return facts
        finally:
            self.abort()

    def abort(self) -> None:
        """Drop the temporary file. Idempotent; after commit it does nothing."""
        if self._folder < 0:
            return
        if self._file >= 0:
            os.close(self._file)
        if self._temporary:
            _unlink_quietly(self._temporary, self._folder)
        os.close(self._folder)
        self._file = self._folder = -1

    def _publish(self, facts: os.stat_result) -> None:
        """Give the file its name unless the name is taken, also against other processes and hosts."""
        try:
            os.link(
                self._temporary,
                self._name,
                src_dir_fd=self._folder,
                dst_dir_fd=self._folder,
                follow_symlinks=False,
            )
        except FileExistsError as error:
            # NFS: the answer to a link that succeeded can be lost, and its repetition meets our own file.
            if not self._is_ours(facts):
                raise self._taken() from error
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            self._publish_without_links()
            self._temporary = ""
            return
        _unlink_quietly(self._temporary, self._folder)
        self._temporary = ""

    def _met(self) -> os.stat_result | None:
        try:
            return os.stat(self._name, dir_fd=self._folder, follow_symlinks=False)
        except FileNotFoundError:
            return None

    def _is_ours(self, facts: os.stat_result) -> bool:
        found = os.stat(self._name, dir_fd=self._folder, follow_symlinks=False)
        if stat.S_ISDIR(found.st_mode):
            raise Unsupported(f"create {self._name}", where=self._where, why="a folder has this name")
        return (found.st_dev, found.st_ino) == (facts.st_dev, facts.st_ino)

    def _taken(self) -> AlreadyExists:
        """Who is told that the name is taken may rely on it: the other writer may not have synced it yet."""
        sync_descriptor(self._folder)
        return AlreadyExists(f"create {self._name}", where=self._where, why="the name is taken")

    def _publish_without_links(self) -> None:
        try:
            _rename_noreplace(self._folder, self._temporary, self._name)
        except FileExistsError as error:
            raise self._taken() from error
        except OSError as error:
            if error.errno not in _NO_RENAME_FLAGS:
                raise
            self._publish_under_marker()

    def _publish_under_marker(self) -> None:
        """Neither links nor conditional renames: creators of one name exclude each other by a marker file.

        A creator that dies here leaves the marker; creates of that one name then fail until it is swept.
        """
        marker = f".{self._name[:_NAME_IN_TEMPORARY]}.creating{TEMPORARY_SUFFIX}"
        try:
            os.close(os.open(marker, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=self._folder))
        except FileExistsError as error:
            why = f"another writer is just creating it, or died doing so and left {marker}"
            raise Unavailable(f"create {self._name}", where=self._where, why=why) from error
        try:
            try:
                os.stat(self._name, dir_fd=self._folder, follow_symlinks=False)
            except FileNotFoundError:
                os.rename(self._temporary, self._name, src_dir_fd=self._folder, dst_dir_fd=self._folder)
            else:
                raise self._taken()
        finally:
            _unlink_quietly(marker, self._folder)


def write_new(path: Path | str, chunks: Iterable[bytes], *, mode: int = 0o600) -> None:
    """Write a file that must not exist yet; on return it is whole and durable. Raises AlreadyExists."""
    _write(Path(path), chunks, mode, replace=False)


def replace(path: Path | str, data: bytes, *, mode: int = 0o600) -> None:
    """Write a file atomically over the one that may be there: after a crash it is the old or the new one."""
    _write(Path(path), [data], mode, replace=True)


def _write(path: Path, chunks: Iterable[bytes], mode: int, *, replace: bool) -> None:
    with os_errors(f"write {path.name}", str(path.parent)):
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        file = NewFile(folder, path.name, where=str(path.parent), mode=mode)
        try:
            for chunk in chunks:
                file.write(chunk)
            file.commit(replace=replace)
        finally:
            file.abort()
    finally:
        os.close(folder)


def make_dirs(path: Path | str, *, mode: int = 0o700, dir_fd: int | None = None, sync_existing: bool = False) -> None:
    """Make a folder and those above it; each new entry is durable on return. What exists is no error.

    dir_fd: the folder that a relative `path` starts from. sync_existing: sync the folders above the existing
    ones too, for who cannot know whether another process that made them did so before it died.
    """
    wanted = Path(path)
    with os_errors(f"make the folder {path}", str(path)):
        for folder in [*reversed(wanted.parents), wanted]:
            if folder in (Path(), Path("/")):
                continue
            try:
                os.mkdir(folder, mode, dir_fd=dir_fd)
            except FileExistsError:
                if not stat.S_ISDIR(os.stat(folder, dir_fd=dir_fd).st_mode):
                    why = f"{folder} is not a folder"
                    raise Unsupported(f"make the folder {path}", why=why) from None
                if not sync_existing:
                    continue
            _sync_path(folder.parent, dir_fd)


def remove(name: str, *, dir_fd: int) -> None:
    """Remove a file of the folder `dir_fd` and make that durable; one that is not there is no error.

    Raises OSError: the caller knows what it was.
    """
    try:
        os.unlink(name, dir_fd=dir_fd)
    except FileNotFoundError:
        pass  # an earlier attempt may have died before its sync: sync all the same
    sync_descriptor(dir_fd)


def sync_dir(path: Path | str) -> None:
    """Make the entries of a folder durable."""
    with os_errors(f"sync the folder {path}", str(path)):
        _sync_path(Path(path), None)


def sync_descriptor(folder: int) -> None:
    """fsync an open folder; filesystems that have no such thing (CIFS: EINVAL) are taken to write through."""
    try:
        os.fsync(folder)
    except OSError as error:
        if error.errno not in _NO_FOLDER_SYNC:
            raise


def _sync_path(path: Path, dir_fd: int | None) -> None:
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY, dir_fd=dir_fd)
    try:
        sync_descriptor(folder)
    finally:
        os.close(folder)


def _unlink_quietly(name: str, folder: int) -> None:
    """Leftovers are invisible and swept later: failing to drop one is not worth an error."""
    try:
        os.unlink(name, dir_fd=folder)
    except OSError:
        pass


def _rename_noreplace(folder: int, source: str, target: str) -> None:
    """renameat2(2) with RENAME_NOREPLACE (Linux 3.15, glibc 2.28); ENOSYS where libc lacks it."""
    call = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if call is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    if call(folder, source.encode(), folder, target.encode(), ctypes.c_uint(_RENAME_NOREPLACE)) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), target)
