"""What a bell owes at an instant: pure decisions from facts, so that a missed bell, a restart or a jump heals itself.

A tick is an instant of the bell's cron line, moved by the bell's jitter. Owed are the ticks since the newest one that
is settled: answered by a run that came to an end, by a good backup or drill of anybody's that began later, or recorded
as missed. Of those that are owed the latest is run, once; the older ones are missed.

Clocks. Facts from the future are of a clock that was wrong, and are not believed: a clock that ran ten years ahead
settles nothing of the years to come. Set back an hour, the ticks of that hour are settled already and do not come
again. Ahead by any length, each bell runs once, as after an outage of that length; back again, nothing is owed that
was settled before.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

from policies.cron import Cron, following, ticks_back

FIRST_BACKOFF, LONGEST_BACKOFF = timedelta(minutes=5), timedelta(hours=1)
MISSED_AT_ONCE = 50
_LATE = timedelta(minutes=2)


@dataclass(frozen=True, slots=True)
class Bell:
    """id: `backup.orders.1`, unique on this host · zone: of `cron`, a name · jitter: the most that a tick is moved."""

    id: str
    cron: Cron
    zone: str
    jitter: timedelta = timedelta(0)

    @property
    def shift(self) -> timedelta:
        """By how much its ticks are moved: whole seconds within the jitter, from the id alone."""
        seconds = int(self.jitter.total_seconds())
        digest = hashlib.sha256(self.id.encode()).digest()
        return timedelta(seconds=int.from_bytes(digest[:8], "big") % (seconds + 1))

    def next_after(self, moment: datetime) -> datetime | None:
        """Its first tick after `moment`."""
        tick = following(self.cron, ZoneInfo(self.zone), moment - self.shift)
        return None if tick is None else tick + self.shift

    def back_from(self, moment: datetime, after: datetime) -> Iterator[datetime]:
        """Its ticks up to `moment` and after `after`, the latest first."""
        for tick in ticks_back(self.cron, ZoneInfo(self.zone), moment - self.shift, after - self.shift):
            yield tick + self.shift


@dataclass(frozen=True, slots=True)
class Failure:
    """The newest attempts at one tick failed: so many in a row, the last one ended then."""

    tick: datetime
    count: int
    ended: datetime


@dataclass(frozen=True, slots=True)
class Past:
    """What is known of a bell. Instants after now are not believed: `settled` is the newest before now that is known.

    since: the bell is known since then, and owes nothing of before · settled: the newest tick that came to an end ·
    success: when the newest good run began, whoever made it · watched: since then somebody looks at the clock ·
    busy: why nothing can start just now, "" if it can · elsewhere: who does the same work on another host
    none: what the bell is for was never done by anybody: the first is owed at once
    """

    since: datetime
    settled: datetime | None = None
    success: datetime | None = None
    failure: Failure | None = None
    watched: datetime | None = None
    busy: str = ""
    elsewhere: str = ""
    none: bool = False


@dataclass(frozen=True, slots=True)
class Miss:
    """A tick that nobody will answer any more."""

    tick: datetime
    why: str


@dataclass(frozen=True, slots=True)
class Decision:
    """run: the tick to answer now, None for nothing · why: of either · missed: to be recorded, the oldest first ·
    again: when this would be decided otherwise by time alone, None where never."""

    run: datetime | None
    why: str
    missed: tuple[Miss, ...]
    again: datetime | None


def backoff(count: int) -> timedelta:
    """How long to wait after so many failures in a row."""
    return min(FIRST_BACKOFF * (1 << min(count - 1, 10)), LONGEST_BACKOFF)


def due(bell: Bell, past: Past, now: datetime) -> Decision:
    """What to do about the bell at `now`."""
    following_tick = bell.next_after(now)
    owed = bell.back_from(now, _settled_until(past, now))
    tick = next(owed, None)
    if tick is None and past.none and (past.settled is None or past.settled < past.since):
        tick = past.since
    if tick is None:
        return Decision(None, "nothing is owed", (), following_tick)
    missed = _missed(owed, past, now)
    if past.elsewhere:
        return Decision(None, past.elsewhere, (*missed, Miss(tick, past.elsewhere)), following_tick)
    if past.busy:
        return Decision(None, past.busy, missed, following_tick)
    failure = past.failure
    if failure is not None and failure.tick == tick:
        # An end in the future is of a wrong clock: there is nothing to wait for.
        again = now if failure.ended > now else failure.ended + backoff(failure.count)
        if now < again:
            return Decision(None, f"failed {_times(failure.count)}, waits until the next attempt", missed, again)
        return Decision(tick, f"again after it failed {_times(failure.count)}", missed, following_tick)
    if past.none and tick == past.since:
        return Decision(tick, "there is none yet", missed, following_tick)
    late = now - tick
    return Decision(tick, "its time came" if late < _LATE else "caught up", missed, following_tick)


def _settled_until(past: Past, now: datetime) -> datetime:
    """Ticks up to here are owed no more."""
    known = (past.since, past.settled, past.success)
    believed = [moment for moment in known if moment is not None and moment <= now]
    return max(believed, default=now)  # nothing is believed: the bell is new


def _missed(older: Iterator[datetime], past: Past, now: datetime) -> tuple[Miss, ...]:
    """Of the ticks that are owed besides the latest. An attempt that failed has its own record."""
    found: list[Miss] = []
    for tick in older:
        if past.failure is not None and tick == past.failure.tick:
            continue
        if len(found) == MISSED_AT_ONCE:
            last = found[-1]
            found[-1] = Miss(last.tick, f"{last.why}; those before it since the last run were missed too")
            break
        away = past.watched is None or past.watched > now or tick < past.watched
        why = "the daemon did not run at that time" if away else past.busy or "the one before was not done yet"
        found.append(Miss(tick, why))
    return tuple(reversed(found))


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"
