"""A server under load that archives through a daemon, and hands that kill any of them."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psycopg

from tests.jobs.backup_world import PROGRAMS, BackupWorld
from tests.real.postgres import give, new_server, require, server_user

_ARCHIVE = """#!/bin/sh
# $1: %p, $2: %f. Keeps the file aside before it is pushed, and notes what was acknowledged.
set -u
if [ -e "{aside}/$2" ]; then
    cmp -s "$1" "{aside}/$2" || echo "$2" >> {root}/changed
else
    cp "$1" "{aside}/.$2" && mv "{aside}/.$2" "{aside}/$2" || exit 1
fi
{programs}/drkit-wal push --config {config} "$1" || exit $?
echo "$2" >> {root}/acknowledged
"""
_WITHIN_S = 90.0


class Rig:
    """PostgreSQL 15, two targets, and a daemon that is started again whenever it died."""

    def __init__(self) -> None:
        require(15)
        self.server = new_server(15)
        self.world = BackupWorld(self.server, extra='[[schedule]]\njob = "backup"\ncron = "* * * * *"\n')
        self.aside = self.world.root / "aside"
        self.aside.mkdir()
        give(self.aside)
        self.log = self.world.root / "daemon.log"
        self._daemon: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        script = self.world.root / "archive.sh"
        script.write_text(
            _ARCHIVE.format(aside=self.aside, root=self.world.root, programs=PROGRAMS, config=self.world.config)
        )
        script.chmod(0o755)
        self.world.start()
        self.server.set(archive_command=f"{script} %p %f", archive_timeout="1s")
        self.server.restart()
        self.server.pgbench("-i", "-s", "2")
        self.start_daemon()

    def close(self) -> None:
        self._end_daemon(signal.SIGKILL)
        self._kill_all("drkit.cli.app")
        self.server.close()

    # --- the daemon ---

    def start_daemon(self) -> None:
        command = [str(word) for word in self.world.program("drkit", "daemon")]
        user = server_user()
        with self.log.open("ab") as log:
            self._daemon = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd="/", user=user, extra_groups=[]
            )
        self._until(self._listens, "the daemon listens")

    def _listens(self) -> bool:
        if self._daemon is None or self._daemon.poll() is not None:
            raise AssertionError(f"the daemon ended: {self.log.read_text()[-2000:]}")
        return self.world.drkit("status", check=False).returncode in (0, 10)

    def _end_daemon(self, number: int) -> None:
        if self._daemon is not None and self._daemon.poll() is None:
            self._daemon.send_signal(number)
            self._daemon.wait()

    # --- kills: whether one happened ---

    def kill_daemon(self, rng: random.Random) -> bool:
        time.sleep(rng.uniform(0, 1.5))
        self._end_daemon(signal.SIGKILL)
        time.sleep(rng.uniform(0, 0.5))
        self.start_daemon()
        return True

    def stop_daemon_for_a_while(self, rng: random.Random) -> bool:
        assert self._daemon is not None
        time.sleep(rng.uniform(0, 0.5))
        self._daemon.send_signal(signal.SIGSTOP)
        time.sleep(rng.uniform(0.2, 2))
        self._daemon.send_signal(signal.SIGCONT)
        return True

    def kill_client(self, rng: random.Random) -> bool:
        return self._kill_seen("drkit-wal push", rng)

    def kill_job(self, rng: random.Random) -> bool:
        return self._kill_seen("drkit.cli.app", rng)

    def kill_archiver(self, rng: random.Random) -> bool:
        return self._kill_seen("archiver", rng, signal.SIGTERM)

    def crash_server(self, rng: random.Random) -> bool:
        time.sleep(rng.uniform(0, 0.5))
        self.server.kill()
        self._until(lambda: not self.server.is_running(), "the server is dead")
        self._until(self._starts, "the server starts")
        return True

    def _starts(self) -> bool:
        try:
            self.server.start()
        except AssertionError:
            return False
        return True

    def take_target_away(self, rng: random.Random) -> bool:
        folder = self.world.folders[rng.choice(self.world.names)]
        away = folder.with_name(folder.name + ".away")
        folder.rename(away)
        time.sleep(rng.uniform(0.2, 2))
        away.rename(folder)
        return True

    def _kill_seen(self, words: str, rng: random.Random, number: int = signal.SIGKILL) -> bool:
        """Kill one such process of this rig, as soon as one is seen; False where none came."""
        until = time.monotonic() + 3
        while time.monotonic() < until:
            pids = self._pids(words)
            if pids:
                time.sleep(rng.uniform(0, 0.05))
                with suppress(ProcessLookupError):
                    os.kill(rng.choice(pids), number)
                return True
            time.sleep(0.002)
        return False

    def _pids(self, words: str) -> list[int]:
        """Processes of this rig whose command line holds `words`; not the daemon."""
        mark = str(self.server.root).encode()
        ours = []
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit() or (self._daemon and int(entry.name) == self._daemon.pid):
                continue
            with suppress(OSError):
                line = (entry / "cmdline").read_bytes().replace(b"\0", b" ")
                if words.encode() in line and (mark in line or self._is_backend(entry)):
                    ours.append(int(entry.name))
        return ours

    def _is_backend(self, entry: Path) -> bool:
        return (entry / "cwd").readlink() == self.server.data

    def _kill_all(self, words: str) -> None:
        for pid in self._pids(words):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    # --- load ---

    @contextmanager
    def load(self) -> Iterator[None]:
        """Clients that write and switch segments; they survive crashes of the server."""
        done = threading.Event()

        def work() -> None:
            while not done.is_set():
                with suppress(psycopg.Error), self.server.connect() as session:
                    while not done.wait(0.2):
                        session.execute("update pgbench_accounts set abalance = abalance + 1 where aid % 50 = 0")
                        session.execute("select pg_switch_wal()")

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()

    # --- afterwards ---

    def settle(self) -> None:
        """Wait until PostgreSQL has nothing left to hand over."""
        self.server.query("select pg_switch_wal()")
        ready = self.server.data / "pg_wal" / "archive_status"
        self._until(lambda: not list(ready.glob("*.ready")), "all WAL is handed over", 5 * _WITHIN_S)

    def acknowledged(self) -> set[str]:
        return set((self.world.root / "acknowledged").read_text().split())

    def changed(self) -> list[str]:
        path = self.world.root / "changed"
        return path.read_text().split() if path.exists() else []

    def kept_aside(self) -> dict[str, Path]:
        return {path.name: path for path in self.aside.iterdir() if not path.name.startswith(".")}

    def _until(self, holds: Callable[[], bool], what: str, within_s: float = _WITHIN_S) -> None:
        until = time.monotonic() + within_s
        while not holds():
            assert time.monotonic() < until, (
                f"never: {what}; {self.log.read_text()[-2000:] if self.log.exists() else ''}"
            )
            time.sleep(0.1)
