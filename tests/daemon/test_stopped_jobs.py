"""Whatever becomes of a job, stopped or killed, segments go on being acknowledged. No time is measured here: while the
jobs stand still, the archiver makes progress (`make bench` measures how fast)."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event, Thread

import pytest

from tests.daemon.real_daemon import RealDaemon, real_daemon
from tests.jobs.backup_world import BackupWorld
from tests.real.postgres import new_server, require
from tests.real.wal_archive import until

pytestmark = [pytest.mark.real, pytest.mark.timeout(300)]

_SEGMENTS = 12
_SCHEDULE = "".join(
    f'\n[[schedule]]\njob = "{job}"\ncron = "* * * * *"\n' for job in ("backup", "replicate", "verify", "check")
)


@pytest.fixture(scope="module")
def world() -> Iterator[BackupWorld]:
    require(15)
    server = new_server(15, segment_mb=1)
    try:
        one = BackupWorld(server, extra=_SCHEDULE)
        one.start()
        server.query("create table t (n int)")
        yield one
    finally:
        server.close()


def write(world: BackupWorld, segments: int = _SEGMENTS) -> None:
    """Segments, each acknowledged before the next one."""
    for _ in range(segments):
        world.server.query("insert into t select generate_series(1, 2000)")
        name = str(world.server.value("select pg_walfile_name(pg_switch_wal())"))
        until(lambda name=name: newest(world) >= name, world.server)  # type: ignore[misc]


def newest(world: BackupWorld) -> str:
    return str(world.server.value("select coalesce(last_archived_wal, '') from pg_stat_archiver"))


def state(pid: int) -> str:
    """T: stopped."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    return ""


@contextmanager
def met_by(daemon: RealDaemon, number: signal.Signals, world: BackupWorld) -> Iterator[dict[int, str]]:
    """Once a backup is under way every job that lives or begins gets the signal, with its group; the jobs that did."""
    met: dict[int, str] = {}
    over = Event()
    until(lambda: any(list(folder.glob("clusters/*/leases/*")) for folder in world.folders.values()), world.server)

    def work() -> None:
        while not over.wait(0.01):
            meet()

    def meet() -> None:
        for pid, words in daemon.children().items():
            if pid not in met and "drkit.cli.app" in words:  # what has not become its command yet does so first
                with suppress(ProcessLookupError):
                    os.killpg(pid, number)
                    met[pid] = words

    meet()
    thread = Thread(target=work)
    thread.start()
    try:
        yield met
    finally:
        over.set()
        thread.join()


@pytest.fixture(autouse=True)
def _nothing_was_run(world: BackupWorld) -> None:
    """No backup and no record of one that failed: the daemon takes one at once."""
    shutil.rmtree(world.spool / "runs", ignore_errors=True)
    for left in [one for folder in world.folders.values() for one in folder.glob("clusters/*/leases/*")]:
        left.unlink()


@pytest.mark.parametrize("away", [False, True], ids=["all targets there", "one target away"])
def test_segments_are_acknowledged_while_every_job_is_stopped(world: BackupWorld, away: bool) -> None:
    """away: each segment leaves a debt as well, in the spool that the jobs use too."""
    folder = world.folders["b"]
    aside = folder.with_name("taken-away")
    with real_daemon(world.config) as daemon, met_by(daemon, signal.SIGSTOP, world) as stopped:
        if away:
            folder.rename(aside)
        try:
            write(world)
            assert any(" backup " in words for words in stopped.values())
            assert {state(pid) for pid in stopped} == {"T"}, stopped
        finally:
            if away:
                aside.rename(folder)
        assert daemon.process.poll() is None


def test_segments_are_acknowledged_while_every_job_is_killed(world: BackupWorld) -> None:
    with real_daemon(world.config) as daemon, met_by(daemon, signal.SIGKILL, world) as killed:
        write(world)
        assert any(" backup " in words for words in killed.values())
        assert daemon.stop() == 0


def test_drills_that_cannot_be_run_keep_nothing_else_from_running(world: BackupWorld) -> None:
    """The daemon starts, archives, takes its backup, and says what is wrong; so does archiving without it."""
    plain, gone = world.extra, world.root / "gone.toml"
    world.extra += f'\n[[schedule]]\njob = "drill"\ncron = "0 1 1 1 *"\nscenario = "{gone}"\n'
    world.extra += '[drill.fridays]\nscenario = "disk-lost"\nlegder = true\n'
    world.write_config()
    try:
        with real_daemon(world.config) as daemon:
            write(world, 2)
            until(lambda: len(world.listed()) > 0, world.server, timeout_s=120)
            status = json.loads(world.drkit("--json", "status", check=False).stdout)
            found = {one["about"]: one for one in status["findings"] if one["kind"] == "schedule.drill"}
            assert {one["level"] for one in found.values()} == {"bad"}
            assert str(gone) in found[str(gone)]["text"]
            assert "drill.fridays.legder is not a known key; did you mean 'ledger'?" in found["fridays"]["text"]
            assert status["state"] != "protected"
            assert world.drkit("check", "--liveness", check=False).returncode == 10
            checked = world.drkit("check", check=False)
            assert checked.returncode == 4 and "drill.fridays.legder" in checked.stdout
            assert world.drkit("drill", "run", "fridays", check=False).returncode == 3
            listed = world.drkit("--json", "drill", "list", check=False)
            assert listed.returncode == 3 and list(json.loads(listed.stdout)["wrong"]) == ["fridays"]
            assert daemon.stop() == 0
        write(world, 1)
    finally:
        world.extra = plain
        world.write_config()
