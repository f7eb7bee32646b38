"""A report as JUnit XML: one suite, whose cases are the verdict, the probes, the objectives, the checks and controls.

A failure is a promise or a check that does not hold. An error is what leaves the drill without an answer: a probe that
was not met, a required check that was not carried out, a control that was not caught, a verdict of inconclusive or
aborted.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from xml.etree import ElementTree

from drills.report.model import CheckResult, Control, DrillReport, Objective, Probe, State, Verdict
from drills.report.view import CONTROL_WORDS, promise_words, seconds, visible
from drkit.core.units import parse_time

PASSED, FAILURE, ERROR, SKIPPED = "", "failure", "error", "skipped"


@dataclass(frozen=True, slots=True)
class Case:
    """result: the element that says so, "" where it passed."""

    group: str
    name: str
    result: str
    message: str
    text: str = ""
    seconds: float = 0.0


def to_junit(report: DrillReport) -> str:
    """The file `junit.xml`."""
    found = list(cases(report))
    suite = ElementTree.Element("testsuite", _totals(report, found))
    properties = ElementTree.SubElement(suite, "properties")
    facts = {"report": report.id, "cluster": report.cluster, "scenario": report.scenario, "point": report.point}
    for name, value in {**facts, **report.environment}.items():
        ElementTree.SubElement(properties, "property", {"name": visible(name), "value": visible(value)})
    for case in found:
        where = {"classname": visible(f"{report.drill}.{case.group}"), "name": visible(case.name)}
        element = ElementTree.SubElement(suite, "testcase", {**where, "time": f"{case.seconds:.3f}"})
        if case.result:
            told = ElementTree.SubElement(element, case.result, {"message": visible(case.message)})
            told.text = visible(case.text) or None
    out = ElementTree.SubElement(suite, "system-out")
    out.text = visible(report.sentence)
    root = ElementTree.Element("testsuites")
    root.append(suite)
    ElementTree.indent(root)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{ElementTree.tostring(root, encoding="unicode")}\n'


def _totals(report: DrillReport, found: list[Case]) -> dict[str, str]:
    counts = {word: sum(case.result == word for case in found) for word in (FAILURE, ERROR, SKIPPED)}
    took = (parse_time(report.ended_at) - parse_time(report.started_at)).total_seconds()
    return {
        "name": visible(report.drill),
        "tests": str(len(found)),
        "failures": str(counts[FAILURE]),
        "errors": str(counts[ERROR]),
        "skipped": str(counts[SKIPPED]),
        "time": f"{max(0.0, took):.3f}",
        "timestamp": report.started_at[:19],
    }


def cases(report: DrillReport) -> Iterator[Case]:
    """In the order of the drill, the verdict first."""
    results = {Verdict.PASS: PASSED, Verdict.FAIL: FAILURE}
    reasons = "\n".join(report.reasons)
    yield Case("verdict", "verdict", results.get(report.verdict, ERROR), report.sentence, reasons)
    for group, probes in (("steady state", report.steady), ("fault", report.proof)):
        yield from (_probe(group, probe) for probe in probes)
    yield from (_objective(one) for one in report.objectives)
    for check in report.checks:
        yield _check(check)
        if check.control is not Control.NONE:
            missed = check.control is Control.MISSED
            message = check.control_text or f"the sabotage was {CONTROL_WORDS[check.control]}"
            yield Case("controls", f"{check.check} notices sabotage", ERROR if missed else PASSED, message)


def _probe(group: str, probe: Probe) -> Case:
    return Case(group, probe.name, PASSED if probe.ok else ERROR, probe.text or "unknown")


def _objective(one: Objective) -> Case:
    state, promised = promise_words(one)
    measured = "not measured" if one.measured_s is None else f"{seconds(one.measured_s)} measured"
    result = {"kept": PASSED, "BROKEN": FAILURE, "not promised": SKIPPED}.get(state, ERROR)
    return Case("objectives", one.name, result, f"{measured}, {promised}", one.text)


def _check(check: CheckResult) -> Case:
    result = {State.PASSED: PASSED, State.FAILED: FAILURE, State.ERROR: ERROR, State.SKIPPED: SKIPPED}[check.state]
    if check.required and check.state is State.SKIPPED:
        result = ERROR
    message = f"expected {check.expected}; found {check.actual}"
    return Case("checks", f"{check.check} {check.title}", result, message, "\n".join(check.facts), check.seconds)
