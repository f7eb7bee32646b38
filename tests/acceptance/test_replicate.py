"""One of three targets is away for a whole backup and fifty segments; healed, it alone restores every row."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from storage_backends.posix import PosixBackend
from tests.acceptance.scene import Scene, Target, folder, newest_major, stop_strays
from tests.acceptance.stores import Store, bucket, disk, s3_target
from tests.real.postgres import give, new_server
from tests.real.rgw import RgwServer
from tests.storage_backends.mounts import tmpfs

pytestmark = pytest.mark.real

SEGMENTS = 50
MakeStore = Callable[[Path], AbstractContextManager[Store]]
OF_ONE_TARGET = ("repository", "canaries/", "verdicts", "leases", "tombstones")


@contextmanager
def three_targets(make: MakeStore) -> Iterator[tuple[Scene, Store]]:
    """A scene with a, a disk of its own, b, a folder, and c, a store that can leave; 1 MB segments."""
    server = new_server(newest_major(), segment_mb=1)
    try:
        with tmpfs(server.root / "a", "size=400m,mode=0755"), make(server.root) as store:
            give(server.root / "a")
            one = Scene(server, [folder(server.root, "a"), folder(server.root, "b"), store.target])
            one.start()
            server.query("create table t (n int)")
            yield one, store
    finally:
        stop_strays(server.root)
        server.close()


@pytest.fixture(params=["disk", pytest.param("bucket", marks=pytest.mark.torture)])
def make_store(request: pytest.FixtureRequest) -> MakeStore:
    if request.param == "disk":
        return lambda root: disk(root, "c")
    rgw: RgwServer = request.getfixturevalue("rgw")
    return lambda root: bucket(rgw, root, "c")


def write(one: Scene, segments: int) -> None:
    """One row in each of so many segments, archived."""
    for number in range(segments):
        one.server.query("insert into t select coalesce(max(n), 0) + 1 from t")
        one.switch(wait=number % 10 == 9)


def keys(one: Scene, name: str) -> set[str]:
    """What a folder target holds, but for what is true for each target alone."""
    found = (info.key for info in PosixBackend(one.place(name)).list())
    return {key for key in found if not any(part in key.split("/") or key.startswith(part) for part in OF_ONE_TARGET)}


def test_a_target_that_missed_a_backup_and_fifty_segments_is_healed(make_store: MakeStore) -> None:
    with three_targets(make_store) as (one, store):
        first = one.backup()
        store.leave()
        second = one.backup(code=10)
        write(one, SEGMENTS)
        one.until_archived(one.switch(wait=False))
        assert one.server.value("select failed_count from pg_stat_archiver") == 0
        away = one.wal_status()
        assert away["c"]["owed"] > SEGMENTS and away["c"]["error"]
        store.return_()
        assert one.states()[second["id"]] == {"a": "good", "b": "good", "c": "pending"}

        done = one.answer("replicate")

        healed = {row["name"]: row for row in done["targets"]}["c"]
        assert healed["backups"] == [second["id"]] and healed["left"] == [] and healed["state"] == "done"
        assert done["debts"]["paid"] >= SEGMENTS and done["conflicts"] == [] and done["damaged"] == []
        everywhere = {"a": "good", "b": "good", "c": "good"}
        assert one.states() == {first["id"]: everywhere, second["id"]: everywhere}
        assert one.wal_status()["c"]["owed"] == 0
        if store.target.url.startswith("file:"):
            assert keys(one, "a") == keys(one, "b") == keys(one, "c")
        total = one.server.value("select count(*) from t")
        _only_the_healed_is_left(one)
        with one.restored("from-c", config=one.root / "alone.toml") as (_, session):
            rows = [row[0] for row in session.execute("select n from t order by n").fetchall()]
        assert rows == list(range(1, total + 1)) and total == SEGMENTS


def _only_the_healed_is_left(one: Scene) -> None:
    """The two others are erased; another host has a configuration with c alone."""
    for name in "ab":
        for path in one.place(name).iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    spool, key = one.root / "other-spool", one.root / "escrow.key"
    spool.mkdir()
    key.write_bytes((one.root / "master.key").read_bytes())
    key.chmod(0o600)
    for path in (spool, key):
        give(path)
    one.write_config(one.root / "alone.toml", one.targets[2:], key=key, spool=spool)


@pytest.mark.torture
def test_a_bucket_is_filled_from_a_folder_and_a_folder_from_a_bucket(rgw: RgwServer) -> None:
    server = new_server(newest_major(), segment_mb=1)
    try:
        one = Scene(server, [folder(server.root, "a")])
        one.start()
        server.query("create table t as select generate_series(1, 5000) n")
        one.backup()
        server.query("update t set n = n + 1 where n % 100 = 0")
        second = one.backup()
        write_target(one, s3_target(rgw, server.root, "s"))
        filled = {row["name"]: row for row in one.answer("replicate")["targets"]}["s"]
        assert len(filled["backups"]) == 2 and second["id"] in filled["backups"]
        write_target(one, folder(server.root, "d"))
        done = one.answer("replicate", "--from", "s", "--to", "d")
        assert [row["name"] for row in done["targets"]] == ["d"] and len(done["targets"][0]["backups"]) == 2
        assert keys(one, "a") == keys(one, "d")
        with one.restored("from-d", "--from", "d") as (_, session):
            row = session.execute("select count(*), sum(n) from t").fetchone()
        assert row == tuple(server.query("select count(*), sum(n) from t")[0])
    finally:
        stop_strays(server.root)
        server.close()


def write_target(one: Scene, target: Target) -> None:
    """One target more, joined by init."""
    one.targets.append(target)
    if target.url.startswith("file:"):
        Path(target.url.removeprefix("file://")).mkdir()
        give(Path(target.url.removeprefix("file://")))
    one.write_config()
    one.drkit("init", "--yes")
