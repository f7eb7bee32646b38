"""What is owed, from the spool's names: each debt is read once, however many there are and however often one asks."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from datetime import datetime

from drkit.core.errors import DrkitError
from drkit.core.units import parse_time
from drkit.repository.spool import Spool


@dataclass(frozen=True, slots=True)
class Owed:
    """By one target, of one cluster."""

    count: int = 0
    size_bytes: int = 0
    since: datetime | None = None


@dataclass(frozen=True, slots=True)
class _Debt:
    system_identifier: int
    size_bytes: int
    since: datetime


class Ledger:
    """Thread-safe."""

    def __init__(self, spool: Spool) -> None:
        self._spool = spool
        self._lock = threading.Lock()
        self._known: dict[str, dict[str, _Debt]] = {}

    def owed(self, target: str) -> dict[int, Owed]:
        """By system identifier."""
        with self._lock:
            debts = list(self._read(target).values())
        found: dict[int, Owed] = {}
        for debt in debts:
            one = found.get(debt.system_identifier, Owed())
            since = min(one.since, debt.since) if one.since else debt.since
            found[debt.system_identifier] = Owed(one.count + 1, one.size_bytes + debt.size_bytes, since)
        return found

    def _read(self, target: str) -> dict[str, _Debt]:
        known = self._known.get(target, {})
        found = {}
        for ident in self._spool.idents(target):
            debt = known.get(ident) or self._debt(target, ident)
            if debt is not None:
                found[ident] = debt
        self._known[target] = found
        return found

    def _debt(self, target: str, ident: str) -> _Debt | None:
        """None where it was paid meanwhile, or is damaged: who pays it tells."""
        try:
            debt = self._spool.debt(target, ident)
            if debt is None:
                return None
            return _Debt(debt.system_identifier, debt.size_bytes, parse_time(debt.since))
        except (DrkitError, OSError):
            return None
