"""Cron lines in a time zone, and the instants they name. Pure: no clock is read.

Fields and their meaning as in crontab(5) of Vixie cron: where day and weekday are both restricted (neither begins with
'*'), either will do. Beside that `?` for `*`, `L` the last day of a month, `fri#2` its second Friday, `friL` its last.
"""

from __future__ import annotations

import re
from calendar import monthrange
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, tzinfo

_MONTHS = {"jan": 1, "feb": 2, "mar": 3, "apr": 4, "may": 5, "jun": 6}
_MONTHS |= {"jul": 7, "aug": 8, "sep": 9, "oct": 10, "nov": 11, "dec": 12}
_WEEKDAYS = {"sun": 0, "mon": 1, "tue": 2, "wed": 3, "thu": 4, "fri": 5, "sat": 6}
_ITEM = re.compile(r"(?P<first>\*|\?|[0-9]+|[a-z]{3})(?:-(?P<last>[0-9]+|[a-z]{3}))?(?:/(?P<step>[0-9]+))?\Z", re.ASCII)
_OF_MONTH = re.compile(r"(?P<day>[0-7]|[a-z]{3})(?:#(?P<number>[1-5])|(?P<end>l))\Z", re.ASCII)
_HOURS = range(24)
_DAY, _SECOND = timedelta(days=1), timedelta(seconds=1)
_REACH_DAYS = 366 * 41  # 29 February on a given weekday comes every 28 years, over 2100 every 40


@dataclass(frozen=True, slots=True)
class Cron:
    """A line as sets. nth: (weekday, 1 to 5 or 0 for the last) · either: day or weekday, instead of both."""

    text: str
    minutes: tuple[int, ...]
    hours: tuple[int, ...]
    days: frozenset[int]
    last_day: bool
    months: frozenset[int]
    weekdays: frozenset[int]
    nth: frozenset[tuple[int, int]]
    either: bool

    @classmethod
    def parse(cls, text: str) -> Cron:
        """Raises ValueError saying which field is wrong and what it may hold, and where no day will ever match."""
        fields = text.lower().split()
        if len(fields) != 5:
            raise ValueError(f"{text!r} is not a cron line; write minute hour day month weekday: '0 1 * * *'")
        minute, hour, day, month, weekday = fields
        weekdays, nth = _weekdays(weekday, text)
        plain = [item for item in day.split(",") if item != "l"]
        cron = cls(
            text,
            tuple(sorted(_numbers(minute, "minute", 0, 59, {}, text))),
            tuple(sorted(_numbers(hour, "hour", 0, 23, {}, text))),
            _numbers(",".join(plain), "day", 1, 31, {}, text) if plain else frozenset(),
            len(plain) < len(day.split(",")),
            _numbers(month, "month", 1, 12, _MONTHS, text),
            weekdays,
            nth,
            day[0] not in "*?" and weekday[0] not in "*?",
        )
        start = date(2001, 1, 1)
        if not any(cron.on(start + _DAY * number) for number in range(_REACH_DAYS)):
            raise ValueError(f"{text!r} names no day that there is")
        return cron

    def on(self, day: date) -> bool:
        """Whether it names this day."""
        if day.month not in self.months:
            return False
        end = monthrange(day.year, day.month)[1]
        by_day = day.day in self.days or (self.last_day and day.day == end)
        weekday = day.isoweekday() % 7
        by_weekday = weekday in self.weekdays or any(
            weekday == wanted and (day.day > end - 7 if number == 0 else (day.day - 1) // 7 + 1 == number)
            for wanted, number in self.nth
        )
        return by_day or by_weekday if self.either else by_day and by_weekday


def ticks(cron: Cron, zone: tzinfo, after: datetime, until: datetime) -> Iterator[datetime]:
    """The instants named, in UTC, ascending, each once: after < instant <= until.

    A time that the clocks skip stands for the first valid instant behind the gap, one that they repeat for its first
    occurrence: a line for every minute is silent in the second of two equal hours.
    """
    local, end = after.astimezone(zone), until.astimezone(zone).date()
    day, hours = local.date(), range(local.hour, 24)
    newest = after
    while day <= end:
        for instant in _instants(cron, zone, day, hours):
            if newest < instant <= until:
                newest = instant
                yield instant
        if day == date.max:
            return
        day, hours = day + _DAY, _HOURS


def ticks_back(cron: Cron, zone: tzinfo, until: datetime, after: datetime) -> Iterator[datetime]:
    """The same instants, the latest first."""
    local, begin = until.astimezone(zone), after.astimezone(zone).date()
    day, hours = local.date(), range(local.hour, -1, -1)
    newest: datetime | None = None
    while day >= begin:
        for instant in _instants(cron, zone, day, hours):
            if after < instant <= until and (newest is None or instant < newest):
                newest = instant
                yield instant
        if day == date.min:
            return
        day, hours = day - _DAY, _HOURS[::-1]


def following(cron: Cron, zone: tzinfo, after: datetime) -> datetime | None:
    """The first instant after `after`; None where the calendar ends before it."""
    reach = min(datetime.max.replace(tzinfo=UTC) - after, _DAY * _REACH_DAYS) - _DAY * 2
    return next(ticks(cron, zone, after, after + reach), None) if reach > timedelta(0) else None


def _instants(cron: Cron, zone: tzinfo, day: date, hours: range) -> Iterator[datetime]:
    """Of these hours of one day, in their order."""
    if not cron.on(day):
        return
    for hour in hours:
        if hour in cron.hours:
            for minute in cron.minutes[:: hours.step]:
                yield _instant(datetime(day.year, day.month, day.day, hour, minute), zone)


def _instant(local: datetime, zone: tzinfo) -> datetime:
    """UTC of a local time (PEP 495): of one that comes twice the first, of one in a gap the gap's end."""
    first, second = local.replace(tzinfo=zone, fold=0), local.replace(tzinfo=zone, fold=1)
    before, behind = first.utcoffset(), second.utcoffset()
    assert before is not None and behind is not None
    instant = first.astimezone(UTC)
    if before >= behind:
        return instant
    early = second.astimezone(UTC)  # still the offset before the gap; `instant` already has the one behind it
    while instant - early > _SECOND:
        middle = early + (instant - early) / 2
        if middle.astimezone(zone).utcoffset() == before:
            early = middle
        else:
            instant = middle
    return instant.replace(microsecond=0)


def _weekdays(field: str, text: str) -> tuple[frozenset[int], frozenset[tuple[int, int]]]:
    plain: list[str] = []
    nth: set[tuple[int, int]] = set()
    for item in field.split(","):
        match = _OF_MONTH.match(item)
        if match is None:
            plain.append(item)
            continue
        day = _number(match["day"], "weekday", 0, 7, _WEEKDAYS, text) % 7
        nth.add((day, int(match["number"] or 0)))
    numbers = _numbers(",".join(plain), "weekday", 0, 7, _WEEKDAYS, text) if plain else frozenset()
    return frozenset(number % 7 for number in numbers), frozenset(nth)


def _numbers(field: str, what: str, least: int, most: int, names: Mapping[str, int], text: str) -> frozenset[int]:
    found: set[int] = set()
    for item in field.split(","):
        match = _ITEM.match(item)
        if match is None:
            raise ValueError(
                f"{text!r} is not a cron line: {item!r} is no {what}; write {least} to {most}, 1-5, */2 or *"
            )
        step = int(match["step"] or 1)
        if step < 1:
            raise ValueError(f"{text!r} is not a cron line: a step of the {what} is at least 1")
        if match["first"] in "*?":
            first, last = least, most - (what == "weekday")
            if match["last"]:
                raise ValueError(f"{text!r} is not a cron line: {item!r} is no {what}")
        else:
            first = _number(match["first"], what, least, most, names, text)
            last = _number(match["last"], what, least, most, names, text) if match["last"] else first
            last = most if match["step"] and not match["last"] else last
            last += 7 if what == "weekday" and last == 0 < first else 0  # fri-sun
        if first > last:
            raise ValueError(f"{text!r} is not a cron line: {item!r} runs backwards")
        found.update(range(first, last + 1, step))
    return frozenset(found)


def _number(item: str, what: str, least: int, most: int, names: Mapping[str, int], text: str) -> int:
    number = names.get(item, int(item) if item.isdigit() else -1)
    if not least <= number <= most:
        raise ValueError(f"{text!r} is not a cron line: {item!r} is no {what}; allowed: {least} to {most}")
    return number
