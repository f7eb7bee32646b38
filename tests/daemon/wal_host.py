"""The WAL parts of a daemon over a small world without a server: steps are taken one by one, by the test."""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from drkit.core.clock import SystemClock
from drkit.core.log import NoLog
from drkit.crypto.container import DataKey
from drkit.daemon.archiver import Archiver, ArchiveSettings
from drkit.daemon.clusters import Clusters, ClusterSpec, Place
from drkit.daemon.targets import Doors, OpenTargets
from drkit.engines.postgres.wal import parse_name
from drkit.jobs.fanout import Patience
from drkit.repository.layout import DESCRIPTOR
from drkit.repository.repository import Problem, Repository
from drkit.repository.target import Target
from policies.acks import Wanted
from storage_backends.api import Key, ObjectInfo, Reader, StorageBackend, Upload
from storage_backends.errors import NotThisTarget, StorageError, Unavailable
from storage_backends.passthrough import Passthrough
from tests.jobs.wal_world import World, entropy, make_target


@dataclass
class Told:
    """What operators were told: (kind, cluster)."""

    kinds: list[tuple[str, str]] = field(default_factory=list)

    def tell(self, kind: str, level: str, cluster: str, text: str, **fields: str | int | float) -> None:
        self.kinds.append((kind, cluster))


class Switch:
    """What a test does to one target. away: it answers nobody · remounted: what was opened before is another disk now.

    created: WAL objects that somebody began to create; `go` holds them back while it is not set.
    """

    def __init__(self) -> None:
        self.away, self.mounted = False, 0
        self.created: list[str] = []
        self.entered, self.go = threading.Event(), threading.Event()
        self.go.set()

    def remount(self) -> None:
        self.away, self.mounted = False, self.mounted + 1


class Switched(Passthrough):
    """A target's backend as it was opened at one moment."""

    def __init__(self, inner: StorageBackend, switch: Switch) -> None:
        super().__init__(inner)
        self._switch, self._mounted = switch, switch.mounted

    def create(self, key: Key, size_bytes: int | None = None, *, replacing: ObjectInfo | None = None) -> Upload:
        self._check()
        if "/wal/" in key:
            self._switch.created.append(key)
            self._switch.entered.set()
            self._switch.go.wait(30)
        return super().create(key, size_bytes, replacing=replacing)

    def open(self, key: Key, start: int = 0, length: int | None = None) -> Reader:
        self._check()
        return super().open(key, start, length)

    def list(self, prefix: str = "", after: str = "") -> Iterator[ObjectInfo]:
        self._check()
        return super().list(prefix, after)

    def _check(self) -> None:
        if self._switch.away:
            raise Unavailable("open", where=self.url, why="it is away")
        if self._switch.mounted != self._mounted:
            raise NotThisTarget("open", where=self.url, why="another disk is mounted")


class Host:
    """A host with the clusters of `worlds`, which share the targets and the spool of the first of them."""

    def __init__(self, *worlds: World, wal_ack: Wanted = None) -> None:
        self.world, self.told = worlds[0], Told()
        self.made: list[str] = []
        self.switches = {name: Switch() for name in self.world.backends}
        for backend in self.world.backends.values():
            if not list(backend.list(DESCRIPTOR)):
                with backend.create(DESCRIPTOR) as upload:
                    upload.write(b"descriptor")
                    upload.commit()
        specs = [ClusterSpec(world.cluster, world.data, lambda: None) for world in worlds]
        clock, log = SystemClock(), NoLog()
        self.clusters = Clusters(specs, clock, log, self.told)
        doors = Doors(tuple(self.world.backends), self._make, self._open)
        patience = Patience(deadline_s=20.0, grace_s=10.0)
        self.targets = OpenTargets(doors, self.world.spool, clock, log, self.told, patience=patience)
        self.archiver = Archiver(
            self.targets, self.world.spool, ArchiveSettings(1, wal_ack, patience), clock, log, self.told
        )
        self.clusters.look()

    def _make(self, names: Collection[str]) -> tuple[Sequence[Target], Mapping[str, Problem]]:
        self.made += sorted(names)
        made = {name: Switched(self.world.backends[name], self.switches[name]) for name in names}
        return [make_target(name, backend) for name, backend in made.items()], {}

    def _open(self, targets: Sequence[Target], failed: Mapping[str, Problem]) -> Repository:
        if not targets:
            raise next(iter(failed.values()), StorageError("no target"))
        return Repository(self.world.ring, tuple(targets), dict(failed), DataKey(self.world.ring, entropy))

    @property
    def place(self) -> Place:
        found = self.clusters.place(self.world.cluster)
        assert found is not None
        return found

    def push(self, path: Path, place: Place | None = None) -> tuple[str, ...]:
        with path.open("rb") as file:
            return self.push_open(path.name, file, place)

    def push_open(self, name: str, file: BinaryIO, place: Place | None = None) -> tuple[str, ...]:
        return self.archiver.push(place or self.place, parse_name(name), file)

    def has_rested(self) -> None:
        """Time goes by, for targets that rest."""
        for path in (self.world.spool.folder / "resting").glob("*"):
            path.write_text(path.read_text().replace('"at": "2', '"at": "1', 1))
