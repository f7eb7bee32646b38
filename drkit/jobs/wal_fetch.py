"""What a recovering server is answered: one way for the command line and the daemon."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from drkit.core.clock import Clock
from drkit.core.log import Log
from drkit.jobs.recovery_events import note
from drkit.jobs.recovery_file import RecoveryFile
from drkit.jobs.wal_get import Answer, Found, Put, Retry, Wanted, get
from drkit.repository.layout import ClusterLayout
from drkit.repository.repository import Repository
from drkit.repository.spool import Spool

STANDBY_SIGNAL = "standby.signal"


@dataclass(frozen=True, slots=True)
class Opening:
    """awake: opens the targets that did not fail just now, None where none is resting · all: opens every one."""

    awake: Callable[[], Repository] | None
    all: Callable[[], Repository]


def fetch(
    wanted: Wanted,
    put: Put,
    recovery: RecoveryFile | None,
    opening: Opening,
    clock: Clock,
    log: Log,
    *,
    folder: Path | None,
    spool: Spool,
) -> Found:
    """Ask without the targets that failed just now, and where that leaves a doubt, all of them, repeatedly.

    folder: the data folder; what was met is noted in it where a recovery follows a plan. None: nothing is noted and
    nothing believed about it. spool: remembers which objects were met damaged; nothing is mended in recovery's way.
    A standby's doubt is answered as ABSENT: it asks again, and a harder answer would take the server down. Raises as
    `get`.
    """
    standby = recovery is not None and recovery.standby
    found: Found | None = None
    if opening.awake is not None:
        found = get(wanted, put, opening.awake, recovery, clock, log, retry=Retry(rounds=1))
    if found is None or found.answer is Answer.DOUBT:
        found = get(wanted, put, opening.all, recovery, clock, log, retry=Retry(rounds=3) if standby else Retry())
    if found.damaged:
        spool.suspect([ClusterLayout(wanted.system_identifier).archived(wanted.name.text)])
    if folder is None:
        return found
    if recovery is not None and found.answer is not Answer.ABSENT:
        note(folder, found.event(wanted.name.text))
    if found.answer is Answer.DOUBT and standby and (folder / STANDBY_SIGNAL).exists():
        return replace(found, answer=Answer.ABSENT, why=f"in doubt, {found.why}: a standby asks again")
    return found


def cure_of(found: Found) -> str:
    """What helps a recovery that met a DOUBT."""
    once = "start the server again: recovery goes on where it stopped"
    if found.damaged:
        cure = "bring a good copy from a server's pg_wal with `drkit wal push`, or let the other targets answer, and "
        return cure + f"{once}; or restore to an earlier point"
    cure = f"once the targets answer again, {once}; a target that is lost for good is given up with "
    return cure + "`drkit restore --without TARGET`"
