"""Runs command lines of drkit in forked children that die at a chosen effect on storage or disk.

python -m tests.faults.deaths
each line read: JSON [number of an effect or -1, [arguments]]; each line written: JSON [exit status, [effects seen]]
"""

from __future__ import annotations

import json
import os
import pwd
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from drkit.cli import app
from drkit.jobs import (  # noqa: F401  loaded before the fork
    archive,
    backup,
    backup_copy,
    backup_journal,
    backup_record,
    rates,
    restore,
    restore_sync,
)

DIED = 77
PROJECT = Path(__file__).resolve().parents[2]
NAMES = ("fsync", "link", "replace", "rename", "unlink", "mkdir", "rmdir", "symlink", "write", "pwrite", "ftruncate")
METADATA = ("chmod", "chown", "fchmod", "fchown", "utime")


def dying(count: int) -> list[str]:
    """From now on the process dies at the effect `count`: even numbers before it, odd ones after it; -1: never.

    Returns the names of the effects so far; it grows. Effects of threads are numbered as they come.
    """
    seen: list[str] = []
    lock = threading.Lock()

    def wrap(name: str, real: Callable[..., object]) -> Callable[..., object]:
        def call(*args: object, **named: object) -> object:
            with lock:
                before = 2 * len(seen)
                seen.append(name)
            if before == count:
                os._exit(DIED)
            try:
                return real(*args, **named)
            finally:
                if before + 1 == count:
                    os._exit(DIED)

        return call

    for name in (*NAMES, *METADATA):
        setattr(os, name, wrap(name, getattr(os, name)))
    setattr(restore_sync, "_syncfs", wrap("syncfs", restore_sync._syncfs))  # noqa: B010  goes to libc, past the module os
    return seen


def attempt(args: Sequence[str], count: int, told: Path) -> int:
    """One command line in a child; its exit status. told: gets the effects of one that lived."""
    child = os.fork()
    if child == 0:
        seen = dying(count)
        sys.argv = ["drkit", *args]
        status = app.main()
        told.write_text(json.dumps(seen))
        sys.stdout.flush()
        os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


class Mortal:
    """The helper process, running as `user` (None: as ourselves); its children run the commands and die."""

    def __init__(self, user: str | None) -> None:
        extra: dict[str, Any] = {"user": user, "group": pwd.getpwnam(user).pw_gid, "extra_groups": []} if user else {}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.deaths"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=PROJECT,
            env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
            **extra,
        )

    def run(self, *args: str | Path, die_at: int = -1) -> tuple[int, list[str]]:
        """(exit status, names of the effects, none where it died); die_at: as `dying`."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps([die_at, [str(arg) for arg in args]]) + "\n")
        self._process.stdin.flush()
        status, seen = json.loads(self._process.stdout.readline())
        return status, seen

    def close(self) -> None:
        self._process.communicate()


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    with tempfile.TemporaryDirectory() as folder:
        told = Path(folder) / "seen"
        for line in sys.stdin:
            count, args = json.loads(line)
            told.unlink(missing_ok=True)
            status = attempt(args, count, told)
            answers.write(json.dumps([status, json.loads(told.read_text()) if told.exists() else []]) + "\n")
            answers.flush()


if __name__ == "__main__":
    main()
