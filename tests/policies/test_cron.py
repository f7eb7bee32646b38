"""Cron lines in time zones, with the hours that clocks skip and repeat."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.cron import Cron, following, ticks, ticks_back

BERLIN, NEW_YORK, UTC_ZONE = ZoneInfo("Europe/Berlin"), ZoneInfo("America/New_York"), ZoneInfo("UTC")
ZONES = ["UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu", "Africa/Cairo"]


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)


def between(line: str, zone: ZoneInfo, after: str, until: str) -> list[str]:
    found = ticks(Cron.parse(line), zone, at(after), at(until))
    return [tick.astimezone(zone).isoformat(timespec="minutes") for tick in found]


@pytest.mark.parametrize(
    ("line", "named", "not_named"),
    [
        ("0 0 * * mon-fri", [date(2026, 3, 2), date(2026, 3, 6)], [date(2026, 3, 7), date(2026, 3, 8)]),
        ("0 0 * * 7", [date(2026, 3, 8)], [date(2026, 3, 7)]),
        ("0 0 * * 0", [date(2026, 3, 8)], [date(2026, 3, 9)]),
        ("0 0 * * fri-sun", [date(2026, 3, 6), date(2026, 3, 8)], [date(2026, 3, 9)]),
        ("0 0 13 * FRI", [date(2026, 2, 6), date(2026, 2, 13), date(2026, 4, 13)], [date(2026, 2, 14)]),
        ("0 0 */2 * mon", [date(2026, 3, 9)], [date(2026, 3, 2), date(2026, 3, 3)]),
        ("0 0 l * *", [date(2024, 2, 29), date(2026, 2, 28)], [date(2024, 2, 28)]),
        ("0 0 ? * fri#2", [date(2026, 3, 13)], [date(2026, 3, 6), date(2026, 3, 20)]),
        ("0 0 * * friL", [date(2026, 3, 27)], [date(2026, 3, 20)]),
        ("0 0 1,15 JAN,jul *", [date(2026, 1, 15), date(2026, 7, 1)], [date(2026, 3, 1)]),
        ("0 0 10-20/5 * *", [date(2026, 1, 10), date(2026, 1, 15), date(2026, 1, 20)], [date(2026, 1, 12)]),
        ("0 0 29 2 *", [date(2024, 2, 29)], [date(2026, 2, 28)]),
    ],
)
def test_days(line: str, named: list[date], not_named: list[date]) -> None:
    cron = Cron.parse(line)
    assert all(cron.on(day) for day in named)
    assert not any(cron.on(day) for day in not_named)


def test_minutes_and_hours() -> None:
    cron = Cron.parse("5/20 */8 * * *")
    assert (cron.minutes, cron.hours) == ((5, 25, 45), (0, 8, 16))


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("daily", "minute hour"),
        ("0 1 * *", "minute hour"),
        ("60 1 * * *", "'60' is no minute"),
        ("0 24 * * *", "'24' is no hour"),
        ("0 1 0 * *", "'0' is no day"),
        ("0 1 * 13 *", "'13' is no month"),
        ("0 1 * * 8", "'8' is no weekday"),
        ("0 1 * * mo", "'mo' is no weekday"),
        ("5-1 1 * * *", "backwards"),
        ("*/0 1 * * *", "step"),
        ("*-3 1 * * *", "minute"),
        ("0 1 ,1 * *", "day"),
        ("0 1 30 2 *", "no day that there is"),
        ("0 1 31 4,6 ?", "no day that there is"),
        ("0 1 * * fri#6", "weekday"),
        ("\u0661 1 * * *", "minute"),
    ],
)
def test_refused(line: str, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        Cron.parse(line)


def test_an_hour_that_is_skipped_runs_right_behind_the_gap() -> None:
    assert between("30 2 * * *", BERLIN, "2026-03-28T00:00Z", "2026-03-31T00:00Z") == [
        "2026-03-28T02:30+01:00",
        "2026-03-29T03:00+02:00",
        "2026-03-30T02:30+02:00",
    ]
    assert between("30 2 * * *", NEW_YORK, "2026-03-07T12:00Z", "2026-03-09T12:00Z") == [
        "2026-03-08T03:00-04:00",
        "2026-03-09T02:30-04:00",
    ]
    assert between("30 0 * * *", ZoneInfo("Africa/Cairo"), "2026-04-23T12:00Z", "2026-04-25T12:00Z") == [
        "2026-04-24T01:00+03:00",
        "2026-04-25T00:30+03:00",
    ]


def test_several_times_of_a_gap_are_one() -> None:
    assert between("*/20 * * * *", BERLIN, "2026-03-29T01:40+01:00", "2026-03-29T03:40+02:00") == [
        "2026-03-29T03:00+02:00",
        "2026-03-29T03:20+02:00",
        "2026-03-29T03:40+02:00",
    ]


def test_an_hour_that_comes_twice_runs_once() -> None:
    assert between("30 2 * * *", BERLIN, "2026-10-24T12:00Z", "2026-10-26T12:00Z") == [
        "2026-10-25T02:30+02:00",
        "2026-10-26T02:30+01:00",
    ]
    assert between("30 1 * * *", NEW_YORK, "2026-10-31T12:00Z", "2026-11-02T12:00Z") == [
        "2026-11-01T01:30-04:00",
        "2026-11-02T01:30-05:00",
    ]
    hourly = between("0 * * * *", BERLIN, "2026-10-25T01:30+02:00", "2026-10-25T04:00+01:00")
    assert hourly == ["2026-10-25T02:00+02:00", "2026-10-25T03:00+01:00", "2026-10-25T04:00+01:00"]


def test_a_day_that_never_was() -> None:
    apia = ZoneInfo("Pacific/Apia")  # went from 29 to 31 December 2011
    assert between("0 12 * * *", apia, "2011-12-29T00:00-10:00", "2012-01-01T00:00+14:00") == [
        "2011-12-29T12:00-10:00",
        "2011-12-31T00:00+14:00",
        "2011-12-31T12:00+14:00",
    ]


def test_the_next_one_may_be_decades_away() -> None:
    found = following(Cron.parse("0 0 * 2 fri#5"), UTC_ZONE, at("2026-01-01T00:00Z"))
    assert found == at("2036-02-29T00:00Z")
    assert following(Cron.parse("* * * * *"), UTC_ZONE, datetime.max.replace(tzinfo=UTC)) is None


LINES = st.sampled_from(["* * * * *", "*/7 * * * *", "30 2 * * *", "0 0,1,2,3 * * sun", "15 1-3 * * *", "59 23 l * *"])


@settings(max_examples=50, deadline=None)
@given(
    LINES,
    st.sampled_from(ZONES),
    st.integers(0, 365 * 24 * 60).map(lambda m: datetime(2026, 1, 1, tzinfo=UTC) + timedelta(minutes=m)),
    st.integers(0, 24 * 60),
)
def test_forwards_backwards_and_cut_anywhere_are_the_same(line: str, zone: str, start: datetime, minutes: int) -> None:
    cron, where, end = Cron.parse(line), ZoneInfo(zone), start + timedelta(minutes=minutes)
    found = list(ticks(cron, where, start, end))
    assert found == sorted(set(found))
    assert found == list(ticks_back(cron, where, end, start))[::-1]
    middle = start + (end - start) / 2
    assert found == [*ticks(cron, where, start, middle), *ticks(cron, where, middle, end)]
    for one, other in pairwise([start, *found[:10]]):
        assert following(cron, where, one) == other


@settings(max_examples=50, deadline=None)
@given(st.sampled_from(ZONES), st.integers(0, 364), st.integers(0, 23), st.integers(0, 59))
def test_a_daily_line_rings_once_a_day_in_every_zone(zone: str, day: int, hour: int, minute: int) -> None:
    where, start = ZoneInfo(zone), datetime(2026, 1, 1) + timedelta(days=day)
    midnight = start.replace(tzinfo=where).astimezone(UTC) - timedelta(microseconds=1)
    found = list(ticks(Cron.parse(f"{minute} {hour} * * *"), where, midnight, midnight + timedelta(days=3)))
    days = [tick.astimezone(where).date() for tick in found]
    assert days[:2] == [start.date(), start.date() + timedelta(days=1)]
