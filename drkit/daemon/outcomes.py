"""What a job's end means, and what of its answer is kept."""

from __future__ import annotations

import signal
from collections.abc import Mapping

from drkit.daemon.api import Outcome, RunRecord
from drkit.daemon.children import Ended

_DAMAGE, _PROMISE = 9, 10  # exit statuses of docs/exit-codes.md
_MEMBERS, _TEXT = 16, 300


def judged(job: str, ended: Ended) -> tuple[Outcome, str]:
    """How it came out, and why where it is not simply done.

    A backup that is short of the policy (10) or found the server's own pages damaged (9) is one: it was committed.
    """
    if ended.killed:
        return Outcome.KILLED, ended.killed
    if ended.exit < 0:
        return Outcome.KILLED, f"ended by {_name(-ended.exit)}" + (f": {ended.why}" if ended.why else "")
    if ended.exit == 0:
        return Outcome.DONE, ""
    if job == "backup" and ended.answer and ended.exit in (_DAMAGE, _PROMISE):
        damage = "it holds damaged pages: the server's own data is corrupt"
        return Outcome.DONE, damage if ended.exit == _DAMAGE else "it is not on every target"
    said = ended.answer.get("sentence") or ended.why or f"exit status {ended.exit}"
    return Outcome.FAILED, str(said)


def carried_out(record: RunRecord) -> bool:
    """Whether its tick is settled: what gave an answer, good or bad, did what it was asked to, and is not repeated."""
    if record.outcome in (Outcome.DONE, Outcome.MISSED):
        return True
    return record.outcome is Outcome.FAILED and bool(record.answer)


def shortened(answer: Mapping[str, object]) -> dict[str, object]:
    """Its schema and scalar members, or those of the one object that it holds; texts cut."""
    found: dict[str, object] = {}
    parts = [answer, *(value for value in answer.values() if isinstance(value, Mapping))]
    for part in parts:
        for key, value in part.items():
            if isinstance(value, str | int | float) and len(found) < _MEMBERS:
                found.setdefault(str(key)[:40], value[:_TEXT] if isinstance(value, str) else value)
    return found


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
