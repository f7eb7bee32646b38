"""What earlier runs left: which files may be adopted unread, and where the chunks of the others lie."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from drkit.core.errors import Damage
from drkit.crypto.keys import Ring
from drkit.jobs.backup_compact import NOTHING, Again
from drkit.jobs.backup_files import UNCHANGED, Extents, Row
from drkit.jobs.backup_usage import Stored
from drkit.pipeline.adopting import Before
from drkit.pipeline.digests import Fingerprints
from drkit.pipeline.mapping import Map, Marked
from drkit.pipeline.stager import Placed
from drkit.repository.layout import ClusterLayout, Kind, RunId
from drkit.repository.manifest import FILE, Manifest, Source
from drkit.repository.maps import load_map, load_marks
from drkit.repository.target import Target
from storage_backends.errors import Damaged, NotFound

_CACHE_BYTES = 64 << 20  # a map with its fingerprints has at most some 5 MiB; files in path order use several in turn


@dataclass(frozen=True, slots=True)
class KnownFile:
    """A file as an earlier run read it. facts: size, mtime, ctime, inode, device of a stat before that read."""

    facts: tuple[int, int, int, int, int]
    settled: bool
    extents: Extents


@dataclass(frozen=True, slots=True)
class Known:
    """What one run, finished or killed, left that may be adopted: its files, and size and digest of its objects.

    files: (path, file) sorted by path; of several with one path the last one counts.
    damaged: (path, block) of the pages that it found damaged; adopting such a file adopts the finding.
    """

    run: RunId
    source: Source
    files: Iterable[tuple[bytes, KnownFile]]
    stored: Mapping[tuple[int, bytes], Stored]
    damaged: Sequence[tuple[str, int]] = ()


@dataclass(frozen=True, slots=True)
class _FilesOf:
    """The files of a manifest."""

    manifest: Manifest

    def __iter__(self) -> Iterator[tuple[bytes, KnownFile]]:
        maps = self.manifest.maps
        for entry in self.manifest.entries:
            if entry.type == FILE:
                facts = (entry.size, entry.mtime, entry.ctime, entry.inode, entry.device)
                extents = tuple((maps[index], extent) for index, extent in entry.extents)
                yield entry.path, KnownFile(facts, entry.settled, extents)


def known_of(manifest: Manifest) -> Known:
    """A finished backup as something to build on."""
    kinds = (Kind.PACK, Kind.MAP)
    stored = {(r.kind, r.name): Stored(r.size, r.digest) for r in manifest.references if r.kind in kinds}
    return Known(manifest.summary.run, manifest.head.source, _FilesOf(manifest), stored, manifest.head.damaged)


@dataclass(frozen=True, slots=True)
class _Loaded:
    """A map, its fingerprints (None: lost), its frames not to be adopted, and for each extent whether it uses one."""

    map: Map
    marks: list[Fingerprints] | None
    thin: Marked
    touching: Marked

    @property
    def size_bytes(self) -> int:
        return self.map.size_bytes + sum(m.nbytes for m in self.marks or ())


class Parent:
    """A known run whose objects are on `target`; maps are read as they are needed. Thread-safe.

    avoid: keys of objects with a tombstone on any target of the run: nothing that needs them is adopted.
    again: what of it is stored again: extents that use it are read.
    """

    def __init__(
        self,
        known: Known,
        target: Target,
        layout: ClusterLayout,
        ring: Ring,
        avoid: Collection[str],
        again: Again = NOTHING,
    ) -> None:
        self.known = known
        self._target, self._layout, self._ring = target, layout, ring
        self._avoid, self._again = frozenset(avoid), again
        self._maps: OrderedDict[bytes, _Loaded] = OrderedDict()
        self._held_bytes = 0
        self._lock = threading.Lock()
        self._files = iter(known.files)
        self._ahead = next(self._files, None)
        self.lost: dict[str, str] = {}
        """Maps that were wanted and are damaged or not there: key -> why."""

    @property
    def key(self) -> str:
        """The key whose tombstone stands for this run."""
        return self._layout.manifest(self.known.run)

    def find(self, path: bytes) -> KnownFile | None:
        """What is known of a file. Paths must be asked for in their order, by one thread."""
        found = None
        while self._ahead is not None and self._ahead[0] <= path:
            found = self._ahead[1] if self._ahead[0] == path else None
            self._ahead = next(self._files, None)
        return found

    def is_unchanged(self, before: KnownFile, row: Row, source: Source) -> bool:
        """Whether a file may be skipped unread.

        Same machine, folder and filesystem; size, times and inode equal to the stat before the earlier read, and
        older than it by two seconds, so that no write can hide behind the clock's grain.
        """
        now = (row.size, row.mtime, row.ctime, row.inode, row.device)
        return before.settled and self.known.source == source and before.facts == now and self.is_fit(before.extents)

    def is_fit(self, extents: Extents) -> bool:
        """Whether all maps of these are there and may be relied on."""
        return not any(self._unfit(map_id) for map_id, _ in extents)

    def adopt(self, extents: Extents) -> list[Placed | None]:
        """Extents of an earlier file, as if they had been placed now; None for those to be read again."""
        placed: list[Placed | None] = []
        for map_id, index in extents:
            loaded = self._load(map_id)
            row = loaded.map.extent(index)
            renew = map_id in self._again.maps or (len(loaded.touching) and loaded.touching[index])
            placed.append(None if renew else Placed(map_id, index, row.digest, row.crc, row.length, 0))
        return placed

    def before(self, extents: Extents, number: int) -> Before | None:
        """What is known of one extent of a file; None where nothing may be adopted."""
        if number >= len(extents) or self._unfit(extents[number][0]):
            return None
        map_id, index = extents[number]
        loaded = self._load(map_id)
        marks = loaded.marks[index] if loaded.marks is not None else None
        return Before(loaded.map, map_id, index, marks, loaded.thin, map_id in self._again.maps)

    def map(self, map_id: bytes) -> Map:
        """Raises Damage, KeyMissing or a StorageError."""
        return self._load(map_id).map

    def _load(self, map_id: bytes) -> _Loaded:
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
            thin, gone = self._again.marks(found), buried(found, self._layout, self._avoid)
            thin = thin | gone if len(thin) and len(gone) else thin if len(thin) else gone
            loaded = _Loaded(found, marks, thin, found.touching(thin) if len(thin) else thin)
            self._maps[map_id] = loaded
            self._held_bytes += loaded.size_bytes
            while self._held_bytes > _CACHE_BYTES and len(self._maps) > 1:
                self._held_bytes -= self._maps.popitem(last=False)[1].size_bytes
            return loaded

    def _unfit(self, map_id: bytes) -> bool:
        """Nothing is adopted through a map that has a tombstone, is damaged or gone."""
        key = self._layout.data(Kind.MAP, map_id)
        if key in self._avoid or key in self.lost:
            return True
        try:
            self._load(map_id)
        except (Damage, Damaged, NotFound) as error:
            self.lost[key] = str(error)
            return True
        return False


def buried(table: Map, layout: ClusterLayout, tombs: Collection[str]) -> Marked:
    """For each frame of a map whether its pack is among `tombs` (keys); empty where none is.

    A map outlives packs that none of its extents in use needs.
    """
    packs = [layout.data(Kind.PACK, pack) in tombs for pack in table.packs["id"].tolist()] if tombs else []
    if not any(packs):
        return np.zeros(0, dtype=np.bool_)
    found: Marked = np.array(packs, dtype=np.bool_)[table.frames["pack"]]
    return found


class Earlier:
    """All that this run may build on: the backup before, and what a killed run left since. The later one first."""

    def __init__(self, parents: list[Parent]) -> None:
        self.parents = parents

    def look(self, row: Row, source: Source) -> tuple[Row, Sequence[Placed | None]]:
        """A file with what is known of it, and where its extents lie that may be skipped unread, None for one to be
        read; nothing of a file to be read whole. Rows must be looked at in their order, by one thread.
        """
        files = [parent.find(row.path) for parent in self.parents]
        known = tuple(file.extents if file else () for file in files)
        for base, (parent, file) in enumerate(zip(self.parents, files, strict=True)):
            if file is not None and parent.is_unchanged(file, row, source):
                state = row.state | UNCHANGED
                return row._replace(state=state, known=known, base=base), parent.adopt(file.extents)
        return row._replace(known=known), ()

    def adopted(self, row: Row) -> dict[int, Placed]:
        """What `look` said of a row, by extent number; nothing where a map was lost since."""
        if row.base < 0 or not self.parents[row.base].is_fit(row.known[row.base]):
            return {}
        placed = self.parents[row.base].adopt(row.known[row.base])
        return {number: one for number, one in enumerate(placed) if one is not None}

    def before(self, known: Sequence[Extents], number: int) -> Before | None:
        """known: of a row."""
        for parent, extents in zip(self.parents, known, strict=False):
            found = parent.before(extents, number)
            if found is not None:
                return found
        return None

    def load(self, map_id: bytes) -> Map:
        """A map of an earlier run."""
        key = (int(Kind.MAP), map_id)
        parent = next((p for p in self.parents if key in p.known.stored), self.parents[0])
        return parent.map(map_id)

    @property
    def stored(self) -> dict[tuple[int, bytes], Stored]:
        return {key: facts for p in reversed(self.parents) for key, facts in p.known.stored.items()}

    @property
    def damaged(self) -> list[tuple[str, int]]:
        return [finding for p in self.parents for finding in p.known.damaged]

    @property
    def lost(self) -> Mapping[str, str]:
        return {key: why for p in self.parents for key, why in p.lost.items()}

    @property
    def keys(self) -> list[str]:
        """Keys whose tombstones stand for the runs adopted from."""
        return [p.key for p in self.parents]
