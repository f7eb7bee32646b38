"""The WAL parts of the daemon in a process of their own: `python -m tests.daemon.wal_daemon CONFIG`."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from drkit.cli.context import Context
from drkit.cli.wal_path import wal_path
from drkit.cli.wire import open_wiring
from drkit.daemon.ask import ask
from drkit.daemon.instance import sole
from drkit.daemon.loop import Daemon
from drkit.daemon.protocol import Request
from drkit.daemon.socket import telling
from drkit.daemon.supervisor import Supervisor
from tests.real.postgres import server_user

_PROJECT = Path(__file__).resolve().parents[2]


class Deaf:
    """Tells nobody."""

    def tell(self, kind: str, level: str, cluster: str, text: str, **fields: str | int | float) -> None:
        return None


def serve(config: Path) -> None:
    with open_wiring(Context(config, verbosity=2)) as wiring:
        daemon = wiring.config.daemon
        with sole(daemon.spool, daemon.socket):
            found = wal_path(wiring, Deaf())
            found.add(telling("status", lambda: json.dumps([asdict(one) for one in found.facts()], default=str)))
            Daemon(found.parts, Supervisor({}, os.getpid()), wiring.log).run(wiring.token)


@dataclass
class WalDaemon:
    """One that runs, as the server's user."""

    process: subprocess.Popen[bytes]
    log: Path
    socket: Path

    def facts(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(ask(self.socket, Request("status")).text)
        return found

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=60)


@contextmanager
def wal_daemon(config: Path, socket: Path, log: Path, *, user: str | None = None) -> Iterator[WalDaemon]:
    """Started, and listening; run as `user`, else as the servers are."""
    command = [sys.executable, "-m", "tests.daemon.wal_daemon", str(config)]
    with log.open("ab") as out:
        begin = out.tell()
        process = subprocess.Popen(
            command,
            cwd=_PROJECT,
            env=os.environ | {"DRKIT_DAEMON__SOCKET": str(socket)},
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            user=user or server_user(),
            extra_groups=[],
        )
    daemon = WalDaemon(process, log, socket)
    try:
        with log.open("rb") as lines:
            lines.seek(begin)
            while b"socket open" not in lines.readline():
                assert process.poll() is None, log.read_text()[-3000:]
        yield daemon
    finally:
        daemon.kill()


if __name__ == "__main__":
    serve(Path(sys.argv[1]))
