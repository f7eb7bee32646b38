"""Drills that are ended from outside, and a server that is really destroyed."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from drills.sandbox import PREFIX
from tests.acceptance.scene import DRKIT, as_server
from tests.daemon.real_daemon import real_daemon
from tests.drills.drill_world import DrillWorld, drill_world, states
from tests.real.postgres import give
from tests.storage_backends.mounts import tmpfs

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def world() -> Iterator[DrillWorld]:
    with drill_world() as one:
        yield one


def lives(pid: int) -> bool:
    """A process that ended, and that nobody has waited for yet, does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def begin(world: DrillWorld) -> tuple[int, Path, int]:
    """A drill under way, its restored server running: its pid, its sandbox, and the server's pid."""
    process = as_server([DRKIT, "--config", world.world.config, "-q", "drill", "run", "quick-disk"])
    for _ in range(1200):
        found = [
            path for path in world.staging.glob(f"{PREFIX}*/data/postmaster.pid") if path.read_text().count("\n") > 5
        ]
        if found:
            return process.pid, found[0].parent.parent, int(found[0].read_text().split()[0])
        if process.poll() is not None:
            break
        time.sleep(0.05)
    raise AssertionError(process.stderr and process.stderr.read())


def test_what_a_killed_drill_left_the_next_one_removes(world: DrillWorld) -> None:
    pid, sandbox, server = begin(world)
    foreign = world.staging / f"{PREFIX}of-somebody-else"
    foreign.mkdir()
    give(foreign)
    (foreign / "precious").write_text("no marker in here")
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    assert sandbox.exists() and lives(server)
    assert world.world.server.query("select 1 from pg_namespace where nspname = 'drkit_drill'")
    report = world.run("quick-disk")
    assert report["verdict"] == "pass"
    assert not sandbox.exists() and not lives(server)
    assert any("a drill was killed" in one["text"] and str(sandbox) in one["text"] for one in report["findings"])
    assert (foreign / "precious").exists()
    shutil.rmtree(foreign)
    world.clean()


def test_what_a_killed_drill_left_goes_with_the_next_start_of_the_daemon(world: DrillWorld) -> None:
    """A server with the cluster's data does not run on until the drill of next month."""
    pid, sandbox, server = begin(world)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    with real_daemon(world.world.config) as daemon:
        for _ in range(1200):
            if "remains.removed" in daemon.log.read_text():
                break
            time.sleep(0.05)
        assert not sandbox.exists() and not lives(server), daemon.log.read_text()[-3000:]
        assert daemon.stop() == 0
    world.clean()
    assert world.world.answer("drill", "tidy")["removed"] == []


def test_tidying_by_hand_spares_what_lives(world: DrillWorld) -> None:
    pid, sandbox, server = begin(world)
    assert world.world.answer("drill", "tidy")["removed"] == []
    assert sandbox.exists() and lives(server)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    (found,) = world.world.answer("drill", "tidy")["removed"]
    assert (found["folder"], found["cluster"], found["schema_left"]) == (str(sandbox), "main", "")
    assert found["processes"] > 0
    world.clean()


def test_a_drill_that_still_runs_is_left_alone(world: DrillWorld) -> None:
    """A second one beside it does its own work, and refuses only where both would write to the cluster."""
    pid, sandbox, _ = begin(world)
    status, error = world.world.refusal("drill", "run", "quick-disk")
    assert (status, error["what"]) == (6, "another drill writes to this cluster")
    report = world.run("quick-region", "--no-ledger")
    assert report["verdict"] == "pass" and not report["findings"]
    _, ended = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(ended) == 0 and not sandbox.exists()
    world.clean()


def test_a_signal_aborts_and_cleans_up(world: DrillWorld) -> None:
    pid, sandbox, server = begin(world)
    os.kill(pid, signal.SIGTERM)
    _, ended = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(ended) == 1
    assert not sandbox.exists() and not lives(server)
    newest = world.world.answer("drill", "history")["drills"][0]
    assert newest["verdict"] == "aborted"
    assert "SIGTERM" in world.world.answer("drill", "show", newest["id"])["sentence"]
    world.clean()


def test_no_room_is_refused_with_numbers_before_anything_happens(world: DrillWorld) -> None:
    place = world.world.root / "small"
    config = world.world.root / "small.toml"
    with tmpfs(place, "size=32m"):
        give(place)
        config.write_text(world.world.config.read_text().replace(f"{world.world.root}/staging", str(place)))
        give(config)
        config.chmod(0o600)
        status, error = world.world.refusal("drill", "run", "quick-disk", config=config)
        assert (status, error["what"]) == (4, "there is not enough space for the drill")
        assert " are missing" in error["why"] and "are free" in error["why"]
        assert not list(place.iterdir())


def test_a_sacrificial_server_is_really_destroyed() -> None:
    with drill_world(cluster="sacrificial = true\n") as world:
        data = world.world.server.data
        report = world.run("quick-disk")
        assert report["verdict"] == "pass" and states(report)["V1"] == "passed"
        assert "SIGKILL" in report["fault"] and not data.exists()
        assert not any("not really lost" in line for line in report["untested"])
        assert not list(world.staging.iterdir())
