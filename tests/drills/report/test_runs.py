"""All lost rows are named, however many there are."""

from __future__ import annotations

from dataclasses import replace

from drills.report.html import to_html
from drills.report.model import Fate, Loss, Run, StripRow
from drills.report.runs import lost_rows, runs_of
from drills.report.text import to_text
from tests.drills.report.samples import failed

LOSS = Loss(expected=9000, kept=4792, lost=4208, in_doubt=0, loss_s=30.0, target_error_s=0.0, sound=True)


def test_rows_are_named_in_runs() -> None:
    keys = [("b", number) for number in (7, 5, 6, 9)] + [("a", 1)]
    assert runs_of(keys) == (Run("a", 1, 1), Run("b", 5, 7), Run("b", 9, 9))
    loss = replace(LOSS, lost=5, lost_runs=runs_of(keys))
    assert list(lost_rows(loss)) == ["writer a: 1", "writer b: 5 to 7, 9"]
    assert list(lost_rows(replace(LOSS, lost=0))) == []


def test_a_report_names_rows_that_its_strip_has_no_room_for() -> None:
    strip = tuple(StripRow("w1", number, -1.0, Fate.LOST) for number in range(5308, 5459))
    loss = replace(LOSS, strip=strip, lost_runs=(Run("w1", 1251, 5458),))
    report = replace(failed(), loss=loss)
    assert "  lost: writer w1: 1251 to 5458\n" in to_text(report)
    assert "Lost: writer w1: 1251 to 5458." in to_html(report, "")


def test_an_older_report_says_how_many_it_does_not_name() -> None:
    strip = tuple(StripRow("w1", number, -1.0, Fate.LOST) for number in range(5308, 5459))
    assert list(lost_rows(replace(LOSS, strip=strip))) == ["writer w1: 5308 to 5458", "and 4,057 more"]


def test_a_thousand_holes_do_not_fill_the_page() -> None:
    loss = replace(LOSS, lost=1000, lost_runs=runs_of(("w1", number * 2) for number in range(1000)))
    *_, last = lost_rows(loss)
    assert last == "and 936 more" and len(loss.lost_runs) == 256
