"""Promises of time against evidence: rpo, rto, and the ages of backups, verifications and drills."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from policies.decision import Breach


@dataclass(frozen=True, slots=True)
class Promises:
    """None promises nothing."""

    rpo: timedelta | None = None
    rto: timedelta | None = None
    max_backup_age: timedelta | None = None
    max_verify_age: timedelta | None = None
    max_drill_age: timedelta | None = None


@dataclass(frozen=True, slots=True)
class Facts:
    """What was seen; None: never, or nobody looked.

    exposure:        now less the commit time of the newest transaction that is durable by the rule of acks
    archive_timeout: the server's setting; zero: a segment may stay open for ever
    streaming:       WAL is streamed to the targets, so that archive_timeout does not matter
    rto_forecast:    from measured rates
    """

    exposure: timedelta | None
    archive_timeout: timedelta | None
    streaming: bool
    rto_forecast: timedelta | None
    backup_at: datetime | None
    verified_at: datetime | None
    drilled_at: datetime | None


def breaches(promises: Promises, facts: Facts, now: datetime) -> tuple[Breach, ...]:
    """Every promise that is not known to be kept, in the order of `Promises`."""
    found: list[Breach | None] = []
    if promises.rpo is not None:
        found += [_rpo_setting(promises.rpo, facts), _most("rpo", promises.rpo, facts.exposure, "is WAL archived?")]
    if promises.rto is not None:
        found.append(_most("rto", promises.rto, facts.rto_forecast, "restore once, or run a drill"))
    ages = (
        ("max_backup_age", promises.max_backup_age, facts.backup_at, "drkit backup"),
        ("max_verify_age", promises.max_verify_age, facts.verified_at, "drkit verify"),
        ("max_drill_age", promises.max_drill_age, facts.drilled_at, "drkit drill run"),
    )
    for name, promised, at, cure in ages:
        if promised is not None:
            found.append(_most(name, promised, None if at is None else now - at, cure))
    return tuple(breach for breach in found if breach is not None)


def _most(name: str, promised: timedelta, actual: timedelta | None, cure: str) -> Breach | None:
    if actual is None:
        return Breach(name, promised, None, "there is no evidence", cure)
    if actual < timedelta(0):
        return Breach(name, promised, actual, "the evidence is from the future: is a clock wrong?", "check the clocks")
    if actual > promised:
        return Breach(name, promised, actual, f"{actual} is more than {promised}", cure)
    return None


def _rpo_setting(rpo: timedelta, facts: Facts) -> Breach | None:
    """Without streaming a quiet server's last segment waits for archive_timeout."""
    if facts.streaming:
        return None
    cure = f"set archive_timeout to at most {int(rpo.total_seconds())}s, or stream WAL"
    if facts.archive_timeout is None:
        return Breach("rpo", rpo, None, "archive_timeout is not known", cure)
    if facts.archive_timeout == timedelta(0):
        return Breach("rpo", rpo, "unbounded", "archive_timeout is 0: a segment may stay open for ever", cure)
    if facts.archive_timeout > rpo:
        return Breach("rpo", rpo, facts.archive_timeout, "archive_timeout is longer than the rpo", cure)
    return None
