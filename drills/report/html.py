"""A report as one page: no network, no script, nothing that a name from a database could break out of.

The order is that of a reader's questions: did it work, what is to be done, how long, how much was lost, how is that
known, from where did it come, under which circumstances, what was not looked at.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import cache
from importlib.resources import files

from drills.report.charts import HATCH, MARKS_AT_MOST, strip, waterfall
from drills.report.markup import Child, Markup, join, tag
from drills.report.model import CheckResult, Control, DrillReport, Objective, Probe, State, Verdict
from drills.report.runs import lost_rows
from drills.report.view import (
    CONTROL_WORDS,
    VERDICT_WORDS,
    judged,
    loss_age,
    loss_words,
    machine_s,
    objective,
    promise_words,
    seconds,
    when,
)
from drkit.core.units import format_size

_GLYPHS = {
    "good": "M3 8.5L6.5 12L13 4.5",
    "bad": "M4 4L12 12M12 4L4 12",
    "doubt": "M8 2L14.5 14H1.5ZM8 7V9.5M8 11.8V12",
    "idle": "M4 8H12",
}
_VERDICT_LOOKS = {Verdict.PASS: "good", Verdict.FAIL: "bad", Verdict.INCONCLUSIVE: "doubt", Verdict.ABORTED: "idle"}
_STATE_LOOKS = {
    State.PASSED: ("good", "passed"),
    State.FAILED: ("bad", "failed"),
    State.SKIPPED: ("idle", "skipped"),
    State.ERROR: ("doubt", "error"),
}
_CONTROL_LOOKS = {Control.CAUGHT: "good", Control.MISSED: "bad", Control.NONE: "idle"}
_PROMISE_LOOKS = {"kept": "good", "BROKEN": "bad", "not measured": "doubt", "not promised": "idle"}
_LEVEL_LOOKS = {"error": "bad", "warning": "doubt", "note": "idle"}
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"


def to_html(report: DrillReport, digest: str) -> str:
    """The file `report.html`. digest: SHA-256 of the same report's `report.json`."""
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag(
            "title", f"{VERDICT_WORDS[report.verdict]}: {report.title}, {report.cluster}, {when(report.started_at)} UTC"
        ),
        tag("style", Markup(_css())),
    )
    parts = (
        _findings(report), _recovery(report), _loss(report), _checks(report), _sources(report), _circumstances(report),
        _untested(report), _evidence(report, digest),
    )  # fmt: skip
    body = tag("body", HATCH, tag("main", _head(report), *parts), _footer(report))
    return f"<!DOCTYPE html>\n{tag('html', head, body, lang='en')}\n"


@cache
def _css() -> str:
    return files("drills.report").joinpath("page.css").read_text("utf-8")


def _state(look: str, words: str) -> Markup:
    """A shape, a word and a colour: no reader needs all three."""
    glyph = tag("svg", tag("path", d=_GLYPHS[look], class_="g"), viewBox="0 0 16 16", aria_hidden="true")
    return tag("span", glyph, tag("span", words), class_=f"state {look}")


def _section(title: str, note: str, *children: Child, style: str | None = None) -> Markup:
    small = tag("small", note) if note else None
    return tag("section", tag("h2", title, small), tag("div", *children), class_=style)


def _pairs(rows: Iterable[tuple[str, Child]]) -> Markup:
    return tag("dl", *(part for name, value in rows for part in (tag("dt", name), tag("dd", value))), class_="pairs")


# --- the head -----------------------------------------------------------------------------------------------------


def _head(report: DrillReport) -> Markup:
    look = _VERDICT_LOOKS[report.verdict]
    glyph = tag("svg", tag("path", d=_GLYPHS[look], class_="g"), viewBox="0 0 16 16", aria_hidden="true")
    return tag(
        "header",
        tag(
            "div",
            tag("span", f"Drill report · {report.title} ({report.scenario}) · cluster {report.cluster}"),
            tag("time", f"{when(report.started_at)} UTC", datetime=report.started_at),
            class_="kind",
        ),
        tag("p", glyph, tag("span", VERDICT_WORDS[report.verdict]), class_=f"verdict {look}"),
        tag("h1", report.sentence),
        tag("ul", *(tag("li", reason) for reason in report.reasons), class_="reasons") if report.reasons else None,
        tag("dl", *_figures(report), class_="figures"),
    )


def _figures(report: DrillReport) -> list[Markup]:
    rto, rpo, loss = objective(report, "rto"), objective(report, "rpo"), report.loss
    found = [
        _figure("Recovery time", _measured(report.instant("T11")), rto),
        _figure("Lost time", "–" if loss is None or loss.loss_s is None else loss_age(loss), rpo),
    ]
    if loss is None:
        found.append(_value("Lost rows", "–", tag("span", "no ledger was kept", class_="soft")))
    else:
        found.append(
            _value("Lost rows", f"{loss.lost:,}", tag("span", f"of {loss.expected:,} acknowledged", class_="soft"))
        )
    passed = sum(one.state is State.PASSED for one in report.checks)
    controls = [one for one in report.checks if one.control is not Control.NONE]
    caught = sum(one.control is Control.CAUGHT for one in controls)
    note = f"{caught} of {len(controls)} negative controls caught" if controls else "no negative control was run"
    value = f"{passed} of {len(report.checks)}" if report.checks else "–"
    found.append(_value("Checks passed", value, tag("span", note, class_="soft")))
    return found


def _measured(value: float | None) -> str:
    return "–" if value is None else seconds(value)


def _figure(name: str, words: str, one: Objective | None) -> Markup:
    if one is None:
        return _value(name, words, tag("span", "nothing was promised", class_="soft"))
    state, promised = promise_words(one)
    if one.promised_s is None:
        return _value(name, words, tag("span", promised, class_="soft"))
    return _value(
        name, words, join((_state(_PROMISE_LOOKS[state], state.lower()), tag("span", f" · {promised}", class_="soft")))
    )


def _value(name: str, value: str, note: Markup) -> Markup:
    return tag("div", tag("dt", name), tag("dd", value, class_="value"), tag("dd", note))


# --- the sections -------------------------------------------------------------------------------------------------


def _findings(report: DrillReport) -> Markup | None:
    if not report.findings:
        return None
    items = [
        tag("li", _state(_LEVEL_LOOKS.get(one.level, "idle"), one.level), " ", one.text,
            tag("div", one.cure, class_="soft small") if one.cure else None)
        for one in report.findings
    ]  # fmt: skip
    return _section("To act on", "", tag("ul", *items, class_="flat"))


def _recovery(report: DrillReport) -> Markup:
    at, machine = report.instant("T11"), machine_s(report)
    if at is None:
        words = "No write was acknowledged by the restored server."
    elif machine is not None and machine != at:
        words = f"{seconds(at)} from the disaster to the first acknowledged write; {seconds(machine)} of them without "
        words += "the declared allowances (hatched)."
    else:
        words = f"{seconds(at)} from the disaster to the first acknowledged write, all of it measured."
    read = any(one.at_s is not None and one.clock != "T0" for one in report.instants)
    drawn = waterfall(report) if read else tag("p", "No clock after the disaster was read.", class_="soft")
    return _section("Recovery time", "RTO, clocks T0 to T12", tag("p", words), drawn)


def _loss(report: DrillReport) -> Markup | None:
    loss = report.loss
    if loss is None:
        return None
    state = _state("good", "sound") if loss.sound else _state("bad", "not sound")
    wrong = [tag("li", _state("bad", "wrong"), " ", line) for line in loss.wrong]
    beyond = f"Recovery went {seconds(loss.target_error_s)} past its target. " if loss.target_error_s else ""
    parts: list[Child] = [tag("p", f"{loss_words(loss)}. {beyond}The ledger is ", state, ".")]
    if wrong:
        parts.append(tag("ul", *wrong, class_="flat"))
    if loss.strip:
        parts.append(strip(loss))
        kind = (
            "each mark is a row, each line a writer" if len(loss.strip) <= MARKS_AT_MOST else "rows counted over time"
        )
        lost = list(lost_rows(loss))
        note = f"{len(loss.strip):,} rows around the fault are shown, {kind}."
        parts.append(tag("p", note + (f" Lost: {'; '.join(lost)}." if lost else ""), class_="soft small"))
    return _section("Lost rows", "RPO, on the ledger of acknowledged commits", *parts)


def _checks(report: DrillReport) -> Markup | None:
    if not report.checks:
        return None
    heads = (("Check", None), ("Outcome", "outcome"), ("Negative control", "control"))
    table = tag(
        "table",
        tag("caption", "Checks with what was expected and what was found", class_="unseen"),
        tag("thead", tag("tr", *(tag("th", name, scope="col", class_=style) for name, style in heads))),
        tag("tbody", *(_check(one) for one in report.checks)),
        class_="checks",
    )
    note = "A negative control runs the same check on a sabotaged copy, where it must fail."
    return _section("Checks", judged(report.checks), table, tag("p", note, class_="soft small"), style="long")


def _check(one: CheckResult) -> Markup:
    look, words = _STATE_LOOKS[one.state]
    title = one.title if one.required else f"{one.title} (not required)"
    first = tag(
        "tr",
        tag("th", tag("code", one.check), title, scope="row"),
        tag("td", _state(look, words), class_="outcome"),
        tag("td", _state(_CONTROL_LOOKS[one.control], CONTROL_WORDS[one.control]), class_="control"),
    )
    same = one.expected == one.actual and one.state is State.PASSED
    lines = [("as expected", one.actual)] if same else [("expected", one.expected), ("found", one.actual)]
    lines += [("control", one.control_text)] if one.control_text else []
    told = tag("dl", *(part for name, value in lines for part in (tag("dt", name), tag("dd", value))))
    return join((first, tag("tr", tag("td", told, _facts(one), colspan=3, class_="both"))))


def _facts(one: CheckResult) -> Markup | None:
    """Open where the reader will want them."""
    if not one.facts:
        return None
    count = f"{len(one.facts)} fact{'s' if len(one.facts) != 1 else ''}"
    items = tag("ul", *(tag("li", fact) for fact in one.facts))
    return tag("details", tag("summary", count), items, open=one.state in (State.FAILED, State.ERROR))


def _sources(report: DrillReport) -> Markup | None:
    if not report.bytes_from:
        return None
    most = max(report.bytes_from.values()) or 1
    rows = [_source(name, size, name in report.denied, size / most) for name, size in sorted(report.bytes_from.items())]
    heads = (("Target", None), ("Read", "n"), ("Allowed", None))
    table = tag(
        "table",
        tag("caption", "Bytes read from each target", class_="unseen"),
        tag(
            "thead",
            tag(
                "tr", *(tag("th", name, scope="col", class_=style) for name, style in heads), tag("td", class_="share")
            ),
        ),
        tag("tbody", *rows),
    )
    return _section("Where it came from", "bytes read, by target: files as stored, WAL as replayed", table)


def _source(name: str, size: int, denied: bool, share: float) -> Markup:
    if denied:
        state = _state("good", "denied, nothing read") if size == 0 else _state("bad", "denied, and read")
    else:
        state = tag("span", "allowed", class_="soft")
    full = tag("rect", width=f"{share * 100:.2f}%", height="100%", class_="full") if size else None
    bar = tag("svg", tag("rect", width="100%", height="100%", class_="track"), full, aria_hidden="true")
    return tag("tr", tag("th", name, scope="row"), tag("td", format_size(size), class_="n"), tag("td", state),
               tag("td", bar, class_="share"))  # fmt: skip


def _circumstances(report: DrillReport) -> Markup:
    rows: list[tuple[str, Child]] = [
        ("drill", f"{report.drill}, version {report.version}{f', owner {report.owner}' if report.owner else ''}"),
        ("when", f"{when(report.started_at)} to {when(report.ended_at)} UTC"),
        ("fault", report.fault),
        (
            "recovery point",
            f"asked: {report.point}; reached: {report.reached or 'nothing'}; timeline {report.timeline}",
        ),
        ("base backup", tag("code", report.backup) if report.backup else "none"),
    ]
    if report.production_bytes:
        share = report.restored_bytes / report.production_bytes
        size = f"{format_size(report.restored_bytes)} restored; production has {format_size(report.production_bytes)}"
        rows.append(("size", f"{size}: {share:.0%} of it"))
    rows += [("steady state", _probe(one)) for one in report.steady]
    rows += [("fault proven", _probe(one)) for one in report.proof]
    rows += [(name, value) for name, value in report.environment.items()]
    return _section("Circumstances", "how it was done, on what", _pairs(rows), style="long")


def _probe(one: Probe) -> Markup:
    look, word = {True: ("good", "yes"), False: ("bad", "no"), None: ("doubt", "unknown")}[one.ok]
    return join((_state(look, word), f" {one.name}: {one.text}"))


def _untested(report: DrillReport) -> Markup | None:
    if not report.untested:
        return None
    items = [tag("li", line) for line in report.untested]
    return _section("Not tested", "what this drill does not show", tag("ul", *items, class_="flat"))


def _evidence(report: DrillReport, digest: str) -> Markup:
    rows = [(name, value) for name, value in report.evidence.items()]
    rows += [("report.json of this report", digest), ("report.json of the report before", report.before)]
    lines = [(name, tag("span", value or "none: this is the first", class_="hash")) for name, value in rows]
    definition = json.dumps(report.definition, indent=2, ensure_ascii=False) if report.definition else ""
    more = (
        tag("details", tag("summary", "The definition as it was run"), tag("pre", definition)) if definition else None
    )
    return _section("Evidence", "SHA-256", _pairs(lines), more, style="long")


def _footer(report: DrillReport) -> Markup:
    words = f"Report {report.id} on PostgreSQL system {report.system_identifier}. Times since the disaster are of one "
    return tag("footer", words + "monotonic clock; times of day are UTC.")
