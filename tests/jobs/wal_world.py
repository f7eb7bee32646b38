"""A small world for WAL: a data folder with a control file, targets, keys and a spool; no server needed."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import google_crc32c

from drkit.core.log import NoLog
from drkit.crypto.container import DataKey
from drkit.crypto.keys import Ring
from drkit.engines.postgres.control import _LAYOUTS, CONTROL_FILE_BYTES
from drkit.engines.postgres.wal import parse_name
from drkit.jobs.fanout import Patience
from drkit.jobs.wal_debts import Payment
from drkit.jobs.wal_push import Pushed, PushSettings, push
from drkit.repository.layout import ClusterLayout
from drkit.repository.repository import Problem, Repository
from drkit.repository.spool import Spool
from drkit.repository.target import Target
from policies.acks import AckRule
from storage_backends.api import Key, StorageBackend
from storage_backends.memory import MemoryBackend
from storage_backends.posix import PosixBackend

SYSTEM = 7_300_000_000_000_000_001
MIB = 1 << 20
_HEADER = struct.Struct("<HHIQI4xQII")
_MAGIC_15, _LONG = 0xD110, 0x0002


def control_bytes(system: int = SYSTEM, segment_bytes: int = MIB) -> bytes:
    """A control file of PostgreSQL 15 that `parse_control` accepts."""
    layout = _LAYOUTS[1300]
    data = bytearray(CONTROL_FILE_BYTES)
    values: dict[str, int | float] = {
        "system_identifier": system, "control_version": 1300, "catalog_version": 202209061, "state": 6,
        "timeline": 1, "wal_level": 1, "float_format": 1234567.0, "block_size": 8192,
        "relation_segment_blocks": 131072, "wal_block_size": 8192, "wal_segment_size": segment_bytes,
    }  # fmt: skip
    for name, value in values.items():
        offset, member = layout[name]
        member.pack_into(data, offset, value)
    offset, member = layout["crc"]
    member.pack_into(data, offset, google_crc32c.value(bytes(data[:offset])))
    return bytes(data)


def segment_bytes_of(
    name: str, *, system: int = SYSTEM, size: int = MIB, seed: int = 0, page_timeline: int | None = None
) -> bytes:
    """The content of a segment: a true first header, then bytes that compress by about half."""
    wal = parse_name(name)
    timeline = wal.timeline if page_timeline is None else page_timeline
    header = _HEADER.pack(_MAGIC_15, _LONG, timeline, wal.start(size).value, 0, system, size, 8192)
    noise = random.Random(f"{name} {seed}").randbytes(4096) + bytes(4096)
    return (header + noise * (size // len(noise)))[:size]


class TestClock:
    """A wall clock that a test sets; monotonic time and sleep take no time of their own."""

    __test__ = False

    def __init__(self) -> None:
        self.at = datetime(2026, 3, 1, 12, tzinfo=UTC)
        self.slept: list[float] = []

    def now(self) -> datetime:
        return self.at

    def monotonic(self) -> float:
        return self.at.timestamp()

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.at += timedelta(seconds=seconds)


RING = Ring(b"R" * 16, {1: b"M" * 32}, b"L" * 32)


def entropy(size: int) -> bytes:
    return bytes(size)


def make_target(name: str, backend: StorageBackend) -> Target:
    return Target(name, backend, "here", "disk")


@dataclass
class World:
    """One host. `wrap` puts decorators around a target's backend."""

    root: Path
    backends: dict[str, StorageBackend] = field(default_factory=dict)
    absent: dict[str, Problem] = field(default_factory=dict)
    clock: TestClock = field(default_factory=TestClock)
    needed: int = 1
    cluster: str = "orders"
    system: int = SYSTEM
    segment_bytes: int = MIB
    level: int = 3
    ring: Ring = RING

    def __post_init__(self) -> None:
        self.data = self.root / f"data-{self.system}"
        self.spool = Spool(self.root / "spool")
        (self.data / "global").mkdir(parents=True, exist_ok=True)
        (self.data / "pg_wal").mkdir(exist_ok=True)
        (self.data / "global" / "pg_control").write_bytes(control_bytes(self.system, self.segment_bytes))
        if not self.backends:
            self.backends = {"a": MemoryBackend("a"), "b": MemoryBackend("b")}

    @property
    def layout(self) -> ClusterLayout:
        return ClusterLayout(self.system)

    @property
    def repository(self) -> Repository:
        return Repository(self.ring, tuple(self.targets), self.absent, DataKey(self.ring, entropy))

    @property
    def targets(self) -> Sequence[Target]:
        return [make_target(name, b) for name, b in self.backends.items() if name not in self.absent]

    def target(self, name: str) -> Target:
        return make_target(name, self.backends[name])

    def wrap(self, name: str, wrapper: Callable[[StorageBackend], StorageBackend]) -> None:
        self.backends[name] = wrapper(self.backends[name])

    @property
    def settings(self) -> PushSettings:
        names = frozenset(self.backends) | frozenset(self.absent)
        rule = AckRule(names, names, self.needed, self.needed)
        return PushSettings(
            self.cluster, self.data, rule, self.level, Patience(deadline_s=20.0, grace_s=10.0), Payment(16, 20.0)
        )

    def wal_file(self, name: str, content: bytes) -> Path:
        path = self.data / "pg_wal" / name
        path.write_bytes(content)
        return path

    def segment(self, name: str, seed: int = 0) -> Path:
        return self.wal_file(name, segment_bytes_of(name, system=self.system, size=self.segment_bytes, seed=seed))

    def push(self, path: Path) -> Pushed:
        return push(path, self.repository, self.spool, self.settings, self.clock, NoLog())

    def stored(self, name: str, file: str) -> bytes:
        return self.target(name).read(self.layout.archived(file))

    def objects(self, name: str) -> dict[str, bytes]:
        target = self.target(name)
        return {info.key: target.read(info.key) for info in target.backend.list()}


def posix_backends(root: Path, names: Sequence[str] = ("a", "b")) -> dict[str, StorageBackend]:
    return {name: PosixBackend(root / "targets" / name, create_root=True) for name in names}


def replace_object(backend: StorageBackend, key: Key, data: bytes) -> None:
    """What a failing disk does: other bytes under the same name."""
    backend.delete(key)
    with backend.create(key) as upload:
        upload.write(data)
        upload.commit()


def flip(backend: StorageBackend, key: Key, at: int | None = None) -> None:
    """Turn one bit round in a stored object (the middle one)."""
    with backend.open(key) as reader:
        data = bytearray(reader.read())
    data[len(data) // 2 if at is None else at] ^= 0x10
    replace_object(backend, key, bytes(data))
