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


def read(world: BackupWorld, key: str) -> bytes:
    words: list[str | Path] = [sys.executable, "-I", READER, world.key_file, world.folders["b"], key]
    return subprocess.run(words, capture_output=True, check=True).stdout


def extract(world: BackupWorld, manifest: str, folder: Path) -> None:
    words: list[str | Path] = [sys.executable, "-m", "tests.format.extract"]
    words += [world.key_file, world.folders["b"], manifest, folder]
    subprocess.run(words, capture_output=True, check=True, cwd=READER.parents[2])


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

    extract(world, layout.manifest(run), tmp_path)

    for name in [*names, "PG_VERSION", "base/1/PG_VERSION", "postgresql.conf"]:
        assert (tmp_path / name).read_bytes() == (server.data / name).read_bytes(), name
    assert (server.data / names[0]).resolve().is_relative_to(space)
    assert len([p for p in tmp_path.rglob("*") if p.is_file()]) == summary.files
    wal = read(world, layout.wal(summary.start_wal))
    assert read(world, layout.manifest(run)).startswith(b'{"'), "the manifest's head"
    packs = [path.relative_to(world.folders["b"]) for path in world.folders["b"].rglob("packs/*/*")]
    assert packs and sum(len(read(world, str(pack))) for pack in packs[:3]) > 0
    assert wal == (server.data / "pg_wal" / summary.start_wal).read_bytes() and len(wal) == summary.segment_bytes


@pytest.mark.parametrize("name", ["reader.py", "extract.py"])
def test_the_reader_knows_nothing_of_drkit(name: str) -> None:
    lines = READER.with_name(name).read_text().splitlines()
    imported = {line.split()[1] for line in lines if line.startswith(("import ", "from "))}
    roots = {module.split(".")[0] for module in imported - {"tests.format.reader"}}
    assert roots <= {*sys.stdlib_module_names, "cryptography", "zstandard"}


def test_the_reader_is_short() -> None:
    code = [line for line in READER.read_text().split('"""')[2].splitlines() if line.split("#")[0].strip()]
    assert len(code) <= 40
