"""The two drawings of the page, as SVG that stretches with it: the waterfall of the recovery and the strip of rows.

Positions along time are percentages, so that text keeps its size and patterns their shape at any width.
"""

from __future__ import annotations

from collections.abc import Sequence

from drills.report.markup import Markup, join, tag
from drills.report.model import DrillReport, Fate, Loss, StripRow
from drills.report.runs import lost_rows
from drills.report.view import Phase, Scale, bins, objective, offset, phases, scale, seconds, span

MARKS_AT_MOST = 160  # rows that are drawn one by one; more are counted in bins
_BINS = 120
_LANE, _STRIP_HEIGHT, _MARGIN = 26, 96, 30
_NARROWEST = 0.25  # percent: a phase of milliseconds stays visible

HATCH = tag(
    "svg",
    tag(
        "defs",
        tag("pattern", tag("path", d="M0 6L6 0M-1 1L1 -1M5 7L7 5"), id="hatch", width=6, height=6,
            patternUnits="userSpaceOnUse"),
        tag("pattern", tag("path", d="M0 0L5 5M5 0L0 5"), id="cross", width=5, height=5,
            patternUnits="userSpaceOnUse"),
    ),
    width=0, height=0, aria_hidden="true", style="position:absolute",
)  # fmt: skip
"""Patterns of both drawings; once on a page, before them."""


def _percent(share: float) -> str:
    return f"{share * 100:.3f}%"


# --- the waterfall ------------------------------------------------------------------------------------------------


def waterfall(report: DrillReport) -> Markup:
    """A table with a row for each clock; the last column is drawn."""
    axis = scale(report)
    heads = (
        ("clock", "Clock"),
        ("what", "Phase ends with"),
        ("at n", "At"),
        ("took n", "Took"),
        ("lane", "Since the disaster"),
    )
    columns = [tag("th", name, scope="col", class_=style) for style, name in heads]
    return tag(
        "table",
        tag("caption", "Clocks T0 to T12 with the time since the disaster", class_="unseen"),
        tag("thead", tag("tr", *columns)),
        tag("tbody", *(_row(row, axis) for row in phases(report))),
        tag("tfoot", tag("tr", *(tag("td") for _ in range(4)), tag("td", _axis(report, axis), class_="lane"))),
        class_="fall",
    )


def _row(row: Phase, axis: Scale) -> Markup:
    head = (tag("td", row.clock, class_="clock n"), tag("th", row.label, scope="row", class_="what"))
    if row.end_s is None or row.start_s is None:
        return tag("tr", *head, tag("td", "–", class_="at n"), tag("td", class_="took n"),
                   tag("td", row.why, class_="lane why"))  # fmt: skip
    took = "" if row.clock == "T0" else seconds(row.took_s or 0.0)
    return tag(
        "tr",
        *head,
        tag("td", "0" if row.clock == "T0" else offset(row.end_s), class_="at n"),
        tag("td", took, class_="took n"),
        tag("td", _lane(row, axis, row.start_s, row.end_s), class_="lane"),
        class_="end" if row.clock == "T11" else None,
    )


def _lane(row: Phase, axis: Scale, start_s: float, end_s: float) -> Markup:
    start, end = axis.share(start_s), axis.share(end_s)
    kind = "a declared allowance, not measured" if row.declared else "measured"
    told = f"{row.clock} {row.label}: from {offset(start_s)} to {offset(end_s)}, {kind}"
    if row.clock == "T0":
        shape = tag("circle", cx=_percent(end), cy=14, r=4, class_="bar")
    else:
        style = "allow" if row.declared else "bar" + (" after" if row.clock == "T12" else "")
        width = max(end - start, _NARROWEST / 100)
        shape = tag("rect", x=_percent(start), y=8, width=_percent(width), height=12, class_=style)
    return tag("svg", tag("title", told), _rules(axis), shape, _goal(axis), role="img", height=28)


def _rules(axis: Scale) -> Markup:
    return join(_line(_percent(axis.share(at)), "0", "100%", "rule") for at in axis.ticks)


def _goal(axis: Scale) -> Markup | None:
    return None if axis.objective_s is None else _line(_percent(axis.share(axis.objective_s)), "0", "100%", "goal")


def _line(x: str, y1: str, y2: str, style: str) -> Markup:
    return tag("line", x1=x, x2=x, y1=y1, y2=y2, class_=style)


def _axis(report: DrillReport, axis: Scale) -> Markup:
    labels = [_label(axis.share(at), 16, seconds(at)) for at in axis.ticks]
    rto = objective(report, "rto")
    if axis.objective_s is not None:
        words = f"objective {seconds(axis.objective_s)}"
        labels.append(_label(axis.share(axis.objective_s), 36, words, "goaltext"))
    elif rto is not None and rto.promised_s is not None:
        labels.append(_label(1.0, 36, f"objective {seconds(rto.promised_s)}, beyond this edge →", "goaltext"))
    return tag("svg", tag("title", "Axis: time since the disaster"), *labels, class_="axis", role="img", height=42)


def _label(share: float, y: int, words: str, style: str | None = None) -> Markup:
    """A text centred on its place, or held inside the edge that is near."""
    anchor = "start" if share < 0.08 else "end" if share > 0.9 else "middle"
    return tag("text", words, x=_percent(share), y=y, text_anchor=anchor, class_=style)


# --- the strip ----------------------------------------------------------------------------------------------------

_SHAPES = {
    Fate.KEPT: tag("path", d="M0 -7V7", class_="keptline"),
    Fate.LOST: tag("path", d="M-4 -4L4 4M4 -4L-4 4", class_="lost"),
    Fate.IN_DOUBT: tag("path", d="M0 -5L5 0L0 5L-5 0Z", class_="doubtful"),
    Fate.BEYOND: tag("circle", r=2.5, class_="beyond"),
}
_BOXES = {Fate.KEPT: "kept", Fate.IN_DOUBT: "doubtful", Fate.LOST: "lostbox", Fate.BEYOND: "beyond"}
_MEANS = {
    Fate.KEPT: "kept",
    Fate.LOST: "lost",
    Fate.IN_DOUBT: "in doubt: recovered, the answer was on its way",
    Fate.BEYOND: "beyond: sent after the recovery target",
}


def strip(loss: Loss) -> Markup:
    """Acknowledged rows around the fault: one mark each, a lane for each writer; or, of many, a column for each bin."""
    few = len(loss.strip) <= MARKS_AT_MOST
    drawing, height = _marks(loss.strip) if few else _columns(loss.strip)
    start, end = span(loss.strip)
    present = [fate for fate in Fate if any(row.fate is fate for row in loss.strip)]
    counts = ", ".join(f"{sum(row.fate is fate for row in loss.strip)} {fate.value}" for fate in present)
    told = f"{len(loss.strip)} rows from {offset(start)} to {offset(end)} around the fault: {counts}."
    lost = [f"Lost: {line}." for line in lost_rows(loss)]
    fault = -start / (end - start)
    base = height - _MARGIN
    drawn = tag(
        "svg",
        tag("title", "Rows of the ledger around the fault"),
        tag("desc", " ".join([told, *lost])),
        drawing,
        tag("line", x1="0", x2="100%", y1=base, y2=base, class_="rule"),
        tag("line", x1=_percent(fault), x2=_percent(fault), y1=0, y2=base + 6, class_="fault"),
        *_times(start, end, fault, height),
        class_="strip", role="img", height=height,
    )  # fmt: skip
    return tag("figure", drawn, _legend(present, few))


def _times(start: float, end: float, fault: float, height: int) -> list[Markup]:
    y = height - 8
    found = [_label(fault, y, "fault", "faulttext")]
    if fault > 0.2:
        found.append(tag("text", offset(start), x="0", y=y, text_anchor="start"))
    if fault > 0.55:
        found.append(_label(fault / 2, y, offset(start / 2)))
    if fault < 0.8:
        found.append(tag("text", offset(end), x="100%", y=y, text_anchor="end"))
    return found


def _marks(rows: Sequence[StripRow]) -> tuple[Markup, int]:
    start, end = span(rows)
    writers = sorted({row.writer for row in rows})
    lanes = {writer: 14 + at * _LANE for at, writer in enumerate(writers)}
    made = []
    for row in rows:
        words = f"{row.writer} {row.number}, {offset(row.at_s)}: {row.fate.value}"
        x = _percent((row.at_s - start) / (end - start))
        # A nested svg moves the mark to a percentage of the width, which a transform cannot.
        made.append(tag("svg", tag("title", words), _SHAPES[row.fate], x=x, y=lanes[row.writer], overflow="visible"))
    return join(made), _LANE * max(1, len(writers)) + _MARGIN


def _columns(rows: Sequence[StripRow]) -> tuple[Markup, int]:
    """Heights are counts. What is lost or in doubt is drawn at least as high as it can be seen."""
    start, end = span(rows)
    found = bins(rows, _BINS)
    most = max(one.rows for one in found)
    made = []
    for one in found:
        if not one.rows:
            continue
        low, high = (one.start_s - start) / (end - start), (one.end_s - start) / (end - start)
        counts = ", ".join(f"{count} {fate.value}" for fate, count in one.counts.items())
        parts = [tag("title", f"{offset(one.start_s)} to {offset(one.end_s)}: {counts}")]
        top = float(_STRIP_HEIGHT)
        for fate, style in _BOXES.items():
            if fate in one.counts:
                size = one.counts[fate] / most * (_STRIP_HEIGHT - 36)
                size = max(size, 9.0) if fate in (Fate.LOST, Fate.IN_DOUBT) else size
                top -= size
                width = _percent((high - low) * 0.82)
                parts.append(tag("rect", x=_percent(low), y=top, width=width, height=size, class_=style))
        if Fate.LOST in one.counts:
            place = _percent(low + (high - low) * 0.41)
            parts.append(tag("svg", _SHAPES[Fate.LOST], x=place, y=top - 9, overflow="visible"))
        made.append(tag("g", *parts))
    return join(made), _STRIP_HEIGHT + _MARGIN


def _legend(present: Sequence[Fate], few: bool) -> Markup:
    def key(fate: Fate) -> Markup:
        box = tag("rect", x=-6, y=-6, width=12, height=12, class_=_BOXES[fate])
        shape = _SHAPES[fate] if few else box
        return tag("svg", shape, viewBox="-8 -8 16 16", class_="strip", aria_hidden="true")

    return tag("ul", *(tag("li", key(fate), tag("span", _MEANS[fate])) for fate in present), class_="legend")
