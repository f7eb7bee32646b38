"""Holds and their releases over targets that come and go; rounds of tombstones; leases as expiry reads them."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

import pytest

from drkit.core.errors import Damage, Missing, UsageError
from drkit.repository.fences import read_fences
from drkit.repository.graves import Round, covered, read_rounds
from drkit.repository.holds import Hold, Holds, add_hold, check_segment_name, hold_key, read_holds, release_hold
from drkit.repository.layout import RunId
from storage_backends.api import Key, ObjectInfo
from storage_backends.errors import Unavailable
from storage_backends.passthrough import Passthrough
from tests.crypto.rings import seeded
from tests.jobs.expire_world import DAY, KEYS, START, ExpireWorld

IDENT = "20260301T000000Z-00000001"


def hold(**facts: object) -> Hold:
    made = {"id": IDENT, "backup": "20260101T000000Z-00000001", "wal": None, "reason": "audit", "at": START}
    return Hold(**{**made, **facts})  # type: ignore[arg-type]


def read(world: ExpireWorld) -> Holds:
    return read_holds(world.means().repository, world.layout)


def add(world: ExpireWorld, one: Hold) -> tuple[str, ...]:
    return add_hold(world.means().repository, world.layout, one, entropy=seeded(1)).targets


def test_a_hold_is_on_every_target_and_is_released_on_all() -> None:
    world = ExpireWorld(names=("a", "b"))
    assert add(world, hold()) == ("a", "b")
    assert add(world, hold(id=IDENT[:-1] + "2", backup="", wal=("0" * 23 + "1", "0" * 23 + "5"))) == ("a", "b")
    first, second = read(world).holds
    assert first == hold(targets=("a", "b")) and second.wal == ("0" * 23 + "1", "0" * 23 + "5")
    assert read(world).find(IDENT[-8:]) == IDENT
    with pytest.raises(Missing):
        read(world).find("x")
    for _ in range(2):
        release_hold(world.means().repository, world.layout, IDENT, now=START, entropy=seeded(2))
    assert [one.id for one in read(world).holds] == [second.id]


def test_targets_that_were_away_neither_lose_a_hold_nor_bring_it_back() -> None:
    world = ExpireWorld(names=("a", "b"))
    world.left_out["b"] = Unavailable("list")
    assert add(world, hold()) == ("a",)
    world.left_out = {}
    assert [one.targets for one in read(world).holds] == [("a",)]
    world.left_out["a"] = Unavailable("list")
    found = read(world)
    assert not found.holds and "a" in found.unreadable
    world.left_out = {}
    add(world, hold())
    world.left_out["b"] = Unavailable("list")
    release_hold(world.means().repository, world.layout, IDENT, now=START, entropy=seeded(2))
    world.left_out = {}
    assert not read(world).holds, "one release is enough"
    release_hold(world.means().repository, world.layout, IDENT, now=START + DAY, entropy=seeded(3))
    key = hold_key(world.layout, IDENT, "release")
    assert world.target("a").read(key) == world.target("b").read(key), "the same bytes, whenever it gets there"


def test_a_hold_that_opens_nowhere_is_named_and_one_sound_copy_is_enough() -> None:
    world = ExpireWorld(names=("a", "b"))
    add(world, hold())
    key = hold_key(world.layout, IDENT)
    for name, left in (("a", 1), ("b", 0)):
        data = world.target(name).read(key)
        world.backends[name].delete(key)
        world._put(name, key, data[:-50] + bytes(50))
        assert len(read(world).holds) == left
    assert list(read(world).unopened) == [IDENT]
    assert read(world).find(IDENT) == IDENT, "it can be released all the same"


def test_names_of_segments_are_checked() -> None:
    assert check_segment_name("000000010000000A000000FF")
    for text in ("", "1", "0" * 24 + ".partial", "00000001000000000000000g", "../" + "0" * 21):
        with pytest.raises(UsageError):
            check_segment_name(text)


def test_a_round_is_needless_once_a_later_one_has_stood_for_a_day() -> None:
    rounds = [
        Round(Key(f"r{n}"), START + n * DAY, frozenset(keys)) for n, keys in enumerate(("ab", "c", "abc", "abc", "d"))
    ]
    assert covered(rounds, START + 10 * DAY, START) == ["r0", "r1", "r2"]
    assert covered(rounds, START + timedelta(days=2.5), START) == ["r0", "r1"]
    assert covered(rounds, START + DAY, START) == []


def test_an_empty_round_that_stops_an_expirer_stays_for_long() -> None:
    rounds = [Round(Key("empty"), START, frozenset()), Round(Key("full"), START + DAY, frozenset("a"))]
    assert covered(rounds, START + 10 * DAY, START - DAY) == []
    assert covered(rounds, START + 10 * DAY, START + DAY) == ["empty"]


def test_a_round_that_vanishes_while_it_is_read_was_joined() -> None:
    world = ExpireWorld()
    world.windows = world.windows.__class__(daily=world.windows.daily, min_full=1)
    world.days(6)
    world.expire()
    first, *_ = read_rounds(world.target("a"), world.layout, KEYS)
    listed = 0

    class Vanishing(Passthrough):
        def list(self, prefix: str = "", after: str = "") -> Iterator[ObjectInfo]:
            nonlocal listed
            found = list(super().list(prefix, after))
            if prefix.endswith("tombstones/"):
                listed += 1
                world.backends["a"].delete(first.key)
            return iter(found)

    world.wrap = lambda name, backend: Vanishing(backend)
    target = world.means().repository.targets[0]
    assert first.key not in {one.key for one in read_rounds(target, world.layout, KEYS)}
    assert listed == 2


def test_a_lease_that_is_renewed_while_it_is_read_is_read_again() -> None:
    world = ExpireWorld()
    run = RunId.parse(IDENT)
    lease = world.lease("a", run)
    renewed = False

    class Renewing(Passthrough):
        def list(self, prefix: str = "", after: str = "") -> Iterator[ObjectInfo]:
            nonlocal renewed
            found = list(super().list(prefix, after))
            if prefix.endswith("leases/") and not renewed:
                renewed = True
                for _ in range(3):
                    lease.renew()
            return iter(found)

    world.wrap = lambda name, backend: Renewing(backend)
    (fence,) = read_fences(world.means().repository.targets[0], world.layout, KEYS)
    assert (fence.run, len(fence.keys), fence.live(world.clock.now())) == (IDENT, 2, True)
    assert not fence.live(world.clock.now() + timedelta(seconds=900))


def test_a_damaged_lease_says_what_to_do() -> None:
    world = ExpireWorld()
    world._put("a", f"{world.layout.folder('leases')}0011223344556677-00000001", bytes(300))
    with pytest.raises(Damage) as caught:
        read_fences(world.target("a"), world.layout, KEYS)
    assert "by hand" in caught.value.cure
