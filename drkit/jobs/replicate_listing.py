"""What some targets have and others lack, by listing them side by side: nothing is kept but what is looked at."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field

from drkit.core.errors import Damage
from drkit.crypto.keys import Ring
from drkit.repository.graves import read_round
from drkit.repository.layout import ClusterLayout
from drkit.repository.target import Target
from storage_backends.api import Key
from storage_backends.errors import NotFound, StorageError

_ATTEMPTS = 3


@dataclass(slots=True)
class Listing:
    """Listings of several targets, in step. failed: who could not be listed to the end, and why."""

    targets: Sequence[Target]
    failed: dict[str, StorageError] = field(default_factory=dict)

    def keys(self, prefix: str) -> Iterator[tuple[str, Mapping[str, int]]]:
        """Each key that any target has, rising, with its stored size by target.

        A target is in `failed` before a key is given out that it did not live to list: whoever takes what is not in
        the mapping for absent must look there first.
        """
        rows = heapq.merge(*(self._rows(target, prefix) for target in self.targets))
        last, held = "", dict[str, int]()
        for key, name, size_bytes in rows:
            if key != last and held:
                yield last, held
                held = {}
            last = key
            held[name] = size_bytes
        if held:
            yield last, held

    def _rows(self, target: Target, prefix: str) -> Iterator[tuple[str, str, int]]:
        if target.name in self.failed:
            return
        try:
            for info in target.backend.list(prefix):
                yield info.key, target.name, info.size_bytes
        except StorageError as error:
            self.failed[target.name] = error


class Tombstones:
    """The keys that have a tombstone on one target, looked at again and again: each round is read once.

    Not thread-safe. A tombstone is final, so one that was met stays, whatever became of its round.
    """

    def __init__(self, target: Target, layout: ClusterLayout, ring: Ring) -> None:
        self._target, self._layout, self._ring = target, layout, ring
        self._read: set[Key] = set()
        self._keys: set[str] = set()

    def look(self) -> Set[str]:
        """List the rounds and read what is new. Raises Damage where a round does not open, StorageError."""
        for _ in range(_ATTEMPTS):
            try:
                for info in list(self._target.backend.list(self._layout.folder("tombstones"))):
                    if info.key not in self._read:
                        self._keys |= read_round(self._target, info.key, self._ring)
                        self._read.add(info.key)
                return self._keys
            except NotFound:
                continue  # joined into another round meanwhile, which the next listing shows
        raise Damage("the rounds of tombstones change faster than they can be read", where=self._target.where)


@dataclass(frozen=True, slots=True)
class Lacking:
    """One key: who has it (stored size by target) and which destinations lack it and may get it."""

    key: str
    held: Mapping[str, int]
    by: tuple[str, ...]

    @property
    def size_bytes(self) -> int:
        return max(self.held.values())


def lacking(
    key: str,
    held: Mapping[str, int],
    listing: Listing,
    sources: Sequence[str],
    destinations: Sequence[str],
    entombed: Mapping[str, Set[str]],
) -> Lacking | None:
    """What a source has without a tombstone, and a destination lacks without one; None where there is no such.

    entombed: keys with a tombstone, by target; who is not in it is neither source nor destination.
    """
    if not any(name in held and name in entombed and key not in entombed[name] for name in sources):
        return None
    by = tuple(
        name
        for name in destinations
        if name not in held and name not in listing.failed and name in entombed and key not in entombed[name]
    )
    return Lacking(key, held, by) if by else None
