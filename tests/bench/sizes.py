"""What other sizes of chunk, frame and pack would cost: the same pages stored by the product's own stager.

One table of a real server, whole, then after a contiguous and after a scattered update of one row in a hundred; each
version is built on the one before. Bytes and objects are exact; times are of one thread, without a disk.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from drkit.core.cancel import CancelToken
from drkit.crypto.container import DataKey
from drkit.pipeline.adopting import Before, Sizes
from drkit.pipeline.digests import fingerprints
from drkit.pipeline.mapping import Map
from drkit.pipeline.stager import Numbers, Placed, Product, Stager
from drkit.repository.content import ContentReader
from drkit.repository.layout import ClusterLayout, Kind, RunId
from drkit.repository.sources import Sources
from drkit.repository.target import Target
from storage_backends.memory import MemoryBackend
from tests.crypto.rings import ring, seeded

KIB, MIB, TIB = 1 << 10, 1 << 20, 1 << 40
RING = ring()
LAYOUT = ClusterLayout(7_000_000_000_000_000_000)
ALTERNATIVES = [
    Sizes(),
    *(Sizes(chunk=size * KIB) for size in (16, 32, 64, 128)),
    *(Sizes(frame=size * KIB) for size in (128, 256, 512, 2048, 4096)),
    *(Sizes(pack=size * MIB) for size in (8, 16, 48, 64)),
]


@dataclass(slots=True)
class Versions:
    """One table as it was stored by successive backups."""

    sizes: Sizes
    store: MemoryBackend = field(default_factory=MemoryBackend)
    maps: dict[bytes, Map] = field(default_factory=dict)
    placed: Sequence[Placed] = ()
    before: Sequence[Before | None] = ()
    runs: int = 0

    def add(self, extents: Sequence[bytes]) -> dict[Kind, int]:
        """Store a version; the bytes added by kind."""
        self.runs += 1
        run, key = RunId(1_770_000_000 + self.runs, bytes(4)), DataKey(RING, seeded(self.runs))
        added = dict.fromkeys((Kind.PACK, Kind.MAP, Kind.FINGERPRINTS), 0)

        def keep(product: Product) -> None:
            object_id, kind = run.binary + product.number.to_bytes(4, "big"), Kind(product.kind)
            Target("a", self.store, "here", "disk").write(
                LAYOUT.data(kind, object_id), product.sealed.parts, product.sealed.size_bytes
            )
            added[kind] += product.sealed.size_bytes
            if product.map is not None:
                self.maps[object_id] = product.map

        stager = Stager(
            run=run.binary,
            numbers=Numbers(),
            seal=key.writer,
            header=key.header(Kind.PACK, bytes(16)),
            emit=keep,
            level=3,
            fingerprint_key=RING.fingerprint_key,
            sizes=self.sizes,
        )
        old = self.before or [None] * len(extents)
        self.placed = [stager.place(data, one) for data, one in zip(extents, old, strict=True)]
        stager.finish()
        marks = [fingerprints(data, RING.fingerprint_key, self.sizes.chunk) for data in extents]
        self.before = [
            Before(self.maps[p.map_id], p.map_id, p.index, m) for p, m in zip(self.placed, marks, strict=True)
        ]
        return added

    @property
    def objects(self) -> int:
        return sum(1 for _ in self.store.list(""))

    def read(self) -> float:
        """Seconds to rebuild the newest version in memory, digests checked."""
        sources = Sources([Target("a", self.store, "here", "disk")], LAYOUT, RING)
        reader = ContentReader(RING, LAYOUT, sources, chunk_bytes=self.sizes.chunk)
        slab = np.empty(self.sizes.extent, dtype=np.uint8).data
        began = time.perf_counter()
        reader.expect([(p.map_id, p.index) for p in self.placed], CancelToken())
        for placed in self.placed:
            reader.read([(placed.map_id, placed.index)], slab)
        return time.perf_counter() - began


@dataclass(frozen=True, slots=True)
class Cost:
    """Bytes added by a first, a contiguous and a scattered version, of maps and of fingerprints; objects of the first;
    seconds to rebuild the last (of each round).
    """

    sizes: Sizes
    raw_bytes: int
    full: int
    dense: int
    wide: int
    map_bytes: int
    mark_bytes: int
    objects: int
    seconds: list[float]

    def row(self, base: Cost) -> list[str]:
        speed = self.raw_bytes / statistics.median(self.seconds) / 1e6
        return [
            *(f"{self.sizes.chunk // KIB} KiB", f"{self.sizes.frame // KIB} KiB", f"{self.sizes.pack // MIB} MiB"),
            *(f"{self.full / MIB:.1f}", f"{self.dense / MIB:.2f}", f"{self.wide / MIB:.2f}"),
            f"{self.wide / base.wide:.2f}",
            f"{self.map_bytes / self.raw_bytes * 1e6:.0f}",
            f"{self.mark_bytes / self.raw_bytes * 1e6:.0f}",
            f"{self.objects / self.raw_bytes * TIB:,.0f}",
            f"{speed:.0f}",
        ]


HEADS = (
    "chunk", "frame", "pack", "full MiB", "contiguous MiB", "scattered MiB", "against ours", "map ppm",
    "fingerprint ppm", "objects a TiB", "rebuild MB/s",
)  # fmt: skip


def extents_of(files: Sequence[Path], extent_bytes: int) -> list[bytes]:
    return [
        data[at : at + extent_bytes]
        for data in (f.read_bytes() for f in files)
        for at in range(0, len(data), extent_bytes)
    ]


def cost(sizes: Sizes, versions: Sequence[Sequence[bytes]], rounds: int) -> Cost:
    """versions: the table's extents, whole, after the contiguous and after the scattered update."""
    table = Versions(sizes)
    first = table.add(versions[0])
    objects = table.objects
    dense, wide = table.add(versions[1]), table.add(versions[2])
    return Cost(
        sizes=sizes,
        raw_bytes=sum(map(len, versions[0])),
        full=sum(first.values()),
        dense=dense[Kind.PACK] + dense[Kind.MAP],
        wide=wide[Kind.PACK] + wide[Kind.MAP],
        map_bytes=first[Kind.MAP],
        mark_bytes=first[Kind.FINGERPRINTS],
        objects=objects,
        seconds=[table.read() for _ in range(rounds)],
    )
