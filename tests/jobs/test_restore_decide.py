"""Decisions over made-up archives: pure, repeatable, and never past what is proven."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drkit.core.errors import DrkitError, Missing, Refused, UsageError
from drkit.engines.postgres.lsn import Lsn
from drkit.engines.postgres.records import RestorePoint, Transaction
from drkit.engines.postgres.recovery import RecoveryTarget, TargetAction, TargetKind
from drkit.engines.postgres.timeline import Ancestor, Timeline, Timelines
from drkit.jobs.archive import Archived, Held
from drkit.jobs.restore_decide import decide
from drkit.jobs.restore_points import Course, Facts, Wish
from drkit.jobs.spans import Spans
from drkit.jobs.windows import windows_of
from drkit.repository.catalogue import Backup, Standing, State
from drkit.repository.layout import RunId
from tests.repository.samples import sample_head, sample_summary

SEGMENT = 1 << 20
BEGAN = datetime(2026, 3, 1, tzinfo=UTC)
NOW = BEGAN + timedelta(days=30)


RUNS = {number: RunId(1_770_000_000 + number, bytes(4)) for number in range(20)}


def moment(segment: float) -> datetime:
    """One segment an hour."""
    return BEGAN + timedelta(hours=segment)


def backup(number: int, *, timeline: int = 1, good: Sequence[str] = ("a", "b"), bad: State = State.PENDING) -> Backup:
    """Starts in segment `number` at its 1/4, stops in the same at its half."""
    summary = replace(
        sample_summary(RUNS[number]),
        timeline=timeline,
        start_lsn=str(Lsn(number * SEGMENT + SEGMENT // 4)),
        stop_lsn=str(Lsn(number * SEGMENT + SEGMENT // 2)),
        segment_bytes=SEGMENT,
        started_at=(moment(number + 0.25)).isoformat(),
        stopped_at=(moment(number + 0.5)).isoformat(),
    )
    standings = {name: Standing(State.GOOD) if name in good else Standing(bad, "why") for name in ("a", "b")}
    return Backup(summary, sample_head(), (), standings)


@dataclass
class Archive:
    """`Look` over made-up WAL: each segment has a commit at 3/4 of it, unless it is in `quiet`."""

    held: Mapping[str, Spans]
    quiet: frozenset[int] = frozenset()
    names: Mapping[str, Sequence[Lsn]] = field(default_factory=dict)
    asked: int = 0

    def archived(self, path: Timeline, first: int) -> Archived:
        return Archived({name: Held(spans.cut(first)) for name, spans in self.held.items()}, {})

    def commit(self, number: int) -> Transaction:
        lsn = Lsn(number * SEGMENT + 3 * SEGMENT // 4)
        return Transaction(lsn, lsn + 40, True, 1000 + number, moment(number + 0.75))

    def last_transaction(self, path: Timeline, first: int, last: int) -> Transaction | None:
        return next((self.commit(n) for n in range(last, first - 1, -1) if n not in self.quiet), None)

    def record_at_or_after(self, path: Timeline, lsn: Lsn, last: int) -> Lsn | None:
        final = Lsn(last * SEGMENT + 3 * SEGMENT // 4)
        return max(lsn, final) if lsn <= final else None

    def ends_of(self, path: Timeline, first: int, last: int, xid: int) -> Iterator[Transaction]:
        return (one for one in (self.commit(n) for n in range(first, last + 1)) if one.xid == xid)

    def restore_points(self, path: Timeline, first: int, last: int) -> Iterator[RestorePoint]:
        found = [(lsn, name) for name, places in self.names.items() for lsn in places]
        for lsn, name in sorted(found):
            if first <= lsn.segment(SEGMENT) <= last:
                yield RestorePoint(lsn, lsn + 100, name, moment(lsn.value / SEGMENT))

    def stored_at(self, path: Timeline, number: int) -> datetime | None:
        return moment(number + 1)


def facts(*backups: Backup, doubtful: Mapping[str, str] | None = None, lines: Sequence[Timeline] = ()) -> Facts:
    return Facts(backups, Timelines(lines), SEGMENT, ("a", "b"), doubtful or {}, {})


def wish(kind: TargetKind = TargetKind.LATEST, value: object = None, **more: object) -> Wish:
    target = RecoveryTarget(kind, value, more.pop("inclusive", True), None, TargetAction.PROMOTE)  # type: ignore[arg-type]
    return Wish(target, **more)  # type: ignore[arg-type]


def both(first: int, last: int) -> dict[str, Spans]:
    return {"a": Spans(((first, last),)), "b": Spans(((first, last),))}


def attempt(known: Facts, asked: Wish, look: Archive, now: datetime = NOW) -> Course | tuple[type, str]:
    try:
        return decide(known, asked, look, now)
    except DrkitError as error:
        return type(error), str(error)


points = st.one_of(
    st.just((TargetKind.LATEST, None)),
    st.just((TargetKind.END, None)),
    st.floats(0, 22).map(lambda x: (TargetKind.TIME, moment(x))),
    st.integers(0, 22 * SEGMENT).map(lambda x: (TargetKind.LSN, Lsn(x))),
    st.integers(990, 1025).map(lambda x: (TargetKind.XID, x)),
)


@settings(max_examples=400, deadline=None)
@given(
    point=points,
    starts=st.sets(st.integers(1, 19), min_size=1, max_size=4),
    a=st.sets(st.integers(0, 20)),
    b=st.sets(st.integers(0, 20)),
    doubt=st.booleans(),
    quiet=st.frozensets(st.integers(0, 20)),
    inclusive=st.booleans(),
)
def test_a_course_is_proven_and_the_decision_is_pure(
    point: tuple[TargetKind, object],
    starts: set[int],
    a: set[int],
    b: set[int],
    doubt: bool,
    quiet: frozenset[int],
    inclusive: bool,
) -> None:
    look = Archive({"a": Spans.of(a), "b": Spans.of(b)}, quiet)
    known = facts(*(backup(n) for n in sorted(starts)), doubtful={"c": "down"} if doubt else {})
    kind, value = point
    asked = wish(kind, value, inclusive=inclusive)
    course = attempt(known, asked, look)
    assert attempt(known, asked, look) == course, "the same facts, the same decision"
    if not isinstance(course, Course):
        assert course[0] in (Refused, Missing), course
        return
    union = a | b
    assert set(range(course.reach.first, course.reach.last + 1)) <= union
    assert course.reach.last + 1 not in union
    assert course.target.timeline == 1
    stop = Lsn.parse(course.backup.summary.stop_lsn)
    assert stop <= course.reach.end
    if isinstance(value, datetime):
        assert course.backup.summary.stopped <= value
        later = [b for b in known.backups if course.backup.summary.stopped < b.summary.stopped <= value]
        assert not later, "the newest backup before the point"
    if isinstance(value, Lsn):
        assert stop <= value <= course.reach.end
    if kind is TargetKind.LATEST:
        assert not doubt and max(union) == course.reach.last
    if course.target.kind is TargetKind.TIME:
        assert isinstance(value, datetime)
        ends = [look.commit(n).time for n in range(course.reach.first, course.reach.last + 1) if n not in quiet]
        assert any(end >= value for end in ends)
    if course.target.kind is not kind:
        assert course.target.kind is TargetKind.LATEST and course.notes


@settings(max_examples=200, deadline=None)
@given(starts=st.sets(st.integers(1, 19), min_size=1, max_size=4), held=st.sets(st.integers(0, 20)))
def test_windows_hold_what_restore_accepts(starts: set[int], held: set[int]) -> None:
    """Every position that a window shows is accepted as --to-lsn, every other one is refused."""
    backups = [backup(n, good=("a",)) for n in sorted(starts) if n in held]
    look = Archive({"a": Spans.of(held)})
    known = replace(facts(*backups), readable=("a",))
    lines = Timelines([])
    windows = windows_of("a", backups, lines, lambda path, first: Held(Spans.of(held).cut(first)), SEGMENT)
    assert len(windows) <= 1
    for number in range(4 * 21):
        lsn = Lsn(number * SEGMENT // 4 + 8)
        shown = any(w.start <= lsn <= w.end and not any(gap.start < lsn < gap.end for gap in w.gaps) for w in windows)
        accepted = isinstance(attempt(known, wish(TargetKind.LSN, lsn), look), Course)
        assert shown == accepted, lsn
    for window in windows:
        for gap in window.gaps:
            span = range(gap.start.segment(SEGMENT), gap.end.segment_before(SEGMENT) + 1)
            assert gap.missing == len(set(span) - held)
            assert int(gap.first, 16) & 0xFFF not in held and int(gap.last, 16) & 0xFFF not in held


def test_latest_past_a_gap_names_both_choices() -> None:
    look = Archive({"a": Spans(((2, 5), (7, 9))), "b": Spans(((2, 5),))})
    with pytest.raises(Refused, match="gap") as caught:
        decide(facts(backup(2)), wish(), look, NOW)
    assert str(Lsn(6 * SEGMENT)) in caught.value.cure and "000000010000000000000006" in caught.value.cure
    course = decide(facts(backup(2)), wish(TargetKind.LSN, Lsn(6 * SEGMENT)), look, NOW)
    assert course.target.kind is TargetKind.LATEST and course.reach.last == 5


def test_latest_is_not_before_the_end_of_a_backup_that_is_known() -> None:
    """The last segment is gone everywhere: nothing archived lies behind it, but the backup that it ended does."""
    for bad in (State.BROKEN, State.PENDING, State.EXPIRED):
        known = facts(backup(2), backup(7, good=(), bad=bad))
        for asked in (wish(), wish(TargetKind.TIME, moment(7.9)), wish(TargetKind.LSN, Lsn(7 * SEGMENT + 9))):
            with pytest.raises(Refused) as caught:
                decide(known, asked, Archive(both(2, 6)), NOW)
            shown = f"{caught.value} {caught.value.cure}"
            assert "000000010000000000000007" in shown and str(RUNS[7]) in shown and "--to-lsn 0/700000" in shown
    before = decide(known, wish(TargetKind.LSN, Lsn(7 * SEGMENT)), Archive(both(2, 6)), NOW)
    assert before.backup.summary.backup == str(RUNS[2]) and before.reach.last == 6
    elsewhere = facts(
        backup(2),
        backup(7, good=(), bad=State.BROKEN, timeline=2),
        lines=(Timeline(2, (Ancestor(1, Lsn(5 * SEGMENT)),)),),
    )
    assert decide(elsewhere, wish(timeline="1"), Archive(both(2, 6)), NOW).reach.last == 6


def test_a_backup_behind_the_gap_bridges_it() -> None:
    look = Archive({"a": Spans(((2, 5), (7, 9)))})
    known = replace(facts(backup(2), backup(7)), readable=("a",))
    assert decide(known, wish(), look, NOW).reach.last == 9


def test_a_target_that_cannot_be_asked_is_doubt_only_where_it_matters() -> None:
    look = Archive(both(2, 9))
    known = facts(backup(2), doubtful={"c": "connection refused"})
    with pytest.raises(Refused, match="c cannot be asked") as caught:
        decide(known, wish(), look, NOW)
    assert "--without c" in caught.value.cure
    assert decide(known, wish(TargetKind.TIME, moment(5)), look, NOW).reach.last == 9
    assert decide(known, wish(TargetKind.END), look, NOW).reach.last == 9


def test_reading_one_target_never_hides_what_another_proves() -> None:
    look = Archive({"a": Spans(((2, 5),)), "b": Spans(((2, 9),))})
    with pytest.raises(Refused, match="beyond what a holds") as caught:
        decide(facts(backup(2)), wish(source="a"), look, NOW)
    assert "b only" in caught.value.why
    assert decide(facts(backup(2)), wish(source="b"), look, NOW).reach.last == 9


def test_a_time_after_the_last_commit_means_that_commit_and_says_so() -> None:
    look = Archive(both(2, 9))
    course = decide(facts(backup(2)), wish(TargetKind.TIME, moment(9.9)), look, NOW)
    assert course.target.kind is TargetKind.LATEST and "no transaction ended" in course.notes[0]
    with pytest.raises(Refused, match="after the last archived WAL"):
        decide(facts(backup(2)), wish(TargetKind.TIME, moment(10.1)), look, NOW)
    with pytest.raises(Refused, match="future"):
        decide(facts(backup(2)), wish(TargetKind.TIME, NOW + timedelta(seconds=1)), look, NOW)


@pytest.mark.parametrize(
    ("at", "inclusive", "kind"), [(9.75, True, "latest"), (9.75, False, "time"), (9.7, True, "time")]
)
def test_the_very_instant_of_the_last_commit(at: float, inclusive: bool, kind: str) -> None:
    """The server stops at the first record later than the time, or not earlier where it is exclusive."""
    course = decide(facts(backup(2)), wish(TargetKind.TIME, moment(at), inclusive=inclusive), Archive(both(2, 9)), NOW)
    assert course.target.kind.value == kind


def test_points_inside_a_backup_take_an_earlier_one_or_are_refused() -> None:
    inside = Lsn(5 * SEGMENT + SEGMENT // 3)
    look = Archive(both(2, 9), names={"p": [inside]})
    for asked in (wish(TargetKind.LSN, inside), wish(TargetKind.TIME, moment(5.3)), wish(TargetKind.NAME, "p")):
        assert decide(facts(backup(2), backup(5)), asked, look, NOW).backup.summary.start_lsn.startswith("0/24")
        with pytest.raises(Refused, match="within"):
            decide(facts(backup(5)), asked, look, NOW)


def test_names_are_found_from_the_newest_backup_back_and_unknown_ones_list_the_known() -> None:
    look = Archive(both(2, 9), names={"p": [Lsn(3 * SEGMENT), Lsn(8 * SEGMENT)], "q": [Lsn(3 * SEGMENT + 200)]})
    known = facts(backup(2), backup(5))
    assert decide(known, wish(TargetKind.NAME, "p"), look, NOW).backup is known.backups[1]
    assert decide(known, wish(TargetKind.NAME, "q"), look, NOW).backup is known.backups[0]
    with pytest.raises(Refused, match="'x'") as caught:
        decide(known, wish(TargetKind.NAME, "x"), look, NOW)
    assert "p" in caught.value.cure and "q" in caught.value.cure
    with pytest.raises(UsageError):
        decide(known, wish(TargetKind.NAME, "p", scan=False), look, NOW)
    named = wish(TargetKind.NAME, "p", scan=False, backup=known.backups[0].summary.backup)
    assert decide(known, named, look, NOW).notes


def test_timelines_are_chosen_among_those_that_the_backups_reach() -> None:
    two = Timeline(2, (Ancestor(1, Lsn(4 * SEGMENT)),))
    three = Timeline(3, (Ancestor(1, Lsn(SEGMENT)),))
    known = facts(backup(2), lines=(two, three))
    look = Archive(both(2, 9))
    assert decide(known, wish(), look, NOW).path.id == 2, "3 left before the backup stopped"
    assert decide(known, wish(timeline="current"), look, NOW).path.id == 1
    assert decide(known, wish(timeline="1"), look, NOW).target.timeline == 1
    assert decide(known, wish(TargetKind.END), look, NOW).path.id == 1
    for wrong in ("3", "8"):
        with pytest.raises(Refused):
            decide(known, wish(timeline=wrong), look, NOW)
    with pytest.raises(UsageError):
        decide(known, wish(timeline="main"), look, NOW)


def test_a_history_that_opens_nowhere_is_doubt_about_the_latest_timeline_only() -> None:
    known = replace(facts(backup(2)), unread={"00000002.history": "damaged"})
    look = Archive(both(2, 9))
    with pytest.raises(Refused, match="latest") as caught:
        decide(known, wish(), look, NOW)
    assert "--timeline 1" in caught.value.cure
    assert decide(known, wish(timeline="1"), look, NOW).path.id == 1
    assert decide(known, wish(TargetKind.END), look, NOW).path.id == 1


def test_a_backup_that_is_not_good_is_never_used() -> None:
    look = Archive(both(2, 9))
    known = facts(backup(2, good=("b",)), backup(5, good=()))
    assert decide(known, wish(), look, NOW).backup is known.backups[0]
    assert decide(known, wish(), look, NOW).sources == ("b",)
    with pytest.raises(Missing):
        decide(known, wish(source="a"), look, NOW)
    with pytest.raises(Refused, match="is not good"):
        decide(known, wish(backup=known.backups[1].summary.backup), look, NOW)
