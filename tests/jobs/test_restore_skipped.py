"""Damaged backups and the decision: the point stays the same, and what is passed over is named."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drkit.core.errors import Damage, Missing, Refused
from drkit.engines.postgres.lsn import Lsn
from drkit.engines.postgres.recovery import TargetKind
from drkit.engines.postgres.timeline import Ancestor, Timeline
from drkit.jobs.restore_decide import decide
from drkit.jobs.restore_points import Course
from drkit.jobs.spans import Spans
from drkit.repository.catalogue import Backup, Standing, State
from drkit.repository.layout import RunId
from tests.jobs.test_restore_decide import (
    NOW,
    RUNS,
    SEGMENT,
    Archive,
    attempt,
    backup,
    both,
    facts,
    moment,
    points,
    wish,
)


def broken(number: int, *, timeline: int = 1) -> Backup:
    return backup(number, timeline=timeline, good=(), bad=State.BROKEN)


@settings(max_examples=400, deadline=None)
@given(
    point=points,
    starts=st.sets(st.integers(1, 19), min_size=1, max_size=5),
    spoiled=st.sets(st.integers(1, 19)),
    held=st.sets(st.integers(0, 20)) | st.just(set(range(21))),
    inclusive=st.booleans(),
)
def test_damage_never_changes_the_point_and_is_never_passed_over_in_silence(
    point: tuple[TargetKind, object], starts: set[int], spoiled: set[int], held: set[int], inclusive: bool
) -> None:
    """With some backups damaged the same point is reached from an older one, or nothing is restored."""
    look = Archive({"a": Spans.of(held), "b": Spans.of(held)})
    asked = wish(*point, inclusive=inclusive)
    ideal = attempt(facts(*(backup(n) for n in sorted(starts))), asked, look)
    real = attempt(facts(*(broken(n) if n in spoiled else backup(n) for n in sorted(starts))), asked, look)
    if not isinstance(real, Course):
        assert real[0] in (Refused, Missing, Damage)
        return
    assert State.BROKEN not in {one.state for one in real.backup.standings.values()}
    if not isinstance(ideal, Course):  # the newer backup's own WAL is gone, the older one goes past it
        assert ideal[0] is Refused
        return
    assert (real.path.id, real.reach.last) == (ideal.path.id, ideal.reach.last)
    assert (real.target.kind, real.target.value) == (ideal.target.kind, ideal.target.value)
    names = [one.backup for one in real.skipped]
    if real.backup.summary.backup == ideal.backup.summary.backup:
        assert not names
    else:
        assert names[-1] == ideal.backup.summary.backup and names[-1] in real.notes[len(names) - 1]
        assert point[0] is not TargetKind.END, "the end of an older backup is another point"


def test_the_end_of_a_damaged_backup_is_refused_with_both_ways_out() -> None:
    known = facts(backup(2), broken(5))
    with pytest.raises(Damage, match="damaged") as caught:
        decide(known, wish(TargetKind.END), Archive(both(2, 9)), NOW)
    assert known.backups[0].summary.backup in caught.value.cure
    assert f"--to-lsn {known.backups[1].summary.stop_lsn}" in caught.value.cure
    waiting = facts(backup(2), backup(5, good=()))  # nothing is lost: it was not complete yet
    assert decide(waiting, wish(TargetKind.END), Archive(both(2, 9)), NOW).skipped[0].backup == str(RUNS[5])


def test_latest_does_not_fall_back_to_another_timeline_because_of_damage() -> None:
    two = Timeline(2, (Ancestor(1, Lsn(3 * SEGMENT)),))
    known = facts(backup(5), broken(6, timeline=2), lines=(two,))
    look = Archive(both(2, 9))
    with pytest.raises(Damage, match="timeline 2") as caught:
        decide(known, wish(), look, NOW)
    assert known.backups[1].summary.backup in caught.value.where and "why" in caught.value.why
    assert decide(known, wish(timeline="1"), look, NOW).backup is known.backups[0]


def test_a_point_that_only_a_damaged_backup_leads_to_is_damage_not_too_early() -> None:
    look = Archive(both(2, 9), names={"p": [Lsn(5 * SEGMENT + SEGMENT // 3)]})
    for asked in (
        wish(TargetKind.TIME, moment(4)),
        wish(TargetKind.LSN, Lsn(4 * SEGMENT)),
        wish(TargetKind.NAME, "p"),
    ):
        with pytest.raises(Damage) as caught:
            decide(facts(broken(2), backup(5)), asked, look, NOW)
        assert str(RUNS[2]) in caught.value.where
        with pytest.raises(Refused):
            decide(facts(backup(5)), asked, look, NOW)


def test_a_damaged_backup_that_is_named_is_damage() -> None:
    known = facts(backup(2), broken(5))
    with pytest.raises(Damage, match="is not good") as caught:
        decide(known, wish(backup=str(RUNS[5])), Archive(both(2, 9)), NOW)
    assert "a: broken, why; b: broken, why" in caught.value.why
    with pytest.raises(Damage):
        decide(facts(broken(2), broken(5)), wish(), Archive(both(2, 9)), NOW)


def test_a_manifest_that_opens_nowhere_is_told_where_it_may_have_served() -> None:
    began = int(moment(6).timestamp())
    name = str(RunId(began, bytes(4)))
    known = replace(facts(backup(2)), unopened={name: {"a": Standing(State.BROKEN, "cut")}, "notes.txt": {}})
    known = replace(known, backups=[at_its_time(known.backups[0])])
    look = Archive(both(2, 9))
    assert [one.backup for one in decide(known, wish(), look, NOW).skipped] == [name]
    assert [one.backup for one in decide(known, wish(TargetKind.TIME, moment(8)), look, NOW).skipped] == [name]
    assert not decide(known, wish(TargetKind.TIME, moment(4)), look, NOW).skipped, "it began later"
    with pytest.raises(Damage):
        decide(known, wish(TargetKind.END), look, NOW)


def at_its_time(one: Backup) -> Backup:
    """With an id that says when it began, as real ones do."""
    began = int(datetime.fromisoformat(one.summary.started_at).timestamp())
    return replace(one, summary=replace(one.summary, backup=str(RunId(began, bytes(4)))))


def test_what_expired_or_was_withdrawn_is_not_missed() -> None:
    for state in (State.EXPIRED, State.WITHDRAWN):
        known = facts(backup(2), backup(5, good=(), bad=state))
        course = decide(known, wish(), Archive(both(2, 9)), NOW)
        assert course.skipped == () and course.notes == ()
