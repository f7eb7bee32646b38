"""The one opened repository of the daemon: a target that was lost is opened again, the others stay as they are.

A target is lost when it could not be opened, or when it failed since (the spool remembers that, and how long it
rests). Opening happens in the background: a target that hangs there delays nobody who pushes.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from drkit.core.cancel import CancelToken
from drkit.core.clock import Clock
from drkit.core.errors import DrkitError, Unreachable
from drkit.core.log import Log
from drkit.daemon.api import Telling
from drkit.jobs.fanout import Patience, ask_all
from drkit.repository.layout import DESCRIPTOR
from drkit.repository.repository import Problem, Repository
from drkit.repository.spool import Spool
from drkit.repository.target import Target
from storage_backends.errors import NotFound, StorageError

_LOOK_S = 1.0


@dataclass(frozen=True, slots=True)
class Doors:
    """How targets are opened. names: all that are configured, in order.

    make: backends of some of them, and why the others have none · open: the repository on those (as `open_repository`,
    raising what it raises). Both are called by one thread at a time.
    """

    names: Sequence[str]
    make: Callable[[Collection[str]], tuple[Sequence[Target], Mapping[str, Problem]]]
    open: Callable[[Sequence[Target], Mapping[str, Problem]], Repository]


class OpenTargets:
    """A part of the daemon. Thread-safe."""

    name = "targets"

    def __init__(
        self, doors: Doors, spool: Spool, clock: Clock, log: Log, telling: Telling, *, patience: Patience | None = None
    ) -> None:
        self.names = tuple(doors.names)
        self._doors, self._spool, self._clock, self._log, self._telling = doors, spool, clock, log, telling
        self._patience = patience or Patience(deadline_s=30.0, grace_s=3.0)
        self._opening = threading.Lock()
        self._changed = threading.Condition()
        self._repository: Repository | None = None
        self._problem: Problem | None = None
        self._lost: set[str] = set(doors.names)
        self._away: set[str] = set()

    def run(self, token: CancelToken) -> None:
        while not token.cancelled:
            self.look()
            token.wait(_LOOK_S)

    def look(self) -> None:
        """Open again what was lost and has rested."""
        resting = self._spool.resting(self._clock.now())
        with self._changed:
            self._lost |= resting.keys() & set(self.names)
            first = self._repository is None and self._problem is None
            due = self._lost if first else self._lost - resting.keys()
            due = set(due)
        if due:
            self._open(due)

    def repository(self, wait_s: float = 30.0) -> Repository:
        """As it is opened now. Before the first opening waits for it; raises what kept it from being opened."""
        with self._changed:
            self._changed.wait_for(lambda: self._repository or self._problem, wait_s)
            if self._repository is not None:
                return self._repository
            raise self._problem or Unreachable("the targets are still being opened", cure="ask again")

    def again(self) -> Repository:
        """The same with every lost target tried once more, whether it rests or not."""
        resting = self._spool.resting(self._clock.now())
        with self._changed:
            lost = self._lost | (resting.keys() & set(self.names))
        if lost:
            self._open(lost)
        return self.repository()

    def _open(self, names: Collection[str]) -> None:
        with self._opening:
            with self._changed:
                before = self._repository
            kept = [t for t in before.targets if t.name not in names] if before else []
            try:
                made, failed = self._doors.make(names)
            except (StorageError, DrkitError) as error:  # credentials that cannot be read now
                self._failed(error, {}, names)
                return
            problems: dict[str, Problem] = dict(failed)
            answers = ask_all(made, _knock, lambda good: bool(good or kept), self._patience, self._clock)
            problems |= answers.failed
            reached = {t.name: t for t in [*kept, *(t for t in made if t.name in answers.good)]}
            ordered = [reached[name] for name in self.names if name in reached]
            if before:
                problems |= {n: p for n, p in before.absent.items() if n not in names}
            try:
                self._publish(self._doors.open(ordered, problems), names)
            except (StorageError, DrkitError) as error:
                self._failed(error, problems, names)

    def _publish(self, repository: Repository, tried: Collection[str]) -> None:
        for name in set(repository.absent) & set(tried):
            self._spool.failed(name, self._clock.now(), str(repository.absent[name]))
        with self._changed:
            self._repository, self._problem = repository, None
            self._lost = set(repository.absent)
            self._changed.notify_all()
        self._tell(repository.absent)

    def _failed(self, error: Problem, problems: Mapping[str, Problem], tried: Collection[str]) -> None:
        """None opened, or none may be used (a wrong key): what was open before stays."""
        for name in tried:
            self._spool.failed(name, self._clock.now(), str(problems.get(name, error)))
        with self._changed:
            self._problem = error
            self._lost |= set(tried)
            self._changed.notify_all()
        self._log.error("repository does not open", why=str(error), cure=error.cure)
        self._tell({name: problems.get(name, error) for name in tried})

    def _tell(self, absent: Mapping[str, Problem]) -> None:
        for name in sorted(absent.keys() - self._away):
            self._log.warn("target away", target=name, why=str(absent[name]))
            self._telling.tell("target.away", "warn", "", f"target {name} is away: {absent[name]}", target=name)
        for name in sorted(self._away - absent.keys()):
            self._log.info("target back", target=name)
            self._telling.tell("target.back", "info", "", f"target {name} answers again", target=name)
        self._away = set(absent)


def _knock(target: Target) -> bool:
    """Whether it answers at all; what it answers is judged when it is opened."""
    try:
        target.read(DESCRIPTOR)
    except NotFound:
        pass
    return True
