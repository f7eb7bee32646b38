"""Two clusters of two users behind one socket: each may push and fetch its own, by the client itself."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from drkit.core.cancel import CancelToken
from drkit.core.clock import SystemClock
from drkit.core.flow import Group
from drkit.core.log import NoLog
from drkit.daemon.ask import ask
from drkit.daemon.clusters import ClusterSpec
from drkit.daemon.protocol import Request
from drkit.daemon.targets import Doors
from drkit.daemon.wal_path import WalPath, WalPathSettings
from drkit.jobs.recovery_file import write_recovery_file
from drkit.jobs.wal_prefetch import folder as prefetched
from tests.daemon.wal_host import Host
from tests.jobs.test_wal_get import PLAN
from tests.jobs.wal_world import World, segment_bytes_of
from tests.real.postgres import give_tree, make_folder

NAME = "000000010000000000000003"
NOBODY = 65534
CLIENT = [sys.executable, "-P", "-m", "drkit.walclient"]

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root may become other users")


class Two:
    """`orders` belongs to nobody, `sales` to the servers' user; the daemon runs as root."""

    def __init__(self, root: Path) -> None:
        self.socket = root / "socket"
        self.orders = World(root / "orders")
        self.sales = World(root / "sales", self.orders.backends, cluster="sales", system=self.orders.system + 1)
        self.sales.spool = self.orders.spool
        for world in (self.orders, self.sales):
            world.segment(NAME)
            give_tree(world.root)
        for path in (self.orders.root, *self.orders.root.rglob("*")):
            os.chown(path, NOBODY, NOBODY)
        host = Host(self.orders, self.sales)
        specs = [ClusterSpec(world.cluster, world.data, lambda: None) for world in (self.orders, self.sales)]
        doors = Doors(tuple(self.orders.backends), host._make, host._open)
        settings = WalPathSettings(self.socket)
        self.path = WalPath(specs, doors, self.orders.spool, settings, SystemClock(), NoLog(), host.told)
        self.token = CancelToken()
        self.group = Group(self.token, name="daemon")

    def start(self) -> None:
        for part in self.path.parts:
            self.group.start(part.name, part.run, self.group.token)
        while not self.socket.exists():
            threading.Event().wait(0.01)
        self.socket.chmod(0o666)

    def run(self, user: str, cwd: Path, *args: str) -> subprocess.CompletedProcess[str]:
        command = ["runuser", "-u", user, "--", *CLIENT, "--socket", str(self.socket), *args]
        return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=60)


@pytest.fixture
def two() -> Iterator[Two]:
    root = make_folder("drkit-two-")
    os.chown(root, 0, 0)
    one = Two(root)
    with one.group:
        one.start()
        yield one
        one.token.cancel()
    shutil.rmtree(root)


def test_each_owner_archives_its_own_cluster_and_no_other(two: Two) -> None:
    path = f"pg_wal/{NAME}"
    for user, world in (("nobody", two.orders), ("postgres", two.sales)):
        done = two.run(user, world.data, "push", path)
        assert (done.returncode, done.stderr) == (0, "")
        assert world.stored("a", NAME)
    for user, world in (("postgres", two.orders), ("nobody", two.sales)):
        done = two.run(user, world.data, "push", path)
        assert done.returncode == 1 and "does not own the cluster" in done.stderr
        done = two.run(user, world.data, "get", "--absent-exit", "44", NAME, "/tmp/x")
        assert done.returncode == 126
    done = two.run("daemon", two.orders.data, "push", path)
    assert done.returncode == 1 and "may not use this daemon" in done.stderr
    assert two.run("root", two.orders.data, "push", path).returncode == 0
    assert [facts.last_file for facts in two.path.facts()] == [NAME, NAME]


def test_an_owner_fetches_its_own_and_nothing_is_written_into_its_folder_with_roots_rights(two: Two) -> None:
    two.run("nobody", two.orders.data, "push", f"pg_wal/{NAME}")
    victim = two.socket.parent / "victim"
    (two.orders.data / "recovery.signal").touch()
    os.symlink(victim, two.orders.data / "drkit.recovery-events")  # noqa: PTH211
    os.symlink(two.socket.parent, two.orders.data / "pg_wal" / "drkit-prefetch")  # noqa: PTH211
    write_recovery_file(two.orders.data, PLAN)
    os.chown(two.orders.data / "drkit.recovery.json", NOBODY, NOBODY)
    before = sorted(path.name for path in two.socket.parent.iterdir())
    done = two.run("nobody", two.orders.data, "get", "--absent-exit", "44", NAME, "pg_wal/RECOVERYXLOG")
    assert (done.returncode, done.stderr) == (0, "")
    assert (two.orders.data / "pg_wal" / "RECOVERYXLOG").read_bytes() == segment_bytes_of(NAME)
    done = two.run("nobody", two.orders.data, "get", "--absent-exit", "44", "00000004000000000000000A", "x")
    assert done.returncode == 44 and "is absent" in done.stderr
    assert sorted(path.name for path in two.socket.parent.iterdir()) == before and not victim.exists()


def test_what_follows_is_prefetched_for_a_trusted_folder_until_recovery_ends(two: Two) -> None:
    names = [f"0000000100000000000000{number:02X}" for number in (3, 4, 5)]
    for name in names:
        two.orders.push(two.orders.segment(name))
    copy = World(two.socket.parent / "copy")
    (copy.data / "recovery.signal").touch()
    assert two.run("root", copy.data, "get", "--absent-exit", "44", names[0], "pg_wal/RECOVERYXLOG").returncode == 0
    ahead = [prefetched(copy.data) / name for name in names[1:]]
    while not all(path.exists() for path in ahead):
        assert not two.token.wait(0.02)
    assert ahead[1].read_bytes() == segment_bytes_of(names[2])
    assert two.run("root", copy.data, "get", names[1], "pg_wal/RECOVERYXLOG").returncode == 0
    assert not ahead[0].exists()
    (copy.data / "recovery.signal").unlink()
    while (copy.data / "pg_wal" / "drkit-prefetch").exists():
        assert not two.token.wait(0.02)


def test_ping_answers(two: Two) -> None:
    assert ask(two.socket, Request("ping")).text == str(os.getpid())
