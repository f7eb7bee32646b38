"""`drkit status` where WAL or a manifest is lost on every target: red, named, and with the command that helps."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.jobs.pg_world import World, make_world
from tests.real.postgres import Server, give, new_server, require

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    """A server with a backup and WAL behind it, protected by two targets."""
    require(15)
    server: Server = new_server(15, segment_mb=1)
    try:
        made = make_world(server)
        made.sql("create table t (n int)")
        made.backup()
        yield made
    finally:
        server.close()


def status(world: World, code: int) -> dict[str, Any]:
    done = world.drkit("status", "--json", check=False)
    assert done.returncode == code, done.stdout + done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def red(world: World) -> dict[tuple[str, str], dict[str, Any]]:
    """What is bad, by kind and target."""
    return {(one["kind"], one["target"]): one for one in status(world, 10)["findings"] if one["level"] == "bad"}


def take_away(world: World, *parts: str, on: str = "ab") -> dict[Path, bytes]:
    """Objects whose path ends so, from these targets."""
    found = [path for name in on for part in parts for path in world.target(name).rglob(part)]
    assert len(found) == len(on) * len(parts)
    taken = {path: path.read_bytes() for path in found}
    for path in found:
        path.unlink()
    return taken


def put_back(taken: dict[Path, bytes]) -> None:
    for path, data in taken.items():
        path.write_bytes(data)
        shutil.chown(path, "postgres", "postgres")


def is_protected(world: World) -> None:
    assert status(world, 0)["state"] == "protected"
    assert ", without a gap" in world.drkit("status").stdout


def forget_statistics(world: World) -> None:
    """As after a crash."""
    world.sql("select pg_stat_reset_shared('archiver')")


def lacks(world: World, name: str) -> None:
    """Each target is told to lack it, and nobody reads that all is well."""
    found = red(world)
    for target in "ab":
        one = found["wal.lacking", target]
        assert name in one["text"] and "drkit wal push" in one["cure"]
    done = world.drkit("status", check=False)
    assert "NOT PROTECTED" in done.stdout and "without a gap" not in done.stdout
    assert f"1 WAL FILES MISSING behind it, from {name} on" in done.stdout


def test_the_last_segment_is_lost_and_the_server_says_that_it_archived_it(world: World) -> None:
    world.switch()
    last = world.switch()
    is_protected(world)
    taken = take_away(world, last)
    lacks(world, last)
    put_back(taken)
    is_protected(world)


def test_the_last_segment_is_lost_and_the_statistics_are_gone(world: World) -> None:
    """Of a segment that is complete and does not wait the server's folder says that it was archived."""
    last = world.switch()
    forget_statistics(world)
    is_protected(world)
    taken = take_away(world, last)
    lacks(world, last)
    put_back(taken)


def test_the_last_segment_is_lost_and_the_server_is_down(world: World) -> None:
    last = world.switch()
    world.server.stop("immediate")
    try:
        is_protected(world)
        taken = take_away(world, last)
        lacks(world, last)
        put_back(taken)
    finally:
        world.server.start()


def test_a_segment_that_waits_is_none_that_is_lost(world: World) -> None:
    """Archiving stands still for a moment: nothing is lost yet."""
    world.switch()
    world.sql("alter system set archive_command = 'false'")
    world.sql("select pg_reload_conf()")
    try:
        world.sql("insert into t values (1)")
        world.sql("select pg_switch_wal()")
        forget_statistics(world)
        assert not [one for one in status(world, 0)["findings"] if one["kind"].startswith("wal.")]
    finally:
        world.sql("alter system reset archive_command")
        world.sql("select pg_reload_conf()")
    world.switch()
    is_protected(world)


def test_a_manifest_is_lost_on_every_target(world: World) -> None:
    """Nobody let it go: it is named until somebody says what becomes of it."""
    kept = world.backup()
    lost = world.backup()
    world.switch()
    is_protected(world)
    taken = take_away(world, f"manifests/{lost}")
    found = red(world)
    for target in "ab":
        one = found["backup.damaged", target]
        assert lost in one["text"] and "its manifest is missing" in one["text"]
        assert f"manifests/{lost} back" in one["cure"] and f"verdicts/{lost}" in one["cure"]
    listed = world.drkit("list", "--json", check=False)
    assert listed.returncode == 9
    answer = json.loads(listed.stdout)
    assert [one["id"] for one in answer["unopened"]] == [lost]
    assert {one["state"] for one in answer["unopened"][0]["targets"]} == {"broken"}
    assert kept in [one["id"] for one in answer["backups"]]
    assert world.drkit("verify", check=False).returncode == 9
    plan = world.answer("restore", "--plan", "--into", world.fresh("planned"))["plan"]
    assert plan["backup"] == kept and [one["backup"] for one in plan["skipped"]] == [lost]
    assert world.refusal("restore", "--to", "end", "--into", world.fresh("planned"))[0] == 9
    taken_verdicts = take_away(world, f"verdicts/{lost}")
    is_protected(world)  # given up, as the cure says
    put_back(taken_verdicts)
    put_back(taken)
    is_protected(world)


def test_what_one_target_lacks_is_brought_by_the_command_that_is_named(world: World) -> None:
    first = world.switch()
    world.switch()
    backup = world.backup()
    world.switch()
    pack = next(path.relative_to(world.target("b")) for path in world.target("b").rglob(f"packs/{backup}/*"))
    taken = take_away(world, first, str(pack), on="b")
    found = red(world)
    for kind in ("wal.gap", "backup.damaged"):
        assert found[kind, "b"]["cure"] == "`drkit verify --repair --target b` brings it from a"
    assert not any(target == "a" for _, target in found)
    assert world.drkit("verify", "--repair", "--target", "b").returncode == 0
    assert all(path.read_bytes() == data for path, data in taken.items())
    is_protected(world)


def test_all_that_a_new_timeline_has_is_lost(world: World) -> None:
    """What is left ends with the old one, and is no window without a gap to now."""
    world.server.stop()
    signal = world.server.data / "standby.signal"
    signal.touch()
    give(signal)
    world.server.start()
    world.server.promote()
    last = world.switch()
    assert last.startswith("00000002")
    is_protected(world)
    taken = take_away(world, last)
    lacks(world, last)
    forget_statistics(world)
    lacks(world, last)
    put_back(taken)
    is_protected(world)


def test_a_retired_target_is_taken_out_of_the_configuration(world: World) -> None:
    world.drkit("target", "retire", "b", "--yes")
    (found,) = [one for one in status(world, 7)["findings"] if one["kind"] == "target.unreadable"]
    assert found["target"] == "b" and "retired" in found["text"]
    assert "remove [target.b] from the configuration" in found["cure"]
