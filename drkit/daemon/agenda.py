"""The schedule's state without threads: records in, decisions out. `Scheduler` carries them out.

Everything here follows from the records, the evidence and the clock, so that who is killed at any point and started
again goes on from what is true.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from drkit.core.clock import Clock
from drkit.core.log import Log
from drkit.core.units import format_time
from drkit.daemon.api import NextRun, Outcome, RunRecord, Telling
from drkit.daemon.children import Ended
from drkit.daemon.duties import Duty
from drkit.daemon.evidence import ASKED, Known
from drkit.daemon.outcomes import carried_out, judged, shortened
from drkit.daemon.runs import Runs
from policies.schedule import Decision, Failure, Past, due
from storage_backends.errors import StorageError

JUMP_S = 60.0
_FIRST = ("backup", "replicate", "drill", "verify", "check", "expire")


@dataclass(frozen=True, slots=True)
class Start:
    """A duty to begin now, for this tick."""

    duty: Duty
    tick: datetime
    why: str


@dataclass(frozen=True, slots=True)
class Look:
    """What a look at all bells found. starts: in order, fitting beside each other · asks: something is due that only
    fresh evidence can decide."""

    starts: tuple[Start, ...]
    asks: bool


class Agenda:
    """Not thread-safe.

    slots: how many jobs run at once · held: why a cluster's lock is with a process that is not ours, "" where not.
    """

    def __init__(
        self,
        duties: Sequence[Duty],
        runs: Runs,
        clock: Clock,
        log: Log,
        telling: Telling,
        *,
        slots: int,
        held: Callable[[str], str] = lambda cluster: "",
    ) -> None:
        self.duties = tuple(duties)
        self._runs, self._clock, self._log, self._telling = runs, clock, log, telling
        self._slots, self._held = slots, held
        self._running: dict[str, RunRecord] = {}
        self._next: tuple[NextRun, ...] = ()
        self._watched = clock.now()
        self._seen = (self._watched, clock.monotonic())
        for duty in self.duties:
            whole = self._written(duty, lambda duty=duty: runs.open(duty.bell.id, duty.terms, self._watched))  # type: ignore[misc]
            if whole is False:
                self._tell(duty, "schedule.forgotten", "error", "its record of runs was damaged; it starts anew")

    # --- what others ask ---

    def running(self) -> tuple[RunRecord, ...]:
        return tuple(self._running.values())

    def recent(self, limit: int = 50) -> tuple[RunRecord, ...]:
        """What is over, the newest first."""
        over = (r for r in self._runs.all() if r.outcome is not Outcome.RUNNING)
        return tuple(sorted(over, key=lambda r: r.ended or r.due, reverse=True)[:limit])

    def next_runs(self) -> tuple[NextRun, ...]:
        """As of the last look; what waits for its turn has the time of that look, what runs is not among them."""
        return tuple(one for one in self._next if one.bell not in self._running)

    # --- what the scheduler does ---

    def look(self, known: Known) -> Look:
        """Decide about every bell; misses are recorded."""
        now = self._time()
        starts: list[Start] = []
        asks = False
        upcoming: list[NextRun] = []
        held = {cluster: self._held(cluster) for cluster in self._free_clusters()}
        self._bury(held, now)
        decisions = [(duty, self._decide(duty, known, held, now)) for duty in self.duties]
        for duty, decision in sorted(decisions, key=_turn):
            self._missed(duty, decision, now)
            if decision.run is not None and self._fits(duty, starts):
                if known.fresh or duty.job not in ASKED:
                    starts.append(Start(duty, decision.run, decision.why))
                else:
                    asks = True
            moment = decision.again if decision.run is None else now
            if moment is not None and duty.bell.id not in self._running:
                upcoming.append(NextRun(duty.bell.id, duty.job, duty.cluster, moment))
        self._next = tuple(sorted(upcoming, key=lambda one: (one.at, one.bell)))
        return Look(tuple(starts), asks)

    def began(self, start: Start) -> RunRecord:
        """It is about to be started: durable on return, so that a daemon that dies now knows later that it had."""
        duty, now = start.duty, self._clock.now()
        record = RunRecord(duty.bell.id, duty.job, duty.cluster, start.tick, now, None, Outcome.RUNNING, why=start.why)
        self._running[duty.bell.id] = record
        self._put(duty, [record], now)
        self._log.info("job started", bell=duty.bell.id, due=format_time(start.tick), why=start.why)
        return record

    def ended(self, duty: Duty, ended: Ended) -> RunRecord:
        """Record the end of what `began`, and tell of it."""
        now = self._clock.now()
        outcome, why = judged(duty.job, ended)
        record = replace(
            self._running.pop(duty.bell.id),
            ended=now,
            outcome=outcome,
            exit=ended.exit,
            why=why,
            answer=shortened(ended.answer),
        )
        self._put(duty, [record], now)
        kind, level = {
            Outcome.DONE: (f"{duty.job}.short", "warn") if why else (f"{duty.job}.done", "info"),
        }.get(outcome, (f"{duty.job}.failed", "error"))
        text = why or f"{duty.job} of {duty.cluster} is done"
        self._tell(duty, kind, level, text, due=format_time(record.due), exit=ended.exit)
        return record

    # --- the inside ---

    def _time(self) -> datetime:
        """Now; a wall clock that moved otherwise than time did jumped, or the machine slept: nobody watched it."""
        now, steady = self._clock.now(), self._clock.monotonic()
        jump_s = (now - self._seen[0]).total_seconds() - (steady - self._seen[1])
        if abs(jump_s) > JUMP_S:
            self._watched = now
            self._log.warn("clock jumped", by_s=round(jump_s), now=format_time(now))
        self._seen = (now, steady)
        return now

    def _free_clusters(self) -> set[str]:
        return {duty.cluster for duty in self.duties} - {record.cluster for record in self._running.values()}

    def _bury(self, held: Mapping[str, str], now: datetime) -> None:
        """What is recorded as running, is none of ours and has no process: the daemon died before it could say."""
        for duty in self.duties:
            if duty.bell.id in self._running or held.get(duty.cluster, "not ours to say"):
                continue
            for record in self._runs.of(duty.bell.id):
                if record.outcome is Outcome.RUNNING:
                    why = "the daemon ended while it ran"
                    self._put(duty, [replace(record, ended=now, outcome=Outcome.KILLED, why=why)], now)
                    self._tell(duty, f"{duty.job}.failed", "error", why, due=format_time(record.due))

    def _decide(self, duty: Duty, known: Known, held: Mapping[str, str], now: datetime) -> Decision:
        since = now
        try:
            since = self._runs.since(duty.bell.id, now)
        except StorageError as error:
            self._unwritten(duty, error)
        records = self._runs.of(duty.bell.id)
        past = past_of(records, since, now)
        success = _begun(known.success(duty.job, duty.cluster, duty.scenario), records)
        return due(
            duty.bell,
            replace(
                past,
                success=success,
                none=duty.job == "backup" and duty.cluster in known.without,
                watched=self._watched,
                busy=self._busy(duty, held),
                elsewhere=known.elsewhere(duty.cluster, now) if duty.job == "backup" and known.fresh else "",
            ),
            now,
        )

    def _busy(self, duty: Duty, held: Mapping[str, str]) -> str:
        for record in self._running.values():
            if record.cluster == duty.cluster:
                return f"{record.bell} of {format_time(record.due)[:16]}Z was still running"
        if held.get(duty.cluster):
            return held[duty.cluster]
        return f"{self._slots} jobs were running" if len(self._running) >= self._slots else ""

    def _fits(self, duty: Duty, starts: Iterable[Start]) -> bool:
        chosen = [start.duty.cluster for start in starts]
        return duty.cluster not in chosen and len(chosen) + len(self._running) < self._slots

    def _missed(self, duty: Duty, decision: Decision, now: datetime) -> None:
        if not decision.missed:
            return
        bell = duty.bell.id
        records = [
            RunRecord(bell, duty.job, duty.cluster, miss.tick, None, now, Outcome.MISSED, why=miss.why)
            for miss in decision.missed
        ]
        self._put(duty, records, now)
        last = records[-1]
        text = last.why if len(records) == 1 else f"{len(records)} runs were missed, the last one: {last.why}"
        self._tell(duty, f"{duty.job}.missed", "warn", text, due=format_time(last.due), missed=len(records))

    def _put(self, duty: Duty, records: Sequence[RunRecord], now: datetime) -> None:
        self._written(duty, lambda: self._runs.put(*records, now=now))

    def _written(self, duty: Duty, write: Callable[[], object]) -> object:
        """A full disk ends neither the schedule nor backups: what could not be written stays in memory, and is told."""
        try:
            return write()
        except StorageError as error:
            self._unwritten(duty, error)
            return None

    def _unwritten(self, duty: Duty, error: StorageError) -> None:
        self._tell(duty, "schedule.unwritten", "error", f"its runs cannot be recorded: {error}")

    def _tell(self, duty: Duty, kind: str, level: str, text: str, **fields: str | int | float) -> None:
        self._telling.tell(kind, level, duty.cluster, text, bell=duty.bell.id, **fields)


def past_of(records: Sequence[RunRecord], since: datetime, now: datetime) -> Past:
    """What the records of a bell say. A tick is settled by a run that was carried out, by one that runs, by a miss, and
    by an attempt at a later tick."""
    believed = [record for record in records if record.due <= now]
    settled = max((r.due for r in believed if r.outcome is Outcome.RUNNING or carried_out(r)), default=None)
    failed = [r for r in believed if not (r.outcome is Outcome.RUNNING or carried_out(r))]
    newest = max((r.due for r in failed), default=None)
    if newest is None or (settled is not None and newest <= settled):
        return Past(since, settled)
    attempts = [r for r in failed if r.due == newest]
    given_up = max((r.due for r in failed if r.due < newest), default=settled)
    failure = Failure(newest, len(attempts), max(r.ended or newest for r in attempts))
    known = [moment for moment in (settled, given_up) if moment is not None]
    return Past(since, max(known, default=None), failure=failure)


def _begun(success: datetime | None, records: Iterable[RunRecord]) -> datetime | None:
    """When a success began: where all that is known is its end, one of our own runs may tell."""
    for record in records:
        if success and record.started and record.ended and record.started <= success <= record.ended:
            return record.started
    return success


def _turn(entry: tuple[Duty, Decision]) -> tuple[datetime, int, str]:
    """Who waits longest comes first; of equals a backup before what reads it."""
    duty, decision = entry
    tick = decision.run or datetime.max.replace(tzinfo=UTC)
    return tick, _FIRST.index(duty.job) if duty.job in _FIRST else len(_FIRST), duty.bell.id
