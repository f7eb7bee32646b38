"""The database that all rows work on, and what prepares it between runs."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from tests.bench.contestants import Contestant, size_of
from tests.bench.meter import Sample
from tests.real.postgres import Server, make_folder, new_server

ROUNDS = int(os.environ.get("DRKIT_BENCH_ROUNDS", "3"))
SCALE = int(os.environ.get("DRKIT_BENCH_SCALE", "50"))
SEGMENTS = int(os.environ.get("DRKIT_BENCH_SEGMENTS", "60"))
_MAJOR = int(os.environ.get("DRKIT_BENCH_MAJOR", "15"))
_TEXT_ROWS_PER_SCALE = 3200  # with the jsonb some 1.7 MiB for each unit of scale, compressing about 2.3:1
_WITHIN_S = 900.0

_TEXT = f"""
create table notes as
select n as id,
       (select string_agg(md5((n * 31 + k)::text) || ' lorem ' || (n % 1000 + k), ' ')
          from generate_series(1, 8) k) as body,
       jsonb_build_object('id', n, 'mail', md5(n::text) || '@example.org', 'tags', array[n % 7, n % 11]) as facts
from generate_series(1, {_TEXT_ROWS_PER_SCALE} * {SCALE}) n
"""


class Scene:
    """PostgreSQL with page checksums: pgbench at DRKIT_BENCH_SCALE, and text and jsonb that compress less."""

    def __init__(self) -> None:
        self.folder = make_folder("drkit-bench-")
        self.server: Server = new_server(_MAJOR)
        self.server.set(
            archive_mode="on", archive_command="true", shared_buffers="256MB", max_wal_size="20GB",
            wal_keep_size="64GB", checkpoint_timeout="1h", autovacuum="off",
        )  # fmt: skip
        self.server.start()
        self.server.pgbench("-i", "-q", "-s", str(SCALE))
        self.server.query(_TEXT)
        self.server.query("vacuum (freeze, analyze)")
        self.server.query("checkpoint")

    def close(self) -> None:
        self.server.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def size_bytes(self) -> int:
        """Of the data folder without WAL."""
        return size_of(self.server.data) - size_of(self.server.data / "pg_wal")

    @property
    def _status(self) -> Path:
        return self.server.data / "pg_wal" / "archive_status"

    def archive_by(self, *contestants: Contestant) -> None:
        """From now on WAL goes to these; on return nothing waits to be archived."""
        self.archive_with(" && ".join(c.archive_command for c in contestants))
        self.await_archived()

    def archive_with(self, command: str) -> None:
        self.server.set(archive_command=command)
        self.server.query("select pg_reload_conf()")

    def await_archived(self) -> None:
        until = time.monotonic() + _WITHIN_S
        while self._ready():
            assert time.monotonic() < until, self.server.log.read_text()[-2000:]
            time.sleep(0.02)

    def update_contiguous(self) -> None:
        """One row in a hundred, side by side."""
        rows = 1000 * SCALE
        self.server.query(
            f"update pgbench_accounts set abalance = abalance + 1 where aid between {rows * 3} and {rows * 4}"
        )
        self.server.query("checkpoint")

    def update_scattered(self) -> None:
        """One row in a hundred, anywhere."""
        self.server.query("update pgbench_accounts set abalance = abalance + 1 where random() < 0.01")
        self.server.query("checkpoint")

    def write_segments(self) -> list[str]:
        """Make SEGMENTS of WAL by pgbench transactions while nothing archives them; their names, in order."""
        self.archive_with("false")
        while len(names := self._ready()) < SEGMENTS:
            self.server.pgbench("-n", "-c", "4", "-t", "2000")
        self.server.query("select pg_switch_wal()")
        return names

    def _ready(self) -> list[str]:
        """Files that wait to be archived, in order."""
        return sorted(path.stem for path in self._status.glob("*.ready"))

    def rearm(self, names: list[str]) -> None:
        """Ask the server to archive these again; it must not archive anything at the moment."""
        for name in names:
            done = self._status / f"{name}.done"
            if done.exists():
                done.rename(done.with_suffix(".ready"))


Work = tuple[Callable[[], object], Callable[[], Sample]]


def alternate(works: Mapping[str, Work]) -> dict[str, list[Sample]]:
    """Run each (preparation, work) in turn, ROUNDS times, the order turned about every other round."""
    found: dict[str, list[Sample]] = {name: [] for name in works}
    for number in range(ROUNDS):
        for name in list(works)[:: -1 if number % 2 else 1]:
            before, work = works[name]
            before()
            found[name].append(work())
    return found


def nothing() -> None:
    """No preparation."""
