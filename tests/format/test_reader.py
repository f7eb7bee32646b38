"""The reader against a real backup: the page docs/format.md says enough to restore from."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from drkit.repository.layout import RunId
from tests.jobs.backup_world import BackupWorld
from tests.real.postgres import Server, new_server, require

pytestmark = pytest.mark.real
READER = Path(__file__).with_name("reader.py")


@pytest.fixture
def world() -> Iterator[BackupWorld]:
    require(15)
    server: Server = new_server(15)
    try:
        server.set(wal_keep_size="1GB")
        made = BackupWorld(server)
        made.start()
        yield made
    finally:
        server.close()


def read(world: BackupWorld, key: str, *folder: Path) -> bytes:
    words: list[str | Path] = [sys.executable, "-I", READER, world.key_file, world.folders["b"], key, *folder]
    return subprocess.run(words, capture_output=True, check=True).stdout


def test_a_backup_and_its_wal_are_read_without_drkit(world: BackupWorld, tmp_path: Path) -> None:
    server = world.server
    space = server.create_tablespace("one")
    server.query("create table t tablespace one as select g, md5(g::text) from generate_series(1, 30000) g")
    server.query("create table quiet as select g, md5(g::text) from generate_series(1, 30000) g")
    world.backup()
    server.query("update t set g = -g where g % 500 = 0")
    server.query("vacuum (freeze) t, quiet")  # nothing has a reason to write to them any more
    answer = world.backup()
    names = [server.value(f"select pg_relation_filepath('{table}')") for table in ("t", "quiet")]
    layout, run = world.layout, RunId.parse(answer["id"])
    summary = world.manifest(answer["id"]).summary
    server.stop()

    read(world, layout.manifest(run), tmp_path)

    for name in [*names, "PG_VERSION", "base/1/PG_VERSION", "postgresql.conf"]:
        assert (tmp_path / name).read_bytes() == (server.data / name).read_bytes(), name
    assert (server.data / names[0]).resolve().is_relative_to(space)
    assert len([p for p in tmp_path.rglob("*") if p.is_file()]) == summary.files
    wal = read(world, layout.wal(summary.start_wal))
    assert wal == (server.data / "pg_wal" / summary.start_wal).read_bytes() and len(wal) == summary.segment_bytes


def test_the_reader_is_short_and_knows_nothing_of_drkit() -> None:
    lines = [line.split("#")[0].rstrip() for line in READER.read_text().split('"""')[2].splitlines()]
    code = [line for line in lines if line]
    imports = [line for line in code if line.startswith(("import ", "from "))]
    assert not [line for line in imports if "drkit" in line or "storage_backends" in line or "blake3" in line]
    assert len(code) - len(imports) <= 60
