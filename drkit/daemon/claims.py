"""One scheduled job per cluster and host, also across daemons: a lock that the job itself holds while it lives.

    <spool>/runs/locks/<cluster>    flocked; "PID STARTED" of the job that holds it

The daemon takes the lock, and the job inherits the descriptor: a daemon that is killed leaves the lock with the job,
and the next daemon sees it. The kernel gives it back with the job's end, whatever end that is.
"""

from __future__ import annotations

import fcntl
import os
import signal
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from drkit.daemon.launch import started
from storage_backends import durable
from storage_backends.oserrors import os_errors


@dataclass(frozen=True, slots=True)
class Holder:
    """The process that has a cluster's lock. pid None: it has not said yet who it is, or is gone."""

    pid: int | None

    def __str__(self) -> str:
        return f"process {self.pid}" if self.pid else "another process"

    def end(self, number: signal.Signals) -> None:
        """A signal to it and its group; one that is gone is no error."""
        if self.pid is not None:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, number)


class Claims:
    """The locks of all clusters. Thread-safe."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def take(self, cluster: str) -> int | Holder:
        """A descriptor that has the lock, to be handed to the job and closed; or who has it. Raises StorageError."""
        durable.make_dirs(self._folder)
        with os_errors(f"lock the jobs of {cluster}", str(self._folder)):
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            descriptor = os.open(self._folder / cluster, flags, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            with os.fdopen(descriptor) as file:
                return Holder(_alive(file.read(64)))
        return descriptor

    def forget(self, cluster: str) -> None:
        """Give up a lock whose holder is nobody that we know: the job is gone, something that it started is not."""
        with suppress(FileNotFoundError):
            (self._folder / cluster).unlink()

    def holder(self, cluster: str) -> Holder | None:
        """Who has the lock, None where nobody does."""
        found = self.take(cluster)
        if isinstance(found, Holder):
            return found
        os.close(found)
        return None


def _alive(text: str) -> int | None:
    """The pid that stands in the file, if that process is still the one that wrote it."""
    words = text.split()
    if len(words) != 2 or not words[0].isdecimal():
        return None
    with suppress(OSError, IndexError):
        if started(int(words[0])) == words[1]:
            return int(words[0])
    return None
