"""The backup before: which files may be adopted unread, and where the chunks of the others lie."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Collection

from drkit.core.errors import Damage
from drkit.crypto.keys import Ring
from drkit.engines.postgres.walk import Entry as Found
from drkit.pipeline.digests import Fingerprints
from drkit.pipeline.mapping import Map
from drkit.pipeline.stager import Before, Placed
from drkit.repository.layout import ClusterLayout, Kind
from drkit.repository.manifest import FILE, Entry, Manifest, Source
from drkit.repository.maps import load_map, load_marks
from drkit.repository.target import Target
from storage_backends.errors import NotFound

_CACHED_MAPS = 8  # a map with its fingerprints is at most some 9 MiB


class Parent:
    """A manifest that is good on `target`, and its maps, read as they are needed. Thread-safe.

    avoid: keys of objects with a tombstone on any target of the run: nothing that needs them is adopted.
    """

    def __init__(
        self, manifest: Manifest, target: Target, layout: ClusterLayout, ring: Ring, avoid: Collection[str]
    ) -> None:
        self.manifest = manifest
        self._target, self._layout, self._ring = target, layout, ring
        self._avoid = frozenset(avoid)
        self._files = {entry.path: entry for entry in manifest.entries if entry.type == FILE}
        self._maps: OrderedDict[bytes, tuple[Map, list[Fingerprints] | None]] = OrderedDict()
        self._lock = threading.Lock()

    def unchanged(self, found: Found, source: Source) -> Entry | None:
        """The parent's entry where the file may be skipped unread.

        Same machine, folder and filesystem; size, times and inode equal to the stat before the parent's read, and
        older than it by two seconds, so that no write can hide behind the clock's grain.
        """
        before = self._files.get(found.path.encode())
        if before is None or not before.settled or self.manifest.head.source != source:
            return None
        then = (before.size, before.mtime, before.ctime, before.inode, before.device)
        now = (found.size, found.mtime_ns, found.ctime_ns, found.inode, found.device)
        if then != now or any(self._entombed(before, index) for index in range(len(before.extents))):
            return None
        return before

    def adopt(self, entry: Entry) -> list[Placed]:
        """The parent's extents of a file, as if they had been placed now."""
        return [self._adopted(entry, index) for index in range(len(entry.extents))]

    def before(self, path: str, index: int) -> Before | None:
        """What the parent has of one extent; None where it has nothing that may be adopted."""
        entry = self._files.get(path.encode())
        if entry is None or index >= len(entry.extents) or self._entombed(entry, index):
            return None
        map_index, extent = entry.extents[index]
        map_id = self.manifest.maps[map_index]
        found, marks = self.load(map_id)
        return Before(found, map_id, extent, marks[extent] if marks is not None else None)

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

    def _adopted(self, entry: Entry, index: int) -> Placed:
        map_index, extent = entry.extents[index]
        map_id = self.manifest.maps[map_index]
        row = self.load(map_id)[0].extent(extent)
        return Placed(map_id, extent, row.digest, row.crc, row.length, 0)

    def _entombed(self, entry: Entry, index: int) -> bool:
        if not self._avoid:
            return False
        map_id = self.manifest.maps[entry.extents[index][0]]
        if self._layout.data(Kind.MAP, map_id) in self._avoid:
            return True
        packs = self.load(map_id)[0].packs["id"]
        return any(self._layout.data(Kind.PACK, p.tobytes()) in self._avoid for p in packs)
