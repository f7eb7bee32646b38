"""The ledger's verdict in the words of the report: rows lost and kept, the strip around the fault, objectives. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta

from drills.ledger import Entry, Key, Moment, Row, Verdict, judge
from drills.report.model import Fate, Loss, Objective, StripRow
from drills.report.runs import runs_of
from drkit.config.drill import Drill
from drkit.core.units import format_duration

_MOST_ROWS = 600  # of the strip: those nearest to the fault, and every row that is lost or wrong


def loss_of(
    entries: Sequence[Entry], rows: Sequence[Row], until: Moment, t0_s: float, anchored_s: float | None = None
) -> Loss:
    """Rows recovered against the journals. t0_s: the disaster, on the journals' clock.

    anchored_s: when the drill had ended the WAL segment of the first rows, None: it never did.
    """
    verdict, there = judge(entries, rows, until), {(row.writer, row.number) for row in rows}
    return Loss(
        expected=verdict.expected,
        kept=verdict.kept,
        lost=len(verdict.lost),
        in_doubt=len(verdict.in_doubt),
        loss_s=verdict.loss_s,
        target_error_s=verdict.target_error_s,
        sound=verdict.sound,
        wrong=tuple(_wrong(verdict)),
        strip=_strip(entries, verdict, there, until, t0_s),
        at_least=_is_lower_bound(entries, verdict, there, anchored_s),
        wrote_s=None if anchored_s is None else max(0.0, until.begun_s - anchored_s),
        lost_runs=runs_of(verdict.lost),
    )


def _is_lower_bound(entries: Sequence[Entry], verdict: Verdict, there: set[Key], anchored_s: float | None) -> bool:
    """Whether rows are lost, and none is there that was sent after the first had been put in safety: those say nothing
    about the archiving. What was sent after the end of a segment cannot lie in it."""
    if not verdict.lost:
        return False
    if anchored_s is None:
        return not verdict.kept
    return not any(entry.sent_s > anchored_s and entry.key in there for entry in entries)


def _wrong(verdict: Verdict) -> Iterator[str]:
    kinds: Mapping[str, tuple[Key, ...]] = {
        "invented": verdict.invented,
        "changed": verdict.changed,
        "missing below later rows": verdict.holes,
        "missing before rows that were sent later": tuple(first for first, _ in verdict.out_of_order),
        "from beyond the target": verdict.beyond,
    }
    for what, keys in kinds.items():
        if keys:
            yield f"{len(keys)} rows {what}, the first is row {keys[0][1]} of {keys[0][0]}"


def _strip(
    entries: Sequence[Entry], verdict: Verdict, recovered: set[Key], until: Moment, t0_s: float
) -> tuple[StripRow, ...]:
    lost = set(verdict.lost)
    found: list[tuple[float, bool, StripRow]] = []
    for entry in entries:
        fate = _fate(entry, lost, recovered, until)
        if fate is None:
            continue
        at_s = entry.sent_s if entry.acknowledged_s is None else entry.acknowledged_s
        row = StripRow(entry.writer, entry.number, at_s - t0_s, fate)
        found.append((abs(at_s - until.begun_s), fate not in (Fate.LOST, Fate.IN_DOUBT), row))
    nearest = sorted(found, key=lambda one: (one[1], one[0]))[:_MOST_ROWS]
    return tuple(sorted((row for _, _, row in nearest), key=lambda row: (row.at_s, row.writer, row.number)))


def _fate(entry: Entry, lost: set[Key], recovered: set[Key], until: Moment) -> Fate | None:
    """None for a row that was never acknowledged and is not there: nobody was told that it would be."""
    if entry.sent_s > until.done_s:
        return Fate.BEYOND
    if entry.key in lost:
        return Fate.LOST
    if entry.key in recovered:
        return Fate.IN_DOUBT if entry.acknowledged_s is None else Fate.KEPT
    return None if entry.acknowledged_s is None else Fate.BEYOND


def objectives_of(
    drill: Drill,
    promised: tuple[timedelta | None, timedelta | None],
    loss: Loss | None,
    rto_s: float | None,
    allowance_s: float,
) -> tuple[Objective, ...]:
    """What the drill tests. promised: the cluster's RPO and RTO, for where the drill has none of its own."""
    rpo, rto = drill.rpo or promised[0], drill.rto or promised[1]
    found = {
        "rpo": Objective("rpo", _seconds(rpo), _rpo_s(loss, _seconds(rpo)), _rpo_text(loss)),
        "rto": Objective("rto", _seconds(rto), rto_s, _rto_text(rto_s, allowance_s)),
    }
    return tuple(found[name] for name in drill.objectives)


def _rpo_s(loss: Loss | None, promised_s: float | None) -> float | None:
    """A lower bound can show that the objective is broken, never that it is kept: then nothing was measured."""
    if loss is None or loss.loss_s is None:
        return None
    is_evidence = not loss.at_least or (promised_s is not None and loss.loss_s > promised_s)
    return loss.loss_s if is_evidence else None


def _rpo_text(loss: Loss | None) -> str:
    if loss is None:
        return "not measured: the drill wrote no ledger"
    if loss.loss_s is None:
        return "not measured: no row was acknowledged before the fault"
    rows = f"{loss.lost} of {loss.expected} acknowledged rows lost"
    if not loss.kept:
        return f"{rows}: at least {_words(loss.loss_s)}"
    if loss.at_least:
        return f"{rows}, all since the drill had put the first in safety: at least {_words(loss.loss_s)}"
    return f"{rows}; the newest that is safe was {_words(loss.loss_s)} old"


def _rto_text(rto_s: float | None, allowance_s: float) -> str:
    if rto_s is None:
        return "not measured: no write was accepted"
    text = f"from the disaster to the first acknowledged write {_words(rto_s)}"
    if allowance_s:
        text += f": {_words(rto_s - allowance_s)} measured, {_words(allowance_s)} declared for detecting and deciding"
    return text


def _seconds(length: timedelta | None) -> float | None:
    return None if length is None else length.total_seconds()


def _words(seconds: float) -> str:
    return format_duration(timedelta(seconds=seconds))
