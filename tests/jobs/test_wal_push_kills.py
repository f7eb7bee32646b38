"""A push that dies before or after any effect on a disk leaves only what the next push can go on from.

The laws, after each death: what was acknowledged is on enough targets, and every other target has it or is owed it with
sound bytes; under the name there is this content or none; the next push succeeds, debts are paid, nothing is left over.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from drkit.core.log import NoLog
from drkit.jobs.wal_debts import pay_debts
from drkit.repository.layout import Kind
from drkit.repository.spool import Spool
from drkit.repository.wal import open_wal
from storage_backends.errors import NotFound
from storage_backends.faulty import Faulty
from tests.jobs.wal_world import World, posix_backends, segment_bytes_of

NAME = "000000010000000000000003"
EARLIER = "000000010000000000000002"
DIED, ACKNOWLEDGED = 77, 0
EFFECTS = ("fsync", "link", "replace", "rename", "unlink", "mkdir", "write")
SCENARIOS = ("healthy", "owing", "paying")


def world_of(root: Path) -> World:
    return World(root, backends=posix_backends(root))


def away(world: World) -> None:
    world.wrap("b", lambda inner: Faulty(inner, "create:503*"))


def prepare(root: Path, scenario: str) -> None:
    world = world_of(root)
    world.segment(NAME)
    if scenario == "paying":
        away(world)
        world.push(world.segment(EARLIER))


def push_as(root: Path, scenario: str, count: int = -1) -> None:
    """Push; die at the effect number `count`."""
    world = world_of(root)
    world.clock.sleep(3600)
    if scenario == "owing":
        away(world)
    dying(count)
    world.push(world.data / "pg_wal" / NAME)


def dying(count: int) -> None:
    """From now on the process dies at the effect number `count`: even numbers before it happens, odd ones after."""
    if count < 0:
        return
    seen = 0

    def wrap(real: Callable[..., object]) -> Callable[..., object]:
        def call(*args: object, **named: object) -> object:
            nonlocal seen
            before, after, seen = seen, seen + 1, seen + 2
            if before == count:
                os._exit(DIED)
            try:
                return real(*args, **named)
            finally:
                if after == count:
                    os._exit(DIED)

        return call

    for name in EFFECTS:
        setattr(os, name, wrap(getattr(os, name)))


def run(folder: Path, scenario: str) -> None:
    """For each effect: a world of its own, a process that dies there, and how it ended into `ended`."""
    for count in range(10_000):
        root = folder / str(count)
        root.mkdir()
        prepare(root, scenario)
        child = os.fork()
        if child == 0:
            push_as(root, scenario, count)
            os._exit(ACKNOWLEDGED)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        (root / "ended").write_text(str(status))
        if status != DIED:
            return


def holds(world: World, target: str, file: str) -> bool:
    """Whether a target has the file; anything else under its name fails the test."""
    try:
        with open_wal(world.ring, world.target(target), world.layout.wal(file), Kind.WAL) as found:
            assert b"".join(found.pieces()) == segment_bytes_of(file)
    except NotFound:
        return False
    return True


def is_owed(spool: Spool, target: str, file: str) -> bool:
    return any(spool.sealed(debt) for debt in spool.debts(target) if debt.file == file)


def check_laws(root: Path, scenario: str) -> None:
    world = world_of(root)
    acknowledged = (root / "ended").read_text() == str(ACKNOWLEDGED)
    done = [NAME] if acknowledged else []
    for file in [*done, EARLIER] if scenario == "paying" else done:
        assert holds(world, "a", file)
        assert holds(world, "b", file) or is_owed(world.spool, "b", file)
    for target in ("a", "b"):
        holds(world, target, NAME)
    push_as(root, "healthy")
    world.clock.sleep(7200)
    assert not pay_debts(world.repository, world.targets, world.spool, world.clock, NoLog()).left
    for file in (NAME, EARLIER) if scenario == "paying" else (NAME,):
        assert holds(world, "a", file) and holds(world, "b", file)
    assert world.stored("a", NAME) == world.stored("b", NAME)
    sealed = world.spool.folder / "wal" / "sealed"
    assert [p.name for p in sealed.glob("*")] == [] and world.spool.targets() == []


@pytest.fixture
def memory_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory where there is one: thousands of syncs would only wear the disk."""
    shm = Path("/dev/shm")
    if not os.access(shm, os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=shm) as folder:
        yield Path(folder)


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_a_death_at_any_effect_loses_nothing_and_lies_about_nothing(scenario: str, memory_disk: Path) -> None:
    # In a process without threads, which may fork.
    subprocess.run(
        [sys.executable, "-m", "tests.jobs.test_wal_push_kills", memory_disk, scenario],
        check=True,
        cwd=Path(__file__).parents[2],
        timeout=300,
    )
    roots = sorted((p for p in memory_disk.iterdir()), key=lambda path: int(path.name))
    assert len(roots) > 20
    assert (roots[-1] / "ended").read_text() == str(ACKNOWLEDGED)
    for root in roots:
        check_laws(root, scenario)


if __name__ == "__main__":
    run(Path(sys.argv[1]), sys.argv[2])
