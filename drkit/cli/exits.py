"""The one table from errors to codes: the stable name for programs and the exit status of the process.

0 done · 1 failed · 2 usage · 3 configuration · 4 refused (nothing touched) · 5 not found · 6 conflict ·
7 unreachable · 8 key · 9 damage · 10 a promise is broken · 128 + n ended by signal n
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from dataclasses import dataclass

from drkit.core import errors
from storage_backends import errors as storage

DONE = 0
FAILED = 1
USAGE = 2
CONFIG = 3
UNREACHABLE = 7
DAMAGE = 9
PROMISE = 10
INTERRUPTED = 130
PIPE_CLOSED = 141
ABSENCE_UNPROVEN = 126  # of `wal get`: 126 and more stops a recovering server, 1 to 125 would promote it

TABLE: dict[type[BaseException], tuple[str, int]] = {
    errors.UsageError: ("usage", USAGE),
    errors.ConfigError: ("config", CONFIG),
    errors.Refused: ("refused", 4),
    errors.Missing: ("missing", 5),
    errors.Conflict: ("conflict", 6),
    errors.Unreachable: ("unreachable", UNREACHABLE),
    errors.KeyMissing: ("key", 8),
    errors.Damage: ("damage", DAMAGE),
    errors.PromiseBroken: ("promise", PROMISE),
    errors.Cancelled: ("cancelled", FAILED),
    errors.Failed: ("failed", FAILED),
    errors.DrkitError: ("failed", FAILED),
    storage.NotFound: ("missing", 5),
    storage.AlreadyExists: ("conflict", 6),
    storage.Unavailable: ("unreachable", UNREACHABLE),
    storage.Denied: ("denied", UNREACHABLE),
    storage.OutOfSpace: ("no-space", FAILED),
    storage.Damaged: ("damage", DAMAGE),
    storage.NotThisTarget: ("not-this-target", UNREACHABLE),
    storage.Unsupported: ("unsupported", CONFIG),
    storage.StorageError: ("failed", FAILED),
    KeyboardInterrupt: ("cancelled", INTERRUPTED),
}


@dataclass(frozen=True, slots=True)
class Problem:
    """An error as it is shown. also: further causes · expected: False for a defect of drkit itself."""

    code: str
    exit: int
    what: str
    where: str = ""
    why: str = ""
    cure: str = ""
    also: tuple[str, ...] = ()
    expected: bool = True


def problem(error: BaseException) -> Problem:
    """What to tell of any error; one that the table does not know is a defect and says so."""
    error = _leading(error)
    also = tuple(getattr(error, "__notes__", ()))
    if isinstance(error, errors.DrkitError | storage.StorageError):
        code, status = _entry(error)
        return Problem(code, status, error.what, error.where, error.why, error.cure, also)
    if isinstance(error, KeyboardInterrupt):
        return Problem("cancelled", INTERRUPTED, "interrupted")
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        why = error.strerror or "no space left"
        return Problem("no-space", FAILED, "no space left", str(error.filename or ""), why, "free some space", also)
    return Problem(
        "internal",
        FAILED,
        "an unexpected error",
        why=f"{type(error).__name__}: {error}",
        cure="run it again with -v for the traceback, and report that",
        also=also,
        expected=False,
    )


def _entry(error: BaseException) -> tuple[str, int]:
    for kind in type(error).__mro__:
        if kind in TABLE:
            return TABLE[kind]
    return "failed", FAILED


def _leading(error: BaseException) -> BaseException:
    """Of a group, the first member that the table knows; else the first."""
    if not isinstance(error, BaseExceptionGroup):
        return error
    leaves = list(_leaves(error))
    known = [leaf for leaf in leaves if isinstance(leaf, tuple(TABLE))]
    return (known or leaves)[0]


def _leaves(group: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    for member in group.exceptions:
        if isinstance(member, BaseExceptionGroup):
            yield from _leaves(member)
        else:
            yield member
