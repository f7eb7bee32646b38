"""Small repositories made by hand: targets, and backups with a whole closure, without a server."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path

from drkit.core.clock import SystemClock
from drkit.crypto.container import DataKey, Sealed
from drkit.crypto.keys import Ring
from drkit.crypto.slots import Secret, seal_slot
from drkit.pipeline.adopting import Sizes
from drkit.pipeline.stager import Numbers, Placed, Product, Stager
from drkit.repository.layout import ClusterLayout, Kind, RunId
from drkit.repository.leases import Verdict, decide, entomb
from drkit.repository.manifest import (
    FILE,
    FOLDER,
    NOTHING,
    SETTLED,
    Entry,
    Head,
    Reference,
    Source,
    Summary,
    Tablespace,
    seal_manifest,
)
from drkit.repository.target import Target
from drkit.repository.wal import pack, seal
from storage_backends.api import Key, StorageBackend
from storage_backends.errors import AlreadyExists
from storage_backends.posix import PosixBackend
from tests.crypto.rings import ring, seeded

SYSTEM = 7_300_000_000_000_000_001
LAYOUT = ClusterLayout(SYSTEM)
SECRET = Secret("keyfile", b"k" * 32, "/etc/drkit/key")
SEGMENT = "000000010000000000000001"
AT = "2026-03-01T12:00:00.000000Z"


def target(name: str, backend: StorageBackend) -> Target:
    return Target(name, backend, "here", "disk")


def posix_target(root: Path, name: str) -> Target:
    return target(name, PosixBackend(root / name, create_root=True))


def sample_head() -> Head:
    return Head(
        label="a note",
        backup_label=b"START WAL LOCATION: 0/1000028\n\xff\x00",
        tablespace_map=b"",
        chunk_bytes=16,
        extent_bytes=64,
        page_bytes=8192,
        relation_segment_pages=131072,
        catalog_version=202506291,
        control_version=1800,
        checksums=True,
        control={"max_connections": 100},
        tablespaces=(Tablespace(16384, "/t", False), Tablespace(16385, "", True)),
        wal_link=None,
        source=Source("machine", "/data", 5),
        damaged=(("base/1/2", 3),),
        vanished=1,
        writer="drkit 0",
    )


def sample_summary(run: RunId, epochs: Sequence[int] = (1,)) -> Summary:
    return Summary(
        backup=str(run),
        cluster="orders",
        system_identifier=str(SYSTEM),
        timeline=1,
        start_lsn="0/1000028",
        stop_lsn="0/1000100",
        start_wal=SEGMENT,
        stop_wal=SEGMENT,
        segment_bytes=1 << 20,
        started_at=AT,
        stopped_at=AT,
        parent=None,
        engine="postgres",
        engine_version=180004,
        size_bytes=100,
        stored_bytes=10,
        useful_bytes=10,
        new_bytes=10,
        files=1,
        page_errors=1,
        epochs=list(epochs),
    )


@dataclass(frozen=True)
class Sample:
    """A backup: its manifest, and every object of its closure by key."""

    run: RunId
    manifest: Sealed
    references: Sequence[Reference]
    objects: dict[str, bytes]

    @property
    def key(self) -> Key:
        return LAYOUT.manifest(self.run)

    def store(self, where: Target, *, without: str = "\0", manifest: bool = True, good: bool = True) -> None:
        """Data, the manifest, the verdict, in this order; objects whose key contains `without` are left out."""
        for key, data in self.objects.items():
            if without not in key:
                try:
                    where.write(Key(key), [data], len(data))
                except AlreadyExists:
                    assert "/wal/" in key, "only WAL is shared between samples; a twin is as good"
        if manifest:
            where.put(self.key, self.manifest)
        if good:
            assert judged(where, self.run, Verdict.GOOD) is Verdict.GOOD


def sample(keys: Ring, seed: int = 1) -> Sample:
    """A backup of one file, one map, one pack and one segment."""
    at = int(datetime(2026, 3, 1, 12, tzinfo=UTC).timestamp()) + seed
    run = RunId(at, seed.to_bytes(4, "big"))
    data_key = DataKey(keys, seeded(seed))
    objects: dict[str, bytes] = {}
    references: list[Reference] = []

    def emit(product: Product) -> None:
        object_id = run.binary + product.number.to_bytes(4, "big")
        objects[LAYOUT.data(Kind(product.kind), object_id)] = b"".join(product.sealed.parts)
        if product.kind != Kind.FINGERPRINTS:
            sealed = product.sealed
            live = 48 if product.map is not None else sealed.size_bytes
            references.append(Reference(product.kind, object_id, sealed.size_bytes, live, sealed.digest))

    sizes = Sizes(chunk=16, extent=64, frame=32, pack=100_000, map_extents=10)
    stager = Stager(
        run=run.binary,
        numbers=Numbers(),
        seal=data_key.writer,
        header=data_key.header(Kind.PACK, bytes(16)),
        emit=emit,
        level=1,
        fingerprint_key=keys.fingerprint_key,
        sizes=sizes,
    )
    placed = [stager.place(random.Random(seed).randbytes(60), None)]
    stager.finish()
    packed = pack(keys, SEGMENT, BytesIO(b"wal" * 1000), 1 << 20, 3)
    blob = seal(keys, packed, LAYOUT.wal(SEGMENT), Kind.WAL)
    objects[LAYOUT.wal(SEGMENT)] = b"".join(blob.parts)
    references.append(Reference(Kind.WAL, SEGMENT.encode(), 3000, 3000, packed.facts.identity))
    summary = sample_summary(run, [keys.epoch])
    manifest = seal_manifest(
        data_key, LAYOUT, summary, sample_head(), references, [placed[0].map_id], sample_entries(placed)
    )
    return Sample(run, manifest, references, objects)


def sample_entries(placed: Sequence[Placed]) -> list[Entry]:
    folder = Entry(FOLDER, 0, 0o700, 0, 5, 0, 0, 0, NOTHING, 0, b"base", ())
    file = Entry(
        FILE, SETTLED, 0o600, sum(p.length for p in placed), -5, 7, 8, 9, hashlib.sha256(b"x").digest(), 11,
        b"base/1 \xff", tuple((0, p.index) for p in placed),
    )  # fmt: skip
    return [folder, replace(file, path=b"base/1 \xff")]


def add_slot(where: Target, keys: Ring, seed: int = 1) -> str:
    """A key slot of the ring's newest epoch; returns its key."""
    name, sealed = seal_slot(keys, SECRET, created_at=AT, entropy=seeded(seed))
    where.put(Key(name), sealed)
    return name


def bury(where: Target, *keys: str, ring_: Ring | None = None, seed: int = 3) -> Key:
    """A round of tombstones for these keys."""
    ring_ = ring_ or ring()
    data_key, draw = DataKey(ring_, seeded(seed)), seeded(seed)
    name = LAYOUT.tombstones(LAYOUT.rounds(SystemClock().now(), draw(3)), 0)
    entomb(where, name, keys, "a test", data_key=data_key, clock=SystemClock(), entropy=draw)
    return name


def judged(where: Target, run: RunId, verdict: Verdict, ring_: Ring | None = None) -> Verdict:
    """Decide about a run on one target; returns what stands."""
    ring_ = ring_ or ring()
    data_key, draw = DataKey(ring_, seeded(4)), seeded(4)
    return decide(
        where, LAYOUT, run, verdict, "a test", ring=ring_, data_key=data_key, clock=SystemClock(), entropy=draw
    )
