"""Expiry while another target cannot be asked: it deletes behind old tombstones, and judges nothing."""

from __future__ import annotations

from datetime import timedelta

from storage_backends.errors import Unavailable
from tests.jobs.expire_world import ExpireWorld, done


def test_a_lease_that_ran_out_protects_on_until_somebody_judged_its_run() -> None:
    """A backup that was stopped before its verdict: the target that is away may have decided, and nobody knows."""
    world = ExpireWorld(names=("a", "b"))
    made = world.days(3)
    stopped = world.backup(until="manifest", on=["b"])
    lease = world.lease("b", stopped.run, made[-1])
    world.clock.pass_by(timedelta(hours=1))
    assert not lease.live
    before = world.keys("b", "leases")
    world.left_out["a"] = Unavailable("list", where="a")
    world.expire(only="b")
    assert world.keys("b", "leases") == before
    world.left_out = {}
    done(world.expire(only="b"))
    assert not world.keys("b", "leases") and world.layout.manifest(stopped.run) in world.buried("b")
