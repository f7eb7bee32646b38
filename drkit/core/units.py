"""Sizes, durations, rates and times, as people write them and as drkit prints them.

All parsers raise UsageError naming the text, the reason and a text that would do.
"""

from __future__ import annotations

import re
from calendar import monthrange
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal

from drkit.core.errors import UsageError

_SIZE_UNITS = {
    "B": 1,
    "kB": 1000,
    "KB": 1000,
    "MB": 1000**2,
    "GB": 1000**3,
    "TB": 1000**4,
    "PB": 1000**5,
    "KiB": 1024,
    "MiB": 1024**2,
    "GiB": 1024**3,
    "TiB": 1024**4,
    "PiB": 1024**5,
}
_FIXED_UNITS = {
    "ms": timedelta(milliseconds=1),
    "s": timedelta(seconds=1),
    "m": timedelta(minutes=1),
    "h": timedelta(hours=1),
    "d": timedelta(days=1),
    "w": timedelta(weeks=1),
}
_MONTHS = {"mo": 1, "y": 12}
_NUMBER_UNIT = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]*)\s*\Z", re.ASCII)
_TIME = re.compile(
    r"(?P<date>[0-9]{4}-[0-9]{2}-[0-9]{2})"
    r"(?:[Tt ](?P<clock>[0-9]{2}:[0-9]{2}(?::[0-9]{2})?)(?P<fraction>\.[0-9]+)?)?"
    r"\s*(?P<zone>.*)\Z",
    re.ASCII,
)
_OFFSET = re.compile(r"([+-])([0-9]{2}):?([0-9]{2})?\Z", re.ASCII)
_TIME_EXAMPLE = "2026-03-29T02:30:00+02:00"


@dataclass(frozen=True, slots=True)
class Span:
    """A length of calendar time: whole months and a fixed part; '12mo' is not a number of seconds."""

    months: int = 0
    fixed: timedelta = timedelta(0)

    def before(self, moment: datetime) -> datetime:
        """`moment` less this span; a day that the earlier month lacks becomes that month's last day."""
        index = moment.year * 12 + moment.month - 1 - self.months
        year, month = divmod(index, 12)
        if year < 1:
            return datetime(1, 1, 1, tzinfo=moment.tzinfo)
        day = min(moment.day, monthrange(year, month + 1)[1])
        shifted = moment.replace(year=year, month=month + 1, day=day)
        try:
            return shifted - self.fixed
        except OverflowError:
            return datetime(1, 1, 1, tzinfo=moment.tzinfo)


def parse_size(text: str) -> int:
    """Bytes of '100MB' (powers of 1000) or '64MiB' (powers of 1024); a number without a unit is refused."""
    match = _NUMBER_UNIT.match(text)
    if match is None:
        raise UsageError(f"{text!r} is not a size", cure="write a number and a unit: 100MB, 64MiB")
    number, unit = match.groups()
    if unit not in _SIZE_UNITS:
        why = f"the unit {unit!r} is not known" if unit else "a size needs a unit"
        units = ", ".join(_SIZE_UNITS)
        raise UsageError(f"{text!r} is not a size", why=why, cure=f"write one of {units}: 64MiB")
    size = Decimal(number) * _SIZE_UNITS[unit]
    if size != size.to_integral_value():
        raise UsageError(f"{text!r} is not a size", why="it is not a whole number of bytes")
    return int(size)


def parse_rate(text: str) -> int:
    """Bytes per second of '100MB' or '100MB/s'; zero is refused."""
    rate = parse_size(text.strip().removesuffix("/s"))
    if rate == 0:
        raise UsageError(f"{text!r} is not a rate", why="nothing would ever move", cure="leave the rate out")
    return rate


def parse_share(text: str) -> float:
    """A part of a whole, above 0 and at most 1: '5%' or '0.05'."""
    try:
        value = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        value = 0.0
    if not 0 < value <= 1:
        raise UsageError(f"{text!r} is no part of a whole", cure="write a share: 5%")
    return value


def parse_duration(text: str) -> timedelta:
    """A fixed length: '60s', '30m', '26h', '7d', '4w', '250ms'. Months and years have no fixed length."""
    span = parse_span(text)
    if span.months:
        raise UsageError(
            f"{text!r} is not a fixed duration", why="months differ in length", cure="write days: 31d, 365d"
        )
    return span.fixed


def parse_span(text: str) -> Span:
    """A calendar length: all that `parse_duration` takes, and whole months and years: '12mo', '7y'."""
    match = _NUMBER_UNIT.match(text)
    allowed = ", ".join([*_FIXED_UNITS, *_MONTHS])
    if match is None:
        raise UsageError(f"{text!r} is not a duration", cure=f"write a number and one of {allowed}: 30m, 7d")
    number, unit = match.groups()
    if unit in _MONTHS:
        if "." in number:
            raise UsageError(f"{text!r} is not a duration", why="months and years are whole numbers")
        return Span(months=_bounded(text, int(number) * _MONTHS[unit], 12 * 9999))
    if unit not in _FIXED_UNITS:
        why = f"the unit {unit!r} is not known" if unit else "a duration needs a unit"
        raise UsageError(f"{text!r} is not a duration", why=why, cure=f"write one of {allowed}: 30m, 7d")
    microseconds = Decimal(number) * (_FIXED_UNITS[unit] // timedelta(microseconds=1))
    return Span(fixed=timedelta(microseconds=_bounded(text, int(microseconds), 9999 * 366 * 86400 * 10**6)))


def _bounded(text: str, value: int, limit: int) -> int:
    if value > limit:
        raise UsageError(f"{text!r} is not a duration", why="it is longer than the calendar")
    return value


def parse_time(text: str) -> datetime:
    """An instant in UTC from ISO 8601 with 'Z' or a numeric offset.

    No zone, an abbreviation (EST is three zones) and a zone's name (its DST hour comes twice) are refused.
    """
    match = _TIME.match(text.strip())
    if match is None or match["clock"] is None:
        raise UsageError(f"{text!r} is not a time", cure=f"write date, time and zone: {_TIME_EXAMPLE}")
    if match["fraction"] and len(match["fraction"]) > 7:
        raise UsageError(f"{text!r} is not a time", why="the server keeps microseconds: six digits at most")
    zone = _parse_zone(text, match["zone"])
    stamp = f"{match['date']}T{match['clock']}{match['fraction'] or ''}"
    try:
        return datetime.fromisoformat(stamp).replace(tzinfo=zone).astimezone(UTC)
    except (ValueError, OverflowError) as error:
        cure = f"write date, time and zone: {_TIME_EXAMPLE}"
        raise UsageError(f"{text!r} is not a time", why=str(error), cure=cure) from error


def _parse_zone(text: str, zone: str) -> timezone:
    if zone in ("Z", "z"):
        return UTC
    if not zone:
        stamp = text.strip()
        cure = f"add Z for UTC or an offset: {stamp}Z, {stamp}+02:00"
        raise UsageError(f"{text!r} is not a time", why="it has no time zone", cure=cure)
    match = _OFFSET.match(zone)
    if match is None:
        why = f"{zone!r} is not an offset; abbreviations and names of zones are ambiguous"
        raise UsageError(f"{text!r} is not a time", why=why, cure="write Z for UTC or an offset: +02:00")
    sign, hours, minutes = match[1], int(match[2]), int(match[3] or 0)
    if hours > 15 or minutes > 59:
        raise UsageError(f"{text!r} is not a time", why=f"there is no offset {zone}")
    offset = timedelta(hours=hours, minutes=minutes)
    return timezone(-offset if sign == "-" else offset)


def format_time(moment: datetime) -> str:
    """ISO 8601 in UTC with microseconds and Z; ValueError for a time without a zone."""
    if moment.tzinfo is None:
        raise ValueError("a time without a zone cannot be printed")
    return moment.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"


def format_size(size_bytes: int) -> str:
    """For people: three significant digits at least, binary units ('1.50 GiB', '812 B')."""
    value = float(size_bytes)
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if abs(value) < 1024 or unit == "TiB":
            break
        value /= 1024
    if unit == "B":
        return f"{size_bytes} B"
    digits = 2 if abs(value) < 10 else 1 if abs(value) < 100 else 0
    return f"{value:.{digits}f} {unit}"


def format_rate(bytes_per_second: float) -> str:
    return f"{format_size(int(bytes_per_second))}/s"


def format_duration(length: timedelta) -> str:
    """For people: the two largest units ('2d 3h', '17m 42s', '4.1s', '250ms')."""
    seconds = length.total_seconds()
    if seconds < 0:
        return "-" + format_duration(-length)
    if seconds < 1:
        return f"{round(seconds * 1000)}ms"
    if seconds < 10:
        return f"{seconds:.1f}".removesuffix(".0") + "s"
    whole = round(seconds)
    parts: list[str] = []
    for size, unit in ((86400, "d"), (3600, "h"), (60, "m"), (1, "s")):
        count, whole = divmod(whole, size)
        if count or parts:
            parts.append(f"{count}{unit}" if count else "")
        if len(parts) == 2:
            break
    return " ".join(part for part in parts if part)
