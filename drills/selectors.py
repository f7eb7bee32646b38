"""Which point a drill restores: a selector of its definition, and what is on the targets, to a wish."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from drkit.core.errors import Missing, UsageError
from drkit.core.units import format_time, parse_duration, parse_time
from drkit.engines.postgres.lsn import Lsn
from drkit.engines.postgres.recovery import RecoveryTarget, TargetKind
from drkit.jobs.restore_points import Wish
from drkit.jobs.windows import Window
from drkit.repository.catalogue import Backup

ALLOWED = (
    "latest, oldest, random-instant:14d, least-recently-drilled, backup:ID, a time with zone, lsn:X/Y, xid:N, name:NAME"
)


@dataclass(frozen=True, slots=True)
class PointFacts:
    """What there is to choose from, on the targets that the drill may read.

    backups: the good ones, rising by stop · drilled: backup id -> when a drill of it last passed · seed: of the choice
    """

    backups: Sequence[Backup]
    windows: Sequence[Window]
    drilled: Mapping[str, datetime]
    now: datetime
    seed: int


def check_selector(text: str, now: datetime) -> None:
    """Raises UsageError for a text that is no selector, or a time to come."""
    word, _, value = text.partition(":")
    if text in ("latest", "oldest", "least-recently-drilled"):
        return
    if word == "random-instant":
        parse_duration(value)
    elif word == "backup" and value:
        return
    else:
        moment = _point(text).value
        if isinstance(moment, datetime) and moment > now:
            raise UsageError(f"{format_time(moment)} lies in the future", why=f"it is {format_time(now)} now")


def select(text: str, facts: PointFacts) -> Wish:
    """The wish, its text as asked and with what was chosen. Raises UsageError, Missing where nothing fits."""
    word, _, value = text.partition(":")
    end = RecoveryTarget(TargetKind.END)
    if text == "latest":
        return Wish(RecoveryTarget(TargetKind.LATEST), text=text)
    if not facts.backups:
        why = "on the targets that the drill may read"
        raise Missing("there is no good backup to drill", why=why, cure="`drkit list` shows the backups")
    if text == "oldest":
        return Wish(end, backup=facts.backups[0].summary.backup, text=text)
    if text == "least-recently-drilled":
        never = datetime.min.replace(tzinfo=facts.now.tzinfo)
        chosen = min(facts.backups, key=lambda b: facts.drilled.get(b.summary.backup, never))
        return Wish(end, backup=chosen.summary.backup, text=f"{text}: {chosen.summary.backup}")
    if word == "backup" and value:
        return Wish(end, backup=value, text=text)
    if word == "random-instant":
        return _random_instant(text, value, facts)
    return Wish(_point(text), text=text)


def _random_instant(text: str, length: str, facts: PointFacts) -> Wish:
    """Uniform over the instants of the last `length` that any window claims to hold."""
    earliest = facts.now - parse_duration(length)
    spans = [(max(w.start_at, earliest), w.end_at) for w in facts.windows if w.end_at is not None]
    held = _union([(low, high) for low, high in spans if high > low])
    if not held:
        raise Missing(
            f"no instant of the last {length} can be restored",
            why="; ".join(f"{w.target} until {format_time(w.end_at)}" for w in facts.windows if w.end_at is not None),
            cure="`drkit windows` shows what can be; a longer span may hold some",
        )
    total = sum((high - low).total_seconds() for low, high in held)
    left = random.Random(facts.seed).uniform(0.0, total)
    instant = held[-1][1]
    for low, high in held:
        if left <= (high - low).total_seconds():
            instant = low + (high - low) * (left / max((high - low).total_seconds(), 1e-9))
            break
        left -= (high - low).total_seconds()
    told = f"{text}, seed {facts.seed}: {format_time(instant)}"
    return Wish(RecoveryTarget(TargetKind.TIME, instant), text=told)


def _union(spans: Sequence[tuple[datetime, datetime]]) -> list[tuple[datetime, datetime]]:
    found: list[tuple[datetime, datetime]] = []
    for low, high in sorted(spans):
        if found and low <= found[-1][1]:
            found[-1] = (found[-1][0], max(found[-1][1], high))
        else:
            found.append((low, high))
    return found


def _point(text: str) -> RecoveryTarget:
    word, _, value = text.partition(":")
    if word == "lsn":
        return RecoveryTarget(TargetKind.LSN, Lsn.parse(value))
    if word == "xid" and value.isdecimal():
        return RecoveryTarget(TargetKind.XID, int(value))
    if word == "name":
        return RecoveryTarget(TargetKind.NAME, value)
    try:
        return RecoveryTarget(TargetKind.TIME, parse_time(text))
    except UsageError as error:
        raise UsageError(f"{text!r} is no point of a drill", why=str(error), cure=f"one of {ALLOWED}") from None
