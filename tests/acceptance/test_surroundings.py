"""What is wrong around drkit: filesystems turned read-only, files that may not be read, clocks that are off."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.acceptance.scene import DRKIT, Scene, folder, newest_major, stop_strays
from tests.real.postgres import give, new_server, run
from tests.storage_backends.mounts import tmpfs

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def one() -> Iterator[Scene]:
    """Targets a and b on disks of their own; 1 MB segments; a table with one row for each change."""
    server = new_server(newest_major(), segment_mb=1)
    try:
        with tmpfs(server.root / "a", "size=200m,mode=0755"), tmpfs(server.root / "b", "size=200m,mode=0755"):
            for name in "ab":
                give(server.root / name)
            made = Scene(server, [folder(server.root, name) for name in "ab"])
            made.start()
            server.query("create table t (n int)")
            yield made
    finally:
        stop_strays(server.root)
        server.close()


def remount(one: Scene, options: str, *names: str) -> None:
    for name in names:
        subprocess.run(["mount", "-o", f"remount,{options}", one.place(name)], check=True)


@contextmanager
def read_only(one: Scene, *names: str) -> Iterator[None]:
    remount(one, "ro", *names)
    try:
        yield
    finally:
        remount(one, "rw", *names)
        for name in names:
            (one.root / "spool/resting" / name).unlink(missing_ok=True)  # as if its rest were over


def states(backup: dict[str, list[dict[str, str]]]) -> dict[str, str]:
    return {target["name"]: target["state"] for target in backup["targets"]}


def rows(one: Scene, name: str, *flags: str) -> list[int]:
    with one.restored(name, *flags) as (_, session):
        return [row[0] for row in session.execute("select n from t order by n").fetchall()]


def test_a_target_that_is_read_only_misses_what_is_new_and_serves_what_it_has(one: Scene) -> None:
    one.server.query("insert into t values (1)")
    first = one.backup()
    one.switch()
    with read_only(one, "b"):
        assert rows(one, "from-b", "--from", "b") == [1]
        second = one.backup(code=10)
        assert states(second) == {"a": "good", "b": "pending"}
        assert "Read-only file system" in next(t["why"] for t in second["targets"] if t["name"] == "b")
        one.server.query("insert into t values (2)")
        one.switch()
        assert one.server.value("select failed_count from pg_stat_archiver") == 0
        assert one.wal_status()["b"]["owed"] > 0
        assert one.states()[first["id"]] == {"a": "good", "b": "good"}
        assert rows(one, "newest") == [1, 2]
    one.drkit("wal", "status", "--pay", check=False)
    assert one.wal_status()["b"]["owed"] == 0
    assert states(one.backup()) == {"a": "good", "b": "good"}


def test_with_every_target_read_only_nothing_is_taken_and_everything_is_restored(one: Scene) -> None:
    one.server.query("delete from t where n > 0")
    one.server.query("insert into t values (3)")
    one.backup()
    one.switch()
    before = one.states()
    with read_only(one, "a", "b"):
        status, error = one.refusal("backup")
        assert status == 1 and error["cure"]
        assert error["why"].count("Read-only file system") == 2 and "a: " in error["why"] and "b: " in error["why"]
        assert one.states() == before
        assert rows(one, "all-read-only") == [3]
        failed = [f for f in json.loads(one.drkit("check", "--json", check=False).stdout)["findings"] if f["cure"]]
        assert {f["about"] for f in failed if "read-only" in f["cure"]} == {"target a", "target b"}


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_what_the_user_may_not_read_is_named_with_the_cure(one: Scene, kind: str) -> None:
    before = one.states()
    closed = one.server.data / "base" / "closed"
    closed.mkdir(mode=0o700) if kind == "folder" else closed.touch(mode=0o600)  # of root, as an administrator's copy is
    try:
        (closed / "x" if kind == "folder" else closed).write_text("something")
        status, error = one.refusal("backup")
    finally:
        if kind == "folder":
            (closed / "x").unlink()
            closed.rmdir()
        else:
            closed.unlink()
    assert status in (1, 7)
    assert str(closed) in error["where"] and "Permission denied" in error["why"]
    assert "owner of the data folder" in error["cure"]
    assert one.states() == before


def faketime() -> Path:
    found = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
    if not found:
        pytest.skip("libfaketime is not installed: apt-get install faketime")
    return found[0]


def test_a_clock_ten_years_ahead_is_told_and_harms_no_earlier_point(one: Scene) -> None:
    library = faketime()
    one.server.query("delete from t")
    one.server.query("insert into t values (4)")
    one.backup()
    one.server.query("select pg_sleep(1.1)")
    point = one.now()
    one.server.query("select pg_sleep(1.1)")
    one.server.query("insert into t values (5)")
    one.switch()

    def shifted(*words: str | Path) -> subprocess.CompletedProcess[str]:
        fake = [f"LD_PRELOAD={library}", "FAKETIME=+3650d", "FAKETIME_DONT_FAKE_MONOTONIC=1", "NO_FAKE_STAT=1"]
        return run(["env", *fake, DRKIT, "--config", one.config, "-q", *words], check=False, timeout_s=300)

    ahead = shifted("backup", "--json")
    assert ahead.returncode == 0, ahead.stderr
    wrong = json.loads(ahead.stdout)["backup"]
    assert states(wrong) == {"a": "good", "b": "good"} and wrong["stopped_at"] > "2030"
    warned = [f["text"] for f in json.loads(shifted("check", "--json").stdout)["findings"] if f["level"] == "warn"]
    assert any("behind this host's" in text and "3650d" in text for text in warned)

    later = one.drkit("backup")
    assert wrong["id"] in later.stderr and "stopped in the future" in later.stderr
    assert rows(one, "earlier", "--to", point) == [4]
    assert rows(one, "latest") == [4, 5]
    copies = one.drkit("policy", "check", "--json", check=False).stdout
    assert all((copy["newest_instant"] or "") < "2030" for copy in json.loads(copies)["copies"])
