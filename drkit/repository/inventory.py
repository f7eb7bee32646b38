"""What is there on one target, by listing: the facts that closures are judged from."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Literal

from drkit.core.spread import AT_ONCE, spread
from drkit.crypto.keys import Ring
from drkit.repository.layout import KEYS, ClusterLayout, Kind, RunId
from drkit.repository.leases import Held, held, tombstones
from drkit.repository.manifest import Reference, Summary
from drkit.repository.shared import Shared
from drkit.repository.target import Target
from storage_backends.api import Key
from storage_backends.errors import NotFound

Listing = Literal["data", "epochs", "histories", "manifests", "tombstones", "unsound", "verdicts"]

_SLOT = re.compile(rf"{KEYS}([0-9a-f]{{8}})/[0-9a-f]{{16}}\Z")


@dataclass(frozen=True, slots=True)
class Lack:
    """An object of a closure that is missing, or there with another size than its reference's. Sizes in bytes.

    unsound: the last verification found it damaged, and it has not been replaced since
    """

    key: str
    found: int | None
    wanted: int
    unsound: bool = False

    def __str__(self) -> str:
        if self.unsound:
            return f"{self.key} was found damaged by the last `drkit verify`; with --repair it mends what it can"
        if self.found is None:
            return f"{self.key} is missing"
        if self.found < self.wanted:
            return f"{self.key} is truncated, {self.found} of {self.wanted} bytes"
        return f"{self.key} has {self.found} bytes instead of {self.wanted}"


class Inventory:
    """Listings of one target for one cluster, each made at most once, when first asked for. Thread-safe.

    suspects: key -> version of objects that the newest evidence calls damaged.
    Every listing raises StorageError where the target cannot be asked: nothing is ever 'missing' by silence.
    """

    def __init__(
        self, target: Target, layout: ClusterLayout, ring: Ring, suspects: Mapping[str, str] | None = None
    ) -> None:
        self.target, self.layout, self._ring = target, layout, ring
        self._suspects = suspects or {}
        self._logs: Shared[str, dict[str, int]] = Shared(1, lambda _: 0)

    def _sizes(self, prefix: str) -> dict[str, int]:
        return {info.key: info.size_bytes for info in self.target.backend.list(prefix)}

    def look(self, *listings: Listing, references: Iterable[Reference] = ()) -> None:
        """Make these listings now, and those of the logs of WAL that `references` name; at once where that pays.

        What must be seen after something else is looked at by a call of its own. Raises as they do.
        """
        names = {r.name[:16].decode("ascii") for r in references if r.kind == Kind.WAL}
        logs = [(int(name[:8], 16), int(name[8:], 16)) for name in sorted(names)]
        calls: list[Callable[[], object]] = [partial(getattr, self, name) for name in listings]
        calls += [partial(self.log, *log) for log in logs]
        spread(lambda call: call(), calls, AT_ONCE if self.target.far else 1)

    @cached_property
    def data(self) -> dict[str, int]:
        """Sizes of packs and maps by key."""
        kinds = [self.layout.folder("packs"), self.layout.folder("maps")]
        packs, maps = spread(self._sizes, kinds, AT_ONCE if self.target.far else 1)
        return packs | maps

    @cached_property
    def manifests(self) -> dict[str, int]:
        """Sizes of manifests by backup id."""
        prefix = self.layout.folder("manifests")
        return {key.removeprefix(prefix): size for key, size in self._sizes(prefix).items()}

    @cached_property
    def leases(self) -> list[Held]:
        """Of jobs that work on this cluster, or did and died. Raises Damage too."""
        return held(self.target, self.layout, self._ring)

    @cached_property
    def verdicts(self) -> frozenset[str]:
        """Ids of the runs about which something was decided here; what, `leases.read_verdict` tells."""
        prefix = self.layout.folder("verdicts")
        return frozenset(info.key.removeprefix(prefix) for info in self.target.backend.list(prefix))

    @cached_property
    def tombstones(self) -> frozenset[str]:
        """Keys of objects with a tombstone; see `leases.tombstones`."""
        return tombstones(self.target, self.layout, self._ring)

    @cached_property
    def unsound(self) -> frozenset[str]:
        """Keys of objects that are known to be damaged: the very ones, not what a repair put in their place."""
        found: set[str] = set()
        for key, version in self._suspects.items():
            try:
                if self.target.backend.stat(Key(key)).version == version:
                    found.add(key)
            except NotFound:
                continue  # missing is for the listings to say
        return frozenset(found)

    @cached_property
    def histories(self) -> dict[str, int]:
        return self._sizes(self.layout.folder("history"))

    @cached_property
    def epochs(self) -> frozenset[int]:
        """Key epochs that have a slot here."""
        found = (_SLOT.match(info.key) for info in self.target.backend.list(KEYS))
        return frozenset(int(slot[1], 16) for slot in found if slot)

    def log(self, timeline: int, log: int) -> dict[str, int]:
        """Stored sizes of the WAL objects of one log by key."""
        prefix = self.layout.wal_folder(timeline, log)
        return self._logs.get(prefix, lambda: self._sizes(prefix))

    def lacking(self, references: Iterable[Reference], summary: Summary) -> list[Lack]:
        """What of a closure is missing here, or there with another size; empty: the closure is whole.

        The stored sizes of WAL and history files are in no reference: they count as whole when they are there.
        """
        lacking = [lack for lack in (self._lack(r) for r in references) if lack is not None]
        manifest = str(self.layout.manifest(summary.run))
        lacking += [Lack(manifest, None, 0, unsound=True)] if manifest in self.unsound else []
        newest = max(self.epochs, default=0)
        lacking += [Lack(f"keys/{epoch:08x}/", None, 0) for epoch in summary.epochs if epoch > newest]
        return lacking

    def _lack(self, reference: Reference) -> Lack | None:
        key = reference.key(self.layout)
        if key in self.unsound:
            return Lack(key, None, reference.size, unsound=True)
        if reference.kind in (Kind.PACK, Kind.MAP):
            found = self.data.get(key)
            return None if found == reference.size else Lack(key, found, reference.size)
        if reference.kind == Kind.HISTORY:
            there = key in self.histories
        else:
            name = reference.name.decode("ascii")
            there = key in self.log(int(name[:8], 16), int(name[8:16], 16))
        return None if there else Lack(key, None, reference.size)

    def entombed(self, references: Iterable[Reference], run: RunId) -> list[str]:
        """Keys of a backup (its manifest and closure) that have a tombstone here."""
        if not self.tombstones:
            return []
        keys = [str(self.layout.manifest(run)), *(r.key(self.layout) for r in references)]
        return [key for key in keys if key in self.tombstones]
