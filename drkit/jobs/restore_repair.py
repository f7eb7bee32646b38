"""After a restore: what it met damaged or missing on a target is mended there, by the repair of verification.

Data comes first: nothing of this runs before the folder is whole, and no failure of it is one of the restore.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

from drkit.core.errors import DrkitError
from drkit.jobs.restore import RestoreResult
from drkit.jobs.restore_plan import Plan
from drkit.jobs.restore_start import Started
from drkit.jobs.verify import Surroundings, verify
from drkit.jobs.verify_facts import Finding, Ground, Outcome, VerifyOrder
from drkit.repository.names import place_of
from drkit.repository.spool import Spool
from storage_backends.errors import StorageError

MOST = 200
"""So many objects are mended in passing, 5 GB of packs; more is a target that wants a repair of its own."""

REPAIR = "drkit verify --repair"


@dataclass(frozen=True, slots=True)
class Mended:
    """What became of one object on one target. target "": on every target that the restore could not read it from.

    outcome: REPAIRED, FADED (it reads right by now), LEFT, LOST (no target has it whole) · why: of each
    kept: the file with the damaged bytes, "" where there is none · cure: the command that is left to do, "" for none.
    """

    target: str
    key: str
    outcome: Outcome
    why: str
    kept: str = ""
    cure: str = ""


def met(plan: Plan, result: RestoreResult, started: Started | None = None) -> frozenset[str]:
    """Keys of the objects that a target could not serve to planning, restore or recovery, and another one did."""
    keys = {*plan.lacking, *(key for _, key, _ in (*plan.failures, *result.failures))}
    keys.update(plan.layout.archived(file) for file in (started.wal_elsewhere if started else ()))
    return frozenset(key for key in keys if place_of(key) is not None)


def mend(ground: Callable[[], Ground], order: VerifyOrder, around: Surroundings, spool: Spool) -> list[Mended]:
    """Look at the objects of the order on every target again and repair what is not sound; never raises for want of
    success. An order without `repair` leaves them all.

    What is left, by a kill too, is remembered in the spool, so that the next verification looks at it.
    """
    keys = order.keys
    spool.suspect(sorted(keys)[:MOST])
    if not order.repair:
        return _all_left(keys, "another target served it; no repair was wanted")
    if len(keys) > MOST:
        return _all_left(keys, f"{len(keys)} objects could not be read: more than are repaired in passing")
    try:
        result = verify(order, ground(), around)
    except (DrkitError, StorageError) as error:
        return _all_left(keys, str(error))
    found = [_mended(one) for one in result.findings]
    if not result.unread:
        spool.looked_at(keys - {one.key for one in found if one.outcome is Outcome.LEFT})
    return found


def _all_left(keys: Collection[str], why: str) -> list[Mended]:
    return [Mended("", key, Outcome.LEFT, why, cure=REPAIR) for key in sorted(keys)]


def _mended(one: Finding) -> Mended:
    mendable = one.outcome is Outcome.LEFT and one.sources
    cure = f"{REPAIR} --target {one.target}" if mendable else ""
    return Mended(one.target, one.key, one.outcome, one.note or one.why, one.kept, cure)
