"""V3 on the log of a real recovery, as it is and with what goes wrong in logs."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest

from drills.checks.api import Scene
from drills.checks.log import LogCheck, Wanted, judge_log, read_log
from drills.report.model import Control, State
from tests.drills.checks.world import Copied, World

STAMP = "2026-07-01 00:00:00.000 UTC [77] "


def log_with(scene: Scene, folder: Path, *lines: str) -> Scene:
    log = folder / "log"
    log.write_text(scene.log.read_text() + "".join(f"{STAMP}{line}\n" for line in lines))
    return replace(scene, log=log)


@pytest.mark.real
@pytest.mark.parametrize(
    "line",
    [
        "PANIC:  could not write to file",
        "FATAL:  data directory has wrong ownership",
        "ERROR:  invalid page in block 0 of relation base/5/16384",
        "WARNING:  page verification failed, calculated checksum 1 but expected 2",
        "LOG:  server process (PID 9) was terminated by signal 11: Segmentation fault",
        "ERROR:  missing chunk number 0 for toast value 16999 in pg_toast_16990",
        'LOG:  could not read block 3 in file "base/5/16384": read only 0 of 8192 bytes',
        "LOG:  database system was not properly shut down; automatic recovery in progress",
    ],
)
def test_a_line_that_no_healthy_server_writes_fails(world: World, tmp_path: Path, line: str) -> None:
    found = LogCheck().run(log_with(world.scene, tmp_path, line), required=True)
    assert (found.state, found.control) == (State.FAILED, Control.CAUGHT)
    assert found.actual == line.replace(":  ", ": ", 1)


@pytest.mark.real
def test_what_clients_and_starts_leave_in_a_log_is_no_fault(world: World, tmp_path: Path) -> None:
    lines = [
        "FATAL:  the database system is starting up",
        "FATAL:  terminating connection due to administrator command",
        'FATAL:  database "nobody" does not exist',
        "LOG:  could not receive data from client: Connection reset by peer",
        'ERROR:  relation "nothing" does not exist at character 15',
        "STATEMENT:  select 'PANIC:  could not', 'invalid page' from nothing",
        "WARNING:  there is no transaction in progress",
    ]
    found = LogCheck().run(log_with(world.scene, tmp_path, *lines), required=True)
    assert (found.state, found.control) == (State.PASSED, Control.CAUGHT), found
    assert "WARNING: there is no transaction in progress" in found.facts
    assert any("statements of clients failed" in fact for fact in found.facts)


@pytest.mark.real
def test_another_stop_than_the_one_asked_for_fails(world: World) -> None:
    named = LogCheck().run(replace(world.scene, stopped_for='restore point "before"'), required=True)
    assert named.state is State.FAILED
    assert "recovery was to stop for 'restore point \"before\"', but the log says" in named.actual
    ended = LogCheck().run(replace(world.scene, stopped_for=""), required=True)
    assert "recovery was to run to the end of WAL, but the log says" in ended.actual


@pytest.mark.real
def test_another_timeline_than_the_one_asked_for_fails(world: World) -> None:
    found = LogCheck().run(replace(world.scene, timeline=3), required=True)
    assert found.actual == "recovery was to follow timeline 3, but timeline 2 branches off 1"


@pytest.mark.real
def test_a_backend_that_was_killed_shows(copied: Copied) -> None:
    server, scene = copied
    with server.connect() as session:
        (pid,) = session.execute("select pg_backend_pid()").fetchone() or (0,)
        os.kill(pid, signal.SIGKILL)
    server.stop("immediate")
    found = LogCheck().run(scene, required=True)
    assert found.state is State.FAILED
    assert "was terminated by signal 9" in found.actual


@pytest.mark.real
def test_a_log_that_is_not_there_is_an_error(world: World, tmp_path: Path) -> None:
    found = LogCheck().run(replace(world.scene, log=tmp_path / "none"), required=True)
    assert (found.state, found.control) == (State.ERROR, Control.NONE)


def test_a_log_without_promotion_fails(tmp_path: Path) -> None:
    lines = [f"{STAMP}LOG:  database system is ready to accept connections"]
    assert judge_log(read_log(lines), Wanted(1, "", tmp_path)) == ["the log tells of no promotion"]


def test_only_the_last_recovery_in_a_log_counts(tmp_path: Path) -> None:
    (tmp_path / "pg_wal").mkdir()
    (tmp_path / "pg_wal/00000003.history").write_text("1\t0/3000000\tno recovery target specified\n")
    lines = [
        "LOG:  starting point-in-time recovery to WAL location (LSN)",
        "LOG:  recovery stopping after reaching consistency",
        "LOG:  selected new timeline ID: 2",
        "LOG:  starting archive recovery",
        "LOG:  selected new timeline ID: 3",
    ]
    facts = read_log(STAMP + line for line in lines)
    assert (facts.stopped, facts.new_timeline) == ("", 3)
    assert judge_log(facts, Wanted(1, "", tmp_path)) == []
