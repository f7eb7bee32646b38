"""A data folder without its server, changed here and there between backups; expiry runs in between, for real.

Only the server's answers are made up: reading, storing, committing, expiring and writing back are the product's own.
"""

from __future__ import annotations

import os
import random
from collections import Counter
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import cast

import google_crc32c

from drkit.core.cancel import CancelToken
from drkit.core.clock import SystemClock
from drkit.core.progress import Silent, Tally
from drkit.engines.postgres.control import _LAYOUTS, CONTROL_PATH, parse_control
from drkit.engines.postgres.lsn import Lsn
from drkit.engines.postgres.session import BackupSession, BackupStart, BackupStop, ServerFacts
from drkit.jobs.backup import BackupResult, _Run
from drkit.jobs.backup_compact import totals_of
from drkit.jobs.backup_take import BackupOrder, Origin
from drkit.jobs.restore_files import FileWriter
from drkit.pipeline.adopting import Sizes
from drkit.repository.catalogue import load_manifest
from drkit.repository.content import ContentReader
from drkit.repository.layout import Kind
from drkit.repository.manifest import FILE, FOLDER, Manifest, Source
from drkit.repository.sources import Sources
from policies.compaction import Limits
from policies.retention import Windows
from storage_backends.api import Key, Reader
from storage_backends.memory import MemoryBackend
from storage_backends.passthrough import Passthrough
from tests.jobs.expire_world import KEYS, SEGMENT_BYTES, Days, ExpireWorld, WorldClock, done
from tests.repository.samples import SYSTEM

CHUNK = 2048
SIZES = Sizes(chunk=CHUNK, extent=1 << 20, frame=64 << 10, pack=512 << 10, map_extents=8, map_bytes=64 << 10)
LIMITS = Limits(least_bytes=512 << 10, slack_bytes=16 << 10)
NEVER = Limits(fetch=1e9, store=1e9, maps=1e9, runs=1 << 30)
CONTROL_VERSION, CATALOG_VERSION = 1300, 202209061


class Tomorrow(WorldClock):
    """Ahead of the files' own times, so that a file may be skipped unread in the same test that wrote it."""

    def __init__(self) -> None:
        super().__init__()
        self._begin = SystemClock().now() + timedelta(days=1)

    def now(self) -> datetime:
        return self._begin + self.elapsed


class Ranges(Passthrough):
    """Notes which bytes of which objects were read."""

    def __init__(self, inner: MemoryBackend) -> None:
        super().__init__(inner)
        self.read: list[tuple[str, int, int]] = []

    def open(self, key: Key, start: int = 0, length: int | None = None) -> Reader:
        size = self.stat(key).size_bytes
        self.read.append((key, start, size if length is None else min(size, start + length)))
        return super().open(key, start, length)

    def twice(self) -> list[tuple[str, int, int]]:
        """Ranges of packs and maps that begin before another one of the same object ended."""
        ends: Counter[str] = Counter()
        found = []
        for key, start, end in sorted(self.read):
            if start < ends[key]:
                found.append((key, start, end))
            ends[key] = max(ends[key], end)
        return found


@dataclass
class FakeSession:
    """A server that has one segment of WAL for each backup, archived by the time it is asked for."""

    world: Scattered
    lsn: Lsn = field(default_factory=lambda: Lsn(0))

    @property
    def session(self) -> FakeSession:
        return self

    def archiver(self) -> str:
        return ""

    def start(self, label: str, fast: bool) -> BackupStart:
        position = self.world.stores.position
        self.world.stores.archive(1)
        self.lsn = Lsn(position * SEGMENT_BYTES + 40)
        return BackupStart(self.lsn, 1)

    def stop(self) -> BackupStop:
        return BackupStop(Lsn(self.lsn.value + 100), b"label", b"")


@dataclass(frozen=True)
class Restored:
    """fetched_bytes: of packs and maps."""

    fetched_bytes: int
    twice: list[tuple[str, int, int]]


@dataclass
class Scattered:
    """root: an empty folder. hot, cold: MiB of files that are written to, and that are not."""

    root: Path
    hot: int = 8
    cold: int = 2
    limits: Limits = LIMITS
    workers: int = 2
    seed: int = 1
    changed_bytes: int = 0
    stored: list[BackupResult] = field(default_factory=list)

    def __post_init__(self) -> None:
        clock = Tomorrow()
        self.stores = ExpireWorld(backends={"a": MemoryBackend("a", clock=clock.now)})
        self.stores.clock = clock
        self.stores.windows = Windows(daily=Days(3), min_full=1)
        self.draw = random.Random(self.seed)
        self.data = self.root / "data"
        for folder in ("global", "base/5", "pg_wal"):
            (self.data / folder).mkdir(parents=True)
        (self.data / "PG_VERSION").write_text("15\n")
        (self.data / CONTROL_PATH).write_bytes(_control())
        for number in range(self.hot // 2):
            self._path(number).write_bytes(self.draw.randbytes(2 << 20))
        for number in range(100, 100 + self.cold):
            self._path(number).write_bytes(self.draw.randbytes(1 << 20))

    def _path(self, number: int) -> Path:
        return self.data / "base/5" / str(16384 + number)

    def scatter(self, share: float, among: float = 1.0) -> None:
        """Overwrite so much of the first `among` of the hot files, a page here and a page there."""
        files = max(1, round(self.hot // 2 * among))
        pages = (2 << 20) // CHUNK
        for number in range(files):
            with self._path(number).open("r+b") as file:
                for page in self.draw.sample(range(pages), round(share * pages)):
                    file.seek(page * CHUNK)
                    file.write(self.draw.randbytes(CHUNK))
                    self.changed_bytes += CHUNK

    def replace_cold(self, number: int) -> None:
        """One of the files that nothing scatters over, wholly anew."""
        self._path(number).write_bytes(self.draw.randbytes(1 << 20))
        self.changed_bytes += 1 << 20

    def order(self, *, rehash: bool = False) -> BackupOrder:
        return BackupOrder(
            cluster="orders", connection="", data_dir=self.data, label="", rehash=rehash, workers=self.workers,
            level=1, rate=None, required=1, machine="m", host="h", writer="drkit 0", spool=self.root / "spool",
            sizes=SIZES, limits=self.limits,
        )  # fmt: skip

    def backup(self, *, rehash: bool = False) -> BackupResult:
        """A day later than the one before."""
        self.stores.clock.pass_by(timedelta(days=1))
        facts = ServerFacts(
            version_num=150000, version="15", system_identifier=SYSTEM, data_directory=self.data, in_recovery=False,
            wal_segment_size=SEGMENT_BYTES, data_checksums=False, timeline=1, archive_mode="on", archive_command="x",
            archive_library="", wal_level="replica", user="u", may_backup=True, may_switch_wal=True,
            may_create_restore_point=True,
        )  # fmt: skip
        session = cast(BackupSession, FakeSession(self))
        control = parse_control((self.data / CONTROL_PATH).read_bytes())
        origin = Origin(session, facts, self.data, control, Source("m", str(self.data), self.data.stat().st_dev))
        result = _Run(self.order(rehash=rehash), self.stores.means(), origin).execute(0.0)
        self.stored.append(result)
        return result

    def expire(self) -> None:
        done(self.stores.expire())

    def keep_only_the_newest(self) -> None:
        """Expire all others, and delete what they leave."""
        self.stores.windows = Windows(daily=Days(0.1), min_full=1)
        self.expire()
        self.stores.clock.pass_by(self.stores.grace + timedelta(days=1))
        self.expire()

    def manifest(self, made: BackupResult) -> Manifest:
        return load_manifest(KEYS, self.stores.target("a"), self.stores.layout, made.summary.run)

    def fetch_ratio(self, made: BackupResult) -> float:
        totals = totals_of(self.manifest(made))
        return totals.fetch / totals.useful

    def held_bytes(self) -> int:
        """Of packs and maps on the target."""
        folders = [self.stores.layout.folder(name) for name in ("packs", "maps")]
        return sum(info.size_bytes for folder in folders for info in self.stores.backends["a"].list(folder))

    def restore(self, made: BackupResult, *, frame_cache_bytes: int = 4 << 20) -> Restored:
        """Into a new folder, compared with the data folder as it is."""
        manifest = self.manifest(made)
        ranges = Ranges(cast(MemoryBackend, self.stores.backends["a"]))
        sources = Sources([replace(self.stores.target("a"), backend=ranges)], self.stores.layout, KEYS)
        reader = ContentReader(
            KEYS, self.stores.layout, sources, chunk_bytes=CHUNK, frame_cache_bytes=frame_cache_bytes
        )
        into = self.root / f"restored-{made.summary.backup}"
        for entry in manifest.entries:
            if entry.type == FOLDER:
                (into / os.fsdecode(entry.path)).mkdir(parents=True)
        writer = FileWriter(
            reader=reader, maps=manifest.maps, resolve=lambda path: os.fsencode(into) + b"/" + path, owner=None,
            workers=2, delta=False, tally=Tally(Silent(), "files", clock=SystemClock()),
            written=lambda descriptor, offset, size_bytes: None,
        )  # fmt: skip
        files = [entry for entry in manifest.entries if entry.type == FILE]
        writer.run(files, CancelToken())
        for entry in files:
            path = os.fsdecode(entry.path)
            assert (into / path).read_bytes() == (self.data / path).read_bytes(), path
        return Restored(sources.fetched_bytes["a"], ranges.twice())

    def runs(self, made: BackupResult) -> int:
        return len({r.name[:12] for r in self.manifest(made).references if r.kind == Kind.PACK})


def _control() -> bytes:
    """A pg_control as the server of this version would have written it, of a machine like this one."""
    layout, data = _LAYOUTS[CONTROL_VERSION], bytearray(8192)
    values = {
        "system_identifier": SYSTEM, "control_version": CONTROL_VERSION, "catalog_version": CATALOG_VERSION,
        "state": 6, "timeline": 1, "wal_level": 1, "block_size": 8192, "relation_segment_blocks": 131072,
        "wal_block_size": 8192, "wal_segment_size": SEGMENT_BYTES, "float_format": 1234567.0,
    }  # fmt: skip
    for name, value in values.items():
        offset, member = layout[name]
        member.pack_into(data, offset, value)
    offset, member = layout["crc"]
    member.pack_into(data, offset, google_crc32c.value(bytes(data[:offset])))
    return bytes(data)
