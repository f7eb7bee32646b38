"""The schedule's part with threads and processes: starts, ends, is killed, and starts again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from drkit.core.cancel import CancelToken
from drkit.core.clock import SystemClock
from drkit.core.log import NoLog
from drkit.daemon.agenda import Agenda
from drkit.daemon.api import Outcome, RunRecord
from drkit.daemon.children import Children, Ended, Order, Runner
from drkit.daemon.claims import Claims, Holder
from drkit.daemon.duties import Duty
from drkit.daemon.evidence import CatalogueEvidence, Known
from drkit.daemon.ringer import Ringer
from drkit.daemon.runs import Runs
from drkit.daemon.schedule import Orphans, Scheduler
from drkit.daemon.told import Told as ToldOnStderr
from policies.cron import Cron
from policies.schedule import Bell
from tests.daemon.fast import Told, utc


class ShiftedClock(SystemClock):
    """Real time, as if the process had begun at `start`."""

    def __init__(self, start: datetime) -> None:
        self._shift = start - super().now()

    def now(self) -> datetime:
        return super().now() + self._shift


class Asked:
    """Evidence that is fresh as soon as it was asked."""

    def __init__(self) -> None:
        self.times = 0

    def known(self) -> Known:
        return Known(fresh=self.times > 0)

    def refresh(self, token: CancelToken) -> None:
        self.times += 1

    def outdated(self) -> None:
        return None


def wait_until(true: Callable[[], object]) -> None:
    limit = time.monotonic() + 30
    while not true():
        assert time.monotonic() < limit, "it never came true"
        time.sleep(0.01)


class World:
    """A scheduler with one duty every minute, half a second before the minute; `program` is what its job does."""

    def __init__(self, folder: Path, program: str, *, job: str = "backup") -> None:
        self.folder, self.told = folder, Told()
        self.clock = ShiftedClock(utc("2026-06-10T12:00:59.5Z"))
        self.duty = Duty(
            Bell(f"{job}.orders.1", Cron.parse("* * * * *"), "UTC"), job, "orders", (program, str(folder)), 600.0
        )
        self.claims = Claims(folder / "locks")
        self.evidence = Asked()
        children = Children(
            (sys.executable, "-I", "-c"),
            os.environ,
            self.clock,
            lambda name: ToldOnStderr(NoLog(), name, self.clock),
            grace_s=0.5,
        )
        self.scheduler = self.make(children)

    def make(self, runner: Runner) -> Scheduler:
        orphans = Orphans(self.claims, self.clock, NoLog(), grace_s=0.5)
        agenda = Agenda(
            [self.duty], Runs(self.folder / "runs"), self.clock, NoLog(), self.told, slots=2, held=orphans.held
        )
        return Scheduler(agenda, self.evidence, runner, self.claims, self.clock, NoLog(), look_s=0.1)

    @contextmanager
    def running(self) -> Iterator[CancelToken]:
        token, errors = CancelToken(), list[BaseException]()

        def root() -> None:
            try:
                self.scheduler.run(token)
            except BaseException as error:  # noqa: BLE001  a thread root
                errors.append(error)

        thread = threading.Thread(target=root)
        thread.start()
        try:
            yield token
        finally:
            token.cancel("the test is over")
            thread.join()
        if errors:
            raise errors[0]

    def records(self) -> tuple[RunRecord, ...]:
        runs = Runs(self.folder / "runs")
        runs.open(self.duty.bell.id, self.duty.terms, self.clock.now())
        return runs.of(self.duty.bell.id)


ANSWERS = """import json; print(json.dumps({"backup": {"id": "b1"}}))"""
HANGS = """
import os, pathlib, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
pathlib.Path(sys.argv[1], "pid").write_text(f"{os.getpid()}\\n")
time.sleep(600)
"""


def test_a_bell_rings_and_the_job_is_recorded(tmp_path: Path) -> None:
    world = World(tmp_path, ANSWERS)
    with world.running():
        wait_until(world.scheduler.recent)
        (record,) = world.scheduler.recent()
    assert (record.outcome, record.answer, record.exit) == (Outcome.DONE, {"id": "b1"}, 0)
    assert record.due == utc("2026-06-10T12:01:00Z")
    assert world.records() == (record,)
    assert world.evidence.times > 0
    assert world.told.kinds == ["backup.done"]
    assert world.scheduler.next_runs()[0].at == utc("2026-06-10T12:02:00Z")


def test_stopping_the_daemon_ends_its_jobs(tmp_path: Path) -> None:
    world = World(tmp_path, HANGS)
    with world.running():
        wait_until((tmp_path / "pid").exists)
        assert [record.bell for record in world.scheduler.running()] == ["backup.orders.1"]
    (record,) = world.records()
    assert (record.outcome, record.why) == (Outcome.KILLED, "the test is over")
    assert world.claims.holder("orders") is None


def test_a_job_that_cannot_be_started_is_a_failed_one(tmp_path: Path) -> None:
    world = World(tmp_path, ANSWERS)
    broken = Children(("/no/such/program",), {}, world.clock, lambda name: ToldOnStderr(NoLog(), name, world.clock))
    world.scheduler = world.make(broken)
    with world.running():
        wait_until(world.scheduler.recent)
    (record,) = world.records()
    assert (record.outcome, record.exit) == (Outcome.FAILED, 127)


def test_a_defect_in_a_thread_ends_the_part(tmp_path: Path) -> None:
    class Defect:
        def run(self, order: Order, token: CancelToken) -> Ended:
            os.close(order.lock)
            raise AssertionError("a defect")

    world = World(tmp_path, ANSWERS)
    world.scheduler = world.make(Defect())
    with pytest.raises(AssertionError, match="a defect"), world.running() as token:
        wait_until(lambda: token.cancelled or not world.scheduler.running())
        wait_until(lambda: world.records() or None)


_DAEMON = """
import sys
from pathlib import Path
from drkit.core.cancel import CancelToken
from tests.daemon.test_scheduler import HANGS, World

World(Path(sys.argv[1]), HANGS).scheduler.run(CancelToken())
"""


def test_a_killed_daemon_and_the_next_one(tmp_path: Path) -> None:
    project = Path(__file__).parents[2]
    daemon = subprocess.Popen([sys.executable, "-c", _DAEMON, str(tmp_path)], cwd=project)
    try:
        pid_file = tmp_path / "pid"
        wait_until(lambda: pid_file.exists() and pid_file.read_text().endswith("\n"))
    finally:
        daemon.kill()
        daemon.wait()
    pid = int(pid_file.read_text())
    world = World(tmp_path, ANSWERS)
    assert world.claims.holder("orders") == Holder(pid), "it ignored the death of its parent"
    with world.running():
        wait_until(lambda: any(r.outcome is Outcome.KILLED for r in world.scheduler.recent()))
    killed = next(r for r in world.records() if r.outcome is Outcome.KILLED)
    assert killed.why == "the daemon ended while it ran"
    assert world.claims.holder("orders") is None
    assert "backup.failed" in world.told.kinds
    later = [r for r in world.records() if r.started and killed.ended and r != killed]
    assert all(r.started and killed.ended and r.started >= killed.ended for r in later), "never two at once"


def test_a_lock_of_nobody_we_know_is_given_up(tmp_path: Path) -> None:
    world = World(tmp_path, ANSWERS)
    foreign = world.claims.take("orders")
    assert isinstance(foreign, int)
    try:
        with world.running():
            wait_until(lambda: any(r.outcome is Outcome.DONE for r in world.scheduler.recent()))
    finally:
        os.close(foreign)


def test_bells_are_rung_by_the_clock() -> None:
    rung = threading.Event()
    now = SystemClock().now()
    soon = (now + timedelta(seconds=2)).replace(microsecond=0)
    shift = timedelta(seconds=soon.second)

    class Soon(Bell):
        @property
        def shift(self) -> timedelta:
            return shift

    ringer = Ringer([Soon("backup.orders.1", Cron.parse("* * * * *"), "UTC")], rung.set)
    ringer.start()
    try:
        assert rung.wait(30)
    finally:
        ringer.stop()


def test_evidence_is_learned_from_the_commands_answers() -> None:
    now = utc("2026-06-10T12:00Z")
    answers: dict[str, dict[str, object]] = {
        "list": {
            "backups": [
                {"cluster": "orders", "status": "good", "started_at": "2026-06-10T01:00:00.000000Z"},
                {"cluster": "orders", "status": "good", "started_at": "2026-06-09T01:00:00.000000Z"},
                {"cluster": "orders", "status": "pending", "started_at": "2026-06-10T02:00:00.000000Z"},
            ],
            "leases": [
                {"job": "backup", "cluster": "orders", "host": "db2", "started_at": _text(now), "lasts_s": 900},
                {"job": "backup", "cluster": "other", "host": "here", "started_at": _text(now), "lasts_s": 900},
            ],
        },
        "drill": {
            "drills": [
                {"cluster": "orders", "scenario": "D09", "drill": "region-loss", "verdict": "pass", "at": _text(now)},
                {"cluster": "orders", "scenario": "D01", "drill": "dropped-table", "verdict": "fail", "at": _text(now)},
            ]
        },
    }

    class Answers:
        def run(self, order: Order, token: CancelToken) -> Ended:
            return Ended(0, answer=json.loads(json.dumps(answers[order.words[0]])))

    evidence = CatalogueEvidence(Answers(), ["drill", "check", "backup"], ["orders", "other"], "here", SystemClock())
    assert not evidence.known().fresh
    evidence.refresh(CancelToken())
    known = evidence.known()
    assert known.fresh
    assert known.success("backup", "orders", "") == utc("2026-06-10T01:00Z")
    assert known.success("drill", "orders", "region-loss") == known.success("drill", "orders", "D09") == now
    assert known.success("drill", "orders", "dropped-table") is None
    assert known.elsewhere("orders", now) == "db2 was just taking a backup"
    assert known.elsewhere("orders", now + timedelta(hours=1)) == ""
    assert known.elsewhere("other", now) == ""
    assert known.without == {"other"}
    answers.update(list={}, drill={})
    evidence.outdated()
    assert not evidence.known().fresh
    evidence.refresh(CancelToken())
    assert evidence.known() == known, "what cannot be learned stays as it was known"
    answers.update(list={"backups": [], "unreadable": {"a": "no route"}})
    evidence.refresh(CancelToken())
    assert evidence.known().without == frozenset(), "who could not look does not say that there is none"


def _text(moment: datetime) -> str:
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")


def test_signals_reach_the_whole_group_of_a_holder(tmp_path: Path) -> None:
    Holder(None).end(signal.SIGKILL)
    Holder(2**22 - 1).end(signal.SIGKILL)
