"""A process that stops itself in the midst of a change of the spool, at each of its effects in turn, while another one
owes: `python -m tests.repository.stopped FOLDER ACT OWED`, a process without threads, which may fork.

Exit 0, and the number of effects: nobody was waited for, and whatever was owed kept its bytes.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from itertools import count
from pathlib import Path

import blake3

from drkit.repository.spool import Debt, Spool
from drkit.repository.wal import Blob
from storage_backends.errors import NotFound, StorageError

EFFECTS = ("open", "link", "replace", "rename", "unlink", "fsync", "close")


def make(target: str, file: str = "000000010000000000000001", content: bytes = b"x" * 300) -> tuple[Debt, Blob]:
    digest = blake3.blake3(content).digest()
    blob = Blob((content, digest), len(content) + 32, digest)
    return Debt(target, 7, file, "00" * 32, digest.hex(), blob.size_bytes, "2026-03-01T00:00:00Z", "away"), blob


def debts(spool: Spool) -> set[Path]:
    return set((spool.folder / "wal" / "debts").rglob("*-*"))


DEBT, BLOB = make("b")
OTHER, OTHER_BLOB = make("b", "000000010000000000000002", b"y" * 200)
ACTS: dict[str, Callable[[Spool], None]] = {
    "settle": lambda spool: spool.settle(DEBT),
    "sweep": lambda spool: spool.sweep(),
    "block": lambda spool: spool.block(DEBT, "damaged"),
    "owe": lambda spool: spool.owe([DEBT], BLOB),
}


def stopping(at: int) -> None:
    """From now on this process stops itself before its effect `at`."""
    numbers = count()

    def wrap(real: Callable[..., object]) -> Callable[..., object]:
        def call(*args: object, **named: object) -> object:
            if next(numbers) == at:
                os.kill(os.getpid(), signal.SIGSTOP)
            return real(*args, **named)

        return call

    for name in EFFECTS:
        setattr(os, name, wrap(getattr(os, name)))


def act_in_child(spool: Spool, act: str, at: int) -> int:
    """Its pid; it is stopped, or over, on return."""
    pid = os.fork()
    if pid == 0:
        stopping(at)
        try:
            ACTS[act](spool)
        except NotFound:
            os._exit(3)  # what it had not finished was swept: nothing was owed by that
        except StorageError as error:
            print(repr(error), error.__cause__, file=sys.stderr)
            os._exit(1)
        os._exit(0)
    os.waitid(os.P_PID, pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
    return pid


def check(spool: Spool, act: str, at: int, *, owed: bool) -> bool:
    """Whether it was stopped before it came to its end."""
    spool.owe([DEBT], BLOB)
    if not owed:
        (spool.folder / "wal" / "debts" / "b" / DEBT.ident).unlink()
    pid = act_in_child(spool, act, at)
    ended, _ = os.waitpid(pid, os.WNOHANG)
    for debt, blob in ((DEBT, BLOB), (OTHER, OTHER_BLOB)):
        spool.owe([debt], blob)
        assert spool.sealed(debt).digest == blob.digest
    spool.sweep()
    if not ended:
        os.kill(pid, signal.SIGCONT)
        _, status = os.waitpid(pid, 0)
        assert os.waitstatus_to_exitcode(status) in ((0, 3) if act == "owe" else (0,)), status
    for debt, blob in ((DEBT, BLOB), (OTHER, OTHER_BLOB)):
        if spool.debt("b", debt.ident) is not None:
            assert spool.sealed(debt).digest == blob.digest, debt.file
    assert spool.debt("b", OTHER.ident) is not None
    if act in ("sweep", "owe"):
        assert spool.debt("b", DEBT.ident) is not None
    spool.sweep()
    for left in spool.debts("b"):
        spool.sealed(left)
        spool.settle(left)
    found = [path for path in spool.folder.rglob("*") if path.is_file() and path.name != "lock"]
    assert not found, found
    return not ended


def main(folder: str, act: str, owed: str) -> None:
    os.fsync = lambda fd: None  # what survives the machine is not asked here
    for at in count():
        if not check(Spool(Path(folder) / str(at)), act, at, owed=owed == "owed"):
            print(at)
            return


if __name__ == "__main__":
    main(*sys.argv[1:])
