"""Restores where something is wrong: killed half-way, WAL missing, live tablespaces near, targets away."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.jobs.pg_world import DRKIT, World, make_world, tree, until_promoted
from tests.real.postgres import MAJORS, give, new_server, require, run

pytestmark = pytest.mark.real
HERE = Path(__file__).resolve().parents[2]


@pytest.fixture(params=MAJORS, ids=lambda major: f"pg{major}")
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    require(request.param)
    server = new_server(request.param)
    try:
        yield make_world(server)
    finally:
        server.close()


def killed(world: World, data: Path, phase: str, *flags: str) -> None:
    """Run a restore that a SIGKILL ends when `phase` begins."""
    words: list[str | Path] = [sys.executable, "-m", "tests.jobs.kill_restore", world.config, data, phase, *flags]
    done = run(["env", f"PYTHONPATH={HERE}", "PYTHONDONTWRITEBYTECODE=1", *words], check=False)
    assert f"killed at {phase}" in done.stdout, done.stderr
    assert done.returncode in (-signal.SIGKILL, 128 + signal.SIGKILL)


@pytest.mark.parametrize("delta", [False, True], ids=["fresh", "delta"])
def test_row_10_a_restore_killed_at_any_stage_leaves_a_folder_that_cannot_start(world: World, delta: bool) -> None:
    world.sql("create table t as select generate_series(1, 1000) a")
    world.backup()
    world.switch()
    data = world.fresh("killed")
    for phase in ["prepare", "folders", "files-done", "settings", "sync", "pg_control"] + ["clear"] * delta:
        if delta and not data.exists():
            world.drkit("restore", "--into", data)
        flags = ["--delta"] if data.exists() else []
        killed(world, data, phase, *flags)
        if phase == "prepare" and not delta:
            assert not data.exists() or not any(data.iterdir())
            continue
        if phase == "prepare":  # nothing has changed yet: it is the folder that it was
            continue
        assert not (data / "global/pg_control").exists(), phase
        assert world.refuses_to_start(data), phase
    world.drkit("restore", "--into", data, "--delta")
    with world.started(data) as session:
        assert session.execute("select count(*) from t").fetchone() == (1000,)


def test_row_15_tablespaces_and_a_linked_pg_wal_beside_the_running_server(world: World) -> None:
    server = world.server
    server.stop()
    moved = server.root / "wal-disk"
    (server.data / "pg_wal").rename(moved)
    (server.data / "pg_wal").symlink_to(moved)
    server.start()
    spaces = [server.create_tablespace(name) for name in ("fast", "slow")]
    for name in ("fast", "slow"):
        world.sql(f"create table in_{name} tablespace {name} as select generate_series(1, 500) a")
    world.backup()
    world.switch()
    world.sql("checkpoint")
    before = [tree(space) for space in spaces]
    wal_before = set(tree(moved))

    data = world.fresh("beside")
    for flags in ([], [f"--tablespace={spaces[0]}={server.root}/fast2"], [f"--tablespace={spaces[0]}={spaces[0]}"]):
        code, error = world.refusal("restore", "--into", data, *flags)
        assert code == 4 and "original path" in error
        assert not data.exists() and not (server.root / "fast2").exists()
    new = [server.root / "fast2", server.root / "slow2"]
    flags = [f"--tablespace={old}={place}" for old, place in zip(spaces, new, strict=True)]
    world.drkit("restore", "--into", data, *flags)
    assert sorted(os.path.realpath(link) for link in (data / "pg_tblspc").iterdir()) == [str(place) for place in new]
    assert not (data / "pg_wal").is_symlink()
    with world.started(data) as session:
        for name in ("fast", "slow"):
            assert session.execute(f"select count(*) from in_{name}").fetchone() == (500,)
            session.execute(f"delete from in_{name}")
        session.execute("checkpoint")
    assert [tree(space) for space in spaces] == before
    assert wal_before <= set(tree(moved))
    assert world.sql("select (select count(*) from in_fast), (select count(*) from in_slow)") == [(500, 500)]
    # a second restore over the first, from a seed whose links lead into the live server
    seed = world.fresh("seed")
    subprocess.run(["cp", "-a", data, seed], check=True)
    (seed / "pg_wal").rename(seed / "aside")
    (seed / "pg_wal").symlink_to(moved)
    for link in (seed / "pg_tblspc").iterdir():
        link.unlink()
        link.symlink_to(spaces[0])
    third = [server.root / "fast3", server.root / "slow3"]
    flags = [f"--tablespace={old}={place}" for old, place in zip(spaces, third, strict=True)]
    world.drkit("restore", "--into", seed, "--delta", *flags)
    assert [tree(space) for space in spaces] == before
    assert wal_before <= set(tree(moved))
    with world.started(seed) as session:
        assert session.execute("select count(*) from in_slow").fetchone() == (500,)


def test_row_20_latest_past_a_gap_is_refused_with_both_choices(world: World) -> None:
    world.sql("create table t (a int)")
    backup = world.backup()
    names = []
    for number in range(4):
        world.sql(f"insert into t values ({number})")
        names.append(world.switch())
    world.remove_segment(names[2])
    data = world.fresh("gap")
    code, error = world.refusal("restore", "--into", data)
    assert code == 4
    assert "gap" in error and names[2] in error
    choice = re.search(r"--to-lsn (\S+?);", error)
    assert choice is not None
    assert not data.exists()
    # a point behind the gap is refused too; one before it is not
    after = world.now()
    assert world.refusal("restore", "--into", data, "--to", after)[0] == 4
    world.drkit("restore", "--into", data, "--to-lsn", choice[1])
    with world.started(data) as session:
        assert session.execute("select max(a) from t").fetchone() == (1,)
    for window in world.answer("windows")["windows"]:
        assert window["to_lsn"] == choice[1]
        found = [(gap["from_segment"], gap["missing"], gap["bridged_by"]) for gap in window["gaps"]]
        assert found == [(names[2], 1, None)]
    # a later backup bridges the gap: latest is reachable again, and the gap stays named
    later = world.backup()
    world.sql("insert into t values (9)")
    world.switch()
    plan = world.answer("restore", "--into", world.fresh("bridged"), "--plan")["plan"]
    assert plan["backup"] == later
    assert world.refusal("restore", "--into", world.fresh("older"), "--backup", backup)[0] == 4
    for window in world.answer("windows")["windows"]:
        assert [gap["bridged_by"] for gap in window["gaps"]] == [later]


def test_a_segment_on_one_target_only_is_used_and_an_absent_target_is_doubt(world: World) -> None:
    world.sql("create table t (a int)")
    world.backup()
    world.sql("insert into t values (1)")
    first = world.switch()
    world.sql("insert into t values (2)")
    second = world.switch()
    for path in world.segments("a"):
        if path.name == second:
            path.unlink()
    data = world.fresh("union")
    code, error = world.refusal("restore", "--into", data, "--from", "a")
    assert code == 4 and second in error and "b only" in error
    away = world.root / "b-away"
    world.target("b").rename(away)
    try:
        code, error = world.refusal("restore", "--into", data)
        assert code == 4 and "--without b" in error
        plan = world.answer("restore", "--into", data, "--plan", "--without", "b")["plan"]
        assert plan["wal"]["last"] == first
        world.answer("restore", "--into", data, "--plan", "--to", "end")
    finally:
        away.rename(world.target("b"))
    world.drkit("restore", "--into", data)
    with world.started(data) as session:
        assert session.execute("select max(a) from t").fetchone() == (2,)


def test_timelines_are_resolved_before_anything_is_copied(world: World) -> None:
    """A promoted copy archives on timeline 2; 'latest' follows it, '--timeline 1' the old branch."""
    world.sql("create table t (a int)")
    world.backup()
    world.sql("insert into t values (1)")
    world.switch()
    world.sql("insert into t values (2)")
    world.switch()
    split = world.sql("select pg_current_wal_insert_lsn()::text")[0][0]
    data = world.fresh("branch")
    world.drkit("restore", "--into", data, "--resume-archiving")
    world.server.stop()
    with world.started(data) as session:
        session.execute("insert into t values (20)")
        session.execute("select pg_switch_wal()")
        for _ in range(600):
            row = session.execute("select last_archived_wal from pg_stat_archiver").fetchone()
            if row is not None and str(row[0]).startswith("00000002") and not str(row[0]).endswith(".history"):
                break
            session.execute("select pg_sleep(0.05)")
    assert split
    expected = {"latest": [1, 2, 20], "2": [1, 2, 20], "1": [1, 2], "current": [1, 2]}
    for line, rows in expected.items():
        target = world.fresh("line" + line)
        plan = world.answer("restore", "--into", target, "--timeline", line)["plan"]
        assert plan["target"]["timeline"] == (1 if rows == [1, 2] else 2)
        with world.started(target) as session:
            assert [row[0] for row in session.execute("select a from t order by a").fetchall()] == rows
    lines = {w["timeline"] for w in world.answer("windows")["windows"]}
    assert lines == {1, 2}


def test_the_primary_is_put_back_in_its_own_place(world: World) -> None:
    """The data folder is damaged, the server down: --delta into the original place, tablespace and all; it archives."""
    server = world.server
    space = server.create_tablespace("near")
    world.sql("create table t tablespace near as select generate_series(1, 100) a")
    world.backup()
    world.sql("insert into t values (101)")
    world.switch()
    server.stop()
    for victim in (server.data / "global/pg_filenode.map", *(p for p in space.rglob("*") if p.is_file())):
        victim.write_bytes(b"rubbish")
    (server.data / "pg_wal").rename(world.root / "lost-wal")
    code, error = world.refusal("restore", "--into", server.data)
    assert code == 4 and "--delta" in error
    done = world.answer("restore", "--into", server.data, "--delta")
    assert done["plan"]["archiving"] is True
    assert done["kept_bytes"] > done["written_bytes"]
    server.start()
    with server.connect() as session:
        until_promoted(session)
    assert world.sql("show archive_mode") == [("on",)]
    assert world.sql("select max(a) from t") == [(101,)]
    world.sql("insert into t values (102)")
    assert world.switch().startswith("00000002")
    again = world.fresh("again")
    world.drkit("restore", "--into", again, f"--tablespace={space}={world.root}/near2")
    with world.started(again) as session:
        assert session.execute("select max(a) from t").fetchone() == (102,)


@pytest.mark.parametrize("segment_mb", [1, 64])
def test_other_segment_sizes_are_read_never_assumed(segment_mb: int) -> None:
    require(15)
    server = new_server(15, segment_mb=segment_mb)
    try:
        world = make_world(server)
        world.sql("create table t (a int)")
        world.backup()
        world.sql("insert into t select generate_series(1, 40000)")
        point = world.now()
        world.sql("insert into t values (0)")
        world.switch()
        data = world.fresh("sized")
        world.drkit("restore", "--into", data, "--to", point)
        with world.started(data) as session:
            assert session.execute("select count(*), min(a) from t").fetchone() == (40000, 1)
        window = world.answer("windows")["windows"][0]
        assert window["gaps"] == [] and window["to"] > point
    finally:
        server.close()


def test_root_gives_the_files_to_the_server(world: World) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root")
    world.sql("create table t as select 1 a")
    world.backup()
    data = world.fresh("rooted")
    data.mkdir()
    give(data)
    words: list[str | Path] = [DRKIT, "--config", world.config, "-q", "restore", "--into", data, "--to", "end"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    owner = data.stat()
    strangers = [p for p in data.rglob("*") if (p.lstat().st_uid, p.lstat().st_gid) != (owner.st_uid, owner.st_gid)]
    assert not strangers
    with world.started(data) as session:
        assert session.execute("select a from t").fetchone() == (1,)
