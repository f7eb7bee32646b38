"""Takes backups in forked children that die at a chosen effect; run as the server's user, driven over its stdin.

python -m tests.faults.backup_driver CONFIG
each line read: the number of an effect, or -1; each line written: exit status and effects seen
"""

from __future__ import annotations

import os
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

from drkit.cli import app
from drkit.jobs import backup, backup_copy, backup_journal, backup_record  # noqa: F401  loaded before the fork

DIED = 77
EFFECTS = ("fsync", "link", "replace", "rename", "unlink", "mkdir", "write")


def dying(count: int) -> Callable[[], int]:
    """From now on the process dies at the effect `count`: even numbers before it, odd ones after it; -1: never.

    Returns what tells how many there were. Effects of threads are numbered as they come.
    """
    seen = 0
    lock = threading.Lock()

    def wrap(real: Callable[..., object]) -> Callable[..., object]:
        def call(*args: object, **named: object) -> object:
            nonlocal seen
            with lock:
                before, after, seen = seen, seen + 1, seen + 2
            if before == count:
                os._exit(DIED)
            try:
                return real(*args, **named)
            finally:
                if after == count:
                    os._exit(DIED)

        return call

    for name in EFFECTS:
        setattr(os, name, wrap(getattr(os, name)))
    return lambda: seen


def attempt(config: str, count: int, told: Path) -> int:
    """One backup in a child; its exit status."""
    child = os.fork()
    if child == 0:
        seen = dying(count)
        sys.argv = ["drkit", "--config", config, "-q", "backup"]
        status = app.main()
        told.write_text(str(seen()))
        sys.stdout.flush()
        os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    with tempfile.TemporaryDirectory() as folder:
        told = Path(folder) / "seen"
        for line in sys.stdin:
            told.unlink(missing_ok=True)
            status = attempt(sys.argv[1], int(line), told)
            answers.write(f"{status} {told.read_text() if told.exists() else -1}\n")
            answers.flush()


if __name__ == "__main__":
    main()
