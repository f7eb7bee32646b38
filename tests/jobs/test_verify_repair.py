"""Repairs that die, meet each other, or find the store in trouble: never worse than before; the next one ends it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from drkit.crypto.container import open_object
from drkit.jobs.verify_facts import Outcome, VerifyResult
from drkit.repository.layout import Kind
from storage_backends.api import StorageBackend
from storage_backends.faulty import Faulty
from storage_backends.retry import Retrying, RetryPolicy
from storage_backends.trace import Event, Traced
from tests.jobs.verify_world import VerifyWorld, only, told
from tests.repository.samples import LAYOUT, target


class Died(BaseException):
    """The process is gone."""


def dying(at: int, effects: list[str]) -> Callable[[str, StorageBackend], StorageBackend]:
    """Backends that die before the effect number `at` on any target (even), or right after it (odd)."""
    lock = threading.Lock()
    dead = threading.Event()

    def wrap(name: str, inner: StorageBackend) -> StorageBackend:
        def record(event: Event) -> None:
            if dead.is_set():
                raise Died
            if event.verb not in ("write", "commit", "delete"):
                return
            with lock:
                count = len(effects)
                effects.append(f"{event.phase} {event.verb} {event.key}")
            if count == at:
                dead.set()
                raise Died

        return Traced(inner, record, clock=lambda: 0.0)

    return wrap


def hurt(world: VerifyWorld) -> dict[str, bytes]:
    """A flipped pack, a lost map, a lost manifest, a truncated segment on b; what b held before."""
    before = world.everything("b")
    world.flip("b", world.one("/packs/"))
    world.lose("b", world.one("/maps/"))
    world.lose("b", str(world.made[1].key))
    segment = world.path("b", world.one("/wal/"))
    segment.write_bytes(segment.read_bytes()[:-3])
    return before


def test_killed_at_every_effect_of_a_repair(tmp_path: Path) -> None:
    effects: list[str] = []
    count = VerifyWorld(tmp_path / "count")
    before = hurt(count)
    count.wrap = dying(-1, effects)
    assert not count.verify(repair=True).damaged
    assert count.everything("b") == before and len(effects) > 20
    for at in range(0, len(effects), 3):
        world = VerifyWorld(tmp_path / str(at))
        before = hurt(world)
        damaged = {key: world.path("b", key).read_bytes() for key in before if world.path("b", key).exists()}
        world.wrap = dying(at, [])
        with pytest.raises(Died):
            world.verify(repair=True)
        for key, data in before.items():
            path = world.path("b", key)
            now = path.read_bytes() if path.exists() else None
            assert now in (data, damaged.get(key)), f"{key} is neither as it was nor right, died at {effects[at]}"
        if world.path("b", str(world.made[1].key)).exists():
            assert all(world.path("b", key).read_bytes() == before[key] for key in world.made[1].objects)
        world.wrap = dying(-1, [])
        assert not world.verify(repair=True).damaged, effects[at]
        found = world.everything("b")
        assert {key: found[key] for key in before} == before
        assert all("/leases/" in key for key in set(found) - set(before)), "a dead repair's lease runs out by itself"


def test_while_anything_is_repaired_every_backup_that_needs_any_of_it_is_held(tmp_path: Path) -> None:
    """Expiry passes over backups that a live lease names: none may go while what it needs is brought back."""
    world = VerifyWorld(tmp_path)
    for one in world.made:
        world.lose("b", next(key for key in one.objects if "/packs/" in key))
    stored: dict[str, object] = {}

    def wrap(name: str, inner: StorageBackend) -> StorageBackend:
        def record(event: Event) -> None:
            if event.verb == "commit" and event.phase == "begin" and "/packs/" in event.key:
                where = target(name, inner)
                keys = [info.key for info in inner.list(LAYOUT.folder("leases"))]
                leases = [open_object(world.ring, where.read(key), kind=Kind.LEASE, name=key).json for key in keys]
                (via,) = [lease["via"] for lease in leases if lease["job"] == "repair"]
                stored[event.key] = via

        return Traced(inner, record, clock=lambda: 0.0)

    world.wrap = wrap
    assert not world.verify(repair=True).damaged
    assert list(stored.values()) == [sorted(str(one.run) for one in world.made)] * 2


def test_two_repairers_at_once(tmp_path: Path) -> None:
    for turn in range(3):
        world = VerifyWorld(tmp_path / str(turn))
        before = hurt(world)
        barrier = threading.Barrier(2)

        def run(_: int, world: VerifyWorld = world, barrier: threading.Barrier = barrier) -> VerifyResult:
            barrier.wait()
            return world.verify(repair=True)

        with ThreadPoolExecutor(2) as pool:
            results = list(pool.map(run, range(2)))
        assert world.everything("b") == before
        assert not any(result.damaged for result in results)
        assert {f.outcome for r in results for f in r.findings} <= {Outcome.REPAIRED, Outcome.FADED}


def flaky(script: str, name: str = "b", retries: bool = True) -> Callable[[str, StorageBackend], StorageBackend]:
    def wrap(found: str, inner: StorageBackend) -> StorageBackend:
        if found != name:
            return inner
        faulty = Faulty(inner, script)
        if not retries:
            return faulty
        return Retrying(faulty, RetryPolicy(attempts=3), sleep=lambda _: None, random=lambda: 0.5)

    return wrap


@pytest.mark.parametrize("retries", [True, False])
def test_a_lost_acknowledgement_of_a_replacement_is_found_by_reading_back(tmp_path: Path, retries: bool) -> None:
    world = VerifyWorld(tmp_path)
    key = world.one("/packs/")
    before = world.everything("b")
    world.flip("b", key)
    world.wrap = flaky(f"commit={key}:lost", retries=retries)
    result = world.verify(repair=True)
    assert world.everything("b") == before
    if retries:
        assert only(result).outcome is Outcome.REPAIRED
    world.wrap = flaky("")
    assert not world.verify().findings


def test_a_source_that_turns_bad_is_passed_over(tmp_path: Path) -> None:
    """It was sound when it was looked at, and is not when it is copied: nothing of it arrives."""
    world = VerifyWorld(tmp_path)
    key = world.one("/packs/")
    before = world.everything("b")
    world.flip("b", key)
    # a's copy is read right by the pass and by the second look, then wrongly
    world.wrap = flaky(f"read={key}:ok,ok,ok,ok,flip*", name="a", retries=False)
    result = world.verify(repair=True)
    assert only(result).outcome is Outcome.REPAIRED and only(result).note == "from c"
    assert world.everything("b") == before


def test_a_target_that_takes_nothing_stays_damaged_and_says_why(tmp_path: Path) -> None:
    world = VerifyWorld(tmp_path)
    key = world.one("/packs/")
    world.flip("b", key)
    damaged = world.path("b", key).read_bytes()
    world.wrap = flaky(f"commit={key}:full*")
    result = world.verify(repair=True)
    assert told(result) == {("b", key, "flipped")} and "full on purpose" in only(result).note
    assert world.path("b", key).read_bytes() == damaged


def test_a_target_that_fades_away_is_no_damage(tmp_path: Path) -> None:
    world = VerifyWorld(tmp_path)
    world.wrap = flaky(f"open={LAYOUT.folder('packs')}:503*;open={LAYOUT.folder('maps')}:503*;open=reports:503*")
    result = world.verify()
    assert not result.damaged and "503" in result.unread["b"]
    world.wrap = flaky(f"open={LAYOUT.folder('packs')}:missing*")
    result = world.verify()
    assert {f.fault.value for f in result.left} == {"missing"}, "a store that lists what it does not give"


def test_a_read_that_went_wrong_once_is_no_damage(tmp_path: Path) -> None:
    world = VerifyWorld(tmp_path)
    world.wrap = flaky(f"read={world.one('/packs/')}:flip", retries=False)
    result = world.verify()
    assert only(result).outcome is Outcome.FADED and not result.damaged


def test_what_was_damaged_is_kept_within_a_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = VerifyWorld(tmp_path)
    keys = [key for key in world.stored() if "/packs/" in key]
    sizes = [world.path("b", key).stat().st_size for key in keys]
    monkeypatch.setattr("drkit.jobs.verify_repair._KEPT_BYTES", max(sizes) + 1)
    for key in keys:
        world.flip("b", key)
    assert not world.verify(repair=True).damaged
    kept = [path for path in (tmp_path / "spool" / "damaged").rglob("*") if path.is_file()]
    assert len(kept) == 1
