"""Error numbers keep their meaning."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from storage_backends.errors import (
    AlreadyExists,
    Denied,
    NotFound,
    OutOfSpace,
    StorageError,
    Unavailable,
    Unsupported,
)
from storage_backends.oserrors import translate


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (errno.ENOENT, NotFound),
        (errno.EEXIST, AlreadyExists),
        (errno.EACCES, Denied),
        (errno.EROFS, Denied),
        (errno.EMFILE, Unavailable),
        (errno.EIO, Unavailable),
        (errno.ESTALE, Unavailable),
        (errno.ENOTCONN, Unavailable),
        (errno.ETIMEDOUT, Unavailable),
        (errno.ENOMEM, Unavailable),
        (errno.ENOSPC, OutOfSpace),
        (errno.EDQUOT, OutOfSpace),
        (errno.ENAMETOOLONG, Unsupported),
        (errno.EFBIG, Unsupported),
    ],
)
def test_table(number: int, kind: type[StorageError], tmp_path: Path) -> None:
    error = translate(
        OSError(number, os.strerror(number)), "write a", where="file:///x", wanted_bytes=7, folder=str(tmp_path)
    )
    assert type(error) is kind
    assert error.where == "file:///x" and errno.errorcode[number] in error.why
    if number in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
        assert "wanted 7 bytes" in error.why and "bytes free" in error.why


def test_a_filesystem_that_cannot_be_asked() -> None:
    error = translate(OSError(errno.ENOSPC, ""), "write", where="x", wanted_bytes=7, folder="/no/such/folder")
    assert "free space unknown" in error.why


def test_an_error_without_a_number() -> None:
    assert isinstance(translate(OSError("odd"), "write", where="x"), Unavailable)
