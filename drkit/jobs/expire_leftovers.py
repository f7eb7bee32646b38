"""What processes that died left on a target beside objects: temporary files, unfinished uploads, canaries."""

from __future__ import annotations

from datetime import timedelta

from drkit.jobs.expire_survey import TargetTime
from drkit.repository.target import Target

LEFTOVERS_S = 86_400.0
"""So old, by the target's clock: nothing writes one object, or looks at a canary, for a day."""
_CANARIES = "canaries/"


def sweep(target: Target, time: TargetTime) -> int:
    """Remove what is left over; returns how many. A writer that was stopped for so long fails. Raises StorageError."""
    swept = 0
    limit = time.now() - timedelta(seconds=LEFTOVERS_S)
    for info in list(target.backend.list(_CANARIES)):
        if info.modified_at < limit:
            target.backend.delete(info.key)
            swept += 1
    rest = target.backend.traits.sweep
    return swept if rest is None else swept + rest(time.now(), LEFTOVERS_S)
