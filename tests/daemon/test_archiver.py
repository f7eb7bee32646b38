"""The resident archiver: one push for one content, results by digest, and nothing acknowledged that is not safe."""

from __future__ import annotations

import os
import random
import threading
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import NoReturn

import pytest

from drkit.core.clock import SystemClock
from drkit.core.errors import ConfigError, Conflict, Refused, Unreachable
from drkit.core.log import NoLog
from drkit.daemon.ledger import Ledger
from drkit.daemon.payer import Payer
from drkit.engines.postgres.wal import WrongSystem, parse_name
from drkit.jobs.wal_source import Recycled
from storage_backends.errors import StorageError
from tests.daemon.wal_host import Host
from tests.jobs.wal_world import World, segment_bytes_of

NAME = "000000010000000000000003"
NEXT = "000000010000000000000004"
LATER = "000000010000000000000005"


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


@pytest.fixture
def host(world: World) -> Host:
    host = Host(world)
    host.targets.look()
    return host


def test_what_is_pushed_is_on_every_target_and_handed_over_again_is_acknowledged_at_once(
    host: Host, world: World
) -> None:
    path = world.segment(NAME)
    assert host.push(path) == ("a", "b")
    for switch in host.switches.values():
        switch.away = True
    assert host.push(path) == ("a", "b")  # nobody was asked
    assert len(host.switches["a"].created) == 1
    assert host.archiver.last("orders").file == NAME == host.archiver.last("orders", "b").file


def test_a_result_is_of_a_content_never_of_a_name(host: Host, world: World) -> None:
    host.push(world.segment(NAME))
    changed = world.segment(NAME, seed=1)
    with pytest.raises(Conflict):
        host.push(changed)
    assert ("archive.failing", "orders") in host.told.kinds
    assert host.archiver.problem("orders")
    assert host.push(world.segment(NAME)) == ("a", "b")


class Counting:
    """A file that knows how much of it was read."""

    def __init__(self, path: Path) -> None:
        self.file, self.read_bytes = path.open("rb"), 0

    def read(self, size: int = -1) -> bytes:
        data = self.file.read(size)
        self.read_bytes += len(data)
        return data

    def seek(self, offset: int) -> int:
        return self.file.seek(offset)

    def fileno(self) -> int:
        return self.file.fileno()


class Later(SystemClock):
    """By so much that what was written just now was left alone for long."""

    def now(self) -> datetime:
        return super().now() + timedelta(hours=1)


def read_by_push(host: Host, path: Path) -> int:
    file = Counting(path)
    assert host.push_open(NAME, file) == ("a", "b")  # type: ignore[arg-type]
    return file.read_bytes


def test_a_file_is_read_once_and_not_again_while_nobody_wrote_to_it(host: Host, world: World) -> None:
    host.archiver._clock = Later()
    path = world.segment(NAME)
    first = read_by_push(host, path)
    assert world.segment_bytes <= first < world.segment_bytes + 4096
    assert read_by_push(host, path) < 4096
    copy = world.root / NAME
    copy.write_bytes(path.read_bytes())
    assert read_by_push(host, copy) >= world.segment_bytes, "another file is read, whatever its name"


def test_what_was_written_just_now_is_read_again(host: Host, world: World) -> None:
    """Its times may be as coarse as 2 s: a change behind the first reading need not show in them."""
    path = world.segment(NAME)
    read_by_push(host, path)
    assert read_by_push(host, path) >= world.segment_bytes


def test_a_change_shows_also_where_its_time_was_put_back(host: Host, world: World) -> None:
    host.archiver._clock = Later()
    path = world.segment(NAME)
    read_by_push(host, path)
    before = path.stat()
    with path.open("r+b") as file:
        file.seek(world.segment_bytes // 2)
        file.write(b"changed")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(Conflict):
        host.push(path)


def test_who_hurries_compresses_no_harder_than_level_1(world: World, tmp_path: Path) -> None:
    words = random.Random(1).choices([b"insert ", b"update ", b"delete ", b"commit "], k=1 << 17)
    head = segment_bytes_of(NAME)[:4096]
    sizes = []
    for number, (level, hurried) in enumerate([(9, False), (9, True), (1, False)]):
        one = World(tmp_path / str(number))
        host = Host(one)
        host.archiver._settings = replace(host.archiver._settings, level=level)
        host.targets.look()
        path = one.wal_file(NAME, (head + b"".join(words))[: one.segment_bytes].ljust(one.segment_bytes, b"x"))
        with path.open("rb") as file:
            host.archiver.push(host.place, parse_name(NAME), file, hurried=hurried)
        sizes.append(len(one.stored("a", NAME)))
    assert sizes[0] < sizes[1] == sizes[2]


def test_two_pushes_of_one_content_at_once_are_one(host: Host, world: World) -> None:
    path, backend = world.segment(NAME), host.switches["a"]
    backend.go.clear()
    results: list[tuple[str, ...]] = []
    threads = [threading.Thread(target=lambda: results.append(host.push(path))) for _ in range(4)]
    for thread in threads:
        thread.start()
    assert backend.entered.wait(30) and host.archiver.busy
    backend.go.set()
    for thread in threads:
        thread.join()
    assert results == [("a", "b")] * 4 and len(backend.created) == 1
    assert not host.archiver.busy


def test_a_failure_is_the_answer_of_all_that_wait_for_it_and_is_not_remembered(host: Host, world: World) -> None:
    path = world.segment(NAME)
    for switch in host.switches.values():
        switch.away = True
    with pytest.raises(Unreachable, match="is not archived"):
        host.push(path)
    for switch in host.switches.values():
        switch.away = False
    assert host.push(path) == ("a", "b")
    assert [kind for kind, _ in host.told.kinds if kind.startswith("archive")] == ["archive.failing", "archive.works"]


def test_a_segment_that_is_recycled_while_it_is_read_is_not_archived(host: Host, world: World) -> None:
    """Somebody acknowledged it meanwhile, so that the server made another segment of the file."""
    path = world.segment(NAME)

    class Recycling:
        """The file, overwritten after so many bytes were read."""

        def __init__(self) -> None:
            self.file = path.open("rb")
            self.reads = 0

        def read(self, size: int = -1) -> bytes:
            data = self.file.read(size)
            self.reads += 1
            if self.reads == 2:  # header, then the piece that is compressed
                path.write_bytes(segment_bytes_of(NEXT))
            return data

        def seek(self, offset: int) -> int:
            return self.file.seek(offset)

        def fileno(self) -> int:
            return self.file.fileno()

    with pytest.raises(Recycled):
        host.push_open(NAME, Recycling())  # type: ignore[arg-type]
    assert not host.switches["a"].created and not host.archiver.problem("orders")


def test_two_clusters_are_told_apart_and_a_third_is_refused(tmp_path: Path) -> None:
    first = World(tmp_path)
    second = World(tmp_path / "2", backends=first.backends, cluster="sales", system=first.system + 1)
    second.spool = first.spool
    host = Host(first, second)
    host.targets.look()
    sales = host.clusters.owner_of(second.system)
    assert sales.cluster == "sales" and host.clusters.owner_of(first.system).cluster == "orders"
    host.push(first.segment(NAME))
    host.push(second.segment(NAME), sales)
    assert first.stored("a", NAME) != second.stored("a", NAME)
    with pytest.raises(WrongSystem):
        host.push(first.segment(NAME), sales)
    with pytest.raises(Refused, match="no such cluster") as refused:
        host.clusters.owner_of(42)
    assert "orders: " in refused.value.why and "sales: " in refused.value.why


def test_a_cluster_whose_folder_is_away_is_retried_and_keeps_no_other_from_being_archived(tmp_path: Path) -> None:
    first = World(tmp_path)
    second = World(tmp_path / "2", backends=first.backends, cluster="sales", system=first.system + 1)
    second.spool = first.spool
    aside = second.data.with_name("aside")
    second.data.rename(aside)
    host = Host(first, second)
    host.targets.look()
    assert host.clusters.place("sales") is None and "pg_control" in host.clusters.problem("sales")
    assert host.push(first.segment(NAME)) == ("a", "b")
    aside.rename(second.data)
    assert host.clusters.owner_of(second.system).cluster == "sales"
    assert not host.clusters.problem("sales")
    assert host.told.kinds == [("cluster.away", "sales"), ("cluster.back", "sales")]


# --- targets ------------------------------------------------------------------------------------------------------


def opened(host: Host) -> list[str]:
    return [target.name for target in host.targets.repository().targets]


def test_a_target_that_went_away_is_owed_then_opened_anew_alone_and_used_again(host: Host, world: World) -> None:
    b = host.switches["b"]
    assert host.push(world.segment(NAME)) == ("a", "b")
    b.away = True
    assert host.push(world.segment(NEXT)) == ("a",)
    assert [debt.file for debt in world.spool.debts("b")] == [NEXT]
    host.targets.look()
    assert host.made == ["a", "b"]  # it rests: nobody tried it again
    b.remount()
    host.has_rested()
    host.targets.look()
    assert host.made == ["a", "b", "b"] and opened(host) == ["a", "b"]
    assert host.push(world.segment(LATER)) == ("a", "b")


def test_a_target_that_is_away_at_first_is_told_of_and_joins_later(world: World) -> None:
    host = Host(world)
    host.switches["b"].away = True
    host.targets.look()
    assert opened(host) == ["a"] and host.push(world.segment(NAME)) == ("a",)
    host.switches["b"].away = False
    host.targets.look()
    assert opened(host) == ["a"]  # it rests
    host.has_rested()
    host.targets.look()
    assert opened(host) == ["a", "b"]
    assert host.told.kinds == [("target.away", ""), ("target.back", "")]


def test_who_is_in_doubt_has_resting_targets_tried_at_once(world: World) -> None:
    host = Host(world)
    host.switches["b"].away = True
    host.targets.look()
    host.switches["b"].away = False
    assert [target.name for target in host.targets.again().targets] == ["a", "b"]


def test_without_any_target_pushes_fail_and_go_on_as_soon_as_one_answers(world: World) -> None:
    host = Host(world)
    for switch in host.switches.values():
        switch.away = True
    host.targets.look()
    with pytest.raises(StorageError, match="away"):
        host.push(world.segment(NAME))
    host.switches["a"].away = False
    host.has_rested()
    host.targets.look()
    assert host.push(world.segment(NAME)) == ("a",)


# --- debts --------------------------------------------------------------------------------------------------------


def test_debts_are_paid_when_the_target_returns_a_few_at_a_time(host: Host, world: World) -> None:
    payer = Payer(host.targets, host.archiver, world.spool, SystemClock(), NoLog())
    host.switches["b"].away = True
    names = [f"0000000100000000000000{number:02X}" for number in range(1, 13)]
    for name in names:
        host.push(world.segment(name))
    assert world.spool.count("b") == len(names)
    assert Ledger(world.spool).owed("b")[world.system].count == len(names)
    assert not payer.turn()  # it rests
    host.switches["b"].away = False
    host.has_rested()
    host.targets.look()
    assert payer.turn() and 0 < world.spool.count("b") < len(names)
    while payer.turn():
        pass
    assert world.spool.count("b") == 0 and Ledger(world.spool).owed("b") == {}
    assert all(world.stored("b", name) == world.stored("a", name) for name in names)


def test_a_target_that_fails_while_it_is_paid_rests(host: Host, world: World) -> None:
    payer = Payer(host.targets, host.archiver, world.spool, SystemClock(), NoLog())
    host.switches["b"].away = True
    host.push(world.segment(NAME))
    host.has_rested()
    assert not payer.turn()
    assert "b" in world.spool.resting(SystemClock().now()) and world.spool.count("b") == 1


def test_a_debt_that_is_blocked_does_not_make_its_target_rest(host: Host, world: World) -> None:
    payer = Payer(host.targets, host.archiver, world.spool, SystemClock(), NoLog())
    host.switches["b"].away = True
    host.push(world.segment(NAME))
    host.switches["b"].away = False
    with world.backends["b"].create(world.layout.archived(NAME)) as upload:
        upload.write(b"what a failing disk made of it")
        upload.commit()
    host.has_rested()
    host.targets.look()
    assert not payer.turn() and [debt.blocked for debt in world.spool.debts("b")] == [True]
    assert not world.spool.resting(SystemClock().now())
    assert host.push(world.segment(NEXT)) == ("a", "b")


def test_credentials_that_cannot_be_read_for_a_while_end_nothing(host: Host, world: World) -> None:
    host.switches["b"].away = True
    host.push(world.segment(NAME))
    host.targets.look()
    host.switches["b"].away = False
    host.has_rested()
    make, host.targets._doors = host.targets._doors, replace(host.targets._doors, make=_no_credentials)
    host.targets.look()
    assert host.push(world.segment(NEXT)) == ("a",)
    host.targets._doors = make
    host.has_rested()
    host.targets.look()
    assert host.push(world.segment(LATER)) == ("a", "b")


def _no_credentials(names: object) -> NoReturn:
    raise ConfigError("the file of credentials cannot be read")


def test_no_debt_is_paid_while_something_is_pushed(host: Host, world: World) -> None:
    payer = Payer(host.targets, host.archiver, world.spool, SystemClock(), NoLog())
    host.switches["b"].away = True
    host.push(world.segment(NAME))
    host.switches["b"].away = False
    host.has_rested()
    host.targets.look()
    path, a = world.segment(NEXT), host.switches["a"]
    a.entered.clear()
    a.go.clear()
    thread = threading.Thread(target=host.push, args=(path,))
    thread.start()
    assert a.entered.wait(30)
    assert not payer.turn() and world.spool.count("b") == 1
    a.go.set()
    thread.join()
    assert payer.turn() and world.spool.count("b") == 0
