"""Forward compaction of a real server's backups: each table page written to now and then, expiry in between."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from datetime import timedelta

import pytest

from drkit.core.cancel import CancelToken
from drkit.core.clock import SystemClock
from drkit.core.log import NoLog
from drkit.core.progress import Silent
from drkit.jobs.expire import ExpireOrder, expire
from drkit.jobs.expire_judge import Terms
from drkit.jobs.means import Means
from policies.retention import Windows
from tests.acceptance.soundness import assert_manifest_matches
from tests.jobs.backup_world import BackupWorld
from tests.jobs.expire_world import Days
from tests.real.postgres import Server, give_tree, new_server, require

pytestmark = pytest.mark.real

FETCH, STORE = 1.5, 2.0
SLACK_BYTES = 2 << 20  # dead bytes that compaction leaves alone, and what the requests for ranges take beside frames
ROWS = 40_000  # 45 MB that do not compress
FILL = f"""
    create table scattered (id int primary key, n int, noise bytea) with (fillfactor = 80);
    alter table scattered alter noise set storage plain;
    insert into scattered select g, 0, (
        select decode(string_agg(md5((g * 1000 + k)::text), ''), 'hex') from generate_series(1, 60) k
    ) from generate_series(1, {ROWS}) g;
    vacuum scattered
"""


@pytest.fixture
def world() -> Iterator[BackupWorld]:
    require(15)
    server = new_server(15)
    made = BackupWorld(server, names=("a",))
    made.start()
    for statement in FILL.split(";"):
        server.query(statement)
    yield made
    server.close()


def expire_all_but(world: BackupWorld, count: int) -> None:
    """By another host with a key; what it writes belongs to the server's user as all else."""
    terms = Terms(Windows(daily=Days(1e-9), min_full=count), timedelta(0), timedelta(minutes=1))
    means = Means(world.repository(), SystemClock(), os.urandom, CancelToken(), Silent(), NoLog())
    order = ExpireOrder(None, {"a": terms}, "elsewhere")
    plans = [one.plan for one in expire(order, means) if one.plan is not None]
    going = sum(len(plan.going) for plan in plans)
    order = ExpireOrder(None, {"a": terms}, "elsewhere", apply=True, removes=going)
    for one in expire(order, means):
        assert one.problem is None
    give_tree(world.root)


def update(server: Server, number: int, every: int) -> None:
    """A row of one page in so many; what an earlier version takes is free again afterwards."""
    server.query(f"update scattered set n = n + 1 where id % {every} = {number * 37 % every}")
    server.query("vacuum scattered")


def restored_bytes(world: BackupWorld, backup: str) -> int:
    """Bytes fetched by a restore into a new folder, which PostgreSQL's own tool finds to be what was backed up."""
    into = world.server.root / f"into-{backup}"
    answer = json.loads(world.drkit("--json", "restore", "--into", str(into), "--backup", backup).stdout)
    assert_manifest_matches(world.server, into)
    fetched: int = answer["bytes"]["a"]
    return fetched


def held_bytes(world: BackupWorld) -> int:
    folders = [world.folders["a"] / world.layout.folder(name) for name in ("packs", "maps")]
    return sum(path.stat().st_size for folder in folders for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize(("count", "every"), [(16, 120), pytest.param(200, 300, marks=pytest.mark.torture)])
def test_a_restore_fetches_little_more_than_after_a_full_backup(world: BackupWorld, count: int, every: int) -> None:
    made = world.backup()
    again = 0
    for number in range(1, count):
        update(world.server, number, every)
        made = world.backup()
        again += made["again_bytes"]
        if number % 5 == 0:
            expire_all_but(world, 2)
    assert again, "there was something to do"

    fetched = restored_bytes(world, made["id"])
    expire_all_but(world, 1)
    expire_all_but(world, 1)
    held = held_bytes(world)
    fresh = restored_bytes(world, world.backup("--rehash")["id"])

    print(f"{count} backups, {again} bytes stored again: fetched {fetched}, held {held}, fresh {fresh} bytes")
    assert fetched <= FETCH * fresh + SLACK_BYTES
    assert held <= STORE * fresh + SLACK_BYTES
