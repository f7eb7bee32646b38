"""How long a segment takes until it is acknowledged, through a real daemon, while jobs run, are stopped and are killed.

    make bench                                 all of the measurements
    DRKIT_BENCH_SEGMENTS=50 make bench         as many segments in each turn of a phase (10)

PostgreSQL marks a finished segment by `.ready`, and renames that to `.done` when archive_command has returned 0: from
the mtime to the ctime of that file (with the kernel's tick, 1 to 4 ms). The phases alternate in one run, as machines
differ and change; medians, 99th percentiles and ratios against 'no job' are printed, and nothing is judged.
"""

from __future__ import annotations

import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import pytest

from tests.daemon.real_daemon import real_daemon
from tests.jobs.backup_world import BackupWorld
from tests.real.postgres import new_server, require, server_user

pytestmark = [pytest.mark.bench, pytest.mark.real, pytest.mark.timeout(3600)]

_TURNS = 5
_SEGMENTS = int(os.environ.get("DRKIT_BENCH_SEGMENTS", "10"))
_UNDER_WAY_S = 2.0


class Job:
    """A job as the daemon runs it: the command that a person would type, in a session of its own."""

    def __init__(self, world: BackupWorld, *words: str) -> None:
        self._command = [str(word) for word in world.program("drkit", "-q", *words)]
        self._process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        null = subprocess.DEVNULL
        return subprocess.Popen(
            self._command,
            stdout=null,
            stderr=null,
            cwd="/",
            user=server_user(),
            extra_groups=[],
            start_new_session=True,
        )

    def goes_on(self) -> None:
        """One that has ended begins anew."""
        if self._process.poll() is not None:
            self._process = self._start()

    def signal(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)

    def killed_and_again(self) -> None:
        self.end()
        self._process = self._start()

    def end(self) -> None:
        self.signal(signal.SIGKILL)
        self._process.wait()


Phase = Callable[[BackupWorld], Iterator[None]]
"""Between two segments it goes on; closed at the end of its turn."""


def no_job(world: BackupWorld) -> Iterator[None]:
    while True:
        yield


def _running(*words: str) -> Phase:
    def phase(world: BackupWorld) -> Iterator[None]:
        job = Job(world, *words)
        time.sleep(_UNDER_WAY_S)
        try:
            while True:
                job.goes_on()
                yield
        finally:
            job.end()

    return phase


def stopped(world: BackupWorld) -> Iterator[None]:
    job = Job(world, "backup", "--rehash")
    time.sleep(_UNDER_WAY_S)
    try:
        while True:
            job.signal(signal.SIGSTOP)
            yield
    finally:
        job.end()


def killed(world: BackupWorld) -> Iterator[None]:
    """Under way for a while, then killed, as the segment is finished; and another one."""
    job = Job(world, "backup", "--rehash")
    try:
        while True:
            time.sleep(_UNDER_WAY_S / 2)
            job.signal(signal.SIGKILL)
            yield
            job.killed_and_again()
    finally:
        job.end()


_PHASES: dict[str, Phase] = {
    "no job": no_job,
    "backup running": _running("backup", "--rehash"),
    "backup SIGSTOPped": stopped,
    "backup SIGKILLed": killed,
    "verify running": _running("verify", "--deep"),
}


@contextmanager
def bench_world() -> Iterator[BackupWorld]:
    """Some 500 MiB, so that a job is still under way when it is stopped or killed."""
    require(15)
    server = new_server(15)
    try:
        world = BackupWorld(server)
        world.start()
        server.pgbench("-i", "-q", "-s", os.environ.get("DRKIT_BENCH_SCALE", "30"))
        world.backup()
        yield world
    finally:
        server.close()


def acknowledged_after_ms(world: BackupWorld) -> float:
    """Write some, end the segment, wait for `.done`."""
    server = world.server
    server.query("insert into written select generate_series(1, 20000)")
    name = str(server.value("select pg_walfile_name(pg_switch_wal())"))
    done = server.data / "pg_wal" / "archive_status" / f"{name}.done"
    limit = time.monotonic() + 120
    while not done.exists():
        assert time.monotonic() < limit, f"{name} is not acknowledged"
        time.sleep(0.005)
    facts = done.stat()
    return (facts.st_ctime_ns - facts.st_mtime_ns) / 1e6


def test_wal_latency(capsys: pytest.CaptureFixture[str]) -> None:
    found: dict[str, list[float]] = {name: [] for name in _PHASES}
    with bench_world() as world, real_daemon(world.config):
        world.server.query("create table written (n int)")
        for _ in range(3):
            acknowledged_after_ms(world)  # the daemon has opened its targets
        for _ in range(_TURNS):
            for name, phase in _PHASES.items():
                turn = phase(world)
                for _ in range(_SEGMENTS):
                    next(turn)
                    found[name].append(acknowledged_after_ms(world))
                turn.close()  # type: ignore[attr-defined]
    medians = {name: statistics.median(one) for name, one in found.items()}
    with capsys.disabled():
        sys.stdout.write(f"\n.ready to acknowledged, {_TURNS * _SEGMENTS} segments of 16 MiB each, two targets\n")
        for name, one in found.items():
            p99, base = _p99(one), _p99(found["no job"])
            sys.stdout.write(
                f"{name:<18} median {medians[name]:7.1f} ms  ratio {medians[name] / medians['no job']:5.2f}"
                f"   99th {p99:7.1f} ms  ratio {p99 / base:5.2f}\n"
            )


def _p99(values: list[float]) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * 0.99))]
