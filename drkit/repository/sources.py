"""Which target serves a read: the first in order that can, the next one on failure or damage."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from drkit.core.errors import Damage, DrkitError, Missing, Unreachable
from drkit.crypto.keys import Ring
from drkit.repository.layout import ClusterLayout
from drkit.repository.leases import tombstones
from drkit.repository.repository import Problem
from drkit.repository.target import Target
from storage_backends.api import Key
from storage_backends.errors import Damaged, NotFound, StorageError

T = TypeVar("T")
Report = Callable[[Target, str, Problem], None]


def _silent(target: Target, key: str, problem: Problem) -> None:
    return None


class Sources:
    """Targets in the order in which they are asked. Thread-safe.

    A target that cannot be asked goes to the end of the order for all that follows; one that lacks or damages an
    object is passed over for that object alone. Each such event goes to `report` (from any thread, must not raise).
    """

    def __init__(self, targets: Sequence[Target], layout: ClusterLayout, ring: Ring, report: Report = _silent) -> None:
        self._targets = list(targets)
        self._ring = ring
        self._layout = layout
        self._report = report
        self._bad: set[tuple[str, str]] = set()
        self._bytes = {target.name: 0 for target in targets}
        self._lock = threading.Lock()

    @property
    def fetched_bytes(self) -> Mapping[str, int]:
        """Bytes read from each target so far."""
        with self._lock:
            return dict(self._bytes)

    @property
    def far(self) -> bool:
        """Whether the target that is asked first is far away."""
        with self._lock:
            return bool(self._targets) and self._targets[0].far

    def count(self, target: Target, size_bytes: int) -> None:
        with self._lock:
            self._bytes[target.name] += size_bytes

    def read(self, target: Target, key: Key, start: int = 0, length: int | None = None) -> bytes:
        """Bytes of an object from one target, counted."""
        data = target.read(key, start, length)
        self.count(target, len(data))
        return data

    def order(self, key: Key) -> list[Target]:
        """The targets to ask for an object, those that failed for it before last of all."""
        with self._lock:
            return sorted(self._targets, key=lambda target: (target.name, key) in self._bad)

    def attempt(self, key: Key, use: Callable[[Target], T]) -> T:
        """The result of `use` on the first target where it succeeds.

        Raises Damage where any target's copy is damaged and none is sound, Missing where all lack it (and says when
        it was expired), Unreachable otherwise; `why` names every target's cause. Errors of keys pass unchanged.
        """
        failures: list[tuple[Target, Problem]] = []
        for target in self.order(key):
            try:
                return use(target)
            except (StorageError, Damage) as error:
                failures.append((target, error))
                self._failed(target, key, error)
        raise self._give_up(key, failures)

    def _failed(self, target: Target, key: Key, error: Problem) -> None:
        with self._lock:
            if isinstance(error, NotFound | Damage | Damaged):
                self._bad.add((target.name, key))
            elif self._targets[-1] is not target:
                self._targets.remove(target)
                self._targets.append(target)
        self._report(target, key, error)

    def _give_up(self, key: Key, failures: Sequence[tuple[Target, Problem]]) -> DrkitError:
        why = "; ".join(f"{target.name}: {error}" for target, error in failures) or "no target may be read"
        if any(isinstance(error, Damage | Damaged) for _, error in failures):
            cure = "`drkit verify --repair` mends it where any target, also one not asked now, has it whole"
            cure += "; or choose an earlier backup or point: `drkit list`, `drkit windows`"
            return Damage("no target has a sound copy of an object", where=key, why=why, cure=cure)
        if failures and all(isinstance(error, NotFound) for _, error in failures):
            if self._expired(key, failures[0][0]):
                cure = "start again with a backup that `drkit list` shows as good"
                return Missing("an object was expired during the restore", where=key, why=why, cure=cure)
            what, cure = "no target has an object that is needed", "`drkit list` shows which backups are whole"
            return Missing(what, where=key, why=why, cure=cure)
        cure = "`drkit check` tries each target"
        return Unreachable("no target could serve an object", where=key, why=why, cure=cure)

    def _expired(self, key: Key, target: Target) -> bool:
        try:
            return key in tombstones(target, self._layout, self._ring)
        except (StorageError, DrkitError):
            return False
