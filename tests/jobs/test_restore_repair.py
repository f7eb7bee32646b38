"""What a restore met damaged or missing on one target is mended there, or left and remembered; nothing else changes."""

from __future__ import annotations

from pathlib import Path

import pytest

from drkit.jobs import restore_repair
from drkit.jobs.verify_facts import Outcome
from drkit.repository.leases import entomb
from storage_backends.api import StorageBackend
from storage_backends.faulty import Faulty
from tests.crypto.rings import seeded
from tests.jobs.verify_world import FOLLOWING, VerifyWorld, told
from tests.repository.samples import LAYOUT


@pytest.fixture
def world(tmp_path: Path) -> VerifyWorld:
    return VerifyWorld(tmp_path)


def outcomes(world: VerifyWorld, *keys: str) -> set[tuple[str, str, str]]:
    return {(one.target, one.key, one.outcome.value) for one in world.mend(*keys)}


@pytest.mark.parametrize("part", ["/packs/", "/maps/", "/manifests/", "/history/"])
@pytest.mark.parametrize("lost", [False, True], ids=["flipped", "lost"])
def test_what_was_met_is_mended_and_nothing_else_is_looked_at(world: VerifyWorld, part: str, lost: bool) -> None:
    key, other = world.one(part), world.one("/fingerprints/")
    before = world.everything("b")
    (world.lose if lost else world.flip)("b", key)
    world.flip("a", other)
    (one,) = world.mend(key)
    assert (one.target, one.key, one.outcome, one.cure) == ("b", key, Outcome.REPAIRED, "")
    assert bool(one.kept) is not lost
    assert world.everything("b") == before and not world.spool.suspects()
    assert told(world.verify()) == {("a", other, "flipped")}
    assert not world.everything("c").keys() - before.keys(), "no lease stays"


def test_a_target_that_may_only_be_read_is_left_with_the_command_that_mends_it(world: VerifyWorld) -> None:
    def reading(name: str, inner: StorageBackend) -> StorageBackend:
        return Faulty(inner, "create:denied*;commit:denied*", sleep=lambda _: None)

    key, before = world.one("/packs/"), world.everything("b")
    world.flip("b", key)
    hurt = world.everything("b")
    world.wrap = reading
    (one,) = world.mend(key)
    assert (one.outcome, one.cure) == (Outcome.LEFT, "drkit verify --repair --target b") and "enied" in one.why
    assert world.everything("b") == hurt and world.spool.suspects() == {key}
    world.wrap = lambda _, inner: inner
    result = world.verify(part=0.0001, suspects=sorted(world.spool.suspects()), repair=True)
    assert not result.damaged and world.everything("b") == before


def test_a_part_that_would_not_have_read_it_reads_what_is_suspected(world: VerifyWorld) -> None:
    key = LAYOUT.wal(FOLLOWING[2])
    world.flip("b", key)
    assert not world.verify(part=0.0001).damaged
    assert told(world.verify(part=0.0001, suspects=[key])) == {("b", key, "flipped")}
    assert told(world.verify(part=0.0001)) == {("b", key, "flipped")}, "from now on its own evidence says it"


def test_nothing_is_repaired_where_that_was_not_wanted_or_is_too_much(
    world: VerifyWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = [key for key in world.stored() if "/packs/" in key or "/maps/" in key]
    for key in keys:
        world.lose("b", key)
    held = world.everything("b")
    for done in (world.mend(*keys, repair=False), _with_most(world, monkeypatch, len(keys) - 1, keys)):
        assert {(one.target, one.key, one.outcome) for one in done} == {("", key, Outcome.LEFT) for key in keys}
        assert {one.cure for one in done} == {"drkit verify --repair"}
        assert world.everything("b") == held and world.spool.suspects() <= set(keys)
    assert {one.outcome for one in world.mend(*keys)} == {Outcome.REPAIRED} and not world.spool.suspects()


def _with_most(
    world: VerifyWorld, monkeypatch: pytest.MonkeyPatch, most: int, keys: list[str]
) -> list[restore_repair.Mended]:
    with monkeypatch.context() as patched:
        patched.setattr(restore_repair, "MOST", most)
        return world.mend(*keys)


def test_what_cannot_even_be_looked_at_is_left_and_raises_nothing(world: VerifyWorld) -> None:
    key = world.one("/packs/")
    world.flip("b", key)
    for name in ("a", "b", "c"):
        (world.root / name / "repository").rename(world.root / f"{name}.descriptor")
    (one,) = world.mend(key)
    assert (one.target, one.outcome, one.cure) == ("", Outcome.LEFT, "drkit verify --repair") and one.why
    assert world.spool.suspects() == {key}


def test_a_tombstone_is_final_here_too(world: VerifyWorld) -> None:
    key, where = world.one("/packs/"), world.targets[1]
    name = LAYOUT.tombstones(LAYOUT.rounds(world.clock.now(), bytes(3)), 1)
    entomb(where, name, [key], "old", data_key=world.data_key, clock=world.clock, entropy=seeded(77))
    world.lose("b", key)
    assert outcomes(world, key) <= {("b", key, "faded")} and not world.path("b", key).exists()
