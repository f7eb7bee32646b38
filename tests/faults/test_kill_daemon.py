"""The daemon, the archiver and jobs killed at random points under load: no gap, no false acknowledgement, and never
other content under one name. All WAL is kept aside by the archive_command itself, to be compared byte for byte."""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Callable, Iterator

import pytest

from drkit.core.clock import SystemClock
from drkit.core.log import NoLog
from drkit.engines.postgres.wal import parse_name
from drkit.jobs.wal_debts import pay_debts
from drkit.jobs.wal_get import Wanted, verified
from drkit.repository.spool import Spool
from tests.faults.daemon_rig import Rig

pytestmark = pytest.mark.real
ROUNDS = int(os.environ.get("DRKIT_TEST_KILLS", "50"))


@pytest.fixture
def rig() -> Iterator[Rig]:
    made = Rig()
    try:
        made.start()
        yield made
    finally:
        made.close()


def check_archive(rig: Rig) -> int:
    """The laws, once all is quiet; returns how many files were compared."""
    world = rig.world
    repository = world.repository()
    system = world.layout.system_identifier
    spool = Spool(world.spool)
    pay_debts(repository, repository.targets, spool, SystemClock(), NoLog())
    kept = rig.kept_aside()
    acknowledged = rig.acknowledged()
    assert rig.changed() == [], "PostgreSQL itself never hands over other content under one name"
    assert acknowledged <= set(kept)
    for name in sorted(acknowledged):
        wanted = Wanted(parse_name(name), system, 16 << 20)
        for target in repository.targets:
            assert b"".join(verified(repository.ring, target, wanted)) == kept[name].read_bytes(), (name, target.name)
    segments = sorted(name for name in acknowledged if len(name) == 24)
    numbers = [parse_name(name).number(16 << 20) for name in segments]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers))), "no gap"
    return len(acknowledged)


def run_rounds(rig: Rig, rounds: int, seed: str) -> Counter[str]:
    rng = random.Random(seed)
    done: Counter[str] = Counter()
    victims: list[tuple[str, Callable[[random.Random], bool]]] = [
        ("daemon", rig.kill_daemon),
        ("daemon", rig.kill_daemon),
        ("client", rig.kill_client),
        ("job", rig.kill_job),
        ("stopped", rig.stop_daemon_for_a_while),
        ("archiver", rig.kill_archiver),
        ("server", rig.crash_server),
        ("target", rig.take_target_away),
    ]
    with rig.load():
        while sum(done.values()) < rounds:
            name, kill = rng.choice(victims)
            done[name] += kill(rng)
    return done


def test_kills_at_a_few_random_points(rig: Rig) -> None:
    seed = os.environ.get("DRKIT_TEST_SEED", "1")
    done = run_rounds(rig, 8, seed)
    rig.settle()
    assert check_archive(rig) >= 5
    assert sum(done.values()) == 8


@pytest.mark.torture
def test_kills_at_many_random_points(rig: Rig) -> None:
    seed = os.environ.get("DRKIT_TEST_SEED") or str(random.SystemRandom().randrange(1 << 32))
    print(f"DRKIT_TEST_SEED={seed}")
    done = run_rounds(rig, ROUNDS, seed)
    rig.settle()
    compared = check_archive(rig)
    print(f"{dict(done)}: {compared} files compared on each target")
    assert sum(done.values()) == ROUNDS
