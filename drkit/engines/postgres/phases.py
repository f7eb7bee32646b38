"""Reads the phases of a server's start and recovery from its log.

The messages are those of `src/backend/access/transam/xlogrecovery.c`, xlog.c and postmaster.c, in English
(lc_messages = C), the same in 13 to 18 but for small differences that the patterns allow for.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum


class Phase(Enum):
    """In the order in which they can occur; a plain start has only READY."""

    RECOVERY_BEGINS = "recovery begins"
    REDO_STARTS = "redo starts"
    CONSISTENT = "consistent"
    READ_ONLY = "ready for read-only connections"
    STOPPING = "recovery stops at its target"
    PAUSED = "paused at the target"
    REDO_DONE = "redo done"
    LAST_TRANSACTION = "last completed transaction"
    NEW_TIMELINE = "new timeline"
    PROMOTED = "archive recovery complete"
    SHUT_AT_TARGET = "shut down at the target"
    READY = "ready"
    TOO_LOW = "settings lower than the source's"
    NOT_REACHED = "target not reached"
    FATAL = "fatal"


_PATTERNS: tuple[tuple[Phase, re.Pattern[str]], ...] = tuple(
    (phase, re.compile(pattern))
    for phase, pattern in (
        (Phase.NOT_REACHED, r"FATAL:\s+recovery ended before configured recovery target was reached"),
        (Phase.TOO_LOW, r"insufficient parameter settings|hot standby is not possible because"),
        (
            Phase.RECOVERY_BEGINS,
            r"LOG:\s+(?:starting point-in-time recovery|starting archive recovery|entering standby mode)",
        ),
        (Phase.REDO_STARTS, r"LOG:\s+redo starts at (\S+)"),
        (Phase.CONSISTENT, r"LOG:\s+consistent recovery state reached(?: at (\S+))?"),
        (Phase.READ_ONLY, r"LOG:\s+database system is ready to accept read[- ]only connections"),
        (Phase.STOPPING, r"LOG:\s+recovery stopping (.+)"),
        (Phase.PAUSED, r"LOG:\s+(?:pausing at the end of recovery|recovery has paused)"),
        (Phase.REDO_DONE, r"LOG:\s+redo done at (\S+)"),
        (Phase.LAST_TRANSACTION, r"LOG:\s+last completed transaction was at log time (.+)"),
        (Phase.NEW_TIMELINE, r"LOG:\s+selected new timeline ID: (\d+)"),
        (Phase.PROMOTED, r"LOG:\s+archive recovery complete"),
        (Phase.SHUT_AT_TARGET, r"LOG:\s+shutdown at recovery target"),
        (Phase.READY, r"LOG:\s+database system is ready to accept connections"),
        (Phase.FATAL, r"(?:FATAL|PANIC):\s+(.+)"),
    )
)
_HARMLESS = re.compile(r"FATAL:\s+(?:the database system is |terminating |connection to client lost)")


@dataclass(frozen=True, slots=True)
class PhaseSeen:
    """`at_s` is the reader's monotonic clock when the line was read; `detail` the LSN, time or text in it."""

    phase: Phase
    at_s: float
    detail: str
    line: str


def phase_of(line: str, at_s: float) -> PhaseSeen | None:
    """The phase that a log line marks, or None. Refused client connections are no phase."""
    if _HARMLESS.search(line):
        return None
    for phase, pattern in _PATTERNS:
        match = pattern.search(line)
        if match is not None:
            detail = (match[1] or "") if match.lastindex else ""
            return PhaseSeen(phase, at_s, detail.strip(), line)
    return None
