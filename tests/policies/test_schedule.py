"""What a bell owes, given what is known of it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from policies.cron import Cron
from policies.schedule import MISSED_AT_ONCE, Bell, Failure, Past, backoff, due

NIGHTLY = Bell("backup.orders.1", Cron.parse("0 1 * * *"), "UTC")
HOURLY = Bell("backup.orders.1", Cron.parse("0 * * * *"), "UTC")
LONG_AGO = datetime(2026, 1, 1, tzinfo=UTC)


def at(hour: float, day: int = 10) -> datetime:
    return datetime(2026, 6, day, tzinfo=UTC) + timedelta(hours=hour)


def known(**facts: object) -> Past:
    return Past(**({"since": LONG_AGO, "watched": LONG_AGO} | facts))  # type: ignore[arg-type]


def test_in_time_once() -> None:
    assert due(NIGHTLY, known(settled=at(1, 9)), at(0.99)).run is None
    found = due(NIGHTLY, known(settled=at(1, 9)), at(1))
    assert (found.run, found.why, found.missed) == (at(1), "its time came", ())
    assert due(NIGHTLY, known(settled=at(1)), at(1.01)).run is None
    assert due(NIGHTLY, known(settled=at(1)), at(1.01)).again == at(1, 11)


def test_a_new_bell_owes_nothing_of_before() -> None:
    found = due(NIGHTLY, known(since=at(2)), at(23))
    assert (found.run, found.missed) == (None, ())
    assert due(NIGHTLY, known(since=at(2)), at(1, 11)).run == at(1, 11)


def test_without_any_backup_the_first_is_owed_at_once() -> None:
    first = due(NIGHTLY, known(since=at(2), none=True), at(2.1))
    assert (first.run, first.why) == (at(2), "there is none yet")
    failed = Failure(at(2), 1, at(2.2))
    assert due(NIGHTLY, known(since=at(2), none=True, failure=failed), at(2.21)).run is None
    assert due(NIGHTLY, known(since=at(2), none=True, failure=failed), at(2.3)).run == at(2)
    assert due(NIGHTLY, known(since=at(2), none=True, settled=at(2)), at(3)).run is None
    assert due(NIGHTLY, known(since=at(2), none=True, busy="2 jobs were running"), at(3)).run is None


def test_after_an_outage_the_latest_is_caught_up_and_the_others_are_missed() -> None:
    found = due(NIGHTLY, known(settled=at(1, 9), watched=at(8, 12)), at(8, 12))
    assert (found.run, found.why) == (at(1, 12), "caught up")
    assert [miss.tick for miss in found.missed] == [at(1, 10), at(1, 11)]
    assert all("did not run" in miss.why for miss in found.missed)


def test_a_backup_of_somebody_else_answers_the_bell() -> None:
    assert due(NIGHTLY, known(settled=at(1, 9), success=at(7, 12)), at(8, 12)).run is None
    assert due(NIGHTLY, known(settled=at(1, 9), success=at(0, 12)), at(8, 12)).run == at(1, 12)


def test_what_waits_behind_a_long_run_is_missed_but_the_latest() -> None:
    running = "backup.orders.1 of 01:00 was still running"
    found = due(HOURLY, known(settled=at(1), busy=running), at(2.1))
    assert (found.run, found.why, found.missed) == (None, running, ())
    found = due(HOURLY, known(settled=at(1), busy=running), at(3.1))
    assert [(miss.tick, miss.why) for miss in found.missed] == [(at(2), running)]
    assert due(HOURLY, known(settled=at(2)), at(3.2)).run == at(3)


def test_another_host_that_takes_the_backup_is_let_to() -> None:
    found = due(NIGHTLY, known(settled=at(1, 9), elsewhere="db2 was just taking a backup"), at(1))
    assert found.run is None
    assert [(miss.tick, miss.why) for miss in found.missed] == [(at(1), "db2 was just taking a backup")]


def test_a_failure_is_tried_again_later_and_later_until_the_next_tick() -> None:
    def after(count: int, now: datetime) -> datetime | None:
        return due(NIGHTLY, known(settled=at(1, 9), failure=Failure(at(1), count, at(2))), now).run

    for count, minutes in [(1, 5), (2, 10), (3, 20), (4, 40), (5, 60), (6, 60), (5000, 60)]:
        assert after(count, at(2) + timedelta(minutes=minutes, seconds=-1)) is None
        assert after(count, at(2) + timedelta(minutes=minutes)) == at(1)
    assert after(9, at(1, 11)) == at(1, 11)
    assert backoff(1) == timedelta(minutes=5)


def test_what_failed_is_not_missed_as_well() -> None:
    found = due(HOURLY, known(settled=at(0), failure=Failure(at(1), 3, at(1.5))), at(3))
    assert (found.run, [miss.tick for miss in found.missed]) == (at(3), [at(2)])


def test_jitter_moves_every_tick_by_the_same_part() -> None:
    bells = [Bell(f"backup.c{number}.1", NIGHTLY.cron, "UTC", timedelta(hours=1)) for number in range(50)]
    shifts = {bell.shift for bell in bells}
    assert len(shifts) > 40
    assert all(timedelta(0) <= shift <= timedelta(hours=1) for shift in shifts)
    bell = bells[0]
    assert bell.next_after(at(0)) == at(1) + bell.shift
    assert due(bell, known(settled=at(1, 9) + bell.shift), at(1) + bell.shift - timedelta(seconds=1)).run is None
    assert due(bell, known(settled=at(1, 9) + bell.shift), at(1) + bell.shift).run == at(1) + bell.shift


def test_jitter_longer_than_the_period_loses_no_tick() -> None:
    bell = Bell("backup.c3.1", Cron.parse("*/5 * * * *"), "UTC", timedelta(hours=1))
    first = bell.next_after(at(0))
    assert first is not None
    assert due(bell, known(settled=first), first + timedelta(minutes=5)).run == first + timedelta(minutes=5)


class TestClocks:
    """A clock that is wrong for a while."""

    def test_back_an_hour_nothing_runs_twice(self) -> None:
        for minutes in range(0, 50, 5):
            assert due(NIGHTLY, known(settled=at(1, 9)), at(0.1) + timedelta(minutes=minutes)).run is None
        assert due(NIGHTLY, known(settled=at(1)), at(1)).run is None
        assert due(NIGHTLY, known(settled=at(1)), at(1, 11)).run == at(1, 11)

    def test_ahead_ten_years_it_runs_once_and_says_what_was_missed(self) -> None:
        later = at(12).replace(year=2036)
        found = due(NIGHTLY, known(settled=at(1), watched=later), later)
        assert found.run == at(1).replace(year=2036)
        assert len(found.missed) == MISSED_AT_ONCE
        assert "those before it" in found.missed[0].why
        assert due(NIGHTLY, known(settled=at(1).replace(year=2036), watched=later), later).run is None

    @pytest.mark.parametrize("fact", ["success", "since", "watched"])
    def test_and_back_again_what_the_future_says_is_not_believed(self, fact: str) -> None:
        later = at(12).replace(year=2036)
        past = known(**({"settled": at(1)} | {fact: later}))
        assert due(NIGHTLY, past, at(1, 11)).run == at(1, 11)

    def test_a_failure_that_ended_in_the_future_is_tried_again_at_once(self) -> None:
        past = known(settled=at(1, 9), failure=Failure(at(1), 1, at(12).replace(year=2036)))
        assert due(NIGHTLY, past, at(2)).run == at(1)
