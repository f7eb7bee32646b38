"""Promises of time: without evidence none is kept."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from policies.objectives import Facts, Promises, breaches

NOW = datetime(2026, 7, 1, tzinfo=UTC)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
PROMISES = Promises(timedelta(seconds=60), timedelta(minutes=30), 26 * HOUR, 7 * DAY, 31 * DAY)
GOOD = Facts(
    exposure=timedelta(seconds=5),
    archive_timeout=timedelta(seconds=60),
    streaming=False,
    rto_forecast=timedelta(minutes=20),
    backup_at=NOW - 20 * HOUR,
    verified_at=NOW - DAY,
    drilled_at=NOW - 30 * DAY,
)
NOTHING = Facts(None, None, False, None, None, None, None)


def broken(facts: Facts) -> list[str]:
    return [breach.promise for breach in breaches(PROMISES, facts, NOW)]


def test_all_kept() -> None:
    assert broken(GOOD) == []


def test_nothing_promised_nothing_broken() -> None:
    assert breaches(Promises(), NOTHING, NOW) == ()


def test_without_evidence_every_promise_is_broken() -> None:
    assert set(broken(NOTHING)) == {"rpo", "rto", "max_backup_age", "max_verify_age", "max_drill_age"}
    assert all(breach.actual is None for breach in breaches(PROMISES, NOTHING, NOW))


def test_each_is_broken_by_its_own_fact() -> None:
    assert broken(replace(GOOD, exposure=timedelta(seconds=61))) == ["rpo"]
    assert broken(replace(GOOD, rto_forecast=HOUR)) == ["rto"]
    assert broken(replace(GOOD, backup_at=NOW - 27 * HOUR)) == ["max_backup_age"]
    assert broken(replace(GOOD, verified_at=NOW - 8 * DAY)) == ["max_verify_age"]
    assert broken(replace(GOOD, drilled_at=NOW - 32 * DAY)) == ["max_drill_age"]


def test_archive_timeout_zero_is_unbounded_unless_wal_is_streamed() -> None:
    zero = replace(GOOD, archive_timeout=timedelta(0))
    assert [breach.actual for breach in breaches(PROMISES, zero, NOW)] == ["unbounded"]
    assert broken(replace(GOOD, archive_timeout=timedelta(minutes=5))) == ["rpo"]
    assert broken(replace(zero, streaming=True)) == []


def test_evidence_from_the_future_is_no_evidence() -> None:
    assert broken(replace(GOOD, backup_at=NOW + HOUR)) == ["max_backup_age"]
