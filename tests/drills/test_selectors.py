"""Which point a drill restores."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pytest

from drills.selectors import PointFacts, check_selector, select
from drkit.core.errors import Missing, UsageError
from drkit.engines.postgres.lsn import Lsn
from drkit.engines.postgres.recovery import TargetKind
from drkit.engines.postgres.timeline import Timeline
from drkit.jobs.windows import Window
from drkit.repository.catalogue import Backup
from drkit.repository.layout import RunId
from tests.repository.samples import sample_head, sample_summary

NOW = datetime(2026, 7, 15, tzinfo=UTC)


def _backup(number: int) -> Backup:
    run = RunId.new(NOW - timedelta(days=30 - number), bytes([0, 0, 0, number]))
    return Backup(sample_summary(run), sample_head(), [], {})


def window(target: str, start: datetime, end: datetime | None) -> Window:
    return Window(target, 1, Timeline(1), Lsn(1), Lsn(2), start, end, (), (), "", None)


def facts(
    backups: Sequence[Backup] = (),
    windows: Sequence[Window] = (),
    drilled: dict[str, datetime] | None = None,
    seed: int = 1,
) -> PointFacts:
    return PointFacts(backups, windows, drilled or {}, NOW, seed)


def test_points_that_name_themselves() -> None:
    for text, kind, value in (
        ("latest", TargetKind.LATEST, None),
        ("lsn:0/16B3740", TargetKind.LSN, Lsn.parse("0/16B3740")),
        ("xid:747", TargetKind.XID, 747),
        ("name:before the release", TargetKind.NAME, "before the release"),
        ("2026-07-01T09:00:00Z", TargetKind.TIME, datetime(2026, 7, 1, 9, tzinfo=UTC)),
    ):
        check_selector(text, NOW)
        wish = select(text, facts([_backup(1)]))
        assert (wish.target.kind, wish.target.value, wish.text) == (kind, value, text)


def test_backups_by_age_by_name_and_by_their_last_drill() -> None:
    backups = [_backup(1), _backup(2), _backup(3)]
    names = [one.summary.backup for one in backups]
    oldest = select("oldest", facts(backups))
    assert (oldest.backup, oldest.target.kind) == (names[0], TargetKind.END)
    assert select("backup:20260701", facts(backups)).backup == "20260701"
    drilled = {names[0]: NOW - timedelta(days=1), names[1]: NOW - timedelta(days=9), names[2]: NOW}
    assert select("least-recently-drilled", facts(backups, drilled=drilled)).backup == names[1]
    del drilled[names[2]]
    assert select("least-recently-drilled", facts(backups, drilled=drilled)).backup == names[2]
    for text in ("oldest", "least-recently-drilled", "random-instant:14d"):
        with pytest.raises(Missing, match="no good backup"):
            select(text, facts())


def test_a_random_instant_lies_in_a_window_and_can_be_had_again() -> None:
    day = timedelta(days=1)
    spans = [
        window("a", NOW - 40 * day, NOW - 12 * day),
        window("b", NOW - 13 * day, NOW - 11 * day),
        window("a", NOW - 2 * day, NOW - day),
        window("b", NOW - day, None),
    ]
    found = []
    for seed in range(300):
        wish = select("random-instant:14d", facts([_backup(1)], spans, seed=seed))
        assert f"seed {seed}" in wish.text
        assert isinstance(wish.target.value, datetime)
        found.append(wish.target.value)
    assert all(NOW - 14 * day <= at <= NOW - 11 * day or NOW - 2 * day <= at <= NOW - day for at in found)
    late = sum(at >= NOW - 2 * day for at in found)
    assert 40 < late < 120, "a quarter of the time that can be restored lies there"
    again = select("random-instant:14d", facts([_backup(1)], spans, seed=5))
    assert again.target.value == found[5]
    with pytest.raises(Missing, match="no instant of the last 1h"):
        select("random-instant:1h", facts([_backup(1)], spans))


@pytest.mark.parametrize(
    "text",
    ["", "yesterday", "random-instant:", "random-instant:14", "backup:", "xid:x", "lsn:1", "2026-07-16T00:00:00Z"],
)
def test_what_is_no_selector_is_refused_before_anything_begins(text: str) -> None:
    with pytest.raises(UsageError):
        check_selector(text, NOW)
