"""What text and page share: durations, phases, ticks, bins, and text that does no harm."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drills.report.model import Fate, Instant, Objective, StripRow
from drills.report.view import bins, machine_s, phases, promise_note, scale, seconds, span, ticks, visible
from tests.drills.report.samples import HOSTILE, passed

rows = st.builds(StripRow, st.sampled_from("abc"), st.integers(1, 99), st.floats(-1e6, 1e6), st.sampled_from(Fate))


@given(st.lists(rows, max_size=60), st.integers(2, 200))
def test_every_row_is_in_one_bin_and_no_bin_spans_the_fault(strip: list[StripRow], count: int) -> None:
    found = bins(strip, count)
    assert len(found) == count
    assert sum(one.rows for one in found) == len(strip)
    assert sum((Counter(one.counts) for one in found), Counter()) == Counter(row.fate for row in strip)
    assert all(one.start_s < one.end_s and not one.start_s < 0 < one.end_s for one in found)
    assert all(before.end_s == after.start_s for before, after in pairwise(found))
    assert (found[0].start_s, found[-1].end_s) == pytest.approx(span(strip))
    for row in strip:
        assert any(one.start_s <= row.at_s <= one.end_s and one.counts.get(row.fate) for one in found)


@given(st.floats(0.001, 1e9))
def test_ticks_are_few_and_within(end_s: float) -> None:
    found = ticks(end_s)
    assert 2 <= len(found) <= 11
    assert found[0] == 0 and found[-1] <= end_s * 1.001
    assert all(after > before for before, after in pairwise(found))


def test_ticks_are_round() -> None:
    assert [seconds(at) for at in ticks(1872)] == ["0s", "10m", "20m", "30m"]
    assert [seconds(at) for at in ticks(62)] == ["0s", "15s", "30s", "45s", "1m"]
    assert [seconds(at) for at in ticks(3)] == ["0s", "1s", "2s", "3s"]


def test_a_phase_begins_where_the_last_clock_that_was_read_stood() -> None:
    report = replace(passed(), instants=(Instant("T0", 0.0), Instant("T5", 50.0), Instant("T4", None, "no trace")))
    found = {row.clock: row for row in phases(report)}
    assert (found["T5"].start_s, found["T5"].took_s) == (0.0, 50.0)
    assert (found["T4"].took_s, found["T4"].why) == (None, "no trace")
    assert found["T12"].why == "not measured"
    assert len(found) == 13


def test_a_clock_behind_its_forerunner_takes_no_time() -> None:
    report = replace(passed(), instants=(Instant("T5", 50.0), Instant("T6", 40.0), Instant("T7", 60.0)))
    found = {row.clock: row.took_s for row in phases(report)}
    assert (found["T6"], found["T7"]) == (0.0, 10.0)


def test_the_machines_time_leaves_allowances_out() -> None:
    assert machine_s(passed()) == 1062 - 300
    measured = tuple(replace(one, declared=False) for one in passed().instants)
    assert machine_s(replace(passed(), instants=measured)) == 1062
    assert machine_s(replace(passed(), instants=())) is None


def test_an_objective_that_is_far_away_does_not_squeeze_the_bars() -> None:
    near, far = (
        replace(passed(), objectives=(Objective("rto", promised, 1062.0, ""),)) for promised in (4000.0, 40_000.0)
    )
    assert scale(near).objective_s == 4000 and scale(near).end_s > 4000
    assert scale(far).objective_s is None and scale(far).end_s == pytest.approx(1062 * 1.04)
    assert scale(replace(passed(), instants=(), objectives=())).end_s == 1.0


def test_what_was_not_promised_is_not_said_twice() -> None:
    assert promise_note(Objective("rto", None, 3.0, "")) == "nothing was promised"
    assert promise_note(Objective("rto", 5.0, 3.0, "")) == "objective 5s: kept"
    assert promise_note(Objective("rto", 5.0, None, "")) == "objective 5s: not measured"


@given(st.text(st.characters(codec=None, exclude_categories=())))
def test_no_text_controls_anything(text: str) -> None:
    found = visible(text)
    found.encode()
    assert not any(ord(char) < 32 and char != "\n" for char in found)
    assert not set(found) & set("\x7f\x9b\u202e\u2066\u2028")


def test_what_is_harmless_stays() -> None:
    assert visible("Łódź 東京 🐘 naïve\n") == "Łódź 東京 🐘 naïve\n"
    assert visible("\x1b[2J") == "\\x1b[2J"
    assert visible(HOSTILE).endswith("\\x1b[2J\\u202eevil\\ud800")
