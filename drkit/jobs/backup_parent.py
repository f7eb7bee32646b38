"""What earlier runs left: which files may be adopted unread, and where the chunks of the others lie."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from drkit.core.errors import Damage
from drkit.crypto.keys import Ring
from drkit.engines.postgres.walk import Entry as Found
from drkit.jobs.backup_commit import Stored
from drkit.pipeline.digests import Fingerprints
from drkit.pipeline.mapping import Map
from drkit.pipeline.stager import Before, Placed
from drkit.repository.layout import ClusterLayout, Kind, RunId
from drkit.repository.manifest import FILE, Manifest, Source
from drkit.repository.maps import load_map, load_marks
from drkit.repository.target import Target
from storage_backends.errors import NotFound

_CACHED_MAPS = 8  # a map with its fingerprints is at most some 9 MiB


@dataclass(frozen=True, slots=True)
class KnownFile:
    """A file as an earlier run read it. facts: size, mtime, ctime, inode, device of a stat before that read."""

    facts: tuple[int, int, int, int, int]
    settled: bool
    extents: tuple[tuple[bytes, int], ...]


@dataclass(frozen=True, slots=True)
class Known:
    """What one run, finished or killed, left that may be adopted: its files, and size and digest of its objects.

    damaged: (path, block) of the pages that it found damaged; adopting such a file adopts the finding.
    """

    run: RunId
    source: Source
    files: Mapping[bytes, KnownFile]
    stored: Mapping[tuple[int, bytes], Stored]
    damaged: Sequence[tuple[str, int]] = ()


def known_of(manifest: Manifest) -> Known:
    """A finished backup as something to build on."""
    files = {
        entry.path: KnownFile(
            (entry.size, entry.mtime, entry.ctime, entry.inode, entry.device),
            entry.settled,
            tuple((manifest.maps[index], extent) for index, extent in entry.extents),
        )
        for entry in manifest.entries
        if entry.type == FILE
    }
    kinds = (Kind.PACK, Kind.MAP)
    stored = {(r.kind, r.name): Stored(r.size, r.digest) for r in manifest.references if r.kind in kinds}
    return Known(manifest.summary.run, manifest.head.source, files, stored, manifest.head.damaged)


class Parent:
    """A known run whose objects are on `target`; maps are read as they are needed. Thread-safe.

    avoid: keys of objects with a tombstone on any target of the run: nothing that needs them is adopted.
    """

    def __init__(self, known: Known, target: Target, layout: ClusterLayout, ring: Ring, avoid: Collection[str]) -> None:
        self.known = known
        self._target, self._layout, self._ring = target, layout, ring
        self._avoid = frozenset(avoid)
        self._maps: OrderedDict[bytes, tuple[Map, list[Fingerprints] | None]] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def key(self) -> str:
        """The key whose tombstone stands for this run."""
        return self._layout.manifest(self.known.run)

    def unchanged(self, found: Found, source: Source) -> KnownFile | None:
        """The earlier file where this one may be skipped unread.

        Same machine, folder and filesystem; size, times and inode equal to the stat before the earlier read, and
        older than it by two seconds, so that no write can hide behind the clock's grain.
        """
        before = self.known.files.get(os.fsencode(found.path))
        if before is None or not before.settled or self.known.source != source:
            return None
        now = (found.size, found.mtime_ns, found.ctime_ns, found.inode, found.device)
        if before.facts != now or any(self._entombed(map_id) for map_id, _ in before.extents):
            return None
        return before

    def adopt(self, file: KnownFile) -> list[Placed]:
        """The extents of an earlier file, as if they had been placed now."""
        placed = []
        for map_id, index in file.extents:
            row = self.load(map_id)[0].extent(index)
            placed.append(Placed(map_id, index, row.digest, row.crc, row.length, 0))
        return placed

    def before(self, path: str, number: int) -> Before | None:
        """What is known of one extent; None where nothing may be adopted."""
        file = self.known.files.get(os.fsencode(path))
        if file is None or number >= len(file.extents) or self._entombed(file.extents[number][0]):
            return None
        map_id, index = file.extents[number]
        found, marks = self.load(map_id)
        return Before(found, map_id, index, marks[index] if marks is not None else None)

    def load(self, map_id: bytes) -> tuple[Map, list[Fingerprints] | None]:
        """A map and its fingerprints; without fingerprints whole extents are compared."""
        with self._lock:
            cached = self._maps.get(map_id)
            if cached is not None:
                self._maps.move_to_end(map_id)
                return cached
            found = load_map(self._ring, self._target, self._layout, map_id)
            marks: list[Fingerprints] | None
            try:
                marks = load_marks(self._ring, self._target, self._layout, map_id)
            except (NotFound, Damage):
                marks = None
            self._maps[map_id] = (found, marks)
            if len(self._maps) > _CACHED_MAPS:
                self._maps.popitem(last=False)
            return found, marks

    def _entombed(self, map_id: bytes) -> bool:
        if not self._avoid:
            return False
        if self._layout.data(Kind.MAP, map_id) in self._avoid:
            return True
        packs = self.load(map_id)[0].packs["id"]
        return any(self._layout.data(Kind.PACK, p.tobytes()) in self._avoid for p in packs)


class Earlier:
    """All that this run may build on: the backup before, and what a killed run left since. The later one first."""

    def __init__(self, parents: list[Parent]) -> None:
        self.parents = parents

    def unchanged(self, found: Found, source: Source) -> list[Placed] | None:
        for parent in self.parents:
            file = parent.unchanged(found, source)
            if file is not None:
                return parent.adopt(file)
        return None

    def before(self, path: str, number: int) -> Before | None:
        for parent in self.parents:
            found = parent.before(path, number)
            if found is not None:
                return found
        return None

    def load(self, map_id: bytes) -> Map:
        """A map of an earlier run."""
        key = (int(Kind.MAP), map_id)
        parent = next((p for p in self.parents if key in p.known.stored), self.parents[0])
        return parent.load(map_id)[0]

    @property
    def stored(self) -> dict[tuple[int, bytes], Stored]:
        return {key: facts for p in reversed(self.parents) for key, facts in p.known.stored.items()}

    @property
    def damaged(self) -> list[tuple[str, int]]:
        return [finding for p in self.parents for finding in p.known.damaged]

    @property
    def keys(self) -> list[str]:
        """Keys whose tombstones stand for the runs adopted from."""
        return [p.key for p in self.parents]
