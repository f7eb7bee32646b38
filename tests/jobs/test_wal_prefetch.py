"""Prefetching: along the path, verified before it appears, never in the way."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from drkit.core.log import NoLog
from drkit.engines.postgres.wal import parse_name
from drkit.jobs import wal_prefetch
from drkit.jobs.recovery_events import read_events
from drkit.jobs.recovery_file import RecoveryFile, write_recovery_file
from drkit.jobs.wal_get import Wanted
from drkit.jobs.wal_prefetch import ahead, base, folder, following, prefetch, prefetching, take
from drkit.repository.repository import Repository
from tests.jobs.test_wal_get import PLAN
from tests.jobs.wal_world import MIB, SYSTEM, World, flip, segment_bytes_of

FIRST = "000000010000000000000003"
ON_PATH = ["000000020000000000000004", "000000020000000000000005", "000000020000000000000006"]


@pytest.fixture
def world(tmp_path: Path) -> World:
    world = World(tmp_path)
    for name in (FIRST, *ON_PATH):
        world.push(world.segment(name))
        (world.data / "pg_wal" / name).unlink()
    (world.data / "recovery.signal").touch()
    write_recovery_file(world.data, PLAN)
    return world


def run(world: World, after: str = FIRST, recovery: RecoveryFile | None = PLAN) -> list[str]:
    wanted = Wanted(parse_name(after), SYSTEM, MIB)
    return prefetch(world.data, wanted, recovery, lambda: world.repository, world.spool, NoLog())


def test_names_follow_the_path_and_end_at_the_horizon() -> None:
    names = [name.text for name in following(parse_name(FIRST), MIB, PLAN)]
    assert names == [*ON_PATH, *(f"00000004000000000000000{n}" for n in (7, 8, 9))]
    assert len(following(parse_name(FIRST), MIB, replace(PLAN, standby=True))) == ahead(MIB)
    assert following(parse_name("00000002.history"), MIB, PLAN) == []
    assert following(parse_name(FIRST), MIB, None)[0].text == "000000010000000000000004"


@pytest.mark.parametrize(("size", "count"), [(MIB, 16), (16 * MIB, 16), (64 * MIB, 4), (1 << 30, 1)])
def test_how_many_depends_on_the_segment_size(size: int, count: int) -> None:
    assert ahead(size) == count


def test_what_was_prefetched_is_taken_by_a_rename(world: World) -> None:
    assert run(world) == ON_PATH, "it stops at the first that no target has"
    dest = world.data / "pg_wal" / "RECOVERYXLOG"
    for name in ON_PATH:
        wanted = Wanted(parse_name(name), SYSTEM, MIB)
        assert take(world.data, wanted, dest)
        assert dest.read_bytes() == segment_bytes_of(name)
        assert not take(world.data, wanted, dest)


def test_nothing_is_fetched_twice_and_what_lies_behind_is_removed(world: World) -> None:
    run(world)
    assert run(world) == []
    assert run(world, after=ON_PATH[1]) == []
    assert [p.name for p in folder(world.data).iterdir()] == [ON_PATH[2]]


def test_a_damaged_copy_is_fetched_from_the_other_target_and_damage_everywhere_is_left_to_the_server(
    world: World,
) -> None:
    flip(world.backends["a"], world.layout.wal(ON_PATH[0]))
    flip(world.backends["a"], world.layout.wal(ON_PATH[1]))
    flip(world.backends["b"], world.layout.wal(ON_PATH[1]))
    assert run(world) == ON_PATH[:1]
    assert sorted(p.name for p in folder(world.data).iterdir()) == ON_PATH[:1]
    (event,) = read_events(world.data)
    assert (event.file, event.source, event.size_bytes, list(event.damaged)) == (ON_PATH[0], "b", MIB, ["a"])
    assert world.spool.suspects() == {world.layout.wal(ON_PATH[0])}


@pytest.mark.parametrize("content", [b"", segment_bytes_of(ON_PATH[0])[:-1], segment_bytes_of(ON_PATH[1]), bytes(MIB)])
def test_a_wrong_file_in_the_folder_is_removed_not_served(world: World, content: bytes) -> None:
    folder(world.data).mkdir(parents=True)
    path = folder(world.data) / ON_PATH[0]
    path.write_bytes(content)
    assert not take(world.data, Wanted(parse_name(ON_PATH[0]), SYSTEM, MIB), world.data / "x")
    assert not path.exists() and not (world.data / "x").exists()


def test_another_plan_never_meets_these_files(world: World) -> None:
    run(world)
    write_recovery_file(world.data, replace(PLAN, targets=("b",)))
    assert not take(world.data, Wanted(parse_name(ON_PATH[0]), SYSTEM, MIB), world.data / "x")
    run(world, recovery=replace(PLAN, targets=("b",)))
    assert sorted(p.name for p in base(world.data).iterdir()) == sorted([folder(world.data).name, "lock"])


def test_one_process_prefetches_and_nobody_waits_for_it(world: World) -> None:
    with prefetching(world.data) as ours:
        assert ours
        assert run(world) == []
    assert run(world) == ON_PATH


def test_it_ends_with_recovery_and_leaves_nothing(world: World) -> None:
    (world.data / "recovery.signal").unlink()
    assert run(world) == []
    assert not base(world.data).exists()


def test_it_needs_space_to_spare_and_opens_no_repository_for_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never() -> Repository:
        raise AssertionError("the repository was opened")

    monkeypatch.setattr(wal_prefetch, "_has_space", lambda *_: False)
    assert prefetch(world.data, Wanted(parse_name(FIRST), SYSTEM, MIB), PLAN, never, world.spool, NoLog()) == []
