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
from drkit.jobs.wal_prefetch import ahead, base, depth, folder, following, prefetch, prefetching, take
from drkit.repository.repository import Repository
from tests.jobs.test_wal_get import PLAN
from tests.jobs.wal_world import MIB, SYSTEM, TestClock, World, flip, segment_bytes_of

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
    return prefetch(world.data, wanted, recovery, lambda: world.repository, world.spool, world.clock, NoLog())


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
    fetched = set(run(world)) - {ON_PATH[2]}  # which may be under way beside the bad one
    assert fetched == {ON_PATH[0]} == {p.name for p in folder(world.data).iterdir()} - {ON_PATH[2]}
    (event,) = (event for event in read_events(world.data) if event.file != ON_PATH[2])
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
    wanted = Wanted(parse_name(FIRST), SYSTEM, MIB)
    assert prefetch(world.data, wanted, PLAN, never, world.spool, world.clock, NoLog()) == []


@pytest.mark.parametrize(
    ("taken", "seconds", "count"), [(0, 0.0, 4), (1, 10.0, 4), (10, 4.0, 5), (20, 4.0, 10), (100, 1.0, 16)]
)
def test_what_is_taken_in_two_seconds_is_kept_ready(taken: int, seconds: float, count: int) -> None:
    assert depth(taken, seconds, 16) == count
    assert depth(taken, seconds, 1) == 1


LONG = replace(PLAN, path=((1, None),), horizon="000000010000000000000014", histories=())


class Server(TestClock):
    """Takes one of `names` each time that nothing else is to be done; remembers how many were ready then."""

    def __init__(self, world: World, names: list[str]) -> None:
        super().__init__()
        self.world, self.names = world, names
        self.ready: list[int] = []

    def sleep(self, seconds: float) -> None:
        super().sleep(seconds)
        if self.names:
            self.ready.append(len(list(folder(self.world.data).iterdir())))
            wanted = Wanted(parse_name(self.names.pop(0)), SYSTEM, MIB)
            assert take(self.world.data, wanted, self.world.data / "pg_wal" / "RECOVERYXLOG")


def long_world(world: World) -> list[str]:
    names = [f"0000000100000000000000{number:02X}" for number in range(4, 0x15)]
    for name in names:
        world.push(world.segment(name))
    write_recovery_file(world.data, LONG)
    return names


def test_it_goes_on_as_the_server_takes_them_until_nothing_is_taken_for_a_while(world: World) -> None:
    names = long_world(world)
    server = Server(world, names[:-2])
    wanted = Wanted(parse_name(FIRST), SYSTEM, MIB)
    open_ = lambda: world.repository  # noqa: E731
    assert prefetch(world.data, wanted, LONG, open_, world.spool, server, NoLog(), idle_s=1.0) == names
    assert not server.names and server.ready[0] == 4 and max(server.ready) <= ahead(MIB)
    assert sorted(p.name for p in folder(world.data).iterdir()) == names[-2:]


def test_it_goes_on_from_a_file_that_the_server_got_by_another_way(world: World) -> None:
    names = long_world(world)
    told = [parse_name(names[9])]
    wanted = Wanted(parse_name(FIRST), SYSTEM, MIB)
    fetched = prefetch(
        world.data, wanted, LONG, lambda: world.repository, world.spool, world.clock, NoLog(),
        moved=lambda: told.pop() if told else None,
    )  # fmt: skip
    assert fetched == names[10:14]


def test_what_an_earlier_boot_left_is_not_served_but_removed(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was not synced: after a crash of the machine it may be zeros, which are the end of WAL."""
    run(world)
    boot = tmp_path / "boot_id"
    boot.write_text("another")
    monkeypatch.setattr(wal_prefetch, "BOOT", boot)
    assert not take(world.data, Wanted(parse_name(ON_PATH[0]), SYSTEM, MIB), world.data / "x")
    assert run(world) == ON_PATH
    assert sorted(p.name for p in base(world.data).iterdir()) == sorted([folder(world.data).name, "lock"])


def test_only_the_owner_may_read_them(world: World) -> None:
    run(world)
    assert {p.stat().st_mode & 0o777 for p in folder(world.data).iterdir()} == {0o600}
