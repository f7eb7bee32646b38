"""The page for a terminal: the verdict first, everything that matters in words, nothing wider than it need be."""

from __future__ import annotations

from dataclasses import replace

import pytest

from drills.report.model import DrillReport, Objective
from drills.report.text import WIDTH, to_text
from tests.drills.report.samples import aborted, failed, hostile, passed


def lines(report: DrillReport) -> list[str]:
    return to_text(report).splitlines()


def line(report: DrillReport, start: str) -> str:
    return next(one for one in lines(report) if one.strip().startswith(start))


def test_the_verdict_and_its_sentence_come_first() -> None:
    found = lines(passed())
    assert found[0] == "PASSED: Region lost, cluster orders"
    assert " ".join(found[2:4]) == passed().sentence
    assert lines(failed())[0].startswith("FAILED")


@pytest.mark.parametrize("report", [passed(), failed(), aborted()], ids=("passed", "failed", "aborted"))
def test_it_fits_a_terminal(report: DrillReport) -> None:
    hashes = [*report.evidence.values(), report.before]
    assert [one for one in lines(report) if len(one) > WIDTH and not any(h and h in one for h in hashes)] == []
    assert not any(one != one.rstrip() for one in lines(report))


def test_figures_stand_beside_what_was_promised() -> None:
    assert "Recovery time: 17m 42s (objective 30m: kept)" in lines(passed())
    assert "Lost time: 2m 11s (objective 1m: BROKEN)" in lines(failed())
    assert "Recovery time: no write was acknowledged" in to_text(aborted())


def test_the_waterfall_shows_when_and_marks_the_objective() -> None:
    restore = line(passed(), "T5")
    assert "+11m 42s" in restore and "#######" in restore and restore.endswith("!")
    assert "#" not in line(passed(), "T1 ") and ".." in line(passed(), "T1 ")
    assert "a sandbox is not put under protection" in line(passed(), "T12")
    far = replace(passed(), objectives=(Objective("rto", 90_000.0, 1062.0, ""),))
    assert "beyond the right edge" in to_text(far)


def test_the_objective_is_marked_in_one_column_whatever_a_row_is_called() -> None:
    drawn = [one for one in lines(passed()) if one.startswith("  T") and one.endswith("!")]
    assert len(drawn) == 12 and len({len(one) for one in drawn}) == 1


def test_what_failed_is_told_in_full_and_what_passed_in_a_line() -> None:
    text = to_text(failed())
    assert "FAILED   V1" in text and "writer w1: 40311 is missing" in text
    assert "ERROR    V4" in text and "pg_amcheck is not installed" in text
    assert "[control NOT caught]" in text and "a sequence was set back, and nothing was seen" in text
    assert "14 of 14" not in text


def test_rows_that_are_lost_are_named() -> None:
    assert "lost: writer w1: 40599" in to_text(passed())
    assert "WRONG: writer w1 has a hole at 40311" in to_text(failed())


def test_a_denied_target_that_was_read_is_shouted() -> None:
    assert "0 B  denied" in line(passed(), "mirror")
    assert "DENIED, AND READ ALL THE SAME" in line(failed(), "local")


def test_what_was_not_tested_is_told() -> None:
    assert "Not tested" in lines(passed())
    assert "no client was moved" in to_text(passed())


def test_hostile_names_do_not_reach_the_terminal() -> None:
    text = to_text(hostile())
    assert "\x1b" not in text and "\u202e" not in text
    assert text.encode()
