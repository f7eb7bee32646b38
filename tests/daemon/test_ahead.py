"""What is pushed before it is handed over, and what a standby and a promoted one bring that nobody archived."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from drkit.core.cancel import CancelToken
from drkit.core.clock import SystemClock
from drkit.core.log import NoLog
from drkit.daemon.ahead import Ahead, waiting
from drkit.daemon.backfill import Backfill, BackfillSettings
from drkit.engines.postgres.wal import parse_name
from storage_backends.errors import NotFound
from tests.core.clocks import HandClock
from tests.daemon.wal_host import Host
from tests.jobs.wal_world import World, segment_bytes_of


def segment(number: int, timeline: int = 1) -> str:
    return f"{timeline:08X}00000000{number:08X}"


HISTORY = "00000002.history"


@pytest.fixture
def world(tmp_path: Path) -> World:
    world = World(tmp_path)
    (world.data / "pg_wal" / "archive_status").mkdir()
    return world


@pytest.fixture
def host(world: World) -> Host:
    host = Host(world)
    host.targets.look()
    return host


def mark(world: World, name: str, state: str = "ready") -> None:
    (world.data / "pg_wal" / "archive_status" / f"{name}.{state}").touch()


def has(world: World, name: str, target: str = "a") -> bool:
    try:
        world.stored(target, name)
    except NotFound:
        return False
    return True


# --- ahead --------------------------------------------------------------------------------------------------------


def ahead(host: Host) -> Ahead:
    return Ahead(host.clusters, host.archiver, SystemClock(), NoLog(), scan_s=0.01)


def test_files_wait_in_the_order_of_the_server_history_first(world: World, host: Host) -> None:
    for name in (segment(5), segment(3), HISTORY, f"{segment(2)}.partial", f"{segment(3)}.00000028.backup"):
        mark(world, name)
    mark(world, segment(1), "done")
    before = datetime.now(UTC)
    found = waiting(host.place)
    assert [name.text for name in found.files] == [
        HISTORY,
        f"{segment(2)}.partial",
        segment(3),
        f"{segment(3)}.00000028.backup",
        segment(5),
    ]
    assert found.size_bytes == 3 * world.segment_bytes
    assert found.oldest_at is not None and abs(before - found.oldest_at) < timedelta(minutes=1)
    assert found.done == segment(1) and found.done_at is not None


def test_what_is_ready_is_pushed_and_handed_over_it_is_acknowledged_at_once(world: World, host: Host) -> None:
    names = [segment(number) for number in range(1, 20)]
    for name in names:
        world.segment(name)
        mark(world, name)
    run_until(ahead(host), lambda: all(has(world, name, "b") for name in names) and not host.archiver.busy)
    created = len(host.switches["a"].created)
    assert created == len(names)
    for name in names:
        assert host.push(world.data / "pg_wal" / name) == ("a", "b")
    assert len(host.switches["a"].created) == created


def run_until(part: Ahead, ready: object) -> None:
    import threading

    assert callable(ready)
    token = CancelToken()
    thread = threading.Thread(target=part.run, args=(token,))
    thread.start()
    try:
        end = SystemClock().monotonic() + 60
        while not ready():
            assert SystemClock().monotonic() < end and thread.is_alive()
            token.wait(0.02)
    finally:
        token.cancel()
        thread.join()


def test_a_bad_file_is_left_to_the_server_and_stops_no_other_one(world: World, host: Host) -> None:
    world.wal_file(segment(1), b"no wal at all")
    world.segment(segment(2))
    os.symlink(world.data / "pg_wal" / segment(2), world.data / "pg_wal" / segment(3))  # noqa: PTH211
    for number in (1, 2, 3, 4):
        mark(world, segment(number))
    run_until(ahead(host), lambda: has(world, segment(2)))
    assert not has(world, segment(1)) and not has(world, segment(3))


def test_all_that_waits_is_pushed_ahead_and_while_archiving_fails_one_file_only(world: World, host: Host) -> None:
    for number in range(1, 100):
        mark(world, segment(number))
    part = ahead(host)
    assert not part.hurries("orders")
    assert [name.text for _, name in part.scan()] == [segment(number) for number in range(1, 100)]
    assert part.hurries("orders")
    for switch in host.switches.values():
        switch.away = True
    with pytest.raises(Exception, match="is not archived"):
        host.push(world.segment(segment(1)))
    assert [name.text for _, name in part.scan()] == [segment(1)]
    assert part.waiting("orders").count == 99


# --- a standby ----------------------------------------------------------------------------------------------------


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


def backfill(host: Host, clock: HandClock, held: int = 64) -> Backfill:
    return Backfill(host.clusters, host.targets, host.archiver, clock, NoLog(), BackfillSettings(60.0, held))


def standby(world: World, host: Host) -> None:
    (world.data / "standby.signal").touch()
    host.clusters.owner_of(world.system)
    host.clusters._look(host.clusters.specs["orders"])
    assert host.place.standby


def promote(world: World, host: Host, switch: str) -> None:
    (world.data / "pg_wal" / HISTORY).write_bytes(f"1\t{switch}\tno recovery target specified\n".encode())
    (world.data / "standby.signal").unlink()
    host.clusters._look(host.clusters.specs["orders"])
    assert not host.place.standby


def test_a_standby_brings_what_its_primary_does_not_archive_for_a_while(
    world: World, host: Host, clock: HandClock
) -> None:
    standby(world, host)
    for number in (1, 2, 3):
        world.segment(segment(number))
    for number in (1, 2):  # the third is still being received
        mark(world, segment(number), "done")
    host.push(world.data / "pg_wal" / segment(1))  # the primary did
    part = backfill(host, clock)
    part.look(host.place)
    assert not has(world, segment(2))
    clock.advance(61)
    part.look(host.place)
    assert has(world, segment(2)) and has(world, segment(2), "b") and not has(world, segment(3))
    assert len(host.switches["a"].created) == 2


def test_what_was_promoted_archives_segments_that_were_recycled_since(
    world: World, host: Host, clock: HandClock
) -> None:
    """The first checkpoint of the new primary makes other segments of them; they are still held open."""
    standby(world, host)
    wal = world.data / "pg_wal"
    for number in (1, 2, 3):
        world.segment(segment(number))
        mark(world, segment(number), "done")
    part = backfill(host, clock)
    part.look(host.place)
    (wal / segment(1)).rename(wal / segment(7, 2))
    (wal / segment(2)).unlink()
    (wal / segment(3)).rename(wal / segment(6, 2))
    (wal / segment(6, 2)).write_bytes(segment_bytes_of(segment(6, 2)))  # and is being written to
    promote(world, host, "0/480000")
    part.look(host.place)
    assert world.stored("a", segment(1)) == world.stored("b", segment(1))
    assert has(world, segment(2)) and not has(world, segment(3)) and not has(world, segment(6, 2))


def test_a_promoted_node_archives_its_parents_segments_up_to_the_switch_point(
    world: World, host: Host, clock: HandClock
) -> None:
    """Also where the daemon begins only then: from the folder, whatever the marks say."""
    for number in (1, 2, 3, 4, 5):
        world.segment(segment(number))
    world.segment(segment(4, 2))
    partial = f"{segment(4)}.partial"
    world.wal_file(partial, segment_bytes_of(segment(4)))
    (world.data / "standby.signal").touch()
    mark(world, segment(2), "done")
    promote(world, host, "0/480000")
    part = backfill(host, clock)
    part.look(host.place)
    assert [has(world, segment(number)) for number in (1, 2, 3, 4, 5)] == [True, True, True, False, False]
    assert has(world, partial) and not has(world, segment(4, 2))
    created = len(host.switches["a"].created)
    part.look(host.place)
    backfill(host, clock).look(host.place)
    assert len(host.switches["a"].created) == created


def test_what_one_target_lacks_is_brought_and_nothing_is_overwritten(
    world: World, host: Host, clock: HandClock
) -> None:
    primary = World(world.root / "primary", backends=world.backends)
    there = Host(primary)
    there.targets.look()
    there.switches["b"].away = True
    there.push(primary.segment(segment(1)))
    stored = world.stored("a", segment(1))
    for number in (1, 2):
        world.segment(segment(number))
    (world.data / "standby.signal").touch()
    promote(world, host, "0/480000")
    backfill(host, clock).look(host.place)
    assert world.stored("a", segment(1)) == stored == world.stored("b", segment(1))
    assert has(world, segment(2), "b")


def test_what_cannot_be_looked_up_now_is_looked_up_later(world: World, host: Host, clock: HandClock) -> None:
    standby(world, host)
    world.segment(segment(1))
    mark(world, segment(1), "done")
    for switch in host.switches.values():
        switch.away = True
    part = backfill(host, clock)
    part.look(host.place)
    clock.advance(61)
    part.look(host.place)
    for switch in host.switches.values():
        switch.away = False
    part.look(host.place)
    assert not has(world, segment(1))  # it waits a little
    clock.advance(11)
    part.look(host.place)
    assert has(world, segment(1))


def test_a_standby_with_thousands_of_segments_holds_a_bounded_number_open(
    world: World, host: Host, clock: HandClock
) -> None:
    standby(world, host)
    for number in range(1, 101):
        path = world.data / "pg_wal" / segment(number)
        path.touch()  # nothing reads them: the targets have them all
        mark(world, segment(number), "done")
        layout = world.layout.archived(segment(number))
        for backend in world.backends.values():
            with backend.create(layout) as upload:
                upload.write(b"x")
                upload.commit()
    part = backfill(host, clock, held=10)
    for _ in range(20):
        part.look(host.place)
        assert len(part._nodes["orders"].held) <= 20
    assert len(part._nodes["orders"].held) <= 10 and len(part._nodes["orders"].settled) >= 90
    assert not host.switches["a"].created
    assert parse_name(max(part._nodes["orders"].held)).seg == 100
