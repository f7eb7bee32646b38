"""The judge: what it calls lost, doubtful, invented, a hole; and that a sabotaged recovery never passes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drills.ledger import Entry, Moment, Row, Verdict, judge

NEVER = Moment(1e9, 1e9)


def entry(writer: str, number: int, sent_s: float, acknowledged_s: float | None) -> Entry:
    return Entry(writer, number, f"{writer}/{number}", sent_s, acknowledged_s)


def rows_of(entries: list[Entry]) -> list[Row]:
    return [Row(e.writer, e.number, e.digest) for e in entries]


BOOK = [
    entry("a", 1, 1.0, 1.1),
    entry("b", 1, 1.05, 1.2),
    entry("a", 2, 2.0, 2.1),
    entry("b", 2, 2.05, 2.2),
    entry("a", 3, 3.0, 3.1),
    entry("b", 3, 3.05, None),
]


def test_all_back_is_complete() -> None:
    verdict = judge(BOOK, rows_of(BOOK[:5]), Moment(4.0, 4.0))
    assert verdict.complete
    assert (verdict.expected, verdict.kept, verdict.lost) == (5, 5, ())
    assert verdict.loss_s == pytest.approx(4.0 - 3.1)


def test_the_newest_rows_lost_are_loss_and_nothing_worse() -> None:
    verdict = judge(BOOK, rows_of(BOOK[:3]), Moment(4.0, 4.0))
    assert verdict.sound
    assert not verdict.complete
    assert verdict.lost == (("a", 3), ("b", 2))
    assert verdict.loss_s == pytest.approx(4.0 - 2.1)


def test_an_unacknowledged_row_that_is_there_is_in_doubt_and_legal() -> None:
    verdict = judge(BOOK, rows_of(BOOK), Moment(4.0, 4.0))
    assert verdict.complete
    assert verdict.in_doubt == (("b", 3),)


def test_nothing_back_is_measured_from_the_first_row_sent() -> None:
    verdict = judge(BOOK, [], Moment(4.0, 4.0))
    assert len(verdict.lost) == 5
    assert verdict.loss_s == pytest.approx(3.0)


def test_nothing_expected_measures_nothing() -> None:
    assert judge([], [], NEVER).loss_s is None


def test_loss_counts_from_before_the_first_row_lost_not_from_the_newest_one_kept() -> None:
    verdict = judge(BOOK, rows_of([BOOK[0], *BOOK[2:5]]), Moment(4.0, 4.0))
    assert verdict.loss_s == pytest.approx(4.0 - 1.1)
    assert not verdict.sound


def test_a_row_that_nobody_sent_is_invented() -> None:
    verdict = judge(BOOK, [*rows_of(BOOK[:5]), Row("c", 1, "?")], Moment(4.0, 4.0))
    assert verdict.invented == (("c", 1),)
    assert not verdict.sound


def test_another_payload_and_a_row_twice_are_changes() -> None:
    rows = rows_of(BOOK[:5])
    assert judge(BOOK, [replace(rows[0], digest="other"), *rows[1:]], NEVER).changed == (("a", 1),)
    assert judge(BOOK, [*rows, rows[3]], NEVER).changed == (("b", 2),)


def test_a_hole_fails_even_where_the_row_was_never_acknowledged() -> None:
    book = [entry("a", 1, 1.0, None), entry("a", 2, 2.0, 2.1)]
    verdict = judge(book, rows_of(book[1:]), NEVER)
    assert verdict.holes == (("a", 1),)
    assert not verdict.sound


def test_order_between_writers() -> None:
    """a/1 was acknowledged before b/1 was sent: b/1 without a/1 cannot be, though neither writer has a hole."""
    book = [entry("a", 1, 1.0, 1.1), entry("b", 1, 1.2, 1.3)]
    assert judge(book, rows_of(book[1:]), NEVER).out_of_order == ((("a", 1), ("b", 1)),)
    overlapping = [entry("a", 1, 1.0, 1.25), entry("b", 1, 1.2, 1.3)]
    assert judge(overlapping, rows_of(overlapping[1:]), NEVER).out_of_order == ()


def test_a_recovery_target_expects_what_came_before_and_allows_what_overlapped() -> None:
    target = Moment(2.08, 2.12)  # a/2 was acknowledged and b/2 sent while it committed
    for back in (BOOK[:2], BOOK[:3], [*BOOK[:3], BOOK[3]]):
        verdict = judge(BOOK, rows_of(back), target)
        assert verdict.complete
        assert verdict.expected == 2
        assert verdict.target_error_s == 0.0


def test_a_row_from_after_the_target_is_target_error_and_not_loss() -> None:
    verdict = judge(BOOK, rows_of(BOOK[:5]), Moment(2.5, 2.6))
    assert verdict.beyond == (("a", 3),)
    assert verdict.target_error_s == pytest.approx(3.0 - 2.6)
    assert verdict.lost == ()
    assert not verdict.sound


# --- histories: any interleaving of writers, cut at any commit ---

Order = list[tuple[Entry, float]]  # entries with the instant of their commit, in commit order


@st.composite
def histories(draw: st.DrawFn) -> Order:
    """What several writers saw of a database that commits one row at a time; commits are at whole seconds."""
    writers = draw(st.lists(st.sampled_from("abc"), min_size=2, max_size=24))
    free_at: dict[str, float] = {}
    numbers: dict[str, int] = {}
    found: Order = []
    for at, writer in enumerate(writers, start=1):
        earliest = free_at.get(writer, 0.0)
        sent = draw(st.floats(earliest, at, exclude_min=True, exclude_max=True))
        answered = draw(st.floats(at, at + 3.0, exclude_min=True, exclude_max=True))
        later = [n for n, other in enumerate(writers, start=1) if other == writer and n > at]
        if later:
            answered = min(answered, (at + later[0]) / 2)
        numbers[writer] = numbers.get(writer, 0) + 1
        free_at[writer] = answered
        last = not later and draw(st.booleans())
        found.append((entry(writer, numbers[writer], sent, None if last else answered), float(at)))
    return found


cuts = st.floats(0.0, 1.0)


@given(histories(), cuts)
def test_every_prefix_of_the_commits_is_sound(history: Order, cut: float) -> None:
    book = [one for one, _ in history]
    kept = int(cut * len(book))
    assert judge(book, rows_of(book[:kept]), NEVER).sound


@given(histories(), cuts)
def test_recovery_to_a_commit_is_complete_for_that_moment(history: Order, cut: float) -> None:
    """The target commits half way between two rows; whatever its client saw of it, all before it is expected."""
    kept = int(cut * len(history))
    moment = Moment(kept + 0.5, kept + 0.5)
    verdict = judge([one for one, _ in history], rows_of([one for one, _ in history[:kept]]), moment)
    assert verdict.complete


@given(histories())
def test_kept_and_lost_add_up_and_the_loss_is_never_understated(history: Order) -> None:
    book = [one for one, _ in history]
    for kept in range(len(book) + 1):
        verdict = judge(book, rows_of(book[:kept]), NEVER)
        assert verdict.kept + len(verdict.lost) == verdict.expected
        if verdict.lost:
            lost = [e.acknowledged_s for e in book if e.key in verdict.lost and e.acknowledged_s is not None]
            assert verdict.loss_s is not None
            assert verdict.loss_s >= NEVER.begun_s - min(lost)


Sabotage = Callable[[list[Row], int], list[Row]]
SABOTAGE: dict[str, Sabotage] = {
    "drop one": lambda rows, at: rows[:at] + rows[at + 1 :],
    "change one": lambda rows, at: [*rows[:at], replace(rows[at], digest="x"), *rows[at + 1 :]],
    "twice": lambda rows, at: [*rows, rows[at]],
    "invent": lambda rows, at: [*rows, Row("nobody", at + 1, "x")],
    "number never sent": lambda rows, at: [*rows, Row(rows[at].writer, 10_000, "x")],
}


@pytest.mark.parametrize("name", SABOTAGE)
@given(history=histories(), data=st.data())
def test_no_sabotaged_recovery_is_complete(name: str, history: Order, data: st.DataObject) -> None:
    """The negative control: a complete recovery, spoilt in one row, is not taken for complete any more."""
    book = [one for one, _ in history if one.acknowledged_s is not None]
    if not book:
        return
    at = data.draw(st.integers(0, len(book) - 1))
    assert judge(book, rows_of(book), NEVER).complete
    spoilt = judge(book, SABOTAGE[name](rows_of(book), at), NEVER)
    assert not spoilt.complete


@given(histories(), st.data())
def test_holes_are_found_exactly(history: Order, data: st.DataObject) -> None:
    book = [one for one, _ in history]
    back = data.draw(st.lists(st.sampled_from(book), unique_by=lambda one: one.key))
    verdict: Verdict = judge(book, rows_of(back), NEVER)
    there = {one.key for one in back}
    holes = {
        one.key for one in book if one.key not in there and any(w == one.writer and n > one.number for w, n in there)
    }
    assert set(verdict.holes) == holes


@given(histories(), st.data())
def test_order_is_judged_as_the_definition_says(history: Order, data: st.DataObject) -> None:
    book = [one for one, _ in history]
    back = data.draw(st.lists(st.sampled_from(book), unique_by=lambda one: one.key))
    there = {one.key for one in back}
    wrong = {
        x.key
        for x in book
        for y in back
        if x.key not in there and x.acknowledged_s is not None and x.acknowledged_s < y.sent_s
    }
    assert {x for x, _ in judge(book, rows_of(back), NEVER).out_of_order} == wrong
