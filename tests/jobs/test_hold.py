"""Holds beside expiry: what is held stays, and a hold is never reported that expiry did not know of."""

from __future__ import annotations

from contextlib import suppress
from datetime import timedelta

import pytest

from drkit.core.errors import Missing, Refused
from drkit.jobs.expire import LEASE_S, expire
from drkit.jobs.hold import Held, put_on_hold
from drkit.repository.fences import EXPIRE
from drkit.repository.holds import release_hold
from drkit.repository.leases import ROUNDS, Lease
from storage_backends.errors import Unavailable
from tests.crypto.rings import seeded
from tests.jobs.expire_world import DAY, ExpireWorld, Hooked, Made, done, plain


def held(world: ExpireWorld, one: Made, wait_s: float = 3600) -> Held:
    return put_on_hold(world.means(), world.layout, one.id, None, "audit", wait_s)


def test_what_is_held_stays_until_it_is_released() -> None:
    world = ExpireWorld()
    made = world.days(8)
    hold = held(world, made[0])
    assert hold.safe == ("a",) and not hold.lacking
    plan = world.plan().plan
    assert plan is not None and plan.items[0].reasons == (f"on hold ({hold.hold.id})",)
    world.expire_twice()
    assert made[0].id in world.good() and set(made[0].wal) <= world.segments()
    assert made[1].id not in world.good()
    release_hold(world.means().repository, world.layout, hold.hold.id, now=world.clock.now(), entropy=seeded(9))
    world.expire_twice()
    assert made[0].id not in world.good()


def test_a_span_of_wal_is_held() -> None:
    world = ExpireWorld()
    world.archive(5)
    made = world.days(8)
    span = ("000000010000000000000002", "000000010000000000000004")
    put_on_hold(world.means(), world.layout, "", span, "", 1)
    world.expire_twice()
    assert {name for name in world.segments() if name < made[0].wal[0]} == {
        span[0],
        "000000010000000000000003",
        span[1],
    }


def test_a_hold_on_a_target_that_was_away_counts_on_the_other_one() -> None:
    world = ExpireWorld(names=("a", "b"))
    made = world.days(8)
    world.left_out["b"] = Unavailable("create")
    hold = held(world, made[0])
    assert hold.safe == ("a",) and "b" in hold.lacking
    world.left_out = {}
    world.expire_twice()
    assert made[0].id in world.good("a") & world.good("b")


def test_a_hold_that_comes_too_late_is_not_reported() -> None:
    world = ExpireWorld()
    made = world.days(8)
    done(world.expire())
    with pytest.raises(Missing, match=made[0].id):
        held(world, made[0])
    world.clock.pass_by(world.grace + DAY)
    done(world.expire())
    assert set(made[0].objects) <= world.keys(), "its bytes stay as long as it is held"


def attempt(at: int, *, stopped: bool = False) -> tuple[ExpireWorld, Made, bool, int]:
    """Expiry, and a hold made before its effect or listing number `at`, which waits while the expirer goes on.

    stopped: the expirer was, just there, for longer than its lease lasts.
    """
    world = ExpireWorld()
    made = world.days(8)
    seen, kept = 0, False
    waiting: list[bool] = []

    def meddle(verb: str, key: str) -> None:
        nonlocal seen, kept
        seen += 1
        if seen != at:
            return
        world.wrap = plain
        if stopped:
            world.clock.pass_by(timedelta(seconds=LEASE_S + 1))
        try:
            kept = bool(held(world, made[0], wait_s=0).safe)
        except Missing:
            waiting.append(True)  # it is told to come again: nothing was promised

    count = sum(len(one.plan.going) for one in expire(world.order(apply=False), world.means()) if one.plan)
    world.wrap = lambda name, backend: Hooked(backend, meddle)
    with suppress(Refused):  # the hold was there when the plan was made anew
        outcomes = expire(world.order(removes=count), world.means())
        if not stopped:
            done(outcomes)
    world.wrap = plain
    return world, made[0], kept, seen


def test_a_hold_made_at_any_moment_of_expiry_is_kept_or_not_promised() -> None:
    _, _, _, effects = attempt(0)
    promised = 0
    for at in range(1, effects + 1):
        world, one, kept, _ = attempt(at)
        promised += kept
        if kept:
            assert one.id in world.good(), f"promised at {at}"
            world.clock.pass_by(world.grace + DAY)
            done(world.expire())
            assert one.id in world.good()
    assert 0 < promised < effects


def test_an_expirer_stopped_before_any_of_its_effects_does_not_undo_a_hold_that_did_not_wait_for_it() -> None:
    _, _, _, effects = attempt(0)
    promised = 0
    for at in range(1, effects + 1):
        world, one, kept, _ = attempt(at, stopped=True)
        promised += kept
        if kept:
            assert one.id in world.good(), f"promised at {at}"
            world.expire_twice()
            assert one.id in world.good(), f"promised at {at}"
    assert 0 < promised < effects


def test_the_lease_of_a_stopped_expirer_goes_only_after_its_rounds_were_taken() -> None:
    """Else nobody who makes a hold later could know of it."""
    world = ExpireWorld()
    world.days(3)
    rounds = world.layout.rounds(world.clock.now(), bytes(3))
    lease = world.lease("a", None, job=EXPIRE, rounds=rounds)
    world.clock.pass_by(timedelta(seconds=901))
    done(world.expire())
    assert not lease.live and not world.keys(kind="leases")
    taken = {world.layout.tombstones(rounds, number) for number in range(ROUNDS)}
    assert taken <= world.keys()
    world.expire_twice()
    assert taken <= world.keys()


def test_the_lease_of_an_expirer_that_died_runs_out() -> None:
    world = ExpireWorld()
    made = world.days(3)
    lease: Lease = world.lease("a", None, job=EXPIRE)
    assert lease.live
    with pytest.raises(Missing, match="cannot be held") as refused:
        held(world, made[0], wait_s=0)
    (left,) = world.keys(kind="holds")
    assert f"drkit hold release {left.rsplit('/')[-1].removesuffix('.hold')}`" in refused.value.cure
    world.clock.pass_by(timedelta(seconds=901))
    assert held(world, made[0], wait_s=0).safe == ("a",)
