"""What the kernel's error numbers mean for a store, in one table."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager

from storage_backends.errors import (
    AlreadyExists,
    Denied,
    NotFound,
    OutOfSpace,
    StorageError,
    Unavailable,
    Unsupported,
)

_FULL = {errno.ENOSPC, errno.EDQUOT}

_TABLE: dict[int, tuple[type[StorageError], str]] = {
    errno.ENOENT: (NotFound, ""),
    errno.ENOTDIR: (NotFound, ""),
    errno.EEXIST: (AlreadyExists, ""),
    errno.EACCES: (Denied, "do the owner and mode of the file and of every folder above it allow this user?"),
    errno.EPERM: (Denied, "do the owner, the mode and the attributes (lsattr) of the file allow this?"),
    errno.EROFS: (Denied, "is the filesystem mounted read-only? 'dmesg' tells if an error made it so"),
    errno.EMFILE: (Unavailable, "raise the limit of open files: 'ulimit -n', or LimitNOFILE= of the service"),
    errno.ENFILE: (Unavailable, "the whole machine is out of open files: see fs.file-max"),
    errno.EIO: (Unavailable, "is the disk or the file server failing? see 'dmesg'"),
    errno.ESTALE: (Unavailable, "the file server dropped the handle: is it mounted anew?"),
    errno.ENOTCONN: (Unavailable, "did the process behind this mount die? unmount and mount it again"),
    errno.EFBIG: (Unsupported, "the filesystem does not hold files of this size"),
    errno.ENAMETOOLONG: (Unsupported, "the filesystem does not hold names of this length"),
    errno.ELOOP: (Unsupported, "symbolic links inside a target are not followed"),
    errno.EINVAL: (Unsupported, ""),
    errno.ENOSYS: (Unsupported, ""),
    errno.EOPNOTSUPP: (Unsupported, ""),
}


def translate(
    error: OSError, what: str, *, where: str, wanted_bytes: int | None = None, folder: int | str | None = None
) -> StorageError:
    """The storage error for `error`; numbers not in the table are Unavailable: nothing is known then.

    wanted_bytes: how much the operation was to write in all; folder: a descriptor or path on the filesystem
    in question. Both go into the text of errors that concern space or the medium.
    """
    number = error.errno or 0
    why = f"{errno.errorcode.get(number, number)}, {os.strerror(number) if number else error}"
    if number in _FULL:
        cure = "free space there, or let retention keep less"
        if number == errno.EDQUOT:
            cure = "raise the quota of this user or project, or let retention keep less"
        return OutOfSpace(what, where=where, why=why + _space(wanted_bytes, folder), cure=cure)
    kind, cure = _TABLE.get(number, (Unavailable, ""))
    if number == errno.EIO:
        why += _space(wanted_bytes, folder)
    return kind(what, where=where, why=why, cure=cure)


def _space(wanted_bytes: int | None, folder: int | str | None) -> str:
    text = "" if wanted_bytes is None else f"; wanted {wanted_bytes} bytes"
    if folder is None:
        return text
    try:
        found = os.statvfs(folder)
    except OSError:
        return text + "; free space unknown"
    free = found.f_bavail * found.f_frsize
    text += f"; {free} of {found.f_blocks * found.f_frsize} bytes free"
    if found.f_files and found.f_favail == 0:
        text += ", no file entries (inodes) left"
    return text


@contextmanager
def os_errors(
    what: str, where: str, wanted_bytes: int | None = None, folder: int | str | None = None
) -> Iterator[None]:
    """Within it an OSError becomes the storage error of `translate`."""
    try:
        yield
    except OSError as error:
        raise translate(error, what, where=where, wanted_bytes=wanted_bytes, folder=folder) from error
