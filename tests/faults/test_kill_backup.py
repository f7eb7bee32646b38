"""A backup that is killed before or after any of its effects on disk is never good by mistake, and blocks nobody.

The laws, after each death: every manifest whose verdict is good has its whole closure on that target, sound to the
byte; the next backup succeeds and is good everywhere, whatever leases, temporary files and half-made objects are left.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator

import pytest

from drkit.crypto.container import check_digest, parse_open_section
from drkit.repository.layout import Kind, RunId
from drkit.repository.leases import Verdict, read_verdict
from drkit.repository.manifest import unpack_references
from storage_backends.api import Key
from tests.faults.deaths import DIED, Mortal
from tests.jobs.backup_world import BackupWorld
from tests.real.postgres import new_server, require, server_user

pytestmark = pytest.mark.real
PARTS = 8  # every backup that is good is read again after each death: many short histories, not one long one


class Driver:
    """Takes the backups, in children that may die."""

    def __init__(self, world: BackupWorld) -> None:
        self._mortal, self._config = Mortal(server_user()), world.config

    def backup(self, die_at: int = -1) -> tuple[int, int]:
        """(exit status, points at which it could have died); die_at: as `deaths.dying`."""
        status, effects = self._mortal.run("--config", self._config, "-q", "backup", die_at=die_at)
        return status, 2 * len(effects)

    def close(self) -> None:
        self._mortal.close()


@pytest.fixture
def world() -> Iterator[BackupWorld]:
    require(15)
    server = new_server(15)
    try:
        made = BackupWorld(server, extra="rate = '1TB'")
        made.start()
        server.query("create table t as select generate_series(1, 20000) i")
        yield made
    finally:
        server.close()


@pytest.fixture
def driver(world: BackupWorld) -> Iterator[Driver]:
    made = Driver(world)
    yield made
    made.close()


def good_runs(world: BackupWorld, name: str) -> set[str]:
    """Runs that a target calls good; what such a manifest refers to is checked to the last byte."""
    where, layout, ring = world.target(name), world.layout, world.repository().ring
    prefix = layout.folder("manifests")
    found = set()
    for verdict in list(where.backend.list(layout.folder("verdicts"))):
        run = RunId.parse(verdict.key.rsplit("/", 1)[1])
        if read_verdict(where, layout, run, ring) is not Verdict.GOOD:
            continue
        data = where.read(layout.manifest(run))
        check_digest(data, prefix)
        for reference in unpack_references(parse_open_section(data, prefix)[2], prefix):
            key = Key(reference.key(layout))
            stored = where.read(key)
            digest = check_digest(stored, key)
            if reference.kind in (Kind.PACK, Kind.MAP):
                assert (len(stored), digest) == (reference.size, reference.digest)
            else:
                assert parse_open_section(stored, key)[1]["identity"] == reference.digest.hex()
        found.add(str(run))
    return found


def check_laws(world: BackupWorld, driver: Driver, before: dict[str, set[str]]) -> dict[str, set[str]]:
    """After a death: nothing is good by mistake, nothing good was lost, and the next backup is good."""
    after = {name: good_runs(world, name) for name in world.names}
    catalogue = world.catalogue()
    for name in world.names:
        assert before[name] <= after[name]
        assert {b.summary.backup for b in catalogue.backups if name in b.good_on} == after[name]
    assert not catalogue.unopened
    world.server.query("update t set i = i + 1 where i % 1000 = 0")
    status, _ = driver.backup()
    assert status == 0
    final = {name: good_runs(world, name) for name in world.names}
    for name in world.names:
        assert len(final[name] - after[name]) == 1, "the next backup is good on every target"
    return final


def kill_at(world: BackupWorld, driver: Driver, points: list[int]) -> int:
    """Deaths that happened; each was followed by the laws."""
    deaths = 0
    good = {name: good_runs(world, name) for name in world.names}
    for point in points:
        world.server.query("update t set i = i + 1 where i % 700 = 0")
        status, _ = driver.backup(point)
        assert status in (0, DIED), f"at effect {point}"
        deaths += status == DIED
        good = check_laws(world, driver, good)
    return deaths


def test_a_backup_killed_at_some_of_its_effects(world: BackupWorld, driver: Driver) -> None:
    assert driver.backup()[0] == 0
    status, effects = driver.backup()
    assert status == 0 and effects > 100
    rng = random.Random(os.environ.get("DRKIT_TEST_SEED", "1"))
    late = effects - 40  # manifests and verdicts: where a lie would be told
    points = [rng.randrange(0, late) for _ in range(2)] + [rng.randrange(late, effects) for _ in range(3)]
    assert kill_at(world, driver, points) >= 3


@pytest.mark.torture
@pytest.mark.parametrize("part", range(PARTS))
def test_a_backup_killed_at_every_effect(world: BackupWorld, driver: Driver, part: int) -> None:
    assert driver.backup()[0] == 0
    _, effects = driver.backup()
    points = list(range(effects))[part::PARTS]
    assert kill_at(world, driver, points) > len(points) // 2


def test_the_first_backup_killed_leaves_nothing_that_is_listed_as_good(world: BackupWorld, driver: Driver) -> None:
    status, _ = driver.backup(150)
    assert status == DIED
    assert world.listed() == []
    assert good_runs(world, "a") == good_runs(world, "b") == set()
    leases = [info.key for info in world.target("a").backend.list(world.layout.folder("leases"))]
    assert len(leases) == 1, "it stays, and runs out by itself"
    assert driver.backup()[0] == 0
    assert [info.key for info in world.target("a").backend.list(world.layout.folder("leases"))] == leases
    assert [backup["status"] for backup in world.listed()] == ["good"]
