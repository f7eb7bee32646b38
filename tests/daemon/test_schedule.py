"""Days of a schedule under a fast clock: summer time, outages, clocks that jump, jobs that fail."""

from __future__ import annotations

from collections import Counter
from datetime import datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from drkit.daemon.api import Outcome, RunRecord
from drkit.daemon.children import Ended
from drkit.daemon.duties import Duty
from drkit.daemon.evidence import Elsewhere, Known
from drkit.daemon.runs import KEPT
from policies.cron import ticks
from tests.daemon.fast import DONE, FAILED, Life, duty, utc

HOUR, DAY = timedelta(hours=1), timedelta(days=1)


@pytest.fixture
def life(tmp_path: Path) -> Life:
    """A nightly backup at 01:00 UTC, from noon on."""
    found = Life(tmp_path, [duty("0 1 * * *")], utc("2026-06-10T12:00Z"))
    found.boot()
    return found


@pytest.mark.parametrize(
    ("zone", "start", "expected"),
    [
        ("Europe/Berlin", "2026-03-28T12:00Z", ["2026-03-29T03:00+02:00", "2026-03-30T02:30+02:00"]),
        ("Europe/Berlin", "2026-10-24T12:00Z", ["2026-10-25T02:30+02:00", "2026-10-26T02:30+01:00"]),
        ("America/New_York", "2026-03-07T17:00Z", ["2026-03-08T03:00-04:00", "2026-03-09T02:30-04:00"]),
        ("America/New_York", "2026-10-31T17:00Z", ["2026-11-01T02:30-05:00", "2026-11-02T02:30-05:00"]),
    ],
)
def test_two_nights_of_a_clock_change(tmp_path: Path, zone: str, start: str, expected: list[str]) -> None:
    nightly, hourly = duty("30 2 * * *", zone=zone), duty("15 * * * *", job="check", zone=zone)
    life = Life(tmp_path, [nightly, hourly], utc(start), lasts=lambda record: timedelta(minutes=3))
    life.boot()
    life.live(timedelta(hours=46))
    where = ZoneInfo(zone)
    told = [record.due.astimezone(where).isoformat(timespec="minutes") for record in life.records()]
    assert told == expected
    assert [record.started for record in life.records()] == [utc(text) for text in expected]
    wanted = list(ticks(hourly.bell.cron, where, utc(start), life.clock.now()))
    assert life.dues(Outcome.DONE, "check.orders.1") == wanted
    assert not [kind for kind in life.told.kinds if not kind.endswith(".done")]


def test_a_nights_outage_is_caught_up_once(tmp_path: Path) -> None:
    life = Life(tmp_path, [duty("0 1 * * *"), duty("0 * * * *", job="check")], utc("2026-06-10T12:00Z"))
    life.boot()
    life.until(utc("2026-06-10T22:30Z"))
    life.kill()
    life.until(utc("2026-06-11T08:30Z"))
    life.starts.clear()
    life.boot()
    life.live(HOUR * 2)
    caught_up = life.dues(Outcome.DONE)
    assert caught_up == [utc("2026-06-11T01:00Z")]
    missed = life.dues(Outcome.MISSED, "check.orders.1")
    assert missed == [utc("2026-06-10T23:00Z") + HOUR * number for number in range(9)]
    assert [record.due.hour for record in life.starts] == [1, 8, 9, 10]
    assert life.told.kinds.count("check.missed") == 1
    assert "9 runs were missed" in " ".join(life.told.texts)


def test_a_restart_in_the_minute_of_the_bell_runs_it_once(life: Life) -> None:
    life.until(utc("2026-06-11T00:59Z"))
    life.kill()
    life.boot()
    life.live(HOUR)
    life.kill()
    life.boot()
    life.live(HOUR)
    assert len(life.starts) == 1


def test_a_clock_set_back_an_hour_runs_nothing_twice(tmp_path: Path) -> None:
    life = Life(tmp_path, [duty("*/15 * * * *")], utc("2026-06-10T12:00Z"), lasts=lambda record: HOUR / 60)
    life.boot()
    life.live(HOUR * 2)
    before = [record.due for record in life.starts]
    life.clock.jump(-HOUR)
    life.live(HOUR)
    assert [record.due for record in life.starts] == before
    life.live(HOUR)
    assert len(life.starts) == len(before) + 4
    assert life.dues(Outcome.MISSED) == []


def test_a_clock_ten_years_ahead_for_an_hour(life: Life) -> None:
    life.live(DAY * 2)
    assert len(life.starts) == 2
    life.clock.jump(DAY * 3652)
    life.live(HOUR)
    assert len(life.starts) == 3, "as after an outage: the latest is caught up, once"
    assert life.starts[-1].due.year == 2036
    life.clock.jump(-DAY * 3652)
    life.live(HOUR)
    assert len(life.starts) == 3, "back again nothing is owed that was done before"
    life.live(DAY * 2)
    assert [record.due for record in life.starts[3:]] == [utc("2026-06-13T01:00Z"), utc("2026-06-14T01:00Z")]
    assert next(one.at for one in life.agenda.next_runs()) == utc("2026-06-15T01:00Z")  # type: ignore[union-attr]


def test_a_bell_first_seen_by_a_clock_from_the_future_rings_in_its_time(tmp_path: Path) -> None:
    life = Life(tmp_path, [duty("0 1 * * *")], utc("2026-06-10T12:00Z"))
    life.clock.jump(DAY * 3652)
    life.boot()
    life.live(HOUR)
    life.clock.jump(-DAY * 3652)
    life.live(DAY)
    assert [record.due for record in life.starts] == [utc("2026-06-11T01:00Z")]


def test_a_machine_that_boots_in_1970_does_not_make_up_for_half_a_century(tmp_path: Path) -> None:
    life = Life(tmp_path, [duty("0 1 * * *")], utc("1970-01-01T00:00Z"))
    life.boot()
    life.live(timedelta(minutes=5))
    life.clock.jump(utc("2026-06-10T12:00Z") - life.clock.now())
    life.live(HOUR * 2)
    assert [record.due for record in life.starts] == [utc("2026-06-10T01:00Z")]
    assert len(life.records()) <= KEPT


def test_a_failure_is_tried_again_and_told(life: Life) -> None:
    life.ends = lambda record: FAILED if len(life.starts) < 3 else Ended(0, answer={"schema": "x"})
    life.lasts = lambda record: timedelta(minutes=1)
    life.until(utc("2026-06-11T03:00Z"))
    began = [record.started for record in life.starts]
    assert began == [utc("2026-06-11T01:00Z"), utc("2026-06-11T01:06Z"), utc("2026-06-11T01:17Z")]
    outcomes = [record.outcome for record in life.records()]
    assert outcomes == [Outcome.FAILED, Outcome.FAILED, Outcome.DONE]
    assert life.told.kinds == ["backup.failed", "backup.failed", "backup.done"]
    assert life.told.texts[0] == "no target can be reached"


def test_a_drill_that_gave_its_verdict_is_not_repeated(tmp_path: Path) -> None:
    drill = duty("0 9 * * *", job="drill")
    life = Life(tmp_path, [drill], utc("2026-06-10T08:00Z"))
    life.ends = lambda record: Ended(10, answer={"verdict": "fail", "sentence": "3 rows were lost."})
    life.boot()
    life.live(HOUR * 12)
    (record,) = life.records("drill.orders.1")
    assert (record.outcome, record.why, record.answer["verdict"]) == (Outcome.FAILED, "3 rows were lost.", "fail")
    assert life.told.kinds == ["drill.failed"]


def test_a_backup_short_of_the_policy_is_a_backup(life: Life) -> None:
    life.ends = lambda record: Ended(10, answer={"backup": {"id": "b1", "size_bytes": 7, "targets": []}})
    life.live(DAY)
    (record,) = life.records()
    assert (record.outcome, record.answer) == (Outcome.DONE, {"id": "b1", "size_bytes": 7})
    assert life.told.kinds == ["backup.short"]


def test_a_long_backup_lets_the_others_wait_or_miss(tmp_path: Path) -> None:
    backup, check = duty("0 * * * *"), duty("30 1 * * *", job="check")
    life = Life(tmp_path, [backup, check], utc("2026-06-10T00:30Z"), lasts=lambda r: HOUR * 3.2)
    life.boot()
    life.until(utc("2026-06-10T04:30Z"))
    assert life.dues(Outcome.MISSED) == [utc("2026-06-10T02:00Z"), utc("2026-06-10T03:00Z")]
    why = {record.why for record in life.records() if record.outcome is Outcome.MISSED}
    assert why == {"backup.orders.1 of 2026-06-10T01:00Z was still running"}
    assert [record.job for record in life.starts] == ["backup", "check"], "who has waited longest comes first"


def test_many_clusters_share_the_slots(tmp_path: Path) -> None:
    life = Life(tmp_path, [duty("0 1 * * *", cluster=f"c{n}") for n in range(9)], utc("2026-06-10T00:00Z"), slots=3)
    life.boot()
    life.until(utc("2026-06-10T02:00Z"))
    assert life.most_at_once == 3
    assert Counter(record.cluster for record in life.starts) == Counter(f"c{n}" for n in range(9))


def test_a_daemon_killed_while_a_job_ran(life: Life) -> None:
    life.lasts = lambda record: HOUR
    life.until(utc("2026-06-11T01:20Z"))
    life.orphans_last = timedelta(minutes=20)
    life.kill()
    life.boot()
    life.live(timedelta(minutes=15))
    assert [record.outcome for record in life.records()] == [Outcome.RUNNING], "its process still lives"
    life.live(timedelta(minutes=15))
    assert [record.outcome for record in life.records()] == [Outcome.KILLED, Outcome.RUNNING]
    assert life.records()[0].why == "the daemon ended while it ran"
    life.live(HOUR)
    assert [record.outcome for record in life.records()] == [Outcome.KILLED, Outcome.DONE]
    assert {record.due for record in life.records()} == {utc("2026-06-11T01:00Z")}


def test_nothing_starts_before_the_catalogue_was_asked(life: Life) -> None:
    life.known = lambda now: Known(fresh=False)
    life.live(DAY)
    assert life.starts == []
    assert life.agenda is not None
    assert life.agenda.look(Known(fresh=False)).asks
    assert not life.agenda.look(Known(fresh=True)).asks


def test_a_backup_taken_by_hand_answers_the_bell_that_was_missed(life: Life) -> None:
    life.kill()
    life.until(utc("2026-06-11T08:00Z"))
    success = {("backup", "orders", ""): utc("2026-06-11T07:00Z")}
    life.known = lambda now: Known(True, success)
    life.boot()
    life.live(HOUR * 4)
    assert (life.starts, life.records()) == ([], ())


def test_another_host_that_takes_it_is_let_to(life: Life) -> None:
    lease = Elsewhere("db2", utc("2026-06-11T01:10Z"))
    life.known = lambda now: Known(True, {}, {"orders": lease})
    life.live(DAY)
    (record,) = life.records()
    assert (record.outcome, record.why) == (Outcome.MISSED, "db2 was just taking a backup")
    assert life.told.kinds == ["backup.missed"]


def test_the_first_backup_of_all_is_taken_at_once(life: Life) -> None:
    life.ends = lambda record: FAILED if len(life.starts) < 2 else DONE
    life.known = lambda now: Known(True, without=frozenset({"orders"} if len(life.starts) < 2 else set()))
    life.until(utc("2026-06-10T13:00Z"))
    assert [record.started for record in life.starts] == [utc("2026-06-10T12:01Z"), utc("2026-06-10T12:16Z")]
    assert [record.why for record in life.starts] == ["there is none yet", "again after it failed once"]
    assert [record.outcome for record in life.records()] == [Outcome.FAILED, Outcome.DONE]
    life.until(utc("2026-06-11T12:00Z"))
    assert [record.due for record in life.starts[2:]] == [utc("2026-06-11T01:00Z")]


def test_what_was_known_long_ago_starts_nothing_but_a_question(life: Life) -> None:
    assert life.agenda is not None
    look = life.agenda.look(Known(fresh=False, without=frozenset({"orders"})))
    assert (look.starts, look.asks) == ((), True)


def test_another_line_is_a_new_bell(life: Life, tmp_path: Path) -> None:
    life.live(DAY)
    life.kill()
    life.duties = [duty("0 9 * * *")]
    life.boot()
    life.live(HOUR)
    assert len(life.starts) == 1
    life.live(DAY)
    assert [record.due.hour for record in life.records()] == [1, 9]


def test_a_disk_that_is_full_stops_no_backup(life: Life, tmp_path: Path) -> None:
    for path in tmp_path.iterdir():
        path.unlink()
    tmp_path.rmdir()
    tmp_path.write_text("no folder any more")
    life.live(DAY * 2)
    assert len(life.starts) == 2
    assert "schedule.unwritten" in life.told.kinds
    tmp_path.unlink()
    life.live(DAY)
    assert len(life.records()) == 3, "what was kept in memory is written as soon as it can be"


def test_a_damaged_history_is_set_aside(life: Life, tmp_path: Path) -> None:
    life.live(DAY)
    life.kill()
    (tmp_path / "backup.orders.1.json").write_text('{"version": 1, "terms"')
    life.boot()
    life.live(DAY)
    assert len(life.starts) == 2
    assert "schedule.forgotten" in life.told.kinds
    assert (tmp_path / "backup.orders.1.damaged").exists()


def test_records_are_bounded(tmp_path: Path) -> None:
    life = Life(tmp_path, [duty("* * * * *", job="check")], utc("2026-06-10T00:00Z"), lasts=lambda r: timedelta(0))
    life.boot()
    life.live(timedelta(minutes=KEPT + 30))
    assert len(life.records("check.orders.1")) == KEPT


EVENTS = st.lists(
    st.tuples(st.sampled_from(["live", "outage", "crash", "sleep"]), st.integers(1, 400)), min_size=1, max_size=12
)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    events=EVENTS,
    lines=st.lists(st.sampled_from(["0 * * * *", "*/30 * * * *", "15 */2 * * *"]), min_size=1, max_size=3),
    jitter=st.sampled_from([0, 20, 90]),
    lasts=st.lists(st.integers(0, 200), min_size=1, max_size=5),
    fails=st.lists(st.booleans(), min_size=1, max_size=4),
    orphans=st.integers(0, 40),
)
def test_every_tick_is_answered_or_recorded_as_missed(
    tmp_path_factory: pytest.TempPathFactory,
    events: list[tuple[str, int]],
    lines: list[str],
    jitter: int,
    lasts: list[int],
    fails: list[bool],
    orphans: int,
) -> None:
    jobs = ["backup", "check", "drill"]
    duties = [duty(line, job=job, jitter=timedelta(minutes=jitter)) for job, line in zip(jobs, lines, strict=False)]
    start = utc("2026-03-28T20:00Z")
    life = Life(tmp_path_factory.mktemp("life"), duties, start, orphans_last=timedelta(minutes=orphans))
    life.lasts = lambda record: timedelta(minutes=lasts[len(life.starts) % len(lasts)])
    life.ends = lambda record: FAILED if fails[len(life.starts) % len(fails)] else Ended(0)
    life.boot()
    for event, minutes in events:
        if event == "sleep":  # the machine: time goes on by the wall alone
            life.clock.jump(timedelta(minutes=minutes))
            continue
        if event in ("outage", "crash"):
            life.kill()
            life.live(timedelta(minutes=minutes if event == "outage" else 0))
            life.boot()
        life.live(timedelta(minutes=minutes))  # which also asserts that no two run at once
    life.live(timedelta(minutes=2))
    for one in duties:
        _account(one, life.records(one.bell.id), start, life.clock.now())


def _account(one: Duty, records: tuple[RunRecord, ...], start: datetime, end: datetime) -> None:
    shift = one.bell.shift
    wanted = [tick + shift for tick in ticks(one.bell.cron, ZoneInfo("UTC"), start - shift, end - shift)]
    by_tick: dict[datetime, list[Outcome]] = {}
    for record in records:
        by_tick.setdefault(record.due, []).append(record.outcome)
    assert set(by_tick) <= set(wanted), "nothing runs that no bell asked for"
    for tick, outcomes in by_tick.items():
        final = [outcome for outcome in outcomes if outcome in (Outcome.DONE, Outcome.MISSED)]
        assert len(final) <= 1, f"{tick}: {outcomes}"
        assert outcomes.count(Outcome.RUNNING) <= 1
        assert Outcome.MISSED not in outcomes or len(outcomes) == 1, "what was tried was not missed"
    for tick in wanted[:-1]:
        assert tick in by_tick, f"{tick} was forgotten"
