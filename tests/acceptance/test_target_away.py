"""One of two targets is away for a backup and twenty segments; then it returns."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from tests.acceptance.scene import Scene, folder, newest_major, stop_strays
from tests.acceptance.stores import Store, bucket, disk
from tests.real.postgres import give, new_server
from tests.real.rgw import RgwServer
from tests.storage_backends.mounts import tmpfs

pytestmark = pytest.mark.real

SEGMENTS = 20
MakeStore = Callable[[Path], AbstractContextManager[Store]]


@contextmanager
def two_targets(make: MakeStore, extra: str) -> Iterator[tuple[Scene, Store]]:
    """A scene with the targets a, a disk of its own, and b, a store that can leave; 1 MB segments."""
    server = new_server(newest_major(), segment_mb=1)
    try:
        # On the server's own device `a` would not count towards wal_ack while the bucket is away.
        with tmpfs(server.root / "a", "size=400m,mode=0755"), make(server.root) as store:
            give(server.root / "a")
            one = Scene(server, [folder(server.root, "a"), store.target], extra)
            one.start()
            server.query("create table t (n int)")
            yield one, store
    finally:
        stop_strays(server.root)
        server.close()


@pytest.fixture(params=["disk", pytest.param("bucket", marks=pytest.mark.torture)])
def make_store(request: pytest.FixtureRequest) -> MakeStore:
    if request.param == "disk":
        return lambda root: disk(root, "b")
    rgw: RgwServer = request.getfixturevalue("rgw")
    return lambda root: bucket(rgw, root, "b")


def write(one: Scene, segments: int) -> None:
    """One row in each of so many segments."""
    for _ in range(segments):
        one.server.query("insert into t select coalesce(max(n), 0) + 1 from t")
        one.switch(wait=False)


def rows(one: Scene, name: str, *flags: str, config: Path | None = None) -> list[int]:
    with one.restored(name, *flags, config=config) as (_, session):
        return [row[0] for row in session.execute("select n from t order by n").fetchall()]


def test_a_backup_and_twenty_segments_without_one_of_two_targets(make_store: MakeStore) -> None:
    with two_targets(make_store, "") as (one, store):
        first = one.backup()
        assert {t["name"]: t["state"] for t in first["targets"]} == {"a": "good", "b": "good"}
        store.leave()
        second = one.backup(code=10)
        assert {t["name"]: t["state"] for t in second["targets"]} == {"a": "good", "b": "pending"}
        write(one, SEGMENTS)
        one.until_archived(one.switch(wait=False))
        assert one.server.value("select failed_count from pg_stat_archiver") == 0, "one of two is what wal_ack wants"
        away_states = {"a": "good", "b": "unknown"}
        assert one.states(code=7) == {first["id"]: away_states, second["id"]: away_states}
        away = one.wal_status()
        assert away["a"]["owed"] == 0 and away["b"]["owed"] > SEGMENTS and away["b"]["error"]
        _alone(one, list(range(1, SEGMENTS + 1)))
        store.return_()
        _returned(one, str(first["id"]), str(second["id"]))
        _paid(one)


def _alone(one: Scene, expected: list[int]) -> None:
    """The target that stayed, alone on another host: its own configuration, state and a copy of the key."""
    key, spool = one.root / "escrow.key", one.root / "other-spool"
    key.write_bytes((one.root / "master.key").read_bytes())
    key.chmod(0o600)
    spool.mkdir()
    for path in (key, spool):
        give(path)
    config = one.write_config(one.root / "other.toml", one.targets[:1], key=key, spool=spool)
    assert rows(one, "alone", config=config) == expected


def _returned(one: Scene, first: str, second: str) -> None:
    """What it missed is pending there, and nothing is restored from it that it does not hold."""
    assert one.states()[first] == {"a": "good", "b": "good"}
    assert one.states()[second] == {"a": "good", "b": "pending"}
    status, error = one.refusal("restore", "--into", one.fresh("refused"), "--from", "b", "--backup", second)
    assert status == 4 and "pending" in error["why"]
    status, error = one.refusal("restore", "--into", one.fresh("refused"), "--from", "b")
    assert status == 4 and "a only" in error["why"], error
    assert not (one.root / "refused").exists()


def _paid(one: Scene) -> None:
    """Later pushes pay the debts; then the one that returned restores all, from the backup that it does hold."""
    (one.root / "spool/resting/b").unlink(missing_ok=True)  # as if its rest of up to two minutes were over
    write(one, 3)
    one.until_archived(one.switch(wait=False))
    status = one.wal_status()
    assert [status[name]["owed"] for name in "ab"] == [0, 0]
    assert one.answer("wal", "status")["targets"][1]["error"] == ""
    total = one.server.value("select count(*) from t")
    assert rows(one, "from-b", "--from", "b") == list(range(1, total + 1))
    third = one.backup()
    assert {t["name"]: t["state"] for t in third["targets"]} == {"a": "good", "b": "good"}


def test_with_wal_ack_all_archiving_waits_for_the_target_and_goes_on_when_it_returns() -> None:
    with two_targets(lambda root: disk(root, "b"), '\n[copies]\nwal_ack = "all"\n') as (one, store):
        one.backup()
        store.leave()
        write(one, 3)
        one.until("select failed_count > 0 from pg_stat_archiver", "a refused segment")
        before = one.server.value("select archived_count from pg_stat_archiver")
        failed = one.server.value("select failed_count from pg_stat_archiver")
        one.until(f"select failed_count > {failed} from pg_stat_archiver", "a second attempt")
        assert one.server.value("select archived_count from pg_stat_archiver") == before
        assert "b: " in one.server.log.read_text() and "is not archived" in one.server.log.read_text()
        waiting = one.drkit("wal", "status", check=False).stdout
        assert "files to hand over" in waiting
        store.return_()
        one.until_archived(one.switch(wait=False))
        assert one.wal_objects("a").keys() == one.wal_objects("b").keys()
        assert rows(one, "after", "--from", "b") == [1, 2, 3]
