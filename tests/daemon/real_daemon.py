"""`drkit daemon` itself, as the servers' user."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.jobs.backup_world import PROGRAMS
from tests.real.postgres import server_user


@dataclass(frozen=True, slots=True)
class RealDaemon:
    process: subprocess.Popen[bytes]
    log: Path

    def children(self) -> dict[int, str]:
        """Its jobs that live, stopped ones among them: pid -> command line."""
        found = {}
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                state, parent = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
                words = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue  # ended meanwhile
            if int(parent) == self.process.pid and state != "Z":
                found[int(entry.name)] = words
        return found

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=100)


@contextmanager
def real_daemon(config: Path) -> Iterator[RealDaemon]:
    """Started, its socket open, which is beside the configuration, as is its log; killed on the way out, with its jobs,
    where it still runs."""
    log = config.with_name("daemon.log")
    command = [str(PROGRAMS / "drkit"), "--config", str(config), "daemon"]
    with log.open("ab") as out:
        begin = out.tell()
        process = subprocess.Popen(
            command,
            env=os.environ | {"DRKIT_DAEMON__SOCKET": str(config.with_name("socket"))},
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            cwd="/",
            user=server_user(),
            extra_groups=[],
        )
    daemon = RealDaemon(process, log)
    try:
        with log.open("rb") as lines:
            lines.seek(begin)
            while b"socket open" not in lines.readline():
                assert process.poll() is None, log.read_text()[-3000:]
        yield daemon
    finally:
        jobs = daemon.children()
        process.kill()
        process.wait()
        for pid in jobs:
            try:
                os.killpg(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
