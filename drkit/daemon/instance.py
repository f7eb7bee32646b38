"""One daemon for a configuration: a claim on its spool and its socket, which the kernel ends with the process."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from drkit.core.errors import Conflict
from drkit.repository.pins import make_spool
from storage_backends import durable
from storage_backends.oserrors import os_errors


@contextmanager
def sole(spool: Path, socket: Path) -> Iterator[None]:
    """Within the block no other daemon has this spool or this socket.

    Files `daemon.lock` in the spool and `<socket>.lock`, flocked; they stay, a name that is removed would be two
    locks. Raises Conflict naming the other process, ConfigError where this user cannot use the folders.
    """
    make_spool(spool)
    with _claim(spool / "daemon.lock", "spool"):
        with os_errors("make the folder of the socket", str(socket.parent)):
            durable.make_dirs(socket.parent, mode=0o755)
        with _claim(socket.with_name(f"{socket.name}.lock"), "socket"):
            yield


@contextmanager
def _claim(path: Path, what: str) -> Iterator[None]:
    with os_errors(f"lock the {what}", str(path)):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            other = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip()
            raise Conflict(
                f"another daemon has this {what}",
                where=str(path),
                why=f"process {other}" if other else "",
                cure="`drkit status` asks it; a second configuration needs a spool and a socket of its own",
            ) from None
        with os_errors(f"write into the lock of the {what}", str(path)):
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)
