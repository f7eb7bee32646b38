"""What a backup uses of packs and maps: the references of its manifest, and what compaction is decided from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from drkit.pipeline.mapping import Indices, Map
from drkit.pipeline.usage import FrameUsage, UseTable, useful
from drkit.repository.layout import Kind
from drkit.repository.manifest import Reference


@dataclass(frozen=True, slots=True)
class Stored:
    """Size in bytes and digest of a pack or map object."""

    size_bytes: int
    digest: bytes


@dataclass(frozen=True, slots=True)
class MapUse:
    """extents: how many of the map's `total` are used."""

    extents: int
    total: int


class Usage:
    """`use` each map once, with the extents used of it. Not thread-safe."""

    def __init__(self, chunk_bytes: int) -> None:
        self._frames = FrameUsage(chunk_bytes)
        self.maps: dict[bytes, MapUse] = {}

    @property
    def epochs(self) -> set[int]:
        return self._frames.epochs

    @property
    def packs(self) -> list[bytes]:
        """Object ids; `pack` of a frame's row is a position in it."""
        return self._frames.packs

    def use(self, map_id: bytes, table: Map, extents: Indices) -> None:
        self.maps[map_id] = MapUse(len(extents), len(table.extents))
        self._frames.add(table, extents)

    def frames(self) -> UseTable:
        return self._frames.frames()

    def references(self, stored: Mapping[tuple[int, bytes], Stored]) -> tuple[list[Reference], int]:
        """References to every pack and map used, and the bytes of them that are useful: what a fresh full backup would
        send, nearly. `stored` gives size and digest by kind and object id."""
        rows, packs = self.frames(), self.packs
        live = np.bincount(rows["pack"], weights=rows["sealed"], minlength=len(packs))
        found = []
        for pack_id, sealed in zip(packs, live.astype(np.int64).tolist(), strict=True):
            facts = stored[(Kind.PACK, pack_id)]
            found.append(Reference(Kind.PACK, pack_id, facts.size_bytes, sealed, facts.digest))
        total = float(useful(rows).sum())
        for map_id, use in self.maps.items():
            facts = stored[(Kind.MAP, map_id)]
            found.append(Reference(Kind.MAP, map_id, facts.size_bytes, 48 * use.extents, facts.digest))
            total += facts.size_bytes * use.extents / use.total
        return found, int(total)
