"""What `drkit status` judges, from what a daemon answers, what it wrote down, and what was seen."""

from __future__ import annotations

import json
import threading
from datetime import timedelta
from pathlib import Path

import pytest

from drkit.core.cancel import CancelToken
from drkit.core.errors import Damage
from drkit.core.log import NoLog
from drkit.daemon.api import Outcome
from drkit.daemon.facts_json import from_text, run_json, to_text
from drkit.daemon.heartbeat import Heartbeat, read_beat
from drkit.daemon.seen import Seen
from drkit.daemon.status import (
    DaemonView,
    alarming,
    is_live,
    judge_live,
    judge_status,
    liveness,
    recorded_runs,
    see_daemon,
)
from policies.objectives import Promises
from policies.protection import Finding, Level, Protection
from policies.sights import ClusterSeen, ServerSeen, TargetSeen
from tests.core.clocks import HandClock
from tests.daemon.facts import HOUR, NOW, archive, facts, record
from tests.policies.test_protection import target

PROMISES = {"orders": Promises(max_backup_age=timedelta(days=1))}


def seen(*targets: TargetSeen, promises: Promises | None = None) -> Seen:
    cluster = ClusterSeen("orders", ServerSeen(True), targets or (target("a"),), promises or PROMISES["orders"])
    return Seen(cluster, 7, timedelta(0), None, NOW)


# --- facts as JSON ------------------------------------------------------------------------------------------------


def test_facts_survive_the_way_over_the_socket() -> None:
    whole = facts(recent=[record(), record(Outcome.FAILED, why="x")], archives=[archive(ready=3, oldest=NOW, owed=2)])
    assert from_text(to_text(whole)) == whole


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"pid": "x"}', to_text(facts()).replace("2026", "x")])
def test_what_is_no_answer_is_damage(text: str) -> None:
    with pytest.raises(Damage):
        from_text(text)


# --- the sign of life ---------------------------------------------------------------------------------------------


def test_a_heartbeat_is_read_back_and_says_when_it_was_stopped(tmp_path: Path) -> None:
    clock, token = HandClock(), CancelToken()
    written = threading.Event()

    def now() -> object:
        written.set()
        return facts(running=[record(Outcome.RUNNING)])

    part = Heartbeat(tmp_path, now, clock, NoLog())  # type: ignore[arg-type]
    thread = threading.Thread(target=part.run, args=(token,))
    thread.start()
    assert written.wait(30)
    token.cancel()
    thread.join()
    beat, why = read_beat(tmp_path)
    assert beat is not None and why == ""
    assert (beat.pid, beat.at, beat.stopped) == (42, clock.now(), True)
    assert [bell.bell for bell in beat.bells] == ["backup.orders.1"]
    assert beat.busy == {"orders"}


def test_a_heartbeat_that_is_not_there_or_not_whole(tmp_path: Path) -> None:
    assert read_beat(tmp_path / "nothing") == (None, "")
    (tmp_path / "heartbeat").write_text('{"pid": 1')
    beat, why = read_beat(tmp_path)
    assert beat is None and str(tmp_path) in why


def test_a_spool_that_cannot_be_written_to_ends_nothing(tmp_path: Path) -> None:
    token = CancelToken()
    token.cancel()
    Heartbeat(tmp_path / "missing", facts, HandClock(), NoLog()).run(token)


# --- judged -------------------------------------------------------------------------------------------------------


def test_without_a_daemon_and_without_a_schedule_all_may_be_well() -> None:
    status = judge_status(NOW, DaemonView(expected=False), [seen()])
    assert status.state is Protection.PROTECTED
    assert [(one.kind, one.level) for one in status.findings] == [("daemon.none", Level.NOTE)]


def test_a_schedule_without_a_daemon_is_at_risk() -> None:
    status = judge_status(NOW, DaemonView(expected=True), [seen()])
    assert status.state is Protection.AT_RISK
    assert status.findings[0].kind == "daemon.down"


def test_a_drill_that_is_scheduled_and_broken_puts_at_risk_and_is_heard_of_outside() -> None:
    broken = Finding("schedule.drill", Level.BAD, "the drill's file is missing")
    alive = DaemonView(True, facts=facts())
    status = judge_status(NOW, alive, [seen()], broken=[broken])
    assert status.state is Protection.AT_RISK and broken in liveness(status)


def test_runs_come_from_the_daemon_or_from_what_it_wrote_down(tmp_path: Path) -> None:
    failed = record(Outcome.FAILED, why="no space")
    folder = tmp_path / "runs"
    folder.mkdir()
    (folder / "backup.orders.1.json").write_text(json.dumps({"records": [run_json(record()), run_json(failed)]}))
    (folder / "damaged.json").write_text("{")
    recorded = recorded_runs(tmp_path, ["backup.orders.1", "damaged", "absent"])
    assert recorded == [record(), failed]
    for status in (
        judge_status(NOW, DaemonView(False), [seen()], recorded),
        judge_status(NOW, DaemonView(False, facts=facts(recent=recorded)), [seen()]),
    ):
        assert [run.outcome for run in status.runs] == [Outcome.FAILED]
        (found,) = [one for one in status.live if one.kind == "backup.failed"]
        assert "no space" in found.text and found.level is Level.WARNING


def test_what_the_daemon_sees_waiting_counts_where_it_cannot_be_seen_from_here() -> None:
    stuck = facts(archives=[archive(ready=3, oldest=NOW - HOUR)])
    status = judge_status(NOW, DaemonView(True, facts=stuck), [seen()])
    assert "archive.waiting" in [one.kind for one in status.findings]


def test_the_daemon_alone_judges_what_needs_no_target() -> None:
    stuck = facts(
        recent=[record(Outcome.MISSED)],
        archives=[archive(ready=3, oldest=NOW - HOUR, owed=2, problem="its folder is gone")],
        next_at=NOW - HOUR,
    )
    kinds = {one.kind for one in judge_live(stuck, PROMISES, NOW)}
    assert kinds == {"backup.missed", "schedule.overdue", "archive.waiting", "wal.owed", "archive.problem"}
    assert all(is_live(kind) for kind in kinds)
    assert judge_live(facts(recent=[record()], archives=[archive()]), PROMISES, NOW) == []


# --- liveness -----------------------------------------------------------------------------------------------------


def test_liveness_is_silent_where_all_is_well() -> None:
    alive = DaemonView(True, facts=facts(recent=[record()], archives=[archive()]))
    assert list(liveness(judge_status(NOW, alive, [seen()]))) == []


def test_liveness_leaves_out_what_is_no_sign_of_life() -> None:
    alive = DaemonView(True, facts=facts())
    faulty = seen(target("a"), TargetSeen("b", key_fault="no slot", backup=target("b").backup, windows=()))
    kinds = [one.kind for one in liveness(judge_status(NOW, alive, [faulty]))]
    assert "key.slot" in kinds and "daemon.none" not in kinds


def test_a_missed_run_is_an_alarm_even_where_a_promise_is_kept() -> None:
    missed = DaemonView(True, facts=facts(recent=[record(Outcome.MISSED)]))
    (found,) = liveness(judge_status(NOW, missed, [seen()]))
    assert found.level is Level.WARNING and alarming(found)


def test_who_can_judge_nothing_does_not_say_that_all_is_well() -> None:
    blind = judge_status(NOW, DaemonView(False), [seen(promises=Promises())])
    assert [one.kind for one in liveness(blind) if one.level is Level.UNKNOWN] == ["liveness.blind"]
    promised = judge_status(NOW, DaemonView(False), [seen()])
    assert [one for one in liveness(promised) if alarming(one)] == []


def test_a_socket_that_nobody_listens_on(tmp_path: Path) -> None:
    assert see_daemon(tmp_path, tmp_path / "sock", expected=True) == DaemonView(expected=True)
    (tmp_path / "heartbeat").write_text("no JSON")
    assert "heartbeat" in see_daemon(tmp_path, tmp_path / "sock", expected=True).why
