"""Pays debts of WAL as targets return: a few at a time, and only while nothing is being pushed for somebody."""

from __future__ import annotations

from drkit.core.cancel import CancelToken
from drkit.core.clock import Clock
from drkit.core.errors import DrkitError
from drkit.core.log import Log
from drkit.daemon.archiver import Archiver
from drkit.daemon.targets import OpenTargets
from drkit.jobs.wal_debts import pay_debts
from drkit.repository.spool import Spool
from drkit.repository.target import Target
from storage_backends.errors import StorageError

_LOOK_S = 2.0
_LIMIT, _DEADLINE_S = 8, 5.0  # of one turn: after it, it is looked again whether somebody pushes
_BLOCKED_AGAIN_S = 600.0  # whether what stood in the way of a debt was repaired
_YIELD_S = 5.0  # a server that writes without a pause must not keep debts from being paid for ever


class Payer:
    """A part of the daemon."""

    name = "payer"

    def __init__(self, targets: OpenTargets, archiver: Archiver, spool: Spool, clock: Clock, log: Log) -> None:
        self._targets, self._archiver, self._spool = targets, archiver, spool
        self._clock, self._log = clock, log
        self._blocked_at: dict[str, float] = {}
        self._paid_at = clock.monotonic()

    def run(self, token: CancelToken) -> None:
        while not token.cancelled:
            began = self._clock.monotonic()
            more = self.turn()
            took_s = self._clock.monotonic() - began
            token.wait(max(0.05, took_s) if more else _LOOK_S)  # half of the time at most

    def turn(self) -> bool:
        """Pay some; whether there is more that can be paid now."""
        if self._archiver.busy and self._clock.monotonic() - self._paid_at < _YIELD_S:
            return False
        try:
            owing = self._owing()
            paid = [self._pay(target) for target in owing]
        except (DrkitError, StorageError, OSError) as error:
            self._log.warn("wal debts not paid", why=str(error))
            return False
        self._paid_at = self._clock.monotonic()
        return any(paid)

    def _owing(self) -> list[Target]:
        """Targets that are owed something, are open and do not rest."""
        if not self._spool.targets():
            return []
        resting = self._spool.resting(self._clock.now())
        return [t for t in self._targets.repository().targets if t.name not in resting and self._spool.count(t.name)]

    def _pay(self, target: Target) -> bool:
        now = self._clock.monotonic()
        blocked_too = now >= self._blocked_at.get(target.name, 0.0)
        done = pay_debts(
            self._targets.repository(),
            [target],
            self._spool,
            self._clock,
            self._log,
            limit=_LIMIT,
            deadline_s=_DEADLINE_S,
            blocked_too=blocked_too,
        )
        if blocked_too and not done.busy:
            self._blocked_at[target.name] = now + _BLOCKED_AGAIN_S
        for name, why in done.failed.items():  # it rests as any target that fails, so that it is opened anew
            self._spool.failed(name, self._clock.now(), why)
        return done.paid > 0
