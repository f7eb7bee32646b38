"""The daemon judges itself, and reads the targets now and then, by the same rules as `drkit status`; what it finds goes
to whoever is told.

The targets are read by a child, `drkit status`: a target that hangs holds nothing here, and the memory of a catalogue
is not the daemon's.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from drkit.core.cancel import CancelToken
from drkit.core.clock import Clock
from drkit.core.errors import DrkitError, Failed, UsageError
from drkit.core.units import parse_time
from drkit.daemon.api import DaemonFacts
from drkit.daemon.children import Order, Runner
from drkit.daemon.status import is_live, judge_live
from policies.objectives import Promises
from policies.protection import Finding, Level

SCHEMA = "drkit.status/1"
LOOK_DEADLINE_S = 600.0
_EXITS = (0, 7, 10)
_FICKLE = frozenset({"archive.waiting", "objective.rpo", "server.unreachable", "target.unreadable", "wal.lacking"})
"""Told when they were found twice in a row: a moment may show them where all is well."""

Report = Callable[[str, Sequence[Finding]], None]
"""Hears (scope, all that is wrong now); see `Notifier.report`."""


class Patience:
    """Keeps back what was found once only and may be gone the next time."""

    def __init__(self) -> None:
        self._before: frozenset[tuple[str, str, str, str]] = frozenset()

    def steady(self, found: Sequence[Finding]) -> list[Finding]:
        before, self._before = self._before, frozenset(one.identity for one in found)
        return [one for one in found if one.kind not in _FICKLE or one.identity in before]


class LiveWatch:
    """A Part: judges what the daemon knows of itself, every minute, without asking anybody.

    broken: what the schedule asks for and cannot have now.
    """

    name = "live watch"

    def __init__(
        self,
        facts: Callable[[], DaemonFacts],
        promises: Mapping[str, Promises],
        report: Report,
        clock: Clock,
        *,
        broken: Callable[[], Sequence[Finding]] = tuple,
        every_s: float = 60.0,
    ) -> None:
        self._broken = broken
        self._facts, self._promises, self._report, self._clock = facts, dict(promises), report, clock
        self._every_s, self._patience = every_s, Patience()

    def run(self, token: CancelToken) -> None:
        while not token.wait(self._every_s):
            self.judge()

    def judge(self) -> None:
        """Once, now."""
        found = [*judge_live(self._facts(), self._promises, self._clock.now()), *self._broken()]
        self._report("live", self._patience.steady([one for one in found if one.level is not Level.NOTE]))


@dataclass(frozen=True, slots=True)
class Looked:
    """The last answer of `drkit status` (schema drkit.status/1): empty before the first · why: what kept the last look
    from answering."""

    at: datetime | None = None
    answer: Mapping[str, object] = field(default_factory=dict)
    why: str = ""


class TargetWatch:
    """A Part: has the targets read at its start and every `every_s`, or at once when it is nudged.

    runner: puts `status` behind `drkit --config FILE --json`.
    """

    name = "target watch"

    def __init__(
        self,
        runner: Runner,
        report: Report,
        clock: Clock,
        *,
        every_s: float,
        deadline_s: float = LOOK_DEADLINE_S,
    ) -> None:
        self._runner, self._report, self._clock = runner, report, clock
        self._every_s, self._deadline_s = every_s, deadline_s
        self._patience = Patience()
        self._news = threading.Event()
        self._looked = Looked()

    @property
    def looked(self) -> Looked:
        """From any thread."""
        return self._looked

    def nudge(self) -> None:
        """Look soon: something happened."""
        self._news.set()

    def run(self, token: CancelToken) -> None:
        leave = token.on_cancel(self._news.set)
        try:
            while not token.cancelled:
                self.look(token)
                self._news.wait(self._every_s)
                self._news.clear()
        finally:
            leave()

    def look(self, token: CancelToken) -> None:
        """Once, now; a look that fails is told, and what was known stays."""
        try:
            answer = self._answer(token)
            found = [finding_of(row) for row in _rows(answer, "findings")]
        except (DrkitError, OSError) as error:
            if token.cancelled:
                return
            self._looked = Looked(self._looked.at, self._looked.answer, str(error))
            text = f"whether the targets are well is not known: {error}"
            self._report("look", [Finding("status.unknown", Level.UNKNOWN, text, cure="drkit status")])
            return
        self._looked = Looked(self._clock.now(), answer)
        self._report("look", [])
        stored = [one for one in found if not is_live(one.kind) and one.level is not Level.NOTE]
        self._report("stored", self._patience.steady(stored))

    def _answer(self, token: CancelToken) -> Mapping[str, object]:
        ended = self._runner.run(Order("status", ("status",), self._deadline_s), token)
        token.check()
        if ended.exit not in _EXITS or ended.answer.get("schema") != SCHEMA:
            why = ended.killed or ended.why or f"exit {ended.exit}"
            raise Failed("`drkit status` gave no answer", why=why)
        return ended.answer


def _rows(answer: Mapping[str, object], name: str) -> list[Mapping[str, object]]:
    rows = answer.get(name)
    return [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []


def finding_of(row: Mapping[str, object]) -> Finding:
    """Back from JSON. Raises Failed where it is none."""
    since = row.get("since")
    try:
        return Finding(
            str(row["kind"]),
            Level(str(row["level"])),
            str(row["text"]),
            str(row["cluster"]),
            str(row["target"]),
            str(row["about"]),
            str(row["cure"]),
            None if since is None else parse_time(str(since)),
        )
    except (KeyError, ValueError, UsageError) as error:
        raise Failed("a finding of `drkit status` is not understood", why=repr(error)) from error
