"""Status: every gap is named, and what could not be looked at is never taken for whole or for empty."""

from __future__ import annotations

from pathlib import Path

import pytest

from drkit.crypto.container import DataKey
from drkit.jobs.wal_status import Gap, TargetStatus, WalStatus, wal_status
from drkit.repository.leases import entomb
from storage_backends.faulty import Faulty
from tests.jobs.wal_world import MIB, SYSTEM, World, entropy


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def names(timeline: int, *numbers: int) -> list[str]:
    return [f"{timeline:08X}00000000{number:08X}" for number in numbers]


def pair(timeline: int, first: int) -> Gap:
    """Two segments that are missing."""
    one, other = names(timeline, first, first + 1)
    return Gap(one, other, 2)


def archive(world: World, *files: str) -> None:
    for file in files:
        world.push(world.segment(file))


def look(world: World, *, segment_bytes: int | None = MIB) -> WalStatus:
    return wal_status(
        world.repository,
        SYSTEM,
        world.spool,
        segment_bytes=segment_bytes,
        data_dir=world.data,
        resting=world.spool.resting(world.clock.now()),
    )


def of(status: WalStatus, target: str) -> TargetStatus:
    return next(one for one in status.targets if one.name == target)


def test_unbroken_wal_is_whole_on_every_target(world: World) -> None:
    archive(world, *names(1, 3, 4, 5))
    status = look(world, segment_bytes=None)
    assert status.whole and status.segment_bytes == MIB
    for target in ("a", "b"):
        (line,) = of(status, target).timelines
        assert (line.first, line.last, line.segments, line.gaps) == (names(1, 3)[0], names(1, 5)[0], 3, ())


def test_a_gap_is_named_on_the_target_that_has_it(world: World) -> None:
    archive(world, *names(1, 3, 4, 5, 6, 9))
    for file in names(1, 4, 5):
        world.backends["b"].delete(world.layout.wal(file))
    status = look(world)
    assert of(status, "a").timelines[0].gaps == (pair(1, 7),)
    assert of(status, "b").timelines[0].gaps == (pair(1, 4), pair(1, 7))
    assert not status.whole


def test_expired_wal_is_no_gap(world: World) -> None:
    archive(world, *names(1, 1, 4))
    keys = [world.layout.wal(file) for file in names(1, 2, 3)]
    for target in world.targets:
        name = world.layout.tombstones(world.layout.rounds(world.clock.now(), bytes(3)), 0)
        entomb(target, name, keys, "t", data_key=DataKey(world.ring, entropy), clock=world.clock, entropy=entropy)
    assert look(world).whole


def test_what_lacks_around_a_switch_is_a_gap_and_the_rest_of_the_old_timeline_is_not(world: World) -> None:
    world.push(world.wal_file("00000002.history", b"1\t0/580000\tx\n"))
    archive(world, *names(1, 3, 4), *names(2, 5, 6))
    assert look(world).whole
    archive(world, *names(1, 7))
    assert look(world).targets[0].timelines[0].gaps == (pair(1, 5),)


def test_a_lost_end_of_the_parent_and_a_lost_begin_of_the_child_are_gaps(world: World) -> None:
    world.push(world.wal_file("00000002.history", b"1\t0/580000\tx\n"))
    archive(world, *names(1, 2), *names(2, 7))
    gaps = of(look(world), "a").timelines[1].gaps
    assert set(gaps) == {pair(1, 3), pair(2, 5)}


def test_a_target_that_cannot_be_listed_is_an_error_not_empty(world: World) -> None:
    archive(world, *names(1, 3))
    world.wrap("b", lambda inner: Faulty(inner, "list:503*"))
    status = look(world)
    assert not status.whole and of(status, "b").error and of(status, "b").timelines == ()


def test_debts_and_files_not_handed_over_are_told(world: World) -> None:
    world.wrap("b", lambda inner: Faulty(inner, "create:503*"))
    archive(world, *names(1, 3, 4))
    ready = world.data / "pg_wal" / "archive_status"
    ready.mkdir()
    for file in ("000000010000000000000006", "000000010000000000000005", "00000002.history"):
        (ready / f"{file}.ready").touch()
    status = look(world)
    owing = of(status, "b")
    assert (owing.owed, owing.owed_first, bool(owing.resting)) == (2, names(1, 3)[0], True)
    assert status.waiting == ("00000002.history", *names(1, 5, 6))
    assert not status.whole
