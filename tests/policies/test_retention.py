"""What retention keeps, for any history: windows, floors, the never-list, and clocks that are wrong."""

from __future__ import annotations

import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.lineage import Lines, Path, Step
from policies.retention import Copy, Windows
from policies.trusted_time import reference
from policies.wal_floor import kept_wal
from tests.policies.retained import DAY, GFS, ONE, SEGMENT, SKEW, START, Span, copy, daily, gone, plan, reasons

# --- windows -------------------------------------------------------------------------------------------------------


def test_one_of_each_day_week_month_and_year() -> None:
    copies = daily(800)
    found = plan(copies)
    kept = {one.stopped.date() for one in found.kept}
    newest = copies[-1].stopped
    assert {newest.date() - n * DAY for n in range(8)} <= kept, "seven days back, and the newest"
    assert {d for d in kept if newest.date() - d > 28 * DAY and d.day > 1} <= {START.date()}, "then firsts of months"
    assert datetime(2027, 1, 1).date() in kept and START.date() in kept, "and of years"
    assert len(kept) < 30
    assert all(item.reasons for item in found.items)


def test_weeks_are_iso_weeks_and_days_begin_in_the_named_zone() -> None:
    """Sunday 22:30 UTC is Monday in Berlin: of the next week, and the next day."""
    sunday = datetime(2026, 3, 8, 12, tzinfo=UTC)
    late = datetime(2026, 3, 8, 23, 30, tzinfo=UTC)
    copies = [copy(1, sunday), copy(2, late), *daily(2, datetime(2026, 3, 9, 9, tzinfo=UTC), 3)]
    windows = Windows("Europe/Berlin", None, weekly=Span(28), min_full=1)
    assert gone(plan(copies, windows)) == {copies[2].id}
    assert gone(plan(copies, replace(windows, zone="UTC"))) == {copies[1].id}


@pytest.mark.parametrize("last", [False, True])
def test_the_first_or_the_last_of_a_period_stands_for_it(last: bool) -> None:
    copies = [copy(n, START + n * timedelta(hours=6)) for n in range(8)]
    windows = Windows("UTC", None, daily=Span(3), min_full=1, last=last)
    kept = {one.stopped.hour for one in plan(copies, windows).kept if one is not copies[-1]}
    assert kept == ({19} if last else {1})


def test_min_full_counts_good_ones_only() -> None:
    copies = daily(30)
    copies[-2] = replace(copies[-2], whole=False)
    found = plan(copies, Windows("UTC", None, daily=Span(0.1), min_full=3))
    assert {one.id for one in found.kept if one.whole} == {copies[-1].id, copies[-3].id, copies[-4].id}


def test_no_window_keeps_all() -> None:
    assert gone(plan(daily(400), Windows())) == set()


def test_a_recovery_window_alone_keeps_what_lies_in_it_and_what_it_begins_with() -> None:
    copies = daily(30)
    found = plan(copies, Windows("UTC", 5 * DAY, min_full=1))
    assert [one.id for one in found.kept] == [one.id for one in copies[-7:]]


def test_broken_ones_stay_while_a_repair_pays_and_stand_for_nothing() -> None:
    copies = daily(60)
    copies = [replace(one, whole=False) if n % 2 else one for n, one in enumerate(copies)]
    found = plan(copies, Windows("UTC", None, daily=Span(9), min_full=1))
    why = reasons(found)
    assert copies[1].id in gone(found)
    assert any("repair" in text for text in why[copies[55].id])
    assert any("day" in text for text in why[copies[54].id])


# --- never ---------------------------------------------------------------------------------------------------------


def test_the_never_list() -> None:
    copies = daily(400)
    copies[10] = replace(copies[10], spared=("on hold (x)",))
    copies[20] = replace(copies[20], proven=True)
    copies[15] = replace(copies[15], proven=True)
    found = plan(copies, Windows("UTC", None, daily=Span(2), min_full=1))
    assert {copies[-1].id, copies[10].id, copies[20].id} <= {one.id for one in found.kept}
    assert copies[15].id in gone(found), "a later one of its timeline is proven"


def test_row_12_the_newest_without_damaged_pages_stays_until_there_is_a_newer_one() -> None:
    only_newest = Windows("UTC", None, daily=Span(0), min_full=1)
    copies = [replace(one, clean=number < 10) for number, one in enumerate(daily(30))]
    found = plan(copies, only_newest)
    assert {one.id for one in found.kept} == {copies[9].id, copies[-1].id}
    assert reasons(found)[copies[9].id] == ("the newest without damaged pages",)
    copies = [replace(one, whole=number != 9) for number, one in enumerate(copies)]
    assert copies[8].id not in gone(plan(copies, only_newest)), "one that lacks something stands for nothing"
    copies = [*copies, copy(31, copies[-1].stopped + DAY)]
    assert {one.id for one in plan(copies, only_newest).kept} == {copies[-1].id}


def test_row_7_a_new_system_on_timeline_1_lets_nothing_of_the_old_one_go_but_by_its_own_time() -> None:
    """Timeline 11 of the old server; then pg_upgrade: another system identifier, timeline 1."""
    old = [replace(one, timeline=11, system="9") for one in daily(100)]
    new = [replace(one, id=f"00{n}") for n, one in enumerate(daily(3, START + 100 * DAY))]
    lines = Lines((Path(1, (Step(1, 0, None),)), Path(11, (Step(1, 0, 1), Step(11, 1, None)))))
    before = gone(plan(old, GFS, lines))
    found = plan([*old, *new], GFS, lines)
    assert gone(found) == before
    assert not {one.id for one in (*new, old[-1])} & gone(found)


def test_the_newest_of_a_branch_that_nothing_continues_stays() -> None:
    """Timeline 2 was left at an earlier position: what it holds is nowhere else."""
    first = daily(10)
    branch = [replace(one, timeline=2) for one in daily(2, START + 10 * DAY, 11)]
    fork = 11 * 10 * SEGMENT - 1
    other = [replace(one, timeline=3, id=f"c{one.id}") for one in daily(400, START + 12 * DAY, 11)]
    lines = Lines(
        (
            Path(1, (Step(1, 0, None),)),
            Path(2, (Step(1, 0, fork), Step(2, fork, None))),
            Path(3, (Step(1, 0, fork), Step(3, fork, None))),
        )
    )
    found = plan([*first, *branch, *other], Windows("UTC", None, daily=Span(3), min_full=1), lines)
    assert branch[-1].id not in gone(found) and branch[0].id in gone(found)
    assert first[-1].id in gone(found), "timeline 3 continues it"


# --- time ----------------------------------------------------------------------------------------------------------


def test_a_dead_scheduler_lets_nothing_expire() -> None:
    copies = daily(40)
    once = plan(copies)
    left = list(once.kept)
    for years in (0, 1, 10):
        assert gone(plan(left, latest=copies[-1].stopped + years * 365 * DAY)) == set()


def test_one_backup_by_a_clock_ten_years_ahead_lets_nothing_go() -> None:
    """The host's clock alone: the store's does not bear it out. Then both, as where the store is a folder."""
    left = list(plan(daily(60)).kept)
    wrong = left[-1].stopped + 3653 * DAY
    host = copy(900, wrong, stored=left[-1].stopped + DAY)
    assert gone(plan([*left, host])) == set()
    both = copy(900, wrong)
    assert gone(plan([*left, both])) == set()
    assert gone(plan([*left, both, copy(901, wrong + DAY)])) <= gone(
        plan([*left, *daily(2, left[-1].stopped + DAY, 901)])
    )


def test_when_the_clock_is_right_again_the_future_is_not_believed() -> None:
    left = list(plan(daily(60)).kept)
    now = left[-1].stopped
    ahead = [copy(900 + n, now + (3653 + n) * DAY) for n in range(3)]
    after = [copy(910 + n, now + (4 + n) * DAY) for n in range(3)]
    found = plan([*left, *ahead, *after], latest=now + 7 * DAY)
    whole = plan([*left, *daily(3, now + DAY, 901), *after])
    assert gone(found) <= gone(whole)
    assert not {one.id for one in (*ahead, *after)} & gone(found)


def test_a_backup_by_a_clock_that_was_behind_is_not_taken_for_old() -> None:
    copies = daily(60)
    copies[58] = replace(copies[58], stopped=START - 3000 * DAY)
    copies[0] = replace(copies[0], stopped=START - 3000 * DAY)
    found = plan(copies[50:])
    assert copies[58].id not in gone(found)
    first = plan([copies[0], *copies[1:20]], replace(GFS, min_full=1))
    assert any("not certain" in text for text in reasons(first)[copies[0].id])


def test_after_a_move_to_another_store_times_are_believed_in_their_order() -> None:
    """All manifests were stored at once, long after: only the oldest has nothing that bears it out."""
    moved = START + 90 * DAY
    copies = [replace(one, stored=moved) for one in daily(90)]
    found = plan([*copies, copy(200, moved)])
    plain = plan([*daily(90), copy(200, moved)])
    assert gone(found) <= gone(plain) and len(gone(plain)) - len(gone(found)) <= 2


def test_a_long_silence_counts_once_backups_have_followed_for_a_third_of_it() -> None:
    ends = [START, START + 400 * DAY]
    found = reference(ends)
    assert found is not None and found.of(START) == START and found.of(ends[1]) == ends[1]
    followed = [*ends, *(START + (400 + 30 * n) * DAY for n in range(1, 5))]
    still = reference(followed)
    assert still is not None and still.of(START) == START + 120 * DAY
    later = reference([*followed, START + 534 * DAY])
    assert later is not None and later.of(START) == START + 534 * DAY


def test_two_leaps_of_the_clock_are_two_leaps() -> None:
    found = reference([START, START + 3653 * DAY, START + 7306 * DAY])
    assert found is not None and found.of(START) == START


def test_backups_once_a_quarter_age() -> None:
    found = reference([START + n * 91 * DAY for n in range(9)])
    assert found is not None and found.of(START) == START + 7 * 91 * DAY, "all but the newest silence is counted"


# --- WAL -----------------------------------------------------------------------------------------------------------


def wal(copies: list[Copy], windows: Windows, lines: Lines = ONE) -> list[tuple[int, int, int | None]]:
    found = plan(copies, windows, lines)
    stretches = kept_wal(
        found.kept, found.trusted, lines, found.references["1"], windows.pitr,
        segment_bytes=SEGMENT, skew=SKEW, timelines=[path.id for path in lines.paths],
    )  # fmt: skip
    return [(one.timeline, one.first, one.last) for one in stretches]


def test_wal_follows() -> None:
    copies = daily(100)
    spans = wal(copies, GFS)
    base = next(one for one in reversed(copies) if one.stopped < copies[-1].stopped - 14 * DAY)
    assert (1, base.start // SEGMENT, None) in spans
    assert min(first for _, first, last in spans if last is None) == base.start // SEGMENT
    for one in plan(copies).kept:
        assert any(
            first <= one.start // SEGMENT and (last is None or last >= one.start // SEGMENT) for _, first, last in spans
        )


def test_wal_of_an_ancestor_stays_from_the_base_to_the_switch() -> None:
    first = daily(20)
    switch = 21 * 10 * SEGMENT - SEGMENT // 2
    second = [replace(one, timeline=2) for one in daily(5, START + 20 * DAY, 21)]
    alive = {1: START + 20 * DAY, 2: START + 25 * DAY}
    lines = Lines((Path(1, (Step(1, 0, None),)), Path(2, (Step(1, 0, switch), Step(2, switch, None)))), alive)
    spans = wal([*first, *second], Windows("UTC", 10 * DAY, min_full=1), lines)
    base = first[13]
    assert (1, base.start // SEGMENT, switch // SEGMENT) in spans
    assert (2, switch // SEGMENT, None) in spans


def test_histories_that_cannot_be_read_keep_all_wal() -> None:
    lines = Lines((), unread="00000002.history: damaged")
    found = plan(daily(100), GFS, lines)
    assert gone(found) == set()
    spans = kept_wal(
        found.kept, found.trusted, lines, found.references["1"], 14 * DAY,
        segment_bytes=SEGMENT, skew=SKEW, timelines=[1, 2],
    )  # fmt: skip
    assert [(one.timeline, one.first, one.last) for one in spans] == [(1, 0, None), (2, 0, None)]


# --- any history ---------------------------------------------------------------------------------------------------

hours = st.integers(0, 24 * 800)


@st.composite
def histories(draw: st.DrawFn) -> list[Copy]:
    copies = []
    at = START
    for number in range(1, draw(st.integers(1, 40))):
        at += timedelta(hours=draw(st.integers(1, 24 * 60)))
        wrong = draw(st.sampled_from([0, 0, 0, 0, 0, 3653, -3653, 1, -1]))
        store = draw(st.sampled_from([0, 0, 0, wrong, 30]))
        copies.append(
            copy(
                number,
                at + wrong * DAY,
                stored=at + store * DAY,
                timeline=draw(st.sampled_from([1, 1, 1, 2])),
                system=draw(st.sampled_from(["1", "1", "1", "2"])),
                whole=draw(st.sampled_from([True, True, True, False])),
                proven=draw(st.sampled_from([False, False, False, True])),
                clean=draw(st.sampled_from([True, True, False])),
                spared=draw(st.sampled_from([(), (), (), ("on hold",)])),
            )
        )
    return copies


spans = st.one_of(st.none(), st.integers(0, 400).map(Span))
windows_ = st.builds(
    Windows,
    st.sampled_from(["UTC", "Europe/Berlin", "Pacific/Apia"]),
    st.one_of(st.none(), st.integers(0, 100).map(lambda n: n * DAY)),
    spans,
    spans,
    spans,
    spans,
    st.integers(1, 5),
    st.booleans(),
)


@settings(max_examples=200, deadline=None)
@given(histories(), windows_)
def test_the_never_list_holds_for_any_history(copies: list[Copy], windows: Windows) -> None:
    found = plan(copies, windows)
    goes = gone(found)
    assert {item.copy.id for item in found.items} == {one.id for one in copies}
    assert all(item.reasons for item in found.items)
    assert not goes & {one.id for one in copies if one.spared}
    for system in ("1", "2"):
        sure = [one for one in copies if one.system == system and one.whole and one.id in found.trusted]
        sure.sort(key=lambda one: (one.stopped, one.stop))
        assert not goes & {one.id for one in sure[-windows.min_full :]}
        assert not goes & {one.id for one in [one for one in sure if one.clean][-1:]}
        for timeline in (1, 2):
            proven = [one for one in sure if one.timeline == timeline and one.proven]
            assert not goes & {one.id for one in proven[-1:]}
        if not sure:
            assert not goes & {one.id for one in copies if one.system == system}
    again = plan(found.kept, windows)
    assert len(gone(again)) <= len(found.items)


@settings(max_examples=100, deadline=None)
@given(histories(), windows_)
def test_recovery_reaches_every_instant_of_the_window(copies: list[Copy], windows: Windows) -> None:
    """From some kept backup that ended before the window opens all WAL stays, if there is such a backup at all."""
    copies = [replace(one, timeline=1, system="1") for one in copies]
    found = plan(copies, windows)
    now = found.references["1"] if copies else None
    if windows.pitr is None or now is None:
        return
    opens = now.opens(windows.pitr)
    sure = [one for one in copies if one.whole and one.id in found.trusted and one.stopped < opens]
    if not sure:
        return
    kept = [one for one in found.kept if one in sure]
    base = max(sure, key=lambda one: (one.stopped, one.stop))
    assert base in kept
    spans_ = kept_wal(
        found.kept, found.trusted, ONE, now, windows.pitr, segment_bytes=SEGMENT, skew=SKEW, timelines=[1]
    )
    assert any(one.last is None and one.first <= base.start // SEGMENT for one in spans_)


def test_ten_years_of_daily_backups_with_expiry_each_day() -> None:
    """Decided in seconds, and never more than the windows hold."""
    began = time.monotonic()
    left: list[Copy] = []
    most = 0
    for day in range(3653):
        left = [*left, copy(day + 1, START + day * DAY)]
        found = plan(left)
        assert not found.massive
        left = list(found.kept)
        most = max(most, len(left))
    assert most <= 8 + 5 + 13 + 8 + 3
    assert {one.stopped.year for one in left} == set(range(2029, 2037)) or len({o.stopped.year for o in left}) >= 7
    big = plan(daily(3653))
    assert len(big.kept) <= most + 2
    assert time.monotonic() - began < 60
