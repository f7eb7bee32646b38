"""Forward compaction: after many scattered changes a restore costs little more than after a fresh full backup.

The bounds are promises of docs/decisions/0006-forward-compaction.md.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from drkit.core.cancel import CancelToken
from drkit.core.errors import Damage
from drkit.jobs.backup_compact import NOTHING, plan_again
from drkit.pipeline.mapping import Map
from tests.jobs.scattered_world import CHUNK, LIMITS, NEVER, Scattered

FETCH, STORE, WRITE = 1.5, 2.0, 4.0


def check_promises(world: Scattered) -> None:
    """Of the newest backup, against a fresh full one of the same data; then the target, with that one alone on it."""
    newest = world.stored[-1]
    restored = world.restore(newest)
    assert not restored.twice, "each frame and each map is fetched once"
    world.keep_only_the_newest()
    assert world.stores.good() == {newest.summary.backup}
    held = world.held_bytes()
    fresh = world.restore(world.backup(rehash=True))
    assert restored.fetched_bytes <= FETCH * fresh.fetched_bytes
    assert held <= STORE * fresh.fetched_bytes
    written = sum(made.summary.new_bytes for made in world.stored[1:-1])
    assert written <= WRITE * world.changed_bytes


@pytest.mark.parametrize(("share", "count"), [(0.003, 200), (0.02, 200), (0.1, 60)])
def test_after_many_scattered_backups(tmp_path: Path, share: float, count: int) -> None:
    world = Scattered(tmp_path, hot=4, cold=1)
    world.backup()
    for number in range(1, count):
        world.scatter(share)
        made = world.backup()
        assert world.fetch_ratio(made) <= FETCH, "each of them, not only the last"
        if number % 5 == 0:
            world.expire()
    check_promises(world)


def test_most_changes_in_few_files_and_files_that_come_and_go(tmp_path: Path) -> None:
    world = Scattered(tmp_path, hot=8, cold=2)
    world.backup()
    for number in range(1, 60):
        world.scatter(0.1, among=0.25)
        world.scatter(0.001)
        world.replace_cold(100 + number % 2)
        world.backup()
        if number % 5 == 0:
            world.expire()
    check_promises(world)


def test_without_it_the_promise_would_not_hold(tmp_path: Path) -> None:
    world = Scattered(tmp_path, hot=4, cold=1, limits=NEVER)
    world.backup()
    for _ in range(40):
        world.scatter(0.02)
        world.backup()
    assert max(world.fetch_ratio(made) for made in world.stored) > FETCH


def test_only_what_touches_a_thin_frame_is_read_again(tmp_path: Path) -> None:
    world = Scattered(tmp_path, hot=4, cold=0, limits=NEVER)
    world.backup()
    for _ in range(4):
        world.scatter(0.15, among=0.5)
        world.backup()
    world.limits = LIMITS
    made = world.backup()
    assert 0 < made.again_bytes <= made.read_bytes
    assert made.read_bytes <= (2 << 20) + 3, "the file that had been changed, and PG_VERSION, which shares a frame"
    assert made.adopted_files == 1, "the other file"
    assert not world.restore(made).twice
    idle = world.backup()
    assert (idle.again_bytes, idle.read_bytes) == (0, 0), "once is enough"


def test_a_backup_in_order_is_not_looked_into(tmp_path: Path) -> None:
    world = Scattered(tmp_path, hot=2, cold=0)
    manifest = world.manifest(world.backup())

    def load(map_id: bytes) -> Map:
        raise Damage("it was read")

    assert plan_again(manifest, load, LIMITS, CancelToken()) is NOTHING


def test_a_scattered_extent_is_fetched_once_with_a_small_cache(tmp_path: Path) -> None:
    """What is needed no more makes room for what still is."""
    world = Scattered(tmp_path, hot=8, cold=0, limits=NEVER, workers=1)
    world.backup()
    for _ in range(20):
        world.scatter(CHUNK * 16 / (2 << 20))
        world.backup()
    assert not world.restore(world.stored[-1], frame_cache_bytes=60 * (64 << 10)).twice
