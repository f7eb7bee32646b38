"""Targets whose clocks a test turns, backups made by hand on them with all they need, and expiry run over them."""

from __future__ import annotations

import itertools
import os
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from io import BytesIO

from drkit.core.cancel import CancelToken
from drkit.core.log import NoLog
from drkit.core.progress import Silent
from drkit.crypto.container import DataKey
from drkit.engines.postgres.lsn import Lsn
from drkit.engines.postgres.wal import segment_name
from drkit.jobs.expire import ExpireOrder, Outcome, expire
from drkit.jobs.expire_judge import Terms
from drkit.jobs.means import Means
from drkit.repository.catalogue import read_catalogue
from drkit.repository.graves import read_round
from drkit.repository.layout import ClusterLayout, Kind, RunId
from drkit.repository.leases import Lease, LeaseTerms, Verdict, decide
from drkit.repository.manifest import Reference, seal_manifest
from drkit.repository.repository import Repository
from drkit.repository.target import Target
from drkit.repository.wal import pack, seal
from policies.retention import Windows
from storage_backends.api import Key, ObjectInfo, StorageBackend, Upload
from storage_backends.errors import AlreadyExists
from storage_backends.memory import MemoryBackend
from storage_backends.passthrough import Passthrough
from tests.crypto.rings import ring, seeded
from tests.repository.samples import SYSTEM, add_slot, sample_head, sample_summary

SEGMENT_BYTES = 1 << 20
START = datetime(2026, 1, 1, 12, tzinfo=UTC)
DAY = timedelta(days=1)
KEYS = ring()


@dataclass(frozen=True, slots=True)
class Days:
    """A window of days."""

    count: float

    def before(self, moment: datetime) -> datetime:
        return moment - self.count * DAY


class WorldClock:
    """The clock of hosts; stores follow it unless they have one of their own."""

    def __init__(self) -> None:
        self.elapsed = timedelta(0)

    def now(self) -> datetime:
        return START + self.elapsed

    def monotonic(self) -> float:
        return self.elapsed.total_seconds()

    def sleep(self, seconds: float) -> None:
        self.elapsed += timedelta(seconds=seconds)

    def pass_by(self, length: timedelta) -> None:
        self.elapsed += length


@dataclass
class Made:
    """A backup that was made: its id, the names of its WAL segments, its objects, by key."""

    run: RunId
    wal: tuple[str, ...]
    objects: dict[str, bytes]
    manifest: bytes
    references: Sequence[Reference]

    @property
    def id(self) -> str:
        return str(self.run)


@dataclass
class ExpireWorld:
    """Targets `a`, `b`, ... in memory unless a backend is given."""

    names: Sequence[str] = ("a",)
    backends: dict[str, StorageBackend] = field(default_factory=dict)
    system: int = SYSTEM
    wrap: Callable[[str, StorageBackend], StorageBackend] = lambda name, backend: backend

    def __post_init__(self) -> None:
        self.clock = WorldClock()
        self.layout = ClusterLayout(self.system)
        self.position = 1  # the next segment
        self.numbers = itertools.count(1)
        self.windows = Windows(daily=Days(3), min_full=1)
        self.grace = timedelta(days=7)
        self.left_out: dict[str, Exception] = {}
        for name in self.names:
            self.backends.setdefault(name, MemoryBackend(name, clock=self.clock.now))
        for name in self.names:
            add_slot(self.target(name), KEYS)

    def target(self, name: str) -> Target:
        return Target(name, self.backends[name], f"site-{name}", "disk")

    def means(self) -> Means:
        targets = [
            replace(self.target(n), backend=self.wrap(n, self.backends[n]))
            for n in self.names
            if n not in self.left_out
        ]
        data_key = DataKey(KEYS, os.urandom)
        absent = dict(self.left_out)
        repository = Repository(KEYS, targets, absent, data_key)  # type: ignore[arg-type]
        return Means(repository, self.clock, os.urandom, CancelToken(clock=self.clock), Silent(), NoLog())

    # --- what happens ---

    def archive(self, count: int = 1, timeline: int = 1, on: Sequence[str] | None = None) -> list[str]:
        """So many segments in a row; their names."""
        names = []
        for _ in range(count):
            name = segment_name(timeline, self.position, SEGMENT_BYTES).text
            self.position += 1
            for target in self.names if on is None else on:
                self.archive_again(name, target)
            names.append(name)
        return names

    def archive_again(self, name: str, target: str) -> None:
        """A segment by its name on one target; equal content gives equal bytes."""
        packed = pack(KEYS, name, BytesIO(name.encode() * 10), SEGMENT_BYTES, 3)
        blob = seal(KEYS, packed, self.layout.wal(name), Kind.WAL)
        self._put(target, self.layout.wal(name), b"".join(blob.parts))

    def _put(self, target: str, key: str, data: bytes) -> None:
        try:
            self.target(target).write(Key(key), [data], len(data))
        except AlreadyExists:
            pass

    def backup(
        self,
        *,
        on: Sequence[str] | None = None,
        adopts: Made | None = None,
        timeline: int = 1,
        until: str = "verdict",
        stopped: datetime | None = None,
    ) -> Made:
        """A backup with one pack and one map of its own, those of `adopts` and two segments, made at once.

        until: `data`, `manifest` or `verdict`: how far its writer came before it died.
        """
        number = next(self.numbers)
        run = RunId.new(self.clock.now(), number.to_bytes(4, "big"))
        data_key = DataKey(KEYS, seeded(number))
        objects: dict[str, bytes] = {}
        references = [r for r in adopts.references if r.kind in (Kind.PACK, Kind.MAP)] if adopts is not None else []
        for kind in (Kind.PACK, Kind.MAP, Kind.FINGERPRINTS):
            object_id = run.binary + bytes(4)
            writer = data_key.writer(kind, object_id)
            content = random.Random(number).randbytes(100)
            writer.frame(content, len(content), codec=0)
            sealed = writer.finish()
            objects[self.layout.data(kind, object_id)] = sealed.joined()
            if kind is not Kind.FINGERPRINTS:
                references.append(Reference(kind, object_id, sealed.size_bytes, 48, sealed.digest))
        first = self.position
        wal = tuple(self.archive(2, timeline, on))
        for name in wal:
            packed = pack(KEYS, name, BytesIO(name.encode() * 10), SEGMENT_BYTES, 3)
            references.append(Reference(Kind.WAL, name.encode(), 240, 240, packed.facts.identity))
        at = (stopped or self.clock.now()).isoformat(timespec="microseconds").replace("+00:00", "Z")
        summary = replace(
            sample_summary(run, [1]),
            system_identifier=str(self.system),
            timeline=timeline,
            start_lsn=str(Lsn(first * SEGMENT_BYTES + 40)),
            stop_lsn=str(Lsn((first + 1) * SEGMENT_BYTES + 100)),
            start_wal=wal[0],
            stop_wal=wal[-1],
            segment_bytes=SEGMENT_BYTES,
            started_at=at,
            stopped_at=at,
        )
        manifest = seal_manifest(data_key, self.layout, summary, sample_head(), references, [], []).joined()
        made = Made(run, wal, objects, manifest, references)
        for name in self.names if on is None else on:
            self.store(made, name, until)
        return made

    def store(self, made: Made, name: str, until: str = "verdict") -> None:
        for key, data in made.objects.items():
            self._put(name, key, data)
        if until == "data":
            return
        self._put(name, self.layout.manifest(made.run), made.manifest)
        if until == "verdict":
            self.decide(made, name)

    def decide(self, made: Made, name: str, verdict: Verdict = Verdict.GOOD) -> Verdict:
        return decide(
            self.target(name), self.layout, made.run, verdict, "a test",
            ring=KEYS, data_key=DataKey(KEYS, os.urandom), clock=self.clock, entropy=os.urandom,
        )  # fmt: skip

    def lease(
        self, name: str, run: RunId | None, *via: Made, job: str = "backup", lasts_s: int = 900, rounds: str = ""
    ) -> Lease:
        terms = LeaseTerms(job, run, [one.run for one in via], "elsewhere", lasts_s, rounds)
        return Lease(self.target(name), self.layout, terms, DataKey(KEYS, os.urandom), self.clock, os.urandom)

    def days(self, count: int, **how: object) -> list[Made]:
        """A backup a day, the clock left at the last one; a segment between two of them."""
        made = []
        for _ in range(count):
            self.clock.pass_by(DAY)
            self.archive()
            made.append(self.backup(**how))  # type: ignore[arg-type]
        return made

    # --- expiry ---

    def order(self, *, apply: bool = True, only: str | None = None, removes: int | None = None) -> ExpireOrder:
        terms = Terms(self.windows, self.grace, timedelta(minutes=1))
        return ExpireOrder(None, dict.fromkeys(self.names, terms), "here", only, apply, removes)

    def plan(self, name: str = "a") -> Outcome:
        return next(one for one in expire(self.order(apply=False), self.means()) if one.target == name)

    def expire(self, *, only: str | None = None) -> list[Outcome]:
        """Plan, then carry out what the plan says."""
        plans = [one.plan for one in expire(self.order(apply=False, only=only), self.means()) if one.plan]
        count = sum(len(plan.going) for plan in plans if not plan.waits)
        return expire(self.order(removes=count, only=only), self.means())

    def expire_twice(self) -> None:
        """With the grace in between."""
        for length in (timedelta(0), self.grace + DAY):
            self.clock.pass_by(length)
            for one in self.expire():
                if one.problem is not None:
                    raise one.problem

    # --- what is there ---

    def keys(self, name: str = "a", kind: str = "") -> set[str]:
        folder = self.layout.folder(kind) if kind else self.layout.root
        return {info.key for info in self.backends[name].list(folder)}

    def segments(self, name: str = "a") -> set[str]:
        return {key.rpartition("/")[2] for key in self.keys(name, "wal")}

    def good(self, name: str = "a") -> set[str]:
        catalogue = read_catalogue(self.means().repository, self.system)
        return {b.summary.backup for b in catalogue.backups if name in b.good_on}

    def buried(self, name: str = "a") -> set[str]:
        found: set[str] = set()
        for info in self.backends[name].list(self.layout.folder("tombstones")):
            found |= read_round(self.target(name), info.key, KEYS)
        return found


class Hooked(Passthrough):
    """A backend that calls `before` with the verb and the key or prefix of each effect and listing."""

    def __init__(self, inner: StorageBackend, before: Callable[[str, str], None]) -> None:
        super().__init__(inner)
        self._before = before

    def create(self, key: Key, size_bytes: int | None = None, *, replacing: ObjectInfo | None = None) -> Upload:
        self._before("create", key)
        return super().create(key, size_bytes, replacing=replacing)

    def delete(self, key: Key) -> None:
        self._before("delete", key)
        super().delete(key)

    def list(self, prefix: str = "", after: str = "") -> Iterator[ObjectInfo]:
        self._before("list", prefix)
        return super().list(prefix, after)


def plain(name: str, backend: StorageBackend) -> StorageBackend:
    return backend


def done(outcomes: list[Outcome]) -> None:
    assert [str(one.problem) for one in outcomes if one.problem is not None] == []
