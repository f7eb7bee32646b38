"""Failures that users of backup tools reported, from one end to the other: each is told, and none can happen here."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.acceptance.scene import DRKIT_WAL, Scene, folder, listing, newest_major, scene, stop_strays
from tests.real.postgres import free_port, give, new_server, run
from tests.real.wal_archive import until
from tests.storage_backends.mounts import tmpfs

pytestmark = pytest.mark.real


def fill(one: Scene, segments: int) -> list[str]:
    """One row of table t in each of so many segments, all archived; their names."""
    names = []
    for _ in range(segments):
        one.server.query("insert into t select coalesce(max(n), 0) + 1 from t")
        names.append(one.switch(wait=False))
    one.until_archived(names[-1])
    return names


def rows(one: Scene, name: str, *flags: str | Path) -> list[int]:
    with one.restored(name, *flags) as (_, session):
        return [row[0] for row in session.execute("select n from t order by n").fetchall()]


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.fixture(scope="module")
def history() -> Iterator[tuple[Scene, list[str]]]:
    """A backup and six segments behind it, one row each; tests leave the repository as they found it."""
    with scene(newest_major(), segment_mb=1) as one:
        one.server.query("create table t (n int)")
        one.backup()
        yield one, fill(one, 6)


def test_row_18_a_flipped_bit_in_archived_wal_never_reaches_a_restored_server(history: tuple[Scene, list[str]]) -> None:
    one, names = history
    kept = {name: one.wal_objects(name)[names[2]].read_bytes() for name in "ab"}
    try:
        flip(one.wal_objects("a")[names[2]])
        with one.restored("one-copy") as (answer, session):
            assert [row[0] for row in session.execute("select n from t order by n")] == [1, 2, 3, 4, 5, 6]
        told = [(event["file"], event["target"], event["served_by"]) for event in answer["wal_events"]]
        assert told == [(names[2], "a", "b")]
        assert answer["wal_bytes"]["b"] >= 1 << 20 and answer["wal_bytes"]["a"] >= 5 << 20
        log = (one.root / "one-copy.log").read_text()
        assert 'event="wal damaged"' in log and names[2] in log and "target=a" in log
        assert [repair["target"] for repair in answer["repairs"]] == ["a"], answer["repairs"]
        assert one.wal_objects("a")[names[2]].read_bytes() == kept["a"]
        for name in "ab":
            flip(one.wal_objects(name)[names[2]])
        data = one.fresh("no-copy")
        status, error = one.refusal("restore", "--into", data, "--start")
        assert (status, error["code"]) == (9, "damage"), error
        assert names[2] in error["where"] and "a: " in error["why"] and "b: " in error["why"]
        assert "not executable" not in str(error)
        assert "wal push" in error["cure"] and "pg_ctl" in error["cure"] and "earlier point, before" in error["cure"]
        assert_not_promoted(one, data)
        log = (one.root / "no-copy.log").read_text()
        assert f"{names[2]} is in doubt" in log
        one.wal_objects("b")[names[2]].write_bytes(kept["b"])
        log_again = data.with_name("again.log")
        options = f"-p {free_port()} -k {one.root} -c listen_addresses="
        run([one.server.bin / "pg_ctl", "-D", data, "-l", log_again, "-w", "-o", options, "start"])
        until(lambda: "archive recovery complete" in log_again.read_text(), one.server)  # the cure that was told
        run([one.server.bin / "pg_ctl", "-D", data, "-w", "-m", "immediate", "stop"])
    finally:
        for name, content in kept.items():
            one.wal_objects(name)[names[2]].write_bytes(content)


def assert_not_promoted(one: Scene, data: Path) -> None:
    """No server runs there, no timeline was begun, and the folder still asks for recovery."""
    assert not (data / "postmaster.pid").exists()
    assert not list((data / "pg_wal").glob("*.history"))
    assert (data / "recovery.signal").exists()
    assert "in archive recovery" in one.server.tool("pg_controldata", data).stdout


def test_row_20_latest_behind_a_gap_is_refused_and_both_ways_out_work(history: tuple[Scene, list[str]]) -> None:
    one, names = history
    saved = one.root / names[3]
    one.drkit("wal", "get", names[3], saved)
    for name in "ab":
        one.wal_objects(name)[names[3]].unlink()
    status, error = one.refusal("restore", "--into", one.fresh("gap"), "--to", "latest")
    assert status == 4 and not (one.root / "gap").exists()
    assert names[3] in error["why"] and names[3] in error["cure"] and "wal push" in error["cure"]
    before = error["cure"].split("--to-lsn ")[1].split(";")[0]
    assert rows(one, "before-gap", "--to-lsn", before) == [1, 2, 3]
    run([DRKIT_WAL, "push", "--config", one.config, saved])
    assert rows(one, "healed", "--to", "latest") == [1, 2, 3, 4, 5, 6]


def test_row_15_a_restore_beside_the_running_server_leaves_its_tablespaces_alone() -> None:
    with _linked_wal() as one:
        server = one.server
        spaces = [server.create_tablespace(name) for name in ("red", "blue")]
        for space in spaces:
            server.query(f"create table {space.name}_t tablespace {space.name} as select generate_series(1, 1000) n")
        one.backup()
        one.switch()
        server.query("checkpoint")
        before = listing(*spaces)
        maps = [f"{space}={one.root}/new-{space.name}" for space in spaces]
        for given in ([], maps[:1], maps[1:]):
            flags = [word for one_map in given for word in ("--tablespace", one_map)]
            status, error = one.refusal("restore", "--into", one.fresh("beside"), *flags)
            assert status == 4 and "original path" in error["what"] and "--tablespace" in error["cure"]
            assert not (one.root / "beside").exists()
        with one.restored("beside", "--tablespace", maps[0], "--tablespace", maps[1]) as (answer, session):
            session.execute("update red_t set n = -n")
            session.execute("drop table blue_t")
            session.execute("checkpoint")
            assert any("pg_wal was a link" in note for note in answer["plan"]["notes"])
        data = one.root / "beside"
        assert not (data / "pg_wal").is_symlink()
        led = {link.resolve() for link in (data / "pg_tblspc").iterdir()}
        assert led == {one.root / f"new-{space.name}" for space in spaces}
        assert listing(*spaces) == before
        assert server.value("select (select sum(n) from red_t) + (select count(*) from blue_t)") == 501500
        assert server.data.joinpath("pg_wal").is_symlink()


@contextmanager
def _linked_wal() -> Iterator[Scene]:
    """A scene whose pg_wal is a link to a folder elsewhere; quiet: files change only when a test changes them."""
    server = new_server(newest_major())
    try:
        shutil.move(server.data / "pg_wal", server.root / "wal")
        (server.data / "pg_wal").symlink_to(server.root / "wal")
        server.set(autovacuum="off")
        one = Scene(server, [folder(server.root, "a")])
        one.start()
        yield one
    finally:
        stop_strays(server.root)
        server.close()


def test_row_22_a_full_target_is_called_full_by_backup_and_by_archiving() -> None:
    server = new_server(newest_major(), segment_mb=1)
    try:
        with tmpfs(server.root / "a", "size=12m,mode=0755") as small:
            give(small)
            one = Scene(server, [folder(server.root, "a")])
            one.start()
            server.query("create table t (n int)")
            one.backup()
            until_full(one)
            log = server.log.read_text()
            assert "is not archived" in log and "no space" in log.lower() and str(small) in log
            assert "No such file" not in log
            assert int(server.value("select count(*) from pg_ls_archive_statusdir() where name like '%.ready'")) > 0
            status, error = one.refusal("backup", "--rehash")
            assert status == 1 and "space" in str(error).lower()
            assert str(small) in str(error)
            subprocess.run(["mount", "-o", "remount,size=96m", str(small)], check=True)
            one.until_archived(one.switch(wait=False))
            assert list(one.states().values()) == [{"a": "good"}]
            one.backup()
            total = server.value("select count(*) from t")
            assert len(rows(one, "grown")) == total
    finally:
        stop_strays(server.root)
        server.close()


def until_full(one: Scene) -> None:
    """Write what cannot be compressed until archiving fails."""
    one.server.query("create table noise (x bytea)")
    one.server.query("alter table noise alter x set storage external")
    for _ in range(24):
        one.server.query(
            "insert into noise select decode(string_agg(md5(random()::text), ''), 'hex') from generate_series(1, 40000)"
        )
        one.server.query("insert into t values (1)")
        one.switch(wait=False)
    one.until("select failed_count > 0 from pg_stat_archiver", "a failed archive command")


def test_a_server_that_was_restored_itself_is_restored_by_its_new_plan() -> None:
    """Its folder still holds the plan of its own recovery, whose horizon would end the next one too early."""
    with scene(newest_major(), segment_mb=1) as one:
        one.server.query("create table t (n int)")
        one.backup()
        fill(one, 2)
        one.drkit("restore", "--into", one.fresh("first"))
        for name in ("drkit.recovery.json", "drkit.recovery-events"):
            shutil.copy2(one.root / "first/drkit.recovery.json", one.server.data / name)
            give(one.server.data / name)
        one.backup()
        fill(one, 4)
        with one.restored("second") as (answer, session):
            assert session.execute("select count(*), max(n) from t").fetchone() == (6, 6)
            assert answer["wal_events"] == [] and answer["wal_bytes"]
