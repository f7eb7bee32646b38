"""Silence is an alarm."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from policies.alive import BellSeen, DaemonSeen, RunSeen, judge_bells, judge_daemon, judge_runs, latest_runs
from policies.objectives import Promises
from policies.protection import Level

NOW = datetime(2026, 7, 1, 3, tzinfo=UTC)
SECOND, HOUR = timedelta(seconds=1), timedelta(hours=1)


@pytest.mark.parametrize(
    ("seen", "kind", "level"),
    [
        (DaemonSeen(True, NOW - 5 * SECOND, answers=True), None, None),
        (DaemonSeen(True, NOW - 5 * SECOND), None, None),
        (DaemonSeen(False), "daemon.none", Level.NOTE),
        (DaemonSeen(False, why="permission denied"), "daemon.none", Level.UNKNOWN),
        (DaemonSeen(True), "daemon.down", Level.BAD),
        (DaemonSeen(False, NOW - HOUR), "daemon.down", Level.BAD),
        (DaemonSeen(True, NOW - HOUR, answers=True), "daemon.down", Level.BAD),
        (DaemonSeen(True, NOW - 5 * SECOND, stopped=True), "daemon.down", Level.BAD),
        (DaemonSeen(True, NOW + HOUR, answers=True), "daemon.down", Level.BAD),
        (DaemonSeen(True, NOW - 5 * SECOND, answers=False), "daemon.silent", Level.BAD),
    ],
)
def test_signs_of_life(seen: DaemonSeen, kind: str | None, level: Level | None) -> None:
    found = [(one.kind, one.level) for one in judge_daemon(seen, NOW)]
    assert found == ([] if kind is None else [(kind, level)])


def run(outcome: str, *, job: str = "backup", hours_ago: int = 1) -> RunSeen:
    return RunSeen(f"{job}.orders.1", job, "orders", NOW - hours_ago * HOUR, outcome, "a reason")


def test_the_newest_run_of_each_bell_counts() -> None:
    runs = [run("failed", hours_ago=30), run("done", hours_ago=2), run("failed", job="drill")]
    assert [one.outcome for one in latest_runs(runs)] == ["done", "failed"]


@pytest.mark.parametrize("outcome", ["failed", "killed", "missed"])
def test_a_failure_is_bad_unless_a_promise_watches_over_it(outcome: str) -> None:
    (bad,) = judge_runs([run(outcome)], {})
    assert (bad.level, bad.about) == (Level.BAD, "backup.orders.1")
    assert bad.kind == ("backup.missed" if outcome == "missed" else "backup.failed")
    (warned,) = judge_runs([run(outcome)], {"orders": Promises(max_backup_age=HOUR)})
    assert warned.level is Level.WARNING
    assert "a reason" in warned.text


def test_a_check_is_watched_by_no_promise() -> None:
    everything = Promises(HOUR, HOUR, HOUR, HOUR, HOUR)
    assert [one.level for one in judge_runs([run("failed", job="check")], {"orders": everything})] == [Level.BAD]


@pytest.mark.parametrize("outcome", ["done", "running"])
def test_a_run_that_goes_well_is_silent(outcome: str) -> None:
    assert list(judge_runs([run(outcome)], {})) == []


def test_a_bell_that_nobody_rang() -> None:
    bells = [BellSeen("backup.orders.1", "orders", NOW - HOUR), BellSeen("drill.orders.1", "orders", NOW + HOUR)]
    assert [one.about for one in judge_bells(bells, set(), NOW)] == ["backup.orders.1"]
    assert list(judge_bells(bells, {"orders"}, NOW)) == []
