"""Rounds of tombstones on one target, each with when it was stored (docs/format.md, section 8)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from drkit.core.errors import Damage
from drkit.crypto.container import open_object
from drkit.crypto.keys import Ring
from drkit.repository.layout import ClusterLayout, Kind
from drkit.repository.target import Target
from storage_backends.api import Key
from storage_backends.errors import NotFound

_ATTEMPTS = 3


@dataclass(frozen=True, slots=True)
class Round:
    """stored_at: by the target's clock · keys: of the objects that are to go."""

    key: Key
    stored_at: datetime
    keys: frozenset[str]


def read_rounds(target: Target, layout: ClusterLayout, ring: Ring) -> list[Round]:
    """All rounds, by key. Raises Damage where one does not open: nobody knows then what may still be used here.

    A round that vanishes while this reads was joined into another one: the listing begins anew.
    """
    for attempt in range(_ATTEMPTS):
        found = []
        try:
            for info in target.backend.list(layout.folder("tombstones")):
                opened = open_object(ring, target.read(info.key), kind=Kind.TOMBSTONE, name=info.key)
                keys = frozenset(opened.joined().decode("ascii").splitlines())
                found.append(Round(info.key, info.modified_at, keys))
            return found
        except NotFound:
            if attempt == _ATTEMPTS - 1:
                raise
    raise Damage("the rounds of tombstones change faster than they can be read", where=target.where)


def buried(rounds: Sequence[Round]) -> frozenset[str]:
    """The keys of all objects that have a tombstone."""
    return frozenset[str]().union(*(one.keys for one in rounds))


def covered(rounds: Sequence[Round], by: datetime) -> list[Key]:
    """Rounds that may be deleted: one that was stored later, and before `by`, names all that they name.

    `by` leaves who listed before the later one was there the time to read what they listed.
    """
    settled = sorted((one for one in rounds if one.stored_at < by), key=lambda one: (one.stored_at, one.key))
    gone = []
    for at, one in enumerate(settled):
        if any(one.keys <= later.keys for later in settled[at + 1 :]):
            gone.append(one.key)
    return gone
