"""What belongs to a base backup."""

from __future__ import annotations

import os
import shutil
import socket
import time
from pathlib import Path

import pytest

from drkit.core.errors import Missing, Unreachable
from drkit.engines.postgres.control import read_control
from drkit.engines.postgres.files import (
    RelationFile,
    exclusion,
    has_page_checksums,
    init_forks,
    is_temporary_relation,
    relation_file,
)
from drkit.engines.postgres.walk import Entry, EntryKind, walk
from tests.real.postgres import MakeServer, Server, give, require, run


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("1259", RelationFile(1259, "main", 0)),
        ("1259.1", RelationFile(1259, "main", 1)),
        ("1259_fsm", RelationFile(1259, "fsm", 0)),
        ("1259_vm.12", RelationFile(1259, "vm", 12)),
        ("16384_init", RelationFile(16384, "init", 0)),
        ("4294967295", RelationFile(4294967295, "main", 0)),
        ("4294967296", None),
        ("01259", None),
        ("0", None),
        ("1259.", None),
        ("1259.0", None),
        ("1259_foo", None),
        ("t3_16384", None),
        ("pg_filenode.map", None),
        ("PG_VERSION", None),
        ("1259.1\n", None),
    ],
)
def test_names_of_relation_files(name: str, expected: RelationFile | None) -> None:
    assert relation_file(name) == expected


def test_blocks_count_across_the_files_of_a_relation() -> None:
    assert RelationFile(1, "main", 3).first_block(131072) == 3 * 131072


@pytest.mark.parametrize("name", ["t3_16384", "t0_1", "t3_16384_fsm", "t3_16384_vm.1", "t3_16384.2"])
def test_temporary_relations(name: str) -> None:
    assert is_temporary_relation(name)
    assert exclusion("base/5", name, frozenset()) == "temporary relation"
    assert exclusion("pg_tblspc/16385/PG_15_202209061/5", name, frozenset()) == "temporary relation"
    assert exclusion("", name, frozenset()) is None
    assert exclusion("global", name, frozenset()) is None


@pytest.mark.parametrize("name", ["t3", "t_1", "temp", "t3_16384_foo", "toast"])
def test_names_that_only_look_alike_are_kept(name: str) -> None:
    assert exclusion("base/5", name, frozenset()) is None


def test_unlogged_relations_keep_their_init_fork_only() -> None:
    names = ["16384", "16384_init", "16384_fsm", "16384.1", "16385", "16385_fsm", "163840", "x_init"]
    unlogged = init_forks(names)
    assert unlogged == {16384}
    kept = [name for name in names if exclusion("base/5", name, unlogged) is None]
    assert kept == ["16384_init", "16385", "16385_fsm", "163840", "x_init"]


@pytest.mark.parametrize(
    ("folder", "name", "left_out"),
    [
        ("", "postmaster.pid", True),
        ("", "postmaster.opts", True),
        ("", "backup_label", True),
        ("", "backup_label.old", True),
        ("", "tablespace_map", True),
        ("", "backup_manifest", True),
        ("", "recovery.signal", True),
        ("", "drkit.recovery.json", True),
        ("", "drkit.recovery-events", True),
        ("", "drkit.pg_control", True),
        ("", "standby.signal", True),
        ("", "postgresql.auto.conf.tmp", True),
        ("", "current_logfiles.tmp", True),
        ("base/pgsql_tmp", "x", False),
        ("base", "pgsql_tmp", True),
        ("base/5", "pgsql_tmp123.4", True),
        ("base/5", "pg_internal.init", True),
        ("global", "pg_internal.init.77", True),
        ("", "postgresql.auto.conf", False),
        ("", "postgresql.conf", False),
        ("", "current_logfiles", False),
        ("global", "pg_control", False),
        ("base/5", "PG_VERSION", False),
        ("conf.d", "recovery.signal", False),
    ],
)
def test_what_is_left_out_by_name(folder: str, name: str, left_out: bool) -> None:
    assert (exclusion(folder, name, frozenset()) is not None) == left_out


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("base/5/1259", True),
        ("base/5/1259_vm", True),
        ("global/1260", True),
        ("pg_tblspc/16384/PG_15_202209061/5/16390.2", True),
        ("global/pg_control", False),
        ("base/5/PG_VERSION", False),
        ("base/5/pg_filenode.map", False),
        ("pg_xact/0000", False),
        ("pg_multixact/offsets/1000", False),
        ("1259", False),
    ],
)
def test_which_files_have_page_checksums(path: str, expected: bool) -> None:
    assert has_page_checksums(path) == expected


def entries(server: Server) -> dict[str, Entry]:
    _, control = read_control(server.data, time.sleep)
    found = list(walk(server.data, server.major, control.tablespace_folder))
    keys = [os.fsencode(e.path) + (b"/" if e.kind in (EntryKind.FOLDER, EntryKind.TABLESPACE) else b"") for e in found]
    assert keys == sorted(keys)
    return {entry.path: entry for entry in found}


@pytest.mark.real
def test_the_walk_finds_what_pg_basebackup_copies(pg_server: MakeServer) -> None:
    """The same files on a server with unlogged and temporary tables, tablespaces and a linked pg_wal."""
    server = pg_server(start=False)
    shutil.move(server.data / "pg_wal", server.root / "wal")
    (server.data / "pg_wal").symlink_to(server.root / "wal")
    server.start()
    location = server.create_tablespace("ts")
    server.query("create table in_ts tablespace ts as select generate_series(1, 1000) a")
    server.query("create unlogged table u as select generate_series(1, 100000) a")
    server.query("create unlogged table u_ts tablespace ts as select generate_series(1, 1000) a")
    session = server.connect()
    session.execute("create temporary table tmp as select generate_series(1, 1000) a")
    server.query("checkpoint")
    target = server.root / "bb"
    moved = server.root / "bb_ts"
    args = ["-D", str(target), "-T", f"{location}={moved}", "-X", "none", "-c", "fast", "-h", str(server.sockets)]
    server.tool("pg_basebackup", *args, "-p", str(server.port), "-U", "postgres")
    found = entries(server)
    copied = set()
    for root, base in ((target, ""), (moved, next(p for p, e in found.items() if e.kind is EntryKind.TABLESPACE))):
        for folder, _, names in os.walk(root):
            copied |= {str(Path(base, Path(folder).relative_to(root), name)) for name in names}
    copied -= {"backup_label", "backup_manifest", "tablespace_map"}
    ours = {path for path, entry in found.items() if entry.kind is EntryKind.FILE}
    assert ours == copied
    session.close()
    wal = found["pg_wal"]
    assert (wal.kind, wal.location) == (EntryKind.FOLDER, str(server.root / "wal"))
    assert found["pg_wal/archive_status"].kind is EntryKind.FOLDER
    assert ("pg_wal/summaries" in found) == (server.major >= 17)
    assert not any(path.startswith("pg_wal/0") for path in found)
    space = next(entry for entry in found.values() if entry.kind is EntryKind.TABLESPACE)
    assert (space.location, space.path) == (str(location), f"pg_tblspc/{space.oid}")
    for folder in (
        "pg_replslot",
        "pg_notify",
        "pg_stat_tmp",
        "pg_subtrans",
        "pg_dynshmem",
        "pg_serial",
        "pg_snapshots",
    ):
        assert found[folder].kind is EntryKind.FOLDER
    table = server.value("select pg_relation_filepath('in_ts')")
    assert found[table].has_checksums
    assert found[table].size == (server.data / table).stat().st_size


@pytest.mark.real
def test_in_place_tablespaces_are_walked(pg_server: MakeServer) -> None:
    server = pg_server(settings={"allow_in_place_tablespaces": "on"})
    server.query("create tablespace here location ''")
    server.query("create table t tablespace here as select 1 as a")
    server.query("checkpoint")
    found = entries(server)
    space = next(entry for entry in found.values() if entry.kind is EntryKind.TABLESPACE)
    assert space.location is None
    assert server.value("select pg_relation_filepath('t')") in found


@pytest.mark.real
def test_links_and_sockets_are_reported_and_not_followed(pg_server: MakeServer) -> None:
    server = pg_server(start=False)
    (server.data / "elsewhere").symlink_to("/etc")
    (server.data / "dangling").symlink_to("/nowhere")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(server.data / "sock"))
    strange = os.fsdecode(b"b\xffd")
    (server.data / strange).write_text("x")
    found = entries(server)
    assert found["elsewhere"].kind is EntryKind.SPECIAL
    assert found["elsewhere"].location == "/etc"
    assert found["dangling"].kind is EntryKind.SPECIAL
    assert found["sock"].kind is EntryKind.SPECIAL
    assert found[strange].kind is EntryKind.FILE
    assert not any(path.startswith("elsewhere/") for path in found)


@pytest.mark.real
def test_relations_dropped_during_the_walk_are_no_error(pg_server: MakeServer) -> None:
    server = pg_server()
    server.query("create database gone")
    oid = server.value("select oid::int from pg_database where datname = 'gone'")
    _, control = read_control(server.data, time.sleep)
    seen = []
    for entry in walk(server.data, server.major, control.tablespace_folder):
        if entry.path == "base":
            server.query("drop database gone")
        seen.append(entry.path)
    assert f"base/{oid}/PG_VERSION" not in seen
    assert "global/pg_control" in seen


@pytest.mark.real
def test_a_tablespace_that_is_not_mounted_is_an_error(pg_server: MakeServer) -> None:
    server = pg_server()
    location = server.create_tablespace("ts")
    server.stop()
    location.rename(location.with_name("away"))
    with pytest.raises(Unreachable, match="tablespace"):
        entries(server)


def test_a_folder_that_is_no_data_folder_is_missing(tmp_path: Path) -> None:
    with pytest.raises(Missing):
        list(walk(tmp_path, 15, "PG_15_202209061"))


def test_the_server_user_owns_what_it_is_given(tmp_path: Path) -> None:
    require(15)
    path = tmp_path / "x"
    path.touch()
    give(path)
    assert run(["true"]).returncode == 0
