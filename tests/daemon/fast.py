"""A schedule that lives days in a moment: a clock turned by hand, jobs that only last."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from drkit.core.log import NoLog
from drkit.daemon.agenda import Agenda, Start
from drkit.daemon.api import Outcome, RunRecord
from drkit.daemon.children import Ended
from drkit.daemon.duties import Duty
from drkit.daemon.evidence import Known
from drkit.daemon.runs import Runs
from policies.cron import Cron
from policies.schedule import Bell

DONE = Ended(0, answer={"schema": "drkit.backup/1"})
FAILED = Ended(7, why="no target can be reached")


class FastClock:
    """The wall clock is time plus an error that `jump` changes."""

    def __init__(self, start: datetime) -> None:
        self._start, self.elapsed_s, self.error = start, 0.0, timedelta(0)

    def now(self) -> datetime:
        return self._start + timedelta(seconds=self.elapsed_s) + self.error

    def monotonic(self) -> float:
        return self.elapsed_s

    def sleep(self, seconds: float) -> None:
        self.elapsed_s += seconds

    def jump(self, length: timedelta) -> None:
        self.error += length


class Told:
    """Keeps what was told."""

    def __init__(self) -> None:
        self.kinds: list[str] = []
        self.texts: list[str] = []

    def tell(self, kind: str, level: str, cluster: str, text: str, **fields: str | int | float) -> None:
        self.kinds.append(kind)
        self.texts.append(text)


def duty(
    line: str, *, job: str = "backup", cluster: str = "orders", zone: str = "UTC", jitter: timedelta = timedelta(0)
) -> Duty:
    return Duty(Bell(f"{job}.{cluster}.1", Cron.parse(line), zone, jitter), job, cluster, (job, cluster), 86400.0)


@dataclass
class Life:
    """A daemon's schedule on a host. lasts: of a run, by its start · ends: how it ends, by its start."""

    folder: Path
    duties: Sequence[Duty]
    start: datetime
    lasts: Callable[[RunRecord], timedelta] = lambda record: timedelta(minutes=10)
    ends: Callable[[RunRecord], Ended] = lambda record: DONE
    slots: int = 2
    known: Callable[[datetime], Known] = lambda now: Known(fresh=True)
    orphans_last: timedelta = timedelta(0)
    told: Told = field(default_factory=Told)
    starts: list[RunRecord] = field(default_factory=list)
    most_at_once: int = 0

    def __post_init__(self) -> None:
        self.clock = FastClock(self.start)
        self._jobs: dict[str, tuple[float, Duty, RunRecord]] = {}
        self._orphans: dict[str, float] = {}
        self.agenda: Agenda | None = None

    def boot(self) -> None:
        """A new daemon, which knows what is on the disk."""
        self.agenda = Agenda(
            self.duties, Runs(self.folder), self.clock, NoLog(), self.told, slots=self.slots, held=self._held
        )

    def kill(self) -> None:
        """SIGKILL: what ran lives on for `orphans_last`, holding its lock."""
        until = self.clock.monotonic() + self.orphans_last.total_seconds()
        self._orphans |= {duty.cluster: until for _, duty, _ in self._jobs.values()}
        self._jobs.clear()
        self.agenda = None

    def _held(self, cluster: str) -> str:
        return "a job of an earlier daemon was still there" if self._orphans.get(cluster, -1) > self._now_s else ""

    @property
    def _now_s(self) -> float:
        return self.clock.monotonic()

    def live(self, length: timedelta, step: timedelta = timedelta(minutes=1)) -> None:
        """Look every `step`, and let what runs come to its end."""
        until = self._now_s + length.total_seconds()
        while self._now_s < until:
            self.clock.sleep(step.total_seconds())
            if self.agenda is not None:
                self.look(self.agenda)

    def until(self, moment: datetime, step: timedelta = timedelta(minutes=1)) -> None:
        self.live(moment - self.clock.now(), step)

    def look(self, agenda: Agenda) -> None:
        for bell, (over, duty, record) in list(self._jobs.items()):
            if over <= self._now_s:
                del self._jobs[bell]
                agenda.ended(duty, self.ends(record))
        for start in agenda.look(self.known(self.clock.now())).starts:
            self._begin(agenda, start)

    def _begin(self, agenda: Agenda, start: Start) -> None:
        assert not self._held(start.duty.cluster), "started beside an orphan"
        assert start.duty.cluster not in {duty.cluster for _, duty, _ in self._jobs.values()}, "two at once"
        record = agenda.began(start)
        self.starts.append(record)
        self._jobs[record.bell] = (self._now_s + self.lasts(record).total_seconds(), start.duty, record)
        self.most_at_once = max(self.most_at_once, len(self._jobs))
        assert len(self._jobs) <= self.slots

    def records(self, bell: str = "backup.orders.1") -> tuple[RunRecord, ...]:
        """As a daemon that starts now would read them."""
        runs = Runs(self.folder)
        found = {one.bell.id: one for one in self.duties}[bell]
        runs.open(bell, found.terms, self.clock.now())
        return runs.of(bell)

    def dues(self, outcome: Outcome, bell: str = "backup.orders.1") -> list[datetime]:
        return [record.due for record in self.records(bell) if record.outcome is outcome]


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)


def counted(values: Sequence[str]) -> Mapping[str, int]:
    return {value: values.count(value) for value in values}
