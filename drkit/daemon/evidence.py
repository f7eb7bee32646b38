"""What was really done, whoever did it: asked of the repository by a child, so that a target that hangs hangs nobody
here, and the daemon's memory stays small."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Protocol

from drkit.core.cancel import CancelToken
from drkit.core.clock import Clock
from drkit.core.errors import UsageError
from drkit.core.units import parse_time
from drkit.daemon.children import Order, Runner

ASKED = ("backup", "drill")
"""Jobs of which the repository tells when they were done last."""
FRESH_S = 60.0
LONGEST_S = 120.0
_QUESTIONS = {"backup": ("list", "--newest", "1"), "drill": ("drill", "history", "--limit", "20")}


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """Another host takes a backup; its lease says so until then."""

    host: str
    until: datetime


@dataclass(frozen=True, slots=True)
class Known:
    """fresh: it was asked just now, if without success · successes: (job, cluster, scenario) to when the newest good
    run began (of a drill: ended) · leases: by cluster."""

    fresh: bool = False
    successes: Mapping[tuple[str, str, str], datetime] = field(default_factory=dict)
    leases: Mapping[str, Elsewhere] = field(default_factory=dict)
    without: frozenset[str] = frozenset()

    def success(self, job: str, cluster: str, scenario: str) -> datetime | None:
        return self.successes.get((job, cluster, scenario))

    def elsewhere(self, cluster: str, now: datetime) -> str:
        """Who takes a backup of the cluster on another host just now, "" for nobody."""
        found = self.leases.get(cluster)
        return f"{found.host} was just taking a backup" if found is not None and found.until > now else ""


class Evidence(Protocol):
    """Thread-safe."""

    def known(self) -> Known:
        """At once, from memory."""
        ...

    def refresh(self, token: CancelToken) -> None:
        """Ask; what could not be learned stays as it was known. Returns after `LONGEST_S` per question at most."""
        ...

    def outdated(self) -> None:
        """Something was done: what is known is not fresh any more."""
        ...


class CatalogueEvidence:
    """jobs: those of the schedule, clusters: theirs · host: this one, whose own leases are of jobs that ended or that
    we know."""

    def __init__(self, runner: Runner, jobs: Iterable[str], clusters: Iterable[str], host: str, clock: Clock) -> None:
        self._runner, self._clusters, self._host, self._clock = runner, frozenset(clusters), host, clock
        self._questions = [job for job in ASKED if job in set(jobs)]
        self._lock = threading.Lock()
        self._successes: dict[tuple[str, str, str], datetime] = {}
        self._leases: dict[str, Elsewhere] = {}
        self._without: frozenset[str] = frozenset()
        self._asked_at: float | None = None

    def known(self) -> Known:
        with self._lock:
            at = self._asked_at
            fresh = at is not None and self._clock.monotonic() - at < FRESH_S
            return Known(fresh, dict(self._successes), dict(self._leases), self._without)

    def outdated(self) -> None:
        with self._lock:
            self._asked_at = None

    def refresh(self, token: CancelToken) -> None:
        for job in self._questions:
            if token.cancelled:
                return
            try:
                answer = self._runner.run(Order(f"evidence.{job}", _QUESTIONS[job], LONGEST_S), token).answer
            except OSError:  # no process could be made: the jobs themselves will tell of it
                answer = {}
            with self._lock:
                self._learn(job, answer)
        with self._lock:
            self._asked_at = self._clock.monotonic()

    def _learn(self, job: str, answer: Mapping[str, object]) -> None:
        if job == "backup" and "backups" in answer:
            self._leases = dict(_elsewhere(_rows(answer, "leases"), self._host))
            good = [row for row in _rows(answer, "backups") if row.get("status") == "good"]
            for row in good:
                self._done((job, str(row.get("cluster")), ""), row.get("started_at"))
            whole = not answer.get("unreadable")
            self._without = self._clusters - {str(row.get("cluster")) for row in good} if whole else frozenset()
        if job == "drill":
            for row in _rows(answer, "drills"):
                if row.get("verdict") == "pass":
                    for name in (row.get("scenario"), row.get("drill")):
                        self._done((job, str(row.get("cluster")), str(name)), row.get("at"))

    def _done(self, key: tuple[str, str, str], at: object) -> None:
        with suppress(UsageError):
            moment = parse_time(str(at))
            self._successes[key] = max(moment, self._successes.get(key, moment))


def _elsewhere(rows: Iterable[Mapping[str, object]], host: str) -> Iterable[tuple[str, Elsewhere]]:
    for row in rows:
        lasts_s = row.get("lasts_s")
        if row.get("job") != "backup" or row.get("host") == host or not isinstance(lasts_s, int):
            continue
        with suppress(UsageError):
            until = parse_time(str(row.get("started_at"))) + timedelta(seconds=lasts_s)
            yield str(row.get("cluster")), Elsewhere(str(row.get("host")), until)


def _rows(answer: Mapping[str, object], member: str) -> list[Mapping[str, object]]:
    found = answer.get(member)
    return [row for row in found if isinstance(row, Mapping)] if isinstance(found, list) else []
