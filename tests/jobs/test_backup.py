"""Backups of real servers, taken by the command line as an operator would: what they hold, cost and refuse."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from drkit.pipeline.digests import extent_digest, file_digest
from drkit.repository.layout import Kind
from drkit.repository.manifest import FILE, Entry, Manifest
from tests.jobs.backup_world import PROGRAMS, BackupWorld, load
from tests.real.postgres import MakeServer, Server, give, new_server, require

pytestmark = pytest.mark.real

MIB = 1 << 20
PAGE = 8192
PLAIN = {"max_wal_size": "64MB"}
DAMAGE, PROMISE = 9, 10


@pytest.fixture
def pg15() -> Iterator[Server]:
    """One server of PostgreSQL 15, not started."""
    require(15)
    server = new_server(15)
    yield server
    server.close()


def states(answer: dict[str, object]) -> dict[str, str]:
    targets = answer["targets"]
    assert isinstance(targets, list)
    return {target["name"]: target["state"] for target in targets}


def paths(manifest: Manifest) -> set[str]:
    return {entry.path.decode() for entry in manifest.entries}


def pages_changed(world: BackupWorld, before: Manifest, after: Manifest) -> int:
    """Bytes in pages of the later backup that the earlier one does not have at the same place."""
    old = {entry.path: entry for entry in before.entries if entry.type == FILE}
    changed = 0
    for entry in after.entries:
        if entry.type != FILE or (entry.path in old and old[entry.path].digest == entry.digest):
            continue
        new = world.content(after, entry.path.decode())
        was = world.content(before, entry.path.decode()) if entry.path in old else b""
        for at in range(0, len(new), PAGE):
            page = new[at : at + PAGE]
            changed += len(page) * (page != was[at : at + PAGE])
    return changed


def check_files(world: BackupWorld, manifest: Manifest) -> None:
    """Rebuild every file from one target; each digest holds."""
    reader = world.reader(manifest)
    for entry in manifest.entries:
        wanted = [(manifest.maps[index], extent) for index, extent in entry.extents]
        pieces = [bytes(content.data) for content in reader.read(wanted)]
        assert sum(map(len, pieces)) == entry.size, entry.path
        if entry.type == FILE:
            assert file_digest((*extent_digest(piece), len(piece)) for piece in pieces) == (entry.digest, entry.crc)


def link_wal(server: Server) -> Path:
    """pg_wal on a disk of its own."""
    elsewhere = server.root / "wal"
    (server.data / "pg_wal").rename(elsewhere)
    (server.data / "pg_wal").symlink_to(elsewhere)
    return elsewhere


def relation(server: Server, name: str) -> str:
    found: str = server.value(f"select pg_relation_filepath('{name}')")
    return found


def test_a_full_backup_and_two_later_ones_under_load(pg_server: MakeServer) -> None:
    server = pg_server(start=False, settings=PLAIN)
    elsewhere = link_wal(server)
    world = BackupWorld(server)
    world.start()
    one, two = server.create_tablespace("one"), server.create_tablespace("two")
    server.pgbench("-i", "-s", "1", "-q", "--tablespace=one")
    server.query("create table quiet tablespace two as select g, repeat('x', 100) from generate_series(1, 50000) g")
    server.query("create unlogged table loose as select 1")
    session = server.connect()
    session.execute("create temporary table mine as select generate_series(1, 1000)")
    temporary = session.execute("select pg_relation_filepath('mine')").fetchone()
    assert temporary is not None

    answers = []
    for _ in range(3):
        with load(server):
            answers.append(world.backup())

    for answer in answers:
        assert states(answer) == {"a": "good", "b": "good"}
        assert answer["page_errors"] == 0, "no false alarm while pages are written"
    assert [a["parent"] for a in answers] == [None, answers[0]["id"], answers[1]["id"]]
    assert all(a["new_bytes"] < answers[0]["new_bytes"] for a in answers[1:])
    manifests = [world.manifest(answer["id"]) for answer in answers]
    for manifest in manifests:
        check_files(world, manifest)
        held = paths(manifest)
        loose = relation(server, "loose")
        assert f"{loose}_init" in held and loose not in held
        assert temporary[0] not in held and not any("pgsql_tmp" in path for path in held)
        assert relation(server, "quiet") in held and relation(server, "pgbench_accounts") in held
        assert not {path for path in held if path.startswith("pg_wal/0")}
        assert not {"postmaster.pid", "backup_label", "tablespace_map"} & held
        assert manifest.head.wal_link == str(elsewhere)
        assert {space.location for space in manifest.head.tablespaces} == {str(one), str(two)}
        assert manifest.head.backup_label.startswith(b"START WAL LOCATION") and manifest.head.tablespace_map
        assert [entry.path + b"/" * (entry.type != FILE) for entry in manifest.entries] == sorted(
            entry.path + b"/" * (entry.type != FILE) for entry in manifest.entries
        )
    changed = pages_changed(world, manifests[1], manifests[2])
    assert answers[2]["new_bytes"] <= changed + MIB, "what is stored is what changed, compressed, and its map"
    session.close()


def test_a_later_backup_of_a_server_that_did_little_costs_little(pg15: Server) -> None:
    world = BackupWorld(pg15)
    world.start()
    pg15.pgbench("-i", "-s", "1", "-q")
    first = world.backup()
    pg15.query("update pgbench_accounts set abalance = 7 where aid % 2500 = 1")

    second = world.backup()

    changed = pages_changed(world, world.manifest(first["id"]), world.manifest(second["id"]))
    assert MIB // 8 < changed < 4 * MIB
    assert second["new_bytes"] < changed / 2 + MIB // 4
    assert second["stored_bytes"] < first["stored_bytes"] + second["new_bytes"] + 1
    assert second["size_bytes"] > 30 * MIB


def test_an_idle_server_with_large_segments_is_backed_up(pg_server: MakeServer) -> None:
    server = pg_server(start=False, segment_mb=64)
    world = BackupWorld(server)
    world.start()

    answers = [world.backup("--label", "first"), world.backup("--label", "second")]

    for answer in answers:
        assert states(answer) == {"a": "good", "b": "good"}
    assert [a["label"] for a in answers] == ["first", "second"]
    manifest = world.manifest(answers[1]["id"])
    assert manifest.summary.segment_bytes == 64 * MIB
    wal = [reference for reference in manifest.references if reference.kind == Kind.WAL]
    assert [r.name.decode() for r in wal] == [manifest.summary.start_wal] and wal[0].size == 64 * MIB
    assert answers[1]["new_bytes"] < MIB


def flip_page(server: Server, table: str, block: int) -> str:
    """What a failing disk does to a page that lies quietly on it; returns the file's path."""
    server.query("checkpoint")
    path = relation(server, table)
    with (server.data / path).open("r+b") as file:
        file.seek(block * PAGE + 5000)
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 0x40]))
    return path


def test_damaged_pages_are_told_and_nothing_else(pg15: Server) -> None:
    server = pg15
    server.set(**PLAIN)
    world = BackupWorld(server)
    world.start()
    server.pgbench("-i", "-s", "1", "-q")
    server.query("create table quiet as select g, repeat('x', 100) from generate_series(1, 20000) g")
    path = flip_page(server, "quiet", 3)
    flip_page(server, "quiet", 11)
    with load(server):
        first = world.backup(status=DAMAGE)
        shifted = relation(server, "quiet")
        with (server.data / shifted).open("r+b") as file:
            file.seek(20 * PAGE)
            page = file.read(PAGE)
            file.seek(21 * PAGE)
            file.write(page)
        second = world.backup(status=DAMAGE)

    assert first["damaged"] == [{"path": path, "block": 3}, {"path": path, "block": 11}]
    assert [d["block"] for d in second["damaged"]] == [3, 11, 21], "a page in another's place has a checksum that holds"
    assert states(first) == states(second) == {"a": "good", "b": "good"}
    assert first["page_errors"] == 2 and [b["page_errors"] for b in world.listed()] == [2, 3]
    assert world.manifest(first["id"]).head.damaged == ((path, 3), (path, 11))
    human = world.drkit("backup", check=False)
    assert human.returncode == DAMAGE and f"DAMAGED PAGE in {path}, block 3" in human.stdout


def test_damage_in_files_that_did_not_change_is_still_told_by_the_next_backup(pg15: Server) -> None:
    """The second backup adopts the file unread: the damage is in it all the same."""
    world = BackupWorld(pg15)
    world.start()
    pg15.query("create table quiet as select g, repeat('x', 100) from generate_series(1, 20000) g")
    path = flip_page(pg15, "quiet", 3)
    past = pg15.data.stat().st_mtime - 60
    os.utime(pg15.data / path, (past, past))
    pg15.query("select pg_sleep(2.5)")  # older than the listing by more than the clock's grain

    answers = [world.backup(status=DAMAGE), world.backup(status=DAMAGE)]

    assert answers[1]["adopted_files"] > 100
    for answer in answers:
        assert answer["damaged"] == [{"path": path, "block": 3}]


def test_a_target_that_is_away_costs_the_promise_and_comes_back(pg15: Server) -> None:
    world = BackupWorld(pg15)
    world.start()
    pg15.query("create table t as select generate_series(1, 50000) i")
    first = world.backup()
    away = world.folders["b"].with_name("unplugged")
    world.folders["b"].rename(away)
    pg15.query("update t set i = i + 1")

    second = world.backup(status=PROMISE)

    assert states(second)["a"] == "good" and states(second)["b"] != "good"
    assert not world.folders["b"].exists(), "nobody makes the folder of an unmounted disk"
    away.rename(world.folders["b"])
    found = {backup["id"]: states(backup) for backup in world.listed()}
    assert found == {first["id"]: {"a": "good", "b": "good"}, second["id"]: {"a": "good", "b": "pending"}}
    done = world.drkit("--json", "backup", check=False)
    assert done.returncode in (0, PROMISE)
    third = json.loads(done.stdout)["backup"]
    assert third["parent"] == first["id"], "built on the one that all targets have"
    assert states(third)["a"] == "good" and states(third)["b"] in ("good", "pending"), "b may wait for its WAL"


@contextmanager
def disk(size_mib: int, name: str) -> Iterator[Path]:
    """A filesystem of that size; each is a device of its own, apart from the server's."""
    if os.geteuid() != 0:
        pytest.skip("only root mounts a tmpfs")
    folder = Path(tempfile.mkdtemp(prefix=f"drkit-disk-{name}-", dir="/tmp"))
    folder.chmod(0o755)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size_mib}m,mode=0777", "tmpfs", folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)
        folder.rmdir()


NOISE = "create table noise as select g, md5(g::text) || md5((g * 7)::text) from generate_series(1, 100000) g"


def test_a_full_target_leaves_the_run_and_says_that_it_is_full(pg15: Server) -> None:
    with disk(300, "large") as large, disk(6, "small") as small:
        world = BackupWorld(pg15, folders={"a": large / "target", "b": small / "target"})
        world.start()
        pg15.query(NOISE)

        answer = world.backup(status=PROMISE)

        assert states(answer) == {"a": "good", "b": "pending"}
        why = next(target["why"] for target in answer["targets"] if target["name"] == "b")
        assert "space" in why.lower() and str(small) in why and "bytes" in why
        assert [states(b)["a"] for b in world.listed()] == ["good"]


def test_a_backup_whose_only_target_is_full_says_so(pg15: Server) -> None:
    with disk(6, "small") as small:
        world = BackupWorld(pg15, names=("b",), folders={"b": small / "target"})
        world.start()
        pg15.query(NOISE)

        done = world.drkit("--json", "backup", check=False)

        assert done.returncode not in (0, PROMISE)
        told = done.stderr.strip().splitlines()[-1]
        assert "space" in told.lower() and str(small) in told
        assert world.listed() == []


def objects(world: BackupWorld) -> set[str]:
    return {f"{name}/{info.key}" for name in world.names for info in world.target(name).backend.list("clusters/")}


def test_a_folder_of_another_cluster_is_refused_before_anything_is_touched(pg15: Server) -> None:
    world = BackupWorld(pg15)
    world.start()
    other = new_server(15)
    try:
        world.write_config(data_dir=other.data)
        before = objects(world)
        done = world.drkit("--json", "backup", check=False)
        assert done.returncode == 4, done.stderr
        assert "another cluster" in done.stderr and "system identifier" in done.stderr
        assert objects(world) == before
    finally:
        other.close()


def test_another_server_under_a_known_name_is_refused_until_its_name_is_given_up(pg15: Server) -> None:
    """A restored copy, a wrong port, a new initdb: its backups would stand in one row with the old server's."""
    world = BackupWorld(pg15)
    world.start()
    world.backup()
    other = new_server(15)
    try:
        world.write_config(data_dir=other.data, connection=other.conninfo())
        other.set(archive_mode="on", archive_command=f"{PROGRAMS}/drkit-wal push --config {world.config} %p")
        other.start()
        before = objects(world)

        done = world.drkit("--json", "backup", check=False)

        error = json.loads(done.stderr.splitlines()[-1])["error"]
        assert (done.returncode, error["code"]) == (6, "conflict"), done.stderr
        assert "'orders'" in error["what"] and "system identifier" in error["why"]
        pinned = world.spool / "systems" / "orders"
        assert f"rm {pinned}" in error["cure"], "the way for an upgrade"
        assert objects(world) == before
        pinned.unlink()
        assert states(world.backup()) == {"a": "good", "b": "good"}
    finally:
        other.close()


@pytest.mark.parametrize(
    ("settings", "cure"),
    [
        ({"archive_mode": "off"}, "alter system set archive_mode"),
        ({"archive_command": ""}, "alter system set archive_command"),
        ({"wal_level": "minimal", "max_wal_senders": "0", "archive_mode": "off"}, "alter system set wal_level"),
    ],
)
def test_a_server_that_does_not_archive_is_refused_with_the_cure(
    settings: dict[str, str], cure: str, pg15: Server
) -> None:
    world = BackupWorld(pg15)
    world.drkit("init", "--yes")
    pg15.set(archive_mode="on", archive_command="true")
    pg15.set(**settings)
    pg15.start()
    before = objects(world)
    done = world.drkit("backup", check=False)
    assert done.returncode == 4 and cure in done.stderr
    assert objects(world) == before


def test_wal_that_never_arrives_fails_the_backup_and_names_the_archiver(pg15: Server) -> None:
    world = BackupWorld(pg15)
    world.start()
    world.backup()
    pg15.query("alter system set archive_command = 'false'")
    pg15.query("select pg_reload_conf()")
    done = world.drkit("backup", "--wal-timeout", "2s", check=False)
    assert done.returncode == 1 and "did not arrive" in done.stderr and "archive_command" in done.stderr
    assert len(world.listed()) == 1, "it is not listed as good, nor at all"
    pg15.query("alter system reset archive_command")
    pg15.query("select pg_reload_conf()")
    assert states(world.backup()) == {"a": "good", "b": "good"}


def test_files_that_vanish_shrink_and_grow_while_they_are_read(pg15: Server) -> None:
    """Tables are dropped, truncated and filled as fast as one session can."""
    world = BackupWorld(pg15)
    world.start()
    pg15.query("create table keeps (i int)")
    script = world.root / "churn.sql"
    script.write_text(
        "create table gone as select generate_series(1, 3000) i;\n"
        "insert into keeps select generate_series(1, 3000);\n"
        "truncate keeps;\n"
        "drop table gone;\n"
    )
    give(script)
    with load(pg15, "-f", str(script), "-c", "1"):
        answer = world.backup()
    assert answer["page_errors"] == 0
    check_files(world, world.manifest(answer["id"]))


def test_rehash_reads_and_stores_everything_anew(pg15: Server) -> None:
    world = BackupWorld(pg15)
    world.start()
    first = world.backup()
    again = world.backup("--rehash")
    assert again["parent"] is None and again["adopted_files"] == 0
    assert again["new_bytes"] > first["new_bytes"] * 0.9


@pytest.mark.parametrize("how", ["damaged", "missing"])
def test_a_map_of_the_backup_before_that_is_lost_on_one_target_is_stored_anew(pg15: Server, how: str) -> None:
    """What one target lost is no reason to have no backup until somebody repairs it."""
    world = BackupWorld(pg15)
    world.start()
    first = world.backup()
    path = sorted((world.folders["a"] / world.layout.folder("maps") / first["id"]).iterdir())[0]
    key = str(path.relative_to(world.folders["a"]))
    if how == "missing":
        path.unlink()
    else:
        data = bytearray(path.read_bytes())
        data[200] ^= 1
        path.write_bytes(data)
    done = world.drkit("--json", "backup")
    second = json.loads(done.stdout)["backup"]
    assert states(second) == {"a": "good", "b": "good"}
    assert key not in {reference.key(world.layout) for reference in world.manifest(second["id"]).references}
    assert how == "missing" or f"{key}" in done.stderr


def entry_of(manifest: Manifest, path: str) -> Entry:
    return next(entry for entry in manifest.entries if entry.path == path.encode())


def test_the_control_file_of_a_backup_is_whole(pg15: Server) -> None:
    from drkit.engines.postgres.control import parse_control

    world = BackupWorld(pg15)
    world.start()
    answer = world.backup()
    manifest = world.manifest(answer["id"])
    control = parse_control(world.content(manifest, "global/pg_control"))
    assert control.system_identifier == int(manifest.summary.system_identifier)
    assert entry_of(manifest, "global/pg_control").size == 8192
