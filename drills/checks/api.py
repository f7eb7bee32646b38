"""What a check is: it looks at a restored server, and its control shows on a sabotaged state that it can fail."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from drills.ledger import Entry, Moment
from drills.report.model import CheckResult
from drkit.core.cancel import CancelToken
from drkit.engines.postgres.session import Session


@dataclass(frozen=True, slots=True)
class Reference:
    """What was recorded on the source before the fault, to compare with (`drills.checks.reference`).

    All fields are plain data (JSON); names are quoted as SQL wants them.

    tables: "schema.table" -> (rows, order-independent digest in hex) of one database snapshot · settings: name -> value
    sequences: "schema.sequence" -> (last value, "schema.table.column" that it feeds or "") · lsn: of the snapshot
    large_objects: how many · database: which one · may_move: tables that go on changing after the reference was taken
    (compared by V2 only where the recovery target is exactly this reference's LSN or the table is not in here).
    roles: with their attributes and memberships · databases: all that are no templates · sampled: table -> percent of
    its blocks that count and digest are of; all others were read whole · behind: sequences that were behind their
    column on the source already · others: the same of the cluster's other databases.
    """

    database: str
    lsn: str
    tables: Mapping[str, tuple[int, str]] = field(default_factory=dict)
    may_move: frozenset[str] = frozenset()
    roles: tuple[str, ...] = ()
    extensions: tuple[tuple[str, str], ...] = ()
    sequences: Mapping[str, tuple[int, str]] = field(default_factory=dict)
    large_objects: int = 0
    settings: Mapping[str, str] = field(default_factory=dict)
    databases: tuple[str, ...] = ()
    sampled: Mapping[str, float] = field(default_factory=dict)
    behind: frozenset[str] = frozenset()
    others: tuple[Reference, ...] = ()


@dataclass(frozen=True, slots=True)
class Scene:
    """The restored server as the checks find it: promoted, fenced, disposable.

    connect: a new session on a database of it, autocommit off is the check's own affair · programs: PostgreSQL's
    programs of its version · data_dir, log: its folder and log file · conninfo: for programs (socket folder and port)
    entries, until: the ledger and the moment that its rows are judged by; None where the drill has no ledger
    ledger_table: where its rows are · timeline: the one that recovery was meant to follow · stopped_for: words that
    the log must hold about where recovery stopped, "" where it ran to the end
    stop, start: end and begin the server again, for checks that need it at rest: every session is lost
    at_reference: recovery stopped exactly where the reference was recorded, so tables that may move compare as well
    monotonic: seconds of the drill's clock
    """

    connect: Callable[[str], Session]
    conninfo: str
    databases: Sequence[str]
    programs: Path
    data_dir: Path
    log: Path
    reference: Reference
    entries: Sequence[Entry] | None
    until: Moment | None
    ledger_table: str
    timeline: int
    stopped_for: str
    token: CancelToken
    stop: Callable[[], None]
    start: Callable[[], None]
    at_reference: bool = False
    monotonic: Callable[[], float] = time.monotonic


class Check(Protocol):
    """One oracle. They run in the order of `drills.checks.registry`: those that leave the server unharmed first."""

    @property
    def name(self) -> str:
        """V1, V2, ... or a user's own."""
        ...

    @property
    def title(self) -> str: ...

    def run(self, scene: Scene, *, required: bool) -> CheckResult:
        """Look, then sabotage (inside a transaction that is rolled back, or on a copy) and look again by the same code.

        Never raises for what it finds, for a server that answers wrongly or is gone, nor when the token is cancelled:
        State.ERROR with the reason.
        """
        ...
