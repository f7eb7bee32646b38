"""Objects as files below a folder: local disks, NFS, anything mounted.

The key is the path. Bytes are durable at commit (`durable.NewFile`). Every operation opens the root folder,
compares it with what was opened first, and goes on from that descriptor: a disk that is unmounted or mounted
anew is noticed before anything is believed about its contents, also between two system calls.

Names that are no key parts (hidden files, `*.tmp`, `lost+found`) are not objects. A key cannot be the folder
of another (`a` and `a/b`): Unsupported. Symbolic links below the root are refused, as a dangling one would
look like an empty folder.
"""

from __future__ import annotations

import os
import secrets
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TypeVar

from storage_backends import durable
from storage_backends.api import Key, ObjectInfo, Reader, Traits, Upload, is_key_part, key
from storage_backends.errors import AlreadyExists, NotFound, NotThisTarget, Unavailable, Unsupported
from storage_backends.oserrors import os_errors, translate

_FOLDER = os.O_RDONLY | os.O_DIRECTORY
_KNOWN_FOLDERS = 65_536
_KEY_CHARACTERS = 512
_NO_OBJECTS = {"lost+found"}  # of ext2 to ext4, at the top of a filesystem
_DAY_S = 86_400.0


# A pipe or device under a key must not block, and a link must not lead out of the target.
_CAREFULLY = os.O_NONBLOCK | os.O_NOFOLLOW

_Found = TypeVar("_Found")


def _token() -> str:
    return secrets.token_hex(8)


class PosixBackend:
    """A folder as a store. Thread-safe; any number of processes and, over NFS, hosts may share it.

    root: must exist, unless create_root, which is for who sets a target up; anything else that finds no root
    raises NotThisTarget and never makes one. file_mode, folder_mode: narrowed by the umask.
    """

    def __init__(
        self,
        root: Path,
        *,
        create_root: bool = False,
        file_mode: int = 0o640,
        folder_mode: int = 0o750,
        token: Callable[[], str] = _token,
    ) -> None:
        if not root.is_absolute():
            raise Unsupported(f"open {root}", why="the folder of a target is an absolute path")
        self._root, self._url = root, root.as_uri()
        self._file_mode, self._folder_mode, self._token = file_mode, folder_mode, token
        self._lock = threading.Lock()
        self._durable_folders: set[str] = set()
        if create_root:
            durable.make_dirs(root, mode=folder_mode)
        descriptor = self._open_root("open")
        with _closing(descriptor):
            self._identity = _identity(descriptor)

    @property
    def url(self) -> str:
        return self._url

    @property
    def traits(self) -> Traits:
        return Traits(
            scheme="file",
            conditional_create=True,
            atomic_create_max_bytes=2**63 - 1,
            max_object_bytes=2**63 - 1,
            range_read_min_bytes=4096,
            device=str(self._identity[0]),
            free_bytes=self._free_bytes,
            sweep=self.sweep_leftovers,
        )

    def create(self, key: Key, size_bytes: int | None = None, *, replacing: ObjectInfo | None = None) -> Upload:
        folder, name = _split(key)
        if replacing is not None:
            self._refuse_other(key, self.stat(key), replacing)
        with self._pinned(f"create {key}") as root:
            descriptor = self._folder_for_writing(root, folder, f"create {key}")
            with _closing(descriptor):
                if replacing is None:
                    self._refuse_existing(descriptor, name, key)
                file = durable.NewFile(
                    descriptor,
                    name,
                    where=self._url,
                    mode=self._file_mode,
                    wanted_bytes=size_bytes,
                    token=self._token(),
                )
        return _PosixUpload(self, key, file, replacing)

    def open(self, key: Key, start: int = 0, length: int | None = None) -> Reader:
        what = f"open {key}"
        with self._pinned(what) as root, self._looking(what):
            file = _look(root, key, lambda name, at: os.open(name, os.O_RDONLY | _CAREFULLY, dir_fd=at))
        facts = os.fstat(file)
        if not stat.S_ISREG(facts.st_mode):
            os.close(file)
            raise NotFound(what, where=self._url, why="this is no file")
        stop = facts.st_size if length is None else min(facts.st_size, start + length)
        return _PosixReader(file, start, stop, what, self._url)

    def stat(self, key: Key) -> ObjectInfo:
        what = f"stat {key}"
        with self._pinned(what) as root, self._looking(what):
            facts = _look(root, key, lambda name, at: os.stat(name, dir_fd=at, follow_symlinks=False))
        if not stat.S_ISREG(facts.st_mode):
            raise NotFound(what, where=self._url, why="this is no file")
        return _info(key, facts)

    def list(self, prefix: str = "", after: str = "") -> Iterator[ObjectInfo]:
        folder = prefix[: prefix.rfind("/") + 1]
        with self._pinned(f"list {prefix}") as root:
            if folder and not all(is_key_part(part) for part in folder[:-1].split("/")):
                return
            yield from self._walk(root, folder, prefix, after)

    def delete(self, key: Key) -> None:
        folder, name = _split(key)
        with self._pinned(f"delete {key}") as root, os_errors(f"delete {key}", self._url):
            try:
                descriptor = os.open(folder or ".", _FOLDER, dir_fd=root)
            except (FileNotFoundError, NotADirectoryError):
                return
            with _closing(descriptor):
                try:
                    durable.remove(name, dir_fd=descriptor)
                except IsADirectoryError:
                    return  # a folder of other keys: there is no object of this one

    def close(self) -> None:
        """Nothing is held open between two calls."""

    def _free_bytes(self) -> int:
        """For users other than root; quotas are not seen."""
        with self._pinned("ask for free space") as root, os_errors("ask for free space", self._url):
            found = os.fstatvfs(root)
            return found.f_bavail * found.f_frsize

    def sweep_leftovers(self, now: datetime, older_than_s: float = _DAY_S) -> int:
        """Remove temporary files of writers that died, last changed more than `older_than_s` before `now`.

        now: by the clock of the store, as of an object just created there. Returns how many there were.
        """
        limit_s = (now - timedelta(seconds=older_than_s)).timestamp()
        swept = 0
        with self._pinned("sweep") as root, os_errors("sweep", self._url):
            for _, names, files, descriptor in os.fwalk(".", dir_fd=root, follow_symlinks=False):
                names[:] = [name for name in names if is_key_part(name) and name not in _NO_OBJECTS]
                for name in files:
                    if not (name.startswith(".") and name.endswith(durable.TEMPORARY_SUFFIX)):
                        continue
                    try:
                        if os.stat(name, dir_fd=descriptor, follow_symlinks=False).st_mtime < limit_s:
                            os.unlink(name, dir_fd=descriptor)
                            swept += 1
                    except FileNotFoundError:
                        pass  # its writer finished just now
        return swept

    def _open_root(self, what: str) -> int:
        cure = "is the disk mounted? only 'init' makes the folder of a target"
        try:
            return os.open(self._root, _FOLDER)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise NotThisTarget(what, where=self._url, why="the folder is missing", cure=cure) from error
        except OSError as error:
            raise translate(error, what, where=self._url) from error

    @contextmanager
    def _pinned(self, what: str) -> Iterator[int]:
        """A descriptor of the root that was opened first; while it is held, the disk cannot be unmounted."""
        descriptor = self._open_root(what)
        try:
            if _identity(descriptor) != self._identity:
                why = "another folder or filesystem is at this path than when the target was opened"
                cure = "was the disk unmounted, or mounted anew? mount it, then open the target again"
                raise NotThisTarget(what, where=self._url, why=why, cure=cure)
            yield descriptor
        finally:
            os.close(descriptor)

    @contextmanager
    def _looking(self, what: str) -> Iterator[None]:
        try:
            yield
        except (FileNotFoundError, NotADirectoryError):
            raise NotFound(what, where=self._url) from None
        except OSError as error:
            raise translate(error, what, where=self._url) from error

    def _folder_for_writing(self, root: int, folder: str, what: str) -> int:
        """Open the folder of a key, made and durable. The first use by this backend syncs what it finds."""
        known = folder in self._durable_folders or not folder
        with os_errors(what, self._url, folder=root):
            if known:
                try:
                    return os.open(folder or ".", _FOLDER, dir_fd=root)
                except FileNotFoundError:
                    pass  # somebody tidied up
            durable.make_dirs(folder, mode=self._folder_mode, dir_fd=root, sync_existing=True)
            descriptor = os.open(folder, _FOLDER, dir_fd=root)
        with self._lock:
            if len(self._durable_folders) >= _KNOWN_FOLDERS:
                self._durable_folders.clear()
            self._durable_folders.add(folder)
        return descriptor

    def _refuse_existing(self, folder: int, name: str, key: Key) -> None:
        """Refuse before the bytes are written. The entry is synced: who meets it may rely on it."""
        with os_errors(f"create {key}", self._url):
            try:
                found = os.stat(name, dir_fd=folder, follow_symlinks=False)
            except FileNotFoundError:
                return
            if stat.S_ISDIR(found.st_mode):
                raise Unsupported(f"create {key}", where=self._url, why="it is the folder of other keys")
            durable.sync_descriptor(folder)
        raise AlreadyExists(f"create {key}", where=self._url)

    def _refuse_other(self, key: Key, found: ObjectInfo | None, replacing: ObjectInfo) -> None:
        """Raises unless `found` is the very object that is to be replaced."""
        if found is None:
            raise NotFound(f"replace {key}", where=self._url)
        if found.version != replacing.version:
            raise AlreadyExists(f"replace {key}", where=self._url, why="another object is there by now")

    def _walk(self, root: int, top: str, prefix: str, after: str) -> Iterator[ObjectInfo]:
        stack = [self._entries(root, top)]
        while stack:
            path = next(stack[-1], None)
            if path is None:
                stack.pop()
            elif path.endswith("/"):
                # All keys below share `path`: are they all past `after`, could one match the prefix?
                if (path.startswith(prefix) or prefix.startswith(path)) and after[: len(path)] <= path:
                    stack.append(self._entries(root, path))
            elif path > after and path.startswith(prefix):
                try:
                    with os_errors(f"list {prefix}", self._url):
                        facts = os.stat(path, dir_fd=root, follow_symlinks=False)
                except NotFound:
                    continue  # deleted since the folder was read
                yield _info(Key(path), facts)

    def _entries(self, root: int, folder: str) -> Iterator[str]:
        """Paths in one folder in the order of the keys they stand for: a folder sorts as its name and '/'.

        So `a+b`, `a-b` and `a.b` come before what is in `a/`, and `a0` after it.
        """
        found: list[str] = []
        with os_errors(f"list {folder}", self._url):
            try:
                descriptor = os.open(folder or ".", _FOLDER, dir_fd=root)
            except (FileNotFoundError, NotADirectoryError):
                return iter(())
            with _closing(descriptor), closing(os.scandir(descriptor)) as entries:
                for entry in entries:
                    if not is_key_part(entry.name) or entry.name in _NO_OBJECTS:
                        continue
                    path = folder + entry.name
                    if entry.is_symlink():
                        why = "symbolic links inside a target are not followed"
                        raise Unsupported(f"list {path}", where=self._url, why=why)
                    if entry.is_dir(follow_symlinks=False):
                        found.append(path + "/")
                    elif entry.is_file(follow_symlinks=False) and len(path) <= _KEY_CHARACTERS:
                        found.append(path)
        found.sort()
        return iter(found)


@contextmanager
def _closing(descriptor: int) -> Iterator[None]:
    try:
        yield
    finally:
        os.close(descriptor)


def _identity(folder: int) -> tuple[int, int, int]:
    """What tells a root from another: device, inode, filesystem.

    Device and inode do not suffice: a disk put in the place of another gets the same device number, and roots
    of filesystems have fixed inodes. f_fsid comes from the UUID on ext4, btrfs and tmpfs (statfs(2)).
    """
    found = os.fstat(folder)
    return found.st_dev, found.st_ino, os.fstatvfs(folder).f_fsid


def _split(text: Key) -> tuple[str, str]:
    """Folder ("" for the root) and name of a checked key."""
    folder, _, name = key(text).rpartition("/")
    return folder, name


def _look(root: int, text: Key, call: Callable[[str, int], _Found]) -> _Found:
    """Call with a path and the descriptor it starts from; absence is looked at twice.

    An NFS client remembers for seconds that a name was absent; opening the folder makes it ask again
    (nfs(5), close-to-open cache consistency).
    """
    folder, name = _split(text)
    try:
        return call(text, root)
    except FileNotFoundError:
        descriptor = os.open(folder or ".", _FOLDER, dir_fd=root)
        with _closing(descriptor):
            return call(name, descriptor)


def _info(key: Key, facts: os.stat_result) -> ObjectInfo:
    seconds, rest_ns = divmod(facts.st_mtime_ns, 1_000_000_000)
    modified_at = datetime.fromtimestamp(seconds, UTC) + timedelta(microseconds=rest_ns // 1000)
    return ObjectInfo(key, facts.st_size, modified_at, f"{facts.st_ino}.{facts.st_mtime_ns}.{facts.st_size}")


class _PosixUpload:
    def __init__(
        self, backend: PosixBackend, key: Key, file: durable.NewFile, replacing: ObjectInfo | None = None
    ) -> None:
        self._backend, self._key, self._file, self._replacing = backend, key, file, replacing

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self._file.write(data)

    def commit(self) -> ObjectInfo:
        try:
            with self._backend._pinned(f"create {self._key}"):
                look = None if self._replacing is None else self._look
                return _info(self._key, self._file.commit(replace=look is not None, look=look))
        finally:
            self._file.abort()

    def _look(self, met: os.stat_result | None) -> None:
        assert self._replacing is not None
        found = None if met is None else _info(self._key, met)
        self._backend._refuse_other(self._key, found, self._replacing)

    def abort(self) -> None:
        self._file.abort()

    def __enter__(self) -> Upload:
        return self

    def __exit__(self, *exc: object) -> None:
        self.abort()


class _PosixReader:
    def __init__(self, file: int, start: int, stop: int, what: str, where: str) -> None:
        self._file, self._at, self._stop = file, start, stop
        self._what, self._where = what, where

    def read(self, size_bytes: int = -1, /) -> bytes:
        left = max(0, self._stop - self._at)
        wanted = left if size_bytes < 0 else min(left, size_bytes)
        pieces = []
        while wanted:
            with os_errors(f"{self._what}, byte {self._at}", self._where):
                piece = os.pread(self._file, wanted, self._at)
            if not piece:
                why = f"the file ends at byte {self._at}; {self._stop} were expected"
                raise Unavailable(self._what, where=self._where, why=why)
            self._at += len(piece)
            wanted -= len(piece)
            pieces.append(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
        self._file = -1

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
