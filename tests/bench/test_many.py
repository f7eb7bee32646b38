"""Ten thousand backups and ten million WAL segments in one repository: what looking at them takes.

    make bench PYTEST_ARGS="-k many"              DRKIT_BENCH_BACKUPS, DRKIT_BENCH_WAL: other numbers

The backups are real objects in memory; the listing of the segments is made up as it is asked for, so that this shows
what the program itself costs, without the store: seconds, and memory beyond what the backups take.
"""

from __future__ import annotations

import heapq
import os
import resource
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta

import pytest

from drkit.engines.postgres.wal import segment_name
from drkit.jobs.expire import expire
from drkit.jobs.windows import read_windows
from drkit.repository.catalogue import read_catalogue
from drkit.repository.layout import ClusterLayout
from policies.retention import Windows
from storage_backends.api import Key, ObjectInfo, StorageBackend
from storage_backends.passthrough import Passthrough
from tests.bench.table import OUT
from tests.jobs.expire_world import SEGMENT_BYTES, START, Days, ExpireWorld

pytestmark = pytest.mark.bench
BACKUPS = int(os.environ.get("DRKIT_BENCH_BACKUPS", "10000"))
WAL = int(os.environ.get("DRKIT_BENCH_WAL", "10000000"))


class Vast(Passthrough):
    """A store with `count` segments more, from number `first` on, of timeline 1."""

    def __init__(self, inner: StorageBackend, layout: ClusterLayout, first: int, count: int) -> None:
        super().__init__(inner)
        self._layout, self._first, self._count = layout, first, count

    def list(self, prefix: str = "", after: str = "") -> Iterator[ObjectInfo]:
        made = (info for info in self._made(prefix) if info.key > after)
        return heapq.merge(self._inner.list(prefix, after), made, key=lambda info: info.key)

    def _made(self, prefix: str) -> Iterator[ObjectInfo]:
        folder = self._layout.wal_folder(1)
        if not (prefix.startswith(folder) or folder.startswith(prefix)):
            return
        a_log = 2**32 // SEGMENT_BYTES
        first, stop = self._first, self._first + self._count
        if prefix.startswith(folder) and len(prefix) > len(folder):
            log = int(prefix[len(folder) : len(folder) + 8], 16)
            first, stop = max(first, log * a_log), min(stop, (log + 1) * a_log)
        for number in range(first, stop):
            name = segment_name(1, number, SEGMENT_BYTES).text
            yield ObjectInfo(Key(f"{folder}{name[8:16]}/{name}"), 9_000_000, START, "1")


@dataclass(frozen=True, slots=True)
class Step:
    """grew_bytes: by how much the most memory that the process ever held rose."""

    name: str
    seconds: float
    grew_bytes: int


def measured(name: str, work: Callable[[], object]) -> Step:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.perf_counter()
    work()
    seconds = time.perf_counter() - began
    return Step(name, seconds, 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before))


def test_many(capsys: pytest.CaptureFixture[str]) -> None:
    world = ExpireWorld()
    world.windows = Windows(daily=Days(30), min_full=1)
    made = None
    for number in range(BACKUPS):
        made = world.backup(adopts=made if number % 50 else None)
        world.clock.pass_by(timedelta(hours=1))
    first = world.position
    world.wrap = lambda name, backend: Vast(backend, world.layout, first, WAL)

    def catalogue() -> object:
        return read_catalogue(world.means().repository, world.system)

    def windows() -> object:
        means = world.means()
        found = read_windows(read_catalogue(means.repository, world.system), means)
        assert not found.unreadable
        return found

    def plan() -> object:
        (outcome,) = expire(world.order(apply=False), world.means())
        assert outcome.plan is not None, outcome.problem
        return outcome

    steps = [measured("catalogue", catalogue), measured("windows", windows), measured("expiry plan", plan)]
    lines = [f"{BACKUPS} backups, {WAL} segments", "", "| step | s | grew by MiB |", "|---|---|---|"]
    lines += [f"| {one.name} | {one.seconds:.1f} | {one.grew_bytes / 2**20:.0f} |" for one in steps]
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT / "many.md").write_text("\n".join(lines) + "\n")
    with capsys.disabled():
        sys.stdout.write("\n" + "\n".join(lines) + "\n")
