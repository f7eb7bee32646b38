"""The daemon's life: one for a spool and a socket, all parts or none, and the service manager is told."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from drkit.core.cancel import CancelToken
from drkit.core.errors import Conflict, Failed
from drkit.core.log import NoLog
from drkit.daemon.api import Part
from drkit.daemon.instance import sole
from drkit.daemon.loop import Daemon
from drkit.daemon.supervisor import Supervisor

_HOLDER = """
import sys
from pathlib import Path
from drkit.daemon.instance import sole
with sole(Path(sys.argv[1]), Path(sys.argv[2])):
    print("held", flush=True)
    sys.stdin.read()
"""


class Waits:
    """A part that runs until it is cancelled."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.begun, self.ended = threading.Event(), threading.Event()

    def run(self, token: CancelToken) -> None:
        self.begun.set()
        token.wait()
        self.ended.set()


class Fails:
    """A part that fails, or just returns, when `go` is set."""

    name = "fails"

    def __init__(self, error: Exception | None) -> None:
        self.go = threading.Event()
        self._error = error

    def run(self, token: CancelToken) -> None:
        self.go.wait()
        if self._error is not None:
            raise self._error


@pytest.fixture
def manager(tmp_path: Path) -> socket.socket:
    """A socket such as systemd listens on."""
    made = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    made.bind(str(tmp_path / "notify"))
    made.settimeout(20)
    return made


def supervisor(tmp_path: Path, watchdog_s: float | None = None) -> Supervisor:
    env = {"NOTIFY_SOCKET": str(tmp_path / "notify")}
    if watchdog_s is not None:
        env |= {"WATCHDOG_USEC": str(int(watchdog_s * 1e6)), "WATCHDOG_PID": str(os.getpid())}
    return Supervisor(env, os.getpid())


def test_the_manager_hears_of_readiness_and_of_the_end(tmp_path: Path, manager: socket.socket) -> None:
    part, token = Waits("one"), CancelToken()
    thread = threading.Thread(target=Daemon([part], supervisor(tmp_path), NoLog()).run, args=(token,))
    thread.start()
    assert manager.recv(999).startswith(b"READY=1\n")
    token.cancel("SIGTERM was received")
    while b"STOPPING=1" not in (heard := manager.recv(999)):
        assert heard == b"WATCHDOG=1"
    thread.join()
    assert part.ended.is_set()


def test_a_stuck_daemon_does_not_feed_the_watchdog(tmp_path: Path, manager: socket.socket) -> None:
    stuck = {"why": ""}
    token = CancelToken()
    daemon = Daemon([Waits("one")], supervisor(tmp_path, 0.2), NoLog(), lambda: stuck["why"])
    thread = threading.Thread(target=daemon.run, args=(token,))
    thread.start()
    assert manager.recv(999).startswith(b"READY=1")
    assert manager.recv(999) == b"WATCHDOG=1"
    stuck["why"] = "archiving waits for ever"
    manager.settimeout(1.0)
    with pytest.raises(TimeoutError):
        for _ in range(5):  # what was on its way when it got stuck
            manager.recv(999)
    token.cancel()
    thread.join()


@pytest.mark.parametrize("error", [ValueError("broken"), None], ids=["raises", "returns"])
def test_a_part_that_ends_takes_the_others_with_it(tmp_path: Path, error: Exception | None) -> None:
    waits, fails = Waits("one"), Fails(error)
    parts: list[Part] = [waits, fails]
    fails.go.set()
    with pytest.raises(ValueError if error else Failed, match="broken" if error else "'fails' ended by itself"):
        Daemon(parts, Supervisor({}, 1), NoLog()).run(CancelToken())
    assert waits.ended.is_set()


@pytest.mark.parametrize("shared", ["spool", "socket"])
def test_there_is_one_daemon_for_a_spool_and_for_a_socket(tmp_path: Path, shared: str) -> None:
    one = [tmp_path / "spool", tmp_path / "run" / "drkit.sock"]
    two = [tmp_path / "spool2", tmp_path / "run" / "drkit2.sock"]
    two[shared == "socket"] = one[shared == "socket"]
    command = [sys.executable, "-c", _HOLDER, *map(str, one)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == b"held\n"
        with pytest.raises(Conflict, match=f"another daemon has this {shared}.*process {holder.pid}"), sole(*two):
            pass
        holder.kill()
    with sole(*two):  # the kernel ended the claim with the process
        pass
