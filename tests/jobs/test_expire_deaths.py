"""Expiry that dies anywhere, and two at once: nothing good is lost, and the next run goes on to the same end."""

from __future__ import annotations

from contextlib import suppress
from datetime import timedelta

import pytest

from drkit.core.errors import Refused
from drkit.jobs.expire import expire
from drkit.repository.catalogue import State, read_catalogue
from tests.jobs.expire_world import DAY, ExpireWorld, Hooked, Made, done, plain


def meddled(at: int) -> tuple[ExpireWorld, int, Made]:
    """A run of expiry with another one, whole, before its effect number `at`; how many effects there were."""
    world = ExpireWorld()
    world.days(6)
    dead = world.backup(until="manifest")
    world.clock.pass_by(timedelta(hours=1))
    effects = 0

    def meddle(verb: str, key: str) -> None:
        nonlocal effects
        effects += verb != "list"
        if effects == at and verb != "list":
            world.wrap = plain
            with suppress(Refused):
                world.expire()

    world.wrap = lambda name, backend: Hooked(backend, meddle)
    with suppress(Refused):  # the number typed was true before the other one was faster
        world.expire()
    world.wrap = plain
    return world, effects, dead


def test_two_expirers_at_once_do_what_one_does() -> None:
    _, effects, _ = meddled(0)
    assert effects > 10
    for at in range(1, effects + 1):
        world, _, dead = meddled(at)
        world.clock.pass_by(world.grace + DAY)
        done(world.expire())
        done(world.expire())
        assert len(world.good()) == 4
        assert not set(dead.objects) & world.keys()


# --- deaths --------------------------------------------------------------------------------------------------------


class Died(BaseException):
    """The process is gone: nothing after this line happens."""


def killed(at: int) -> tuple[ExpireWorld, int]:
    """Expiry with something to do in every step, dead before its effect number `at`; after it is before the next."""
    world = ExpireWorld(names=("a", "b"))
    made = world.days(8)
    done(world.expire())
    world.clock.pass_by(world.grace)
    world.days(3, adopts=made[-1])
    world.backup(until="data")
    world.lease("a", world.backup(until="manifest").run)
    world.clock.pass_by(timedelta(hours=1))
    effects = 0
    dead = False

    def die(verb: str, key: str) -> None:
        nonlocal effects, dead
        if verb == "list" and not dead:
            return
        effects += 1
        if dead or effects == at:
            dead = True
            raise Died

    count = sum(len(one.plan.going) for one in expire(world.order(apply=False), world.means()) if one.plan)
    world.wrap = lambda name, backend: Hooked(backend, die)
    try:
        expire(world.order(removes=count), world.means())
    except Died:
        pass
    world.wrap = plain
    return world, effects


def whole(world: ExpireWorld, name: str) -> set[str]:
    """Backups that verdict and tombstones call good; each has all that it references."""
    good = world.good(name)
    catalogue = read_catalogue(world.means().repository, world.system)
    for one in catalogue.backups:
        if one.summary.backup in good:
            assert {r.key(world.layout) for r in one.references} <= world.keys(name) - world.buried(name)
    seems = {b.summary.backup for b in catalogue.backups if b.standings[name].state is State.BROKEN}
    assert not seems, "nothing is broken"
    return good


def kill_at_every(step: int) -> None:
    after_all: dict[str, set[str]] = {}
    _, effects = killed(0)
    assert effects > 40
    for at in range(1, effects + 1, step):
        world, _ = killed(at)
        good = {name: whole(world, name) for name in world.names}
        assert all(len(ids) >= 3 for ids in good.values())
        world.clock.pass_by(timedelta(hours=2))
        done(world.expire())
        left = {name: whole(world, name) for name in world.names}
        assert all(left[name] <= good[name] and len(left[name]) == 3 for name in world.names)
        world.clock.pass_by(world.grace + DAY)
        done(world.expire())
        done(world.expire())
        for name in world.names:
            assert whole(world, name) == left[name]
            rubbish = {key for kind in ("packs", "maps", "fingerprints", "manifests") for key in world.keys(name, kind)}
            assert not rubbish & world.buried(name)
            assert world.keys(name, "leases") == set()
            assert after_all.setdefault(name, rubbish) == rubbish, "the same in the end wherever it died"


def test_expiry_killed_at_some_effects_loses_nothing_and_goes_on() -> None:
    kill_at_every(4)


@pytest.mark.torture
def test_expiry_killed_at_every_effect_loses_nothing_and_goes_on() -> None:
    kill_at_every(1)
