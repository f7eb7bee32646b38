"""What a recovery met is kept as far as it can be, and read as far as it was kept."""

from __future__ import annotations

from pathlib import Path

from drkit.jobs.recovery_events import (
    RECOVERY_EVENTS,
    Fetch,
    WalDamage,
    damages,
    note,
    read_events,
    unserved,
    wal_bytes,
)

ONE, TWO = "000000010000000000000003", "000000010000000000000004"


def test_events_come_back_in_order(tmp_path: Path) -> None:
    assert read_events(tmp_path) == []
    events = [Fetch(ONE, "b", 100, damaged={"a": "bad frame"}), Fetch(TWO, failed={"a": "refused"})]
    for event in events:
        note(tmp_path, event)
    assert read_events(tmp_path) == events
    assert (tmp_path / RECOVERY_EVENTS).stat().st_mode & 0o077 == 0


def test_a_line_that_was_cut_short_costs_only_itself(tmp_path: Path) -> None:
    note(tmp_path, Fetch(ONE, "a", 1))
    path = tmp_path / RECOVERY_EVENTS
    path.write_bytes(path.read_bytes() + b'{"file": "0000\n[]\n{"other": 1}\n\xff\n')
    note(tmp_path, Fetch(TWO, "a", 1))
    assert [event.file for event in read_events(tmp_path)] == [ONE, TWO]


def test_what_cannot_be_kept_stops_nothing(tmp_path: Path) -> None:
    note(tmp_path / "gone", Fetch(ONE))
    (tmp_path / RECOVERY_EVENTS).mkdir()
    note(tmp_path, Fetch(ONE))
    assert read_events(tmp_path) == []


def test_a_damaged_object_is_told_once_with_who_served_it() -> None:
    """The prefetch met it, then the fetch itself; of another file no target had a good copy."""
    events = [
        Fetch(ONE, "b", 100, damaged={"a": "bad"}),
        Fetch(ONE, "b", 100, damaged={"a": "bad"}),
        Fetch(TWO, damaged={"a": "bad", "b": "worse"}),
    ]
    expected = (WalDamage(ONE, "a", "bad", "b"), WalDamage(TWO, "a", "bad", ""), WalDamage(TWO, "b", "worse", ""))
    assert damages(events) == expected
    assert wal_bytes(events) == {"b": 200}


def test_recovery_ended_for_a_file_only_when_that_was_the_last_word() -> None:
    lost = Fetch(TWO, damaged={"a": "bad"})
    assert unserved([Fetch(ONE, "a", 1), lost]) == lost
    assert unserved([lost, Fetch(TWO, "a", 1)]) is None
    assert unserved([]) is None
