"""The verdict of a drill: facts in, a verdict with its reasons and one sentence out. Pure.

aborted       somebody or something outside of the drill ended it
inconclusive  the steady state was not met, or the fault not proven: whatever came of it proves nothing
fail          a promise was broken, or what came back is wrong, or nothing came back
inconclusive  a required check was not carried out, its negative control not caught, too little data or rows
pass          none of these
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta

from drills.report.model import CheckResult, Control, Loss, Objective, Probe, State, Verdict
from drkit.core.units import format_duration, format_size


@dataclass(frozen=True, slots=True)
class Facts:
    """What the drill found.

    opening: the disaster in a sentence, "" where it was not struck · aborted: why it ended early, "" · unready: what
    kept the disaster from being made · broken: what went wrong after it: then the recovery failed
    rto_s: T11 - T0, allowance included; None: no write was accepted · rows: acknowledged before the fault
    """

    opening: str = ""
    aborted: str = ""
    broken: str = ""
    unready: str = ""
    steady: Sequence[Probe] = ()
    proof: Sequence[Probe] = ()
    checks: Sequence[CheckResult] = ()
    objectives: Sequence[Objective] = ()
    loss: Loss | None = None
    rto_s: float | None = None
    allowance_s: float = 0.0
    rows: int | None = None
    min_rows: int = 0
    restored_bytes: int = 0
    min_bytes: int = 0
    thresholds: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Judgement:
    verdict: Verdict
    sentence: str
    reasons: tuple[str, ...]


def judge_drill(facts: Facts) -> Judgement:
    """Everything that speaks against a pass is a reason; the gravest kind decides."""
    if facts.aborted:
        return Judgement(Verdict.ABORTED, f"The drill was aborted: {facts.aborted}.", (facts.aborted,))
    unready = [facts.unready] if facts.unready else []
    unready += [f"steady state: {_told(probe)}" for probe in facts.steady if probe.ok is not True]
    unready += [f"the fault is not proven: {_told(probe)}" for probe in facts.proof if probe.ok is not True]
    wrong, open_ = _wrong(facts), _open(facts)
    if unready:
        verdict, reasons = Verdict.INCONCLUSIVE, unready + wrong + open_
    elif wrong:
        verdict, reasons = Verdict.FAIL, wrong + open_
    elif open_:
        verdict, reasons = Verdict.INCONCLUSIVE, open_
    else:
        verdict, reasons = Verdict.PASS, []
    return Judgement(verdict, _sentence(facts, verdict, reasons), tuple(reasons))


def _wrong(facts: Facts) -> list[str]:
    """What fails a drill."""
    found = [facts.broken] if facts.broken else []
    if facts.loss is not None and not facts.loss.sound:
        found.append("the ledger is wrong whatever the objective: " + "; ".join(facts.loss.wrong))
    for one in facts.objectives:
        if one.kept is False:
            found.append(f"the objective {one.name} is broken: {one.text}")
        elif one.kept is None and one.name == "rto" and facts.opening and not facts.broken and facts.rto_s is None:
            found.append("no write was accepted")
    found += [
        f"check {one.check} failed: {one.actual}" for one in facts.checks if one.required and one.state is State.FAILED
    ]
    return found


def _open(facts: Facts) -> list[str]:
    """What keeps a drill from proving anything."""
    found = []
    for one in facts.checks:
        if one.required and one.state in (State.SKIPPED, State.ERROR):
            word = "was skipped" if one.state is State.SKIPPED else "could not be carried out"
            found.append(f"check {one.check} {word}: {one.actual}")
        if one.required and one.control is Control.MISSED:
            found.append(f"check {one.check} did not notice its negative control: {one.control_text}")
    if facts.loss is not None and facts.loss.expected and not facts.loss.kept:
        found.append("not one row of the ledger came back: how much is lost beyond it cannot be told")
    elif facts.loss is not None and facts.loss.at_least:
        found += _unseen(facts, facts.loss)
    if facts.rows is not None and facts.rows < facts.min_rows:
        found.append(f"{facts.rows} rows were acknowledged before the fault, at least {facts.min_rows} are asked for")
    if facts.rto_s is not None and facts.restored_bytes < facts.min_bytes:
        restored, least = format_size(facts.restored_bytes), format_size(facts.min_bytes)
        found.append(f"{restored} were restored, at least {least} are asked for")
    return found


def _unseen(facts: Facts, loss: Loss) -> list[str]:
    """All that could be lost is lost, and the ledger did not write for long enough to break the rpo."""
    one = next((one for one in facts.objectives if one.name == "rpo"), None)
    if one is None or one.promised_s is None or one.kept is False:
        return []
    wrote, rpo = _words(loss.wrote_s or loss.loss_s or 0.0), _words(one.promised_s)
    return [
        f"the ledger wrote for {wrote} before the fault, and all of that is lost; the rpo is {rpo}: that more would be "
        "lost cannot be seen; set load longer than the rpo"
    ]


def _sentence(facts: Facts, verdict: Verdict, reasons: Sequence[str]) -> str:
    parts = [facts.opening] if facts.opening else []
    if facts.rto_s is not None:
        parts += [_time_part(facts), _loss_part(facts)]
    if verdict is Verdict.INCONCLUSIVE:
        parts.append(f"Nothing is proven: {reasons[0]}.")
    elif verdict is Verdict.FAIL and not _is_told(facts, reasons):
        parts.append(f"Failed: {reasons[0]}.")
    return " ".join(part for part in parts if part)


def _is_told(facts: Facts, reasons: Sequence[str]) -> bool:
    """Whether the figures in the sentence already show why it failed."""
    return facts.rto_s is not None and reasons[0].startswith("the objective ")


def _time_part(facts: Facts) -> str:
    assert facts.rto_s is not None
    declared = f", {_words(facts.allowance_s)} of it declared" if facts.allowance_s else ""
    return f"Writes were accepted again after {_words(facts.rto_s)}{declared}{_promise(facts, 'rto')}."


def _loss_part(facts: Facts) -> str:
    loss = facts.loss
    if loss is None:
        return "The loss was not measured."
    if not loss.lost:
        rows = f"None of {loss.expected:,} acknowledged rows was lost"
        return rows + (_promise(facts, "rpo") if loss.sound else ", but the ledger is not sound") + "."
    rows = "1 acknowledged row" if loss.lost == 1 else f"{loss.lost:,} acknowledged rows"
    last = "at least the last" if loss.at_least else "the last"
    age = f", {last} {_words(loss.loss_s)} before the fault" if loss.loss_s is not None else ""
    return f"{rows} lost{age}{_promise(facts, 'rpo')}."


def _promise(facts: Facts, name: str) -> str:
    one = next((one for one in facts.objectives if one.name == name), None)
    return "" if one is None or one.promised_s is None else f" (objective {_words(one.promised_s)})"


def _words(seconds: float) -> str:
    """'17 m 42 s', '4.1 s'."""
    if seconds < 60:
        return f"{seconds:.1f}".removesuffix(".0") + " s"
    text = format_duration(timedelta(seconds=round(seconds)))
    return "".join(f" {char}" if char.isalpha() and text[at - 1].isdigit() else char for at, char in enumerate(text))


def _told(probe: Probe) -> str:
    return f"{probe.name}: {probe.text}" if probe.text else probe.name
