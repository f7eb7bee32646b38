"""A report as text: one page that a terminal of 80 columns shows and a tired reader takes in from the top down."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

from drills.report.model import CheckResult, Control, DrillReport, Fate, Probe, State, StripRow
from drills.report.runs import lost_rows
from drills.report.view import (
    CONTROL_WORDS,
    VERDICT_WORDS,
    Scale,
    bins,
    judged,
    loss_age,
    loss_words,
    machine_s,
    objective,
    offset,
    phases,
    promise_note,
    scale,
    seconds,
    visible,
    when,
)
from drkit.core.units import format_size

WIDTH = 80
_BAR = 30
_STRIP = 60
_LEGEND = {Fate.KEPT: "|", Fate.LOST: "X", Fate.IN_DOUBT: "?", Fate.BEYOND: "."}
_STATES = {State.PASSED: "passed", State.FAILED: "FAILED", State.SKIPPED: "skipped", State.ERROR: "ERROR"}
_FACTS_SHOWN = 6


def to_text(report: DrillReport) -> str:
    """The file `report.txt`. What comes from elsewhere cannot move the cursor or change colours."""
    parts = (
        _head(report), _findings(report), _recovery(report), _loss(report), _checks(report), _bytes(report),
        _circumstances(report), _untested(report), _evidence(report),
    )  # fmt: skip
    return "\n".join("\n".join(part) + "\n" for part in (list(one) for one in parts) if part)


def _wrapped(text: str, indent: str = "", first: str | None = None) -> list[str]:
    return textwrap.wrap(
        visible(text, keep=""),
        WIDTH,
        initial_indent=indent if first is None else first,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    ) or [(indent if first is None else first).rstrip()]


def _pair(name: str, value: str) -> list[str]:
    """A short name beside its value; a long one above it."""
    head = f"  {visible(name, keep=''):<12}"
    if len(head) <= 14:
        return _wrapped(value or "-", " " * 14, head)
    return [head.rstrip(), *_wrapped(value or "-", " " * 14)]


def _head(report: DrillReport) -> Iterator[str]:
    yield f"{VERDICT_WORDS[report.verdict].upper()}: {visible(report.title)}, cluster {visible(report.cluster)}"
    yield "=" * min(WIDTH, 60)
    yield from _wrapped(report.sentence)
    if report.reasons:
        yield ""
        for reason in report.reasons:
            yield from _wrapped(reason, "  ", "- ")


def _findings(report: DrillReport) -> Iterator[str]:
    if not report.findings:
        return
    yield "To act on"
    for one in report.findings:
        yield from _wrapped(one.text, " " * 10, f"  {visible(one.level):<8}")
        if one.cure:
            yield from _wrapped(one.cure, " " * 10)


def _recovery(report: DrillReport) -> Iterator[str]:
    rto, axis = objective(report, "rto"), scale(report)
    at = report.instant("T11")
    yield (
        "Recovery time: "
        + ("no write was acknowledged" if at is None else seconds(at))
        + (f" ({promise_note(rto)})" if rto is not None else "")
    )
    machine = machine_s(report)
    if machine is not None and machine != at:
        yield f"  without the declared allowances: {seconds(machine)}"
    for row in phases(report):
        if row.end_s is None or row.start_s is None:
            yield from _wrapped(row.why, " " * 35, f"  {row.clock:<3} {row.label:<28} ")
            continue
        bar = _bar(axis, row.start_s, row.end_s, "." if row.declared else "#")
        yield f"  {row.clock:<3} {row.label:<28} {offset(row.end_s):>8} {bar}".rstrip()
    notes = ["." * 3 + " allowance, declared"] if any(row.declared for row in phases(report)) else []
    if axis.objective_s is not None:
        notes.append("! objective")
    elif rto is not None and rto.promised_s is not None:
        notes.append("the objective lies beyond the right edge")
    if notes:
        yield " " * 35 + ", ".join(notes)


def _bar(axis: Scale, start_s: float, end_s: float, char: str) -> str:
    low = round(axis.share(start_s) * (_BAR - 1))
    high = round(axis.share(end_s) * (_BAR - 1))
    cells = [char if low <= at <= high and end_s > start_s else " " for at in range(_BAR)]
    if end_s == start_s:
        cells[high] = char
    if axis.objective_s is not None:
        cells[round(axis.share(axis.objective_s) * (_BAR - 1))] = "!"
    return "".join(cells)


def _loss(report: DrillReport) -> Iterator[str]:
    rpo, loss = objective(report, "rpo"), report.loss
    if loss is None and rpo is None:
        return
    yield f"Lost time: {loss_age(loss)}" + (f" ({promise_note(rpo)})" if rpo is not None else "")
    if loss is None:
        return
    yield from _wrapped(loss_words(loss), "  ")
    if loss.target_error_s:
        yield f"  recovery went {seconds(loss.target_error_s)} past its target"
    for line in loss.wrong:
        yield from _wrapped(line, "  ", "  WRONG: ")
    if loss.strip:
        yield from _strip(loss.strip)
    for line in lost_rows(loss):
        yield from _wrapped(line, " " * 6, "  lost: ")


def _strip(strip: tuple[StripRow, ...]) -> Iterator[str]:
    """One line for each fate that occurs: a bin's mark stands where it has such a row."""
    found = bins(strip, _STRIP)
    fault = sum(one.end_s <= 0.0 for one in found)
    for fate, mark in _LEGEND.items():
        if any(fate in one.counts for one in found):
            cells = "".join(mark if fate in one.counts else " " for one in found)
            yield f"  {fate.value:<9} {cells[:fault]}!{cells[fault:]}".rstrip()
    left = f"{offset(found[0].start_s)}"
    yield f"{'':<12}{left}{'! fault':>{max(len(left) + 8, fault + 7) - len(left)}}"


def _checks(report: DrillReport) -> Iterator[str]:
    if not report.checks:
        return
    yield f"Checks: {judged(report.checks)}"
    for one in report.checks:
        control = "" if one.control is Control.NONE else f" [control {CONTROL_WORDS[one.control]}]"
        optional = "" if one.required else " (not required)"
        title = f"{one.check} {one.title}{optional}{control}"
        yield from _wrapped(title, " " * 11, f"  {_STATES[one.state]:<8} ")
        if one.state is not State.PASSED or one.control is Control.MISSED:
            yield from _detail(one)


def _detail(one: CheckResult) -> Iterator[str]:
    yield from _wrapped(one.expected, " " * 20, " " * 11 + "expected ")
    yield from _wrapped(one.actual, " " * 20, " " * 11 + "found    ")
    if one.control is Control.MISSED and one.control_text:
        yield from _wrapped(one.control_text, " " * 20, " " * 11 + "control  ")
    for fact in one.facts[:_FACTS_SHOWN]:
        yield from _wrapped(fact, " " * 13, " " * 11 + "- ")
    if len(one.facts) > _FACTS_SHOWN:
        yield f"{'':<11}- and {len(one.facts) - _FACTS_SHOWN} more"


def _bytes(report: DrillReport) -> Iterator[str]:
    if not report.bytes_from:
        return
    yield "Bytes came from (files as stored, WAL as replayed)"
    for name in sorted(report.bytes_from):
        size = report.bytes_from[name]
        denied = ""
        if name in report.denied:
            denied = "  denied" if size == 0 else "  DENIED, AND READ ALL THE SAME"
        yield f"  {visible(name):<20} {format_size(size):>10}{denied}"


def _circumstances(report: DrillReport) -> Iterator[str]:
    yield "How it was done"
    owner = f", owner {report.owner}" if report.owner else ""
    yield from _pair("drill", f"{report.drill} {report.scenario}, version {report.version}{owner}")
    yield from _pair("when", f"{when(report.started_at)} to {when(report.ended_at)} UTC")
    yield from _pair("fault", report.fault)
    yield from _pair("point", f"{report.point}; reached {report.reached or 'nothing'} on timeline {report.timeline}")
    yield from _pair("backup", report.backup)
    if report.production_bytes:
        share = report.restored_bytes / report.production_bytes
        size = f"{format_size(report.restored_bytes)} restored, production has {format_size(report.production_bytes)}"
        yield from _pair("size", f"{size} ({share:.0%})")
    for title, probes in (("steady", report.steady), ("proof", report.proof)):
        for probe in probes:
            yield from _pair(title, f"{_probe_word(probe)}: {probe.name}: {probe.text}")
    for name, value in report.environment.items():
        yield from _pair(name, value)


def _probe_word(probe: Probe) -> str:
    return {True: "yes", False: "NO", None: "UNKNOWN"}[probe.ok]


def _untested(report: DrillReport) -> Iterator[str]:
    if report.untested:
        yield "Not tested"
        for line in report.untested:
            yield from _wrapped(line, "    ", "  - ")


def _evidence(report: DrillReport) -> Iterator[str]:
    yield f"Report {visible(report.id)}; SHA-256 of its evidence:"
    for name, digest in [*report.evidence.items(), ("report before this one", report.before or "none")]:
        yield f"  {visible(digest)}  {visible(name)}"
