"""JUnit XML: what a build server counts is what happened."""

from __future__ import annotations

from dataclasses import replace
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drills.report.junit import to_junit
from drills.report.model import DrillReport, Objective, Probe, State, Verdict
from tests.drills.report.samples import aborted, checks, failed, hostile, passed


def suite(report: DrillReport) -> ElementTree.Element:
    root = ElementTree.fromstring(to_junit(report).encode())
    (found,) = root
    assert root.tag == "testsuites" and found.tag == "testsuite"
    return found


def results(report: DrillReport) -> dict[str, str]:
    """Case -> failure, error, skipped or passed."""
    found = {}
    for case in suite(report).iter("testcase"):
        result = [child.tag for child in case]
        assert len(result) <= 1
        found[str(case.get("name"))] = result[0] if result else "passed"
    return found


def test_a_passed_drill_has_no_failure() -> None:
    found = results(passed())
    assert set(found.values()) == {"passed", "skipped"}
    assert [name for name, result in found.items() if result == "skipped"] == [
        "open_orders no order is older than a day"
    ]
    names = ("verdict", "WAL is archived", "fra cannot be read", "rto", "rpo", "V4 notices sabotage")
    assert all(found[name] == "passed" for name in names)


def test_failures_and_errors_are_told_apart() -> None:
    found = results(failed())
    assert found["verdict"] == found["rto"] == found["rpo"] == "failure"
    assert found["V1 the ledger: no hole, nothing invented, order kept"] == "failure"
    assert found["V4 pg_amcheck, pg_checksums and pg_dump"] == "error", "it could not be carried out"
    assert found["V5 notices sabotage"] == "error", "a check that cannot fail proves nothing"
    assert "V4 notices sabotage" not in found, "it had no control"


@pytest.mark.parametrize(
    "report", [passed(), failed(), aborted(), hostile()], ids=("passed", "failed", "aborted", "hostile")
)
def test_the_totals_are_those_of_the_cases(report: DrillReport) -> None:
    found = suite(report)
    cases = list(found.iter("testcase"))
    assert int(found.get("tests", "")) == len(cases)
    for total, tag in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
        assert int(found.get(total, "")) == sum(case.find(tag) is not None for case in cases)
    assert float(found.get("time", "")) == pytest.approx(1152.36)


@pytest.mark.parametrize("verdict", [Verdict.INCONCLUSIVE, Verdict.ABORTED])
def test_no_answer_is_an_error(verdict: Verdict) -> None:
    assert results(replace(passed(), verdict=verdict))["verdict"] == "error"


def test_what_was_not_measured_is_an_error_and_what_was_not_promised_is_skipped() -> None:
    rows = (Objective("rto", 60.0, None, ""), Objective("rpo", None, 3.0, ""))
    found = results(replace(passed(), objectives=rows))
    assert (found["rto"], found["rpo"]) == ("error", "skipped")


@pytest.mark.parametrize("ok", [False, None])
def test_a_probe_that_was_not_met_is_an_error(ok: bool | None) -> None:
    found = results(replace(passed(), proof=(Probe("fra is gone", ok, "it answers"),)))
    assert found["fra is gone"] == "error"


def test_a_required_check_that_was_skipped_is_an_error() -> None:
    one = replace(checks()[0], state=State.SKIPPED)
    assert results(replace(passed(), checks=(one,)))[f"V1 {one.title}"] == "error"


def test_an_empty_message_and_hostile_names_are_still_xml() -> None:
    text = to_junit(hostile())
    assert "<script>" not in text and "\x1b" not in text
    assert suite(hostile()).get("name", "").startswith("</title>")


@given(st.text(st.characters(codec=None, exclude_categories=())))
def test_any_name_is_xml(name: str) -> None:
    assert suite(replace(aborted(), cluster=name, environment={name: name}, sentence=name)).get("tests")
