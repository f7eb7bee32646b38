"""Sizes, durations and times: what people write is what drkit means, and the ambiguous is refused."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drkit.core.errors import UsageError
from drkit.core.units import (
    Span,
    format_duration,
    format_size,
    format_time,
    parse_duration,
    parse_rate,
    parse_size,
    parse_span,
    parse_time,
)


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [("100MB", 100_000_000), ("64MiB", 67_108_864), ("0B", 0), ("1.5KiB", 1536), ("2 GB", 2 * 10**9)],
)
def test_size(text: str, size_bytes: int) -> None:
    assert parse_size(text) == size_bytes


@pytest.mark.parametrize("text", ["100", "", "MB", "100mb", "100Mb", "-1MB", "1e3MB", "0.5B", "100MB/s", "٣MB"])
def test_size_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_size(text)


def test_a_bare_number_is_told_which_units_there_are() -> None:
    with pytest.raises(UsageError) as caught:
        parse_size("100")
    assert "needs a unit" in caught.value.why
    assert "MiB" in caught.value.cure


def test_rate() -> None:
    assert parse_rate("100MB") == parse_rate("100MB/s") == 100_000_000
    with pytest.raises(UsageError):
        parse_rate("0MB")


@pytest.mark.parametrize(
    ("text", "length"),
    [
        ("60s", timedelta(seconds=60)),
        ("30m", timedelta(minutes=30)),
        ("26h", timedelta(hours=26)),
        ("7d", timedelta(days=7)),
        ("4w", timedelta(weeks=4)),
        ("250ms", timedelta(milliseconds=250)),
        ("1.5h", timedelta(minutes=90)),
    ],
)
def test_duration(text: str, length: timedelta) -> None:
    assert parse_duration(text) == length


@pytest.mark.parametrize("text", ["60", "12mo", "7y", "1M", "", "s", "-5s", "99999999999999y", "9" * 40 + "w"])
def test_duration_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_duration(text)


def test_months_and_years_are_calendar_spans() -> None:
    assert parse_span("12mo") == Span(months=12) == parse_span("1y")
    assert Span(months=1).before(datetime(2024, 3, 31, tzinfo=UTC)) == datetime(2024, 2, 29, tzinfo=UTC)
    assert parse_span("7y").before(datetime(2031, 7, 1, tzinfo=UTC)) == datetime(2024, 7, 1, tzinfo=UTC)
    assert parse_span("9999y").before(datetime(2031, 7, 1, tzinfo=UTC)).year == 1


@given(
    st.datetimes(min_value=datetime(2, 1, 1), max_value=datetime(9998, 1, 1)), st.integers(min_value=0, max_value=500)
)
def test_a_span_before_is_never_later(moment: datetime, months: int) -> None:
    aware = moment.replace(tzinfo=UTC)
    assert Span(months=months).before(aware) <= aware


@pytest.mark.parametrize(
    ("text", "stamp"),
    [
        ("2026-07-26T12:00:00Z", "2026-07-26T12:00:00.000000Z"),
        ("2026-07-26 12:00:00+02", "2026-07-26T10:00:00.000000Z"),
        ("2026-07-26 12:00:00.25 +0530", "2026-07-26T06:30:00.250000Z"),
        ("2041-01-01T00:00-03:30", "2041-01-01T03:30:00.000000Z"),
        ("2026-10-25T02:30:00+02:00", "2026-10-25T00:30:00.000000Z"),  # the hour that comes twice in Berlin,
        ("2026-10-25T02:30:00+01:00", "2026-10-25T01:30:00.000000Z"),  # told apart by its offset
    ],
)
def test_time(text: str, stamp: str) -> None:
    assert format_time(parse_time(text)) == stamp


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("2026-07-26T12:00:00", "no time zone"),
        ("2026-07-26T12:00:00 EST", "ambiguous"),
        ("2026-07-26T12:00:00 Europe/Berlin", "ambiguous"),
        ("2026-07-26T12:00:00+16:00", "no offset"),
        ("2026-02-30T12:00:00Z", "day"),
        ("0001-01-01T00:00:00+10:00", "range"),
        ("2026-07-26T12:00:00.1234567Z", "microseconds"),
        ("2026-07-26", ""),
        ("yesterday", ""),
        ("", ""),
    ],
)
def test_time_refused(text: str, why: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_time(text)
    assert why in caught.value.why


def test_no_zone_names_a_text_that_would_do() -> None:
    with pytest.raises(UsageError) as caught:
        parse_time("2026-07-26T12:00:00")
    assert "2026-07-26T12:00:00Z" in caught.value.cure


@given(st.datetimes(timezones=st.just(UTC)))
def test_time_round_trip(moment: datetime) -> None:
    assert parse_time(format_time(moment)) == moment


def test_a_naive_time_is_never_printed() -> None:
    with pytest.raises(ValueError, match="zone"):
        format_time(datetime(2026, 1, 1))


@given(st.text(max_size=30))
def test_any_text_is_parsed_or_refused(text: str) -> None:
    for parse in (parse_size, parse_rate, parse_duration, parse_span, parse_time):
        try:
            parse(text)
        except UsageError:
            pass


def test_for_people() -> None:
    assert [format_size(n) for n in (0, 812, 1536, 64 * 2**20, 3 * 2**40)] == [
        "0 B",
        "812 B",
        "1.50 KiB",
        "64.0 MiB",
        "3.00 TiB",
    ]
    lengths = (timedelta(milliseconds=250), timedelta(seconds=4.1), timedelta(seconds=1062), timedelta(hours=25))
    assert [format_duration(length) for length in lengths] == ["250ms", "4.1s", "17m 42s", "1d 1h"]
