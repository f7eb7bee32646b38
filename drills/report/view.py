"""What text and page show alike: figures in words, phases of the recovery, bins of the strip. Pure."""

from __future__ import annotations

import unicodedata
from bisect import bisect_right
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from math import ceil, floor, log10

from drills.report.model import (
    CLOCKS,
    CheckResult,
    Control,
    DrillReport,
    Fate,
    Loss,
    Objective,
    State,
    StripRow,
    Verdict,
)
from drkit.core.units import format_duration

VERDICT_WORDS: Mapping[Verdict, str] = {
    Verdict.PASS: "Passed",
    Verdict.FAIL: "Failed",
    Verdict.INCONCLUSIVE: "Inconclusive",
    Verdict.ABORTED: "Aborted",
}
CONTROL_WORDS: Mapping[Control, str] = {
    Control.CAUGHT: "caught",
    Control.MISSED: "NOT caught",
    Control.NONE: "none",
}
_FAR = 4.0  # an objective so many times the measured time is told, not drawn: the bars would be slivers
_BIDI = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def visible(text: str, keep: str = "\n") -> str:
    """Text from anywhere, made harmless to a terminal, a page and XML: controls, overrides of direction, stray
    surrogates and noncharacters are written out."""
    return "".join(char if char in keep or _harmless(char) else _written(ord(char)) for char in text)


def _harmless(char: str) -> bool:
    nobody = ord(char) & 0xFFFE == 0xFFFE  # XML 1.0, production 2
    return char not in _BIDI and not nobody and unicodedata.category(char) not in ("Cc", "Cs", "Zl", "Zp")


def _written(point: int) -> str:
    return f"\\x{point:02x}" if point < 256 else f"\\u{point:04x}" if point < 65536 else f"\\U{point:08x}"


def seconds(value: float) -> str:
    """For people: '17m 42s', '4.1s', '250ms', '0s'."""
    return "0s" if value == 0 else format_duration(timedelta(seconds=value))


def offset(value: float) -> str:
    """An instant relative to the disaster: '+17m 42s'."""
    return f"{'-' if value < 0 else '+'}{seconds(abs(value))}"


def when(text: str) -> str:
    """A stored time to the second: '2026-07-01 09:00:00'."""
    return visible(text[:19].replace("T", " "))


def promise_words(objective: Objective) -> tuple[str, str]:
    """(kept, BROKEN, not promised, not measured; how it was promised)."""
    promised = "nothing was promised" if objective.promised_s is None else f"objective {seconds(objective.promised_s)}"
    if objective.kept is None:
        return ("not promised" if objective.promised_s is None else "not measured"), promised
    return ("kept" if objective.kept else "BROKEN"), promised


def promise_note(objective: Objective) -> str:
    """'objective 30m: kept', 'nothing was promised'."""
    word, promised = promise_words(objective)
    return promised if objective.promised_s is None else f"{promised}: {word}"


def loss_age(loss: Loss | None) -> str:
    """'4.1s', 'at least 10s', 'not measured'."""
    if loss is None or loss.loss_s is None:
        return "not measured"
    return f"at least {seconds(loss.loss_s)}" if loss.at_least else seconds(loss.loss_s)


def objective(report: DrillReport, name: str) -> Objective | None:
    return next((one for one in report.objectives if one.name == name), None)


# --- the recovery by phases ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Phase:
    """What ends with one clock. start_s, end_s: None where the clock was not read; why then says so.

    declared: an allowance, not a measurement.
    """

    clock: str
    label: str
    start_s: float | None
    end_s: float | None
    why: str
    declared: bool

    @property
    def took_s(self) -> float | None:
        return None if self.end_s is None or self.start_s is None else self.end_s - self.start_s


def phases(report: DrillReport) -> tuple[Phase, ...]:
    """A row for every clock from T0 on. A phase begins where the last clock before it that was read had stood."""
    known = {one.clock: one for one in report.instants}
    found, last = list[Phase](), 0.0
    for clock, label in CLOCKS.items():
        one = known.get(clock)
        if one is None or one.at_s is None:
            found.append(Phase(clock, label, None, None, one.why if one and one.why else "not measured", False))
            continue
        found.append(Phase(clock, label, min(last, one.at_s), one.at_s, one.why, one.declared))
        last = max(last, one.at_s)
    return tuple(found)


def machine_s(report: DrillReport) -> float | None:
    """RTO less the allowances that were declared: what the machine took. None where either is not known."""
    end, rows = report.instant("T11"), phases(report)
    if end is None:
        return None
    return end - sum(row.took_s or 0.0 for row in rows if row.declared and row.end_s is not None and row.end_s <= end)


@dataclass(frozen=True, slots=True)
class Scale:
    """The axis of the waterfall: from 0 to end_s. objective_s None: none, or too far to the right to be drawn."""

    end_s: float
    objective_s: float | None
    ticks: tuple[float, ...]

    def share(self, at_s: float) -> float:
        """Where on the axis, 0.0 to 1.0."""
        return min(1.0, max(0.0, at_s / self.end_s))


def scale(report: DrillReport) -> Scale:
    last = max((one.at_s for one in report.instants if one.at_s is not None), default=0.0)
    rto = objective(report, "rto")
    promised = rto.promised_s if rto is not None else None
    if promised is not None and 0 < promised <= max(last, 0.001) * _FAR:
        end = max(last, promised) * 1.04
        return Scale(end, promised, ticks(end))
    end = last * 1.04 if last > 0 else 1.0
    return Scale(end, None, ticks(end))


def ticks(end_s: float) -> tuple[float, ...]:
    """Three to seven round instants from 0 up to `end_s`."""
    rough = end_s / 5
    if rough >= 60:
        steps = (60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 21600, 43200, 86400, 172800, 604800)
        step = float(next((one for one in steps if one >= rough), ceil(rough / 604800) * 604800))
    elif rough >= 10:
        step = next(float(one) for one in (10, 15, 20, 30, 60) if one >= rough)
    else:
        power = 10.0 ** floor(log10(rough))
        step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    return tuple(step * count for count in range(int(end_s / step * 1.0001) + 1))


# --- the strip of rows --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Bin:
    """Rows between two instants, by fate."""

    start_s: float
    end_s: float
    counts: Mapping[Fate, int]

    @property
    def rows(self) -> int:
        return sum(self.counts.values())


def span(strip: Sequence[StripRow]) -> tuple[float, float]:
    """The time that a strip covers, the fault (0) in it, with a little air; (start, end), start < end."""
    low = min(0.0, *(row.at_s for row in strip)) if strip else 0.0
    high = max(0.0, *(row.at_s for row in strip)) if strip else 0.0
    air = max((high - low) * 0.02, 0.001)
    return low - air, high + air


def bins(strip: Sequence[StripRow], count: int) -> tuple[Bin, ...]:
    """The strip in `count` bins, 2 or more; every row is in exactly one. One bound is the fault: no bin mixes before
    and after, and on each side of it all bins are equally long."""
    start, end = span(strip)
    before = min(count - 1, max(1, round(count * -start / (end - start))))
    after = count - before
    edges = [start * (1 - at / before) for at in range(before)] + [end * at / after for at in range(after + 1)]
    counts: list[Counter[Fate]] = [Counter() for _ in range(count)]
    for row in strip:
        counts[min(count - 1, bisect_right(edges, row.at_s) - 1)][row.fate] += 1
    found = zip(edges[:-1], edges[1:], counts, strict=True)
    return tuple(Bin(low, high, {fate: rows[fate] for fate in Fate if rows[fate]}) for low, high, rows in found)


def loss_words(loss: Loss) -> str:
    """'12,034 acknowledged rows expected: 12,031 kept, 3 lost; 1 in doubt'."""
    words = f"{loss.expected:,} acknowledged rows expected: {loss.kept:,} kept, {loss.lost:,} lost"
    return words + (f"; {loss.in_doubt:,} in doubt" if loss.in_doubt else "")


def judged(checks: Sequence[CheckResult]) -> str:
    """'5 of 6 passed, 4 of 5 controls caught'."""
    passed = sum(one.state is State.PASSED for one in checks)
    controls = [one for one in checks if one.control is not Control.NONE]
    caught = sum(one.control is Control.CAUGHT for one in controls)
    return f"{passed} of {len(checks)} passed, {caught} of {len(controls)} negative controls caught"
