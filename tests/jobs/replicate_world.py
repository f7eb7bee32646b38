"""Targets of one repository with backups made by hand, and replication between them; no server needed."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path

from drkit.core.cancel import CancelToken
from drkit.core.log import NoLog
from drkit.core.progress import Silent
from drkit.crypto.container import DataKey
from drkit.crypto.keys import Entropy, Ring
from drkit.jobs.means import Means
from drkit.jobs.replicate import Plan, Replicated, ReplicateOrder, replicate, survey
from drkit.repository.catalogue import Catalogue, State, read_catalogue
from drkit.repository.identity import found
from drkit.repository.layout import Kind
from drkit.repository.leases import Verdict
from drkit.repository.manifest import seal_manifest
from drkit.repository.repository import Problem, Repository
from drkit.repository.target import Target
from drkit.repository.wal import pack, seal
from storage_backends.api import Key, StorageBackend
from tests.core.clocks import HandClock
from tests.crypto.rings import seeded
from tests.repository.samples import (
    AT,
    LAYOUT,
    SECRET,
    SYSTEM,
    Sample,
    judged,
    sample,
    sample_head,
    sample_summary,
    target,
)

OWN = ("repository", "canaries/", f"{LAYOUT.root}verdicts/", f"{LAYOUT.root}tombstones/", f"{LAYOUT.root}leases/")


def locked(draw: Entropy) -> Entropy:
    """One source of randomness for several threads."""
    lock = threading.Lock()

    def drawn(size: int) -> bytes:
        with lock:
            return draw(size)

    return drawn


@dataclass
class Copies:
    """backends: by name; `joined` are the targets that `init` has made. What `absent` names cannot be reached."""

    root: Path
    backends: dict[str, StorageBackend]
    joined: Sequence[str] = ()
    absent: dict[str, Problem] = field(default_factory=dict)
    clock: HandClock = field(default_factory=HandClock)
    token: CancelToken = field(default_factory=CancelToken)

    def __post_init__(self) -> None:
        self.seed = 100
        self.ring: Ring = self.init(*(self.joined or self.backends))

    def init(self, *names: str) -> Ring:
        ring, _ = found([self.target(n) for n in names], SECRET, now=AT, entropy=seeded(1 + len(names)))
        return ring

    def target(self, name: str) -> Target:
        return target(name, self.backends[name])

    def sample(self, seed: int = 1) -> Sample:
        return sample(self.ring, seed)

    def repository(self) -> Repository:
        targets = tuple(self.target(n) for n in self.backends if n not in self.absent)
        self.seed += 1
        return Repository(self.ring, targets, self.absent, DataKey(self.ring, seeded(self.seed)))

    def means(self) -> Means:
        self.seed += 1
        return Means(self.repository(), self.clock, locked(seeded(self.seed)), self.token, Silent(), NoLog())

    def order(self, *, sources: Sequence[str] = (), to: Sequence[str] = (), workers: int = 2) -> ReplicateOrder:
        return ReplicateOrder(None, sources, to, "host", self.root / "spool", workers)

    def replicate(self, *, sources: Sequence[str] = (), to: Sequence[str] = (), workers: int = 2) -> Replicated:
        return replicate(self.order(sources=sources, to=to, workers=workers), self.means())

    def plan(self) -> Plan:
        return survey(self.order(), self.means())

    def heir(self, parent: Sample, seed: int) -> Sample:
        """A backup that adopted all packs and maps of another run."""
        own = self.sample(seed)
        adopted = [r for r in parent.references if r.kind in (Kind.PACK, Kind.MAP)]
        references = [*own.references, *adopted]
        maps = [r.name for r in references if r.kind == Kind.MAP]
        summary = sample_summary(own.run)
        data_key = DataKey(self.ring, seeded(seed + 1000))
        manifest = seal_manifest(data_key, LAYOUT, summary, sample_head(), references, maps, [])
        objects = {key: data for key, data in parent.objects.items() if "/fingerprints/" not in key}
        return Sample(own.run, manifest, references, objects | own.objects)

    def store(self, one: Sample, name: str, *, manifest: bool = True, good: bool = True) -> None:
        """A backup with its closure on one target; `good`: with that verdict."""
        one.store(self.target(name), manifest=manifest, good=False)
        if good:
            assert judged(self.target(name), one.run, Verdict.GOOD, self.ring) is Verdict.GOOD

    def wal(self, name: str, file: str, content: bytes = b"wal" * 1000, level: int = 3) -> Key:
        """Archive a file on one target."""
        key = LAYOUT.archived(file)
        kind = Kind.HISTORY if file.endswith(".history") else Kind.WAL
        blob = seal(self.ring, pack(self.ring, file, BytesIO(content), 1 << 20, level), key, kind)
        self.target(name).write(key, blob.parts, blob.size_bytes)
        return key

    # --- what is there ---

    def keys(self, name: str) -> set[str]:
        """What replication makes equal."""
        return {info.key for info in self.backends[name].list() if not info.key.startswith(OWN)}

    def content(self, name: str) -> dict[str, bytes]:
        return {key: self.target(name).read(Key(key)) for key in self.keys(name)}

    def leases(self, name: str) -> list[str]:
        return [info.key for info in self.backends[name].list(LAYOUT.folder("leases"))]

    def catalogue(self) -> Catalogue:
        return read_catalogue(self.repository(), SYSTEM)

    def states(self) -> Iterator[tuple[str, str, State]]:
        """(backup, target, state), sorted."""
        for backup in sorted(self.catalogue().backups, key=lambda b: b.summary.backup):
            for name, standing in sorted(backup.standings.items()):
                yield backup.summary.backup, name, standing.state

    def state(self, one: Sample, name: str) -> State:
        return next((s for b, n, s in self.states() if (b, n) == (str(one.run), name)), State.UNKNOWN)
