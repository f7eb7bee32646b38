"""What the daemon's parts tell each other: plain facts, no behaviour. `drkit status` shows them (docs/json.md)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Protocol

from drkit.core.cancel import CancelToken


class Part(Protocol):
    """A piece of the daemon with a thread of its own. `run` returns soon after `token` is cancelled; what it raises
    ends the daemon."""

    name: str

    def run(self, token: CancelToken) -> None: ...


# --- WAL ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class TargetFacts:
    """owed: WAL files in the spool that it lacks · resting: why it is not asked just now, "" when it is."""

    name: str
    owed: int
    owed_bytes: int
    owed_since: datetime | None
    last_file: str
    last_at: datetime | None
    resting: str


@dataclass(frozen=True, slots=True)
class ArchiveFacts:
    """Archiving of one cluster as the daemon sees it. ready: files that PostgreSQL waits to hand over."""

    cluster: str
    system_identifier: int | None
    last_file: str
    last_at: datetime | None
    ready: int
    ready_bytes: int
    oldest_ready_at: datetime | None
    targets: tuple[TargetFacts, ...]
    problem: str = ""


# --- jobs ---------------------------------------------------------------------------------------------------------


class Outcome(StrEnum):
    """RUNNING while it runs · MISSED: its time went by (daemon down, or the one before still ran) · KILLED: by a signal
    or its deadline."""

    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    KILLED = "killed"
    MISSED = "missed"


@dataclass(frozen=True, slots=True)
class RunRecord:
    """One run of a scheduled job. due: the bell that it answers · exit: status of the child, None while it runs or
    where it never ran · answer: the child's JSON answer, shortened to what matters · why: for all but DONE."""

    bell: str
    job: str
    cluster: str
    due: datetime
    started: datetime | None
    ended: datetime | None
    outcome: Outcome
    exit: int | None = None
    why: str = ""
    answer: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class NextRun:
    """bell: the id of the schedule entry for this cluster, for example `backup.orders.1`."""

    bell: str
    job: str
    cluster: str
    at: datetime


# --- telling ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class DaemonFacts:
    """What a running daemon answers to `status` on its socket."""

    pid: int
    started: datetime
    beat: datetime
    config: str
    archives: Sequence[ArchiveFacts]
    running: Sequence[RunRecord]
    recent: Sequence[RunRecord]
    next_runs: Sequence[NextRun]


class Telling(Protocol):
    """Where parts report what an operator should hear of. kind: a stable word such as `backup.failed`."""

    def tell(self, kind: str, level: str, cluster: str, text: str, **fields: str | int | float) -> None: ...
