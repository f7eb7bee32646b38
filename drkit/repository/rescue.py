"""Reading a target whose own descriptor is damaged, when no other target is left.

The descriptor only says which repository a target belongs to. Its key slots say so too, and who holds the key proves
them. What cannot be proven without it is which target this is, so nothing is written there.
"""

from __future__ import annotations

from contextlib import suppress

from drkit.core.errors import Damage, KeyMissing
from drkit.crypto.container import HEADER_BYTES, parse_header
from drkit.crypto.keys import Ring
from drkit.crypto.slots import Secret, open_slot
from drkit.repository.identity import slots_of
from drkit.repository.pins import Pin
from drkit.repository.target import Target
from storage_backends.errors import StorageError

_CLUSTERS = "clusters/"


def rescued(target: Target, secret: Secret, pin: Pin | None) -> Ring | None:
    """The keys that the target's sound key slots lead to; None where the secret opens none of them.

    With a pin only the pinned repository counts; without, the one whose objects lie there: a lost race of two `init`
    leaves slots of another. Raises StorageError.
    """
    wanted = bytes.fromhex(pin.repository) if pin else _of_the_content(target)
    best: Ring | None = None
    for name, data in slots_of(target):
        with suppress(Damage, KeyMissing):
            ring = open_slot(secret, data, name)
            fits = ring is not None and 1 in ring.masters and wanted in (None, ring.repository)
            if ring is not None and fits and (best is None or ring.epoch > best.epoch):
                best = ring
    return best


def _of_the_content(target: Target) -> bytes | None:
    """The repository that the first readable object of a cluster names; a hint: nothing of it opens without the key."""
    for info in target.backend.list(_CLUSTERS):
        with suppress(Damage, StorageError):
            return parse_header(target.read(info.key, 0, HEADER_BYTES), info.key).repository
    return None
