"""Expiry on targets in memory: what goes, what stays, and what happens beside other writers."""

from __future__ import annotations

import os
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from drkit.core.errors import Damage, Refused, Unreachable
from drkit.jobs.expire import expire
from drkit.repository.leases import Verdict
from drkit.repository.target import Target
from policies.retention import Windows
from storage_backends.api import Key, ObjectInfo, Traits, Upload
from storage_backends.errors import Unavailable, Unsupported
from storage_backends.memory import MemoryBackend
from storage_backends.posix import PosixBackend
from tests.jobs.expire_world import DAY, KEYS, Days, ExpireWorld, Hooked, done, plain
from tests.repository.samples import add_slot


def test_without_a_window_nothing_expires() -> None:
    world = ExpireWorld()
    world.windows = Windows()
    world.days(30)
    before = world.keys()
    world.expire_twice()
    assert world.keys() == before


def test_what_is_past_its_windows_goes_behind_tombstones_and_after_the_grace() -> None:
    world = ExpireWorld()
    made = world.days(6)
    before = world.keys()
    plan = world.plan().plan
    assert plan is not None
    assert [item.copy.id for item in plan.going] == [made[0].id, made[1].id]
    assert all(item.reasons for item in plan.items)
    assert world.keys() == before, "a plan changes nothing"
    done(world.expire())
    assert before <= world.keys(), "nothing goes before its grace"
    assert world.good() == {one.id for one in made[2:]}
    world.clock.pass_by(world.grace + timedelta(minutes=5))
    done(world.expire())
    left = world.keys()
    for one in made[:2]:
        assert not left & {*one.objects, world.layout.manifest(one.run)}, "fingerprints go too"
        assert f"{world.layout.folder('manifests')}{one.id}" in world.buried(), "a tombstone outlives its object"
    for one in made[2:]:
        assert left >= {*one.objects, world.layout.manifest(one.run)}
    assert world.good() == {one.id for one in made[2:]}


def test_what_a_kept_backup_adopted_stays() -> None:
    world = ExpireWorld()
    old = world.days(1)[0]
    kept = [world.days(1, adopts=old)[0] for _ in range(5)]
    world.expire_twice()
    assert old.id not in world.good() and world.good() == {one.id for one in kept[1:]}
    assert world.keys("a", "packs") >= {key for key in old.objects if "/packs/" in key}
    assert not world.keys("a", "packs") & {key for key in kept[0].objects if "/packs/" in key}


def test_wal_inside_the_window_stays_and_outside_only_what_backups_need() -> None:
    world = ExpireWorld()
    world.windows = Windows(pitr=2 * DAY, daily=Days(2), weekly=Days(14), min_full=1)
    made = world.days(10)
    behind = world.archive(3)
    world.expire_twice()
    good = [one for one in made if one.id in world.good()]
    base = made[-4]  # it ended before the window of two days opened
    assert base in good and made[-3] in good
    needed = {name for one in good for name in one.wal}
    assert world.segments() >= needed | set(behind)
    assert {name for name in world.segments() if name < base.wal[0]} == {n for n in needed if n < base.wal[0]}
    first = int(base.wal[0], 16)
    held = {int(name, 16) for name in world.segments() if int(name, 16) >= first}
    assert held == set(range(first, int(behind[-1], 16) + 1)), "unbroken from the base on"


def test_without_a_recovery_window_wal_stays_from_the_oldest_kept_backup_on() -> None:
    world = ExpireWorld()
    made = world.days(6)
    world.expire_twice()
    assert min(world.segments()) == made[2].wal[0]


def test_each_target_has_windows_of_its_own() -> None:
    """What expired on one and is kept on the other is not kept on both: data goes too."""
    world = ExpireWorld(names=("a", "b"))
    world.windows = Windows(daily=Days(90), min_full=1)
    made = world.days(8)
    short = replace(world.order().terms["a"], windows=Windows(daily=Days(2), min_full=1))
    terms = {"a": short, "b": world.order().terms["b"]}
    for _ in range(2):
        done(expire(replace(world.order(), terms=terms, removes=0 if _ else 5), world.means()))
        world.clock.pass_by(world.grace + DAY)
    assert world.good("a") == {one.id for one in made[5:]} and world.good("b") == {one.id for one in made}
    assert not any(set(one.objects) & world.keys("a") for one in made[:5])
    assert min(world.segments("a")) == made[5].wal[0]


def test_a_copy_whose_twin_elsewhere_is_damaged_stays() -> None:
    world = ExpireWorld(names=("a", "b"))
    made = world.days(8)
    lost = next(key for key in made[0].objects if "/packs/" in key)
    world.backends["b"].delete(Key(lost))
    done(world.expire(only="a"))
    assert made[0].id in world.good("a"), "b may be repaired from it"
    assert made[1].id not in world.good("a")
    world._put("b", lost, made[0].objects[lost])
    done(world.expire(only="a"))
    assert made[0].id not in world.good("a")


def test_much_at_once_wants_its_number() -> None:
    world = ExpireWorld()
    world.days(20)
    with pytest.raises(Refused, match="16 backups"):
        expire(world.order(), world.means())
    with pytest.raises(Refused, match="16 backups, not 3"):
        expire(world.order(removes=3), world.means())
    assert world.buried() == set()
    done(expire(world.order(removes=16), world.means()))
    assert len(world.good()) == 4


def test_a_cap_for_each_run() -> None:
    world = ExpireWorld()
    world.days(20)
    terms = world.order().terms["a"]
    order = world.order(removes=16)
    capped = replace(order, terms={"a": replace(terms, cap=5)})
    done(expire(capped, world.means()))
    assert len(world.good()) == 15


@pytest.mark.parametrize("until", ["data", "manifest"])
def test_a_killed_run_goes_once_its_lease_has_run_out(until: str) -> None:
    world = ExpireWorld()
    kept = world.days(2)
    dead = world.backup(until=until)
    lease = world.lease("a", dead.run)
    done(world.expire())
    assert world.buried() == set(), "it may still be at work"
    world.clock.pass_by(timedelta(seconds=lease._terms.lasts_s + 1))
    done(world.expire())
    assert world.decide(dead, "a") is Verdict.WITHDRAWN, "its writer comes too late"
    world.clock.pass_by(world.grace + DAY)
    done(world.expire())
    done(world.expire())
    assert not world.keys() & {*dead.objects, world.layout.manifest(dead.run)}
    assert world.keys("a", "leases") == set()
    assert world.good() == {one.id for one in kept}


def test_a_writer_that_was_faster_keeps_its_backup() -> None:
    """Its lease ran out, but it decides before the expirer does."""
    world = ExpireWorld()
    world.days(1)
    late = world.backup(until="manifest")
    world.lease("a", late.run)
    world.clock.pass_by(timedelta(hours=1))

    def race(verb: str, key: str) -> None:
        if verb == "create" and "/verdicts/" in key:
            world.decide(late, "a")

    world.wrap = lambda name, backend: Hooked(backend, race)
    done(world.expire())
    assert late.id in world.good()
    world.wrap = plain
    world.expire_twice()
    assert late.id in world.good() and set(late.objects) <= world.keys()


def test_a_backup_that_a_running_one_adopts_from_stays() -> None:
    world = ExpireWorld()
    world.windows = Windows(daily=Days(1), min_full=1)
    made = world.days(4)
    running = world.lease("a", None, made[0])
    plan = world.plan().plan
    assert plan is not None
    reasons = {item.copy.id: item.reasons for item in plan.items}
    assert reasons[made[0].id] == ("in use by a backup on elsewhere",)
    done(world.expire())
    assert made[0].id in world.good()
    running.release()
    done(world.expire())
    assert made[0].id not in world.good()


def test_data_behind_a_tombstone_stays_while_a_lease_goes_through_it() -> None:
    """The lease came after the tombstone: its holder will notice, but its reads must not break."""
    world = ExpireWorld()
    world.windows = Windows(daily=Days(1), min_full=1)
    made = world.days(4)
    done(world.expire())
    world.clock.pass_by(world.grace + DAY)
    lease = world.lease("a", None, made[0], lasts_s=10**6)
    done(world.expire())
    assert set(made[0].objects) <= world.keys() and {world.layout.manifest(made[0].run)} <= world.keys()
    assert not set(made[1].objects) & world.keys()
    lease.release()
    done(world.expire())
    assert not set(made[0].objects) & world.keys()


def test_what_is_good_elsewhere_and_not_complete_here_stays_whole() -> None:
    world = ExpireWorld(names=("a", "b"))
    world.windows = Windows(daily=Days(1), min_full=1)
    parent = world.days(1)[0]
    world.clock.pass_by(DAY)
    partly = world.backup(on=["a"], adopts=parent)
    world.store(partly, "b", until="data")
    for name in partly.wal:
        world._put("b", world.layout.wal(name), world.target("a").read(world.layout.wal(name)))
    later = world.days(4)
    plan = world.plan("b").plan
    assert plan is not None
    assert {i.copy.id: i.reasons for i in plan.items}[parent.id] == (
        "a backup that is not complete here yet shares its data",
    )
    world.windows = Windows(daily=Days(30), min_full=1)  # what goes on `a` is another matter
    world.expire_twice()
    assert set(partly.objects) | set(parent.objects) <= world.keys("b")
    world.store(partly, "b")
    assert world.good("b") == {parent.id, partly.id, *(one.id for one in later)}


def test_a_run_that_was_dropped_here_and_goes_on_elsewhere_is_not_judged() -> None:
    world = ExpireWorld(names=("a", "b"))
    world.days(1)
    running = world.backup(until="data")
    lease = world.lease("a", running.run, lasts_s=10**6)
    world.clock.pass_by(2 * DAY)
    done(world.expire())
    assert set(running.objects) <= world.keys("b") - world.buried("b")
    assert f"{world.layout.folder('verdicts')}{running.id}" not in world.keys("b")
    world.store(running, "a")
    lease.release()
    world.store(running, "b")
    assert running.id in world.good("a") & world.good("b")


def test_while_another_target_is_away_only_old_tombstones_are_carried_out() -> None:
    world = ExpireWorld(names=("a", "b"))
    made = world.days(6)
    done(world.expire(only="a"))
    world.days(3)
    world.clock.pass_by(world.grace)
    world.left_out["b"] = Unavailable("list", where="b")
    before = world.buried()
    outcome = next(one for one in world.expire() if one.target == "a")
    assert isinstance(outcome.problem, Unreachable) and "b" in outcome.problem.why
    assert world.buried() == before, "nothing new was decided"
    assert not set(made[0].objects) & world.keys("a")


def test_a_store_that_ignores_conditions_is_refused() -> None:
    class Careless(MemoryBackend):
        @property
        def traits(self) -> Traits:
            return replace(super().traits, conditional_create=False)

    world = ExpireWorld()
    world.backends["a"] = Careless("a", clock=world.clock.now)
    world.days(6)
    (outcome,) = expire(world.order(), world.means())
    assert isinstance(outcome.problem, Unsupported)
    assert world.buried() == set() and not list(world.backends["a"].list("canaries/"))


def test_a_store_that_knows_whether_it_heeds_conditions_only_once_it_was_asked() -> None:
    """As a bucket: nothing is claimed before its first create."""

    class Unasked(MemoryBackend):
        asked = False

        @property
        def traits(self) -> Traits:
            return replace(super().traits, conditional_create=self.asked)

        def create(self, key: Key, size_bytes: int | None = None, *, replacing: ObjectInfo | None = None) -> Upload:
            self.asked = True
            return super().create(key, size_bytes, replacing=replacing)

    world = ExpireWorld()
    world.backends["a"] = store = Unasked("a", clock=world.clock.now)
    add_slot(world.target("a"), KEYS)
    world.days(6)
    store.asked = False
    assert world.plan().plan is not None, "a plan creates nothing, and so cannot ask"
    (outcome,) = world.expire()
    assert outcome.done is not None and len(outcome.done.backups) == 2


def test_a_store_that_only_says_that_it_heeds_conditions_is_refused() -> None:
    def forget(verb: str, key: str) -> None:
        if verb == "create":
            world.backends["a"].delete(Key(key))

    world = ExpireWorld()
    world.days(6)
    world.wrap = lambda name, backend: Hooked(backend, forget)
    (outcome,) = expire(world.order(), world.means())
    assert isinstance(outcome.problem, Unsupported)


def test_clocks_that_are_apart_are_refused() -> None:
    world = ExpireWorld()
    world.days(6)

    ahead = MemoryBackend("a", clock=lambda: world.clock.now() + timedelta(minutes=2))
    for info in world.backends["a"].list(""):
        data = world.target("a").read(info.key)
        Target("a", ahead, "", "disk").write(info.key, [data], len(data))
    world.backends["a"] = ahead
    (outcome,) = expire(world.order(), world.means())
    assert isinstance(outcome.problem, Refused) and "clocks" in str(outcome.problem)


def test_a_manifest_that_opens_nowhere_keeps_all_data() -> None:
    world = ExpireWorld()
    made = world.days(8)
    broken = made[-1]
    key = world.layout.manifest(broken.run)
    world.backends["a"].delete(key)
    world._put("a", key, broken.manifest[:-40] + bytes(40))
    outcome = world.expire()[0]
    assert outcome.problem is not None and broken.id in str(outcome.problem)
    assert set(made[0].objects) <= world.keys() - world.buried()


def test_a_lease_or_a_round_that_does_not_open_stops_expiry_there() -> None:
    for kind in ("leases/0011223344556677-00000001", "tombstones/20260101T000000Z-00112233"):
        world = ExpireWorld()
        world.days(6)
        world._put("a", f"{world.layout.root}{kind}", b"x" * 300)
        outcome = expire(world.order(), world.means())[0]
        assert isinstance(outcome.problem, Damage)
        assert len(world.keys("a", "tombstones")) == kind.startswith("tomb")


def test_an_expirer_that_was_stopped_past_its_lease_decides_nothing_more() -> None:
    world = ExpireWorld()
    world.days(6)

    def stop(verb: str, prefix: str) -> None:
        if prefix.endswith("verdicts/") and verb == "list":
            world.clock.pass_by(timedelta(hours=2))

    world.wrap = lambda name, backend: Hooked(backend, stop)
    (outcome,) = expire(world.order(removes=2), world.means())
    assert outcome.problem is not None
    assert world.buried() == set()


def test_old_rounds_become_one_and_tombstones_stay() -> None:
    world = ExpireWorld()
    world.windows = Windows(daily=Days(1), min_full=1)
    for _ in range(60):
        world.days(1)
        done(world.expire())
    before = world.buried()
    assert len(world.keys("a", "tombstones")) < 60
    world.days(5)
    done(world.expire())
    assert before <= world.buried()
    assert len(world.good()) == 2


def test_what_killed_processes_left_beside_objects_goes_after_a_day(tmp_path: Path) -> None:
    world = ExpireWorld()
    world.backends["a"] = store = PosixBackend(tmp_path, create_root=True)
    world.clock.pass_by(datetime.now(UTC) - world.clock.now())  # the folder's clock is this machine's
    add_slot(world.target("a"), KEYS)
    made = world.backup()
    canary = Key("canaries/expire-0123456789abcdef")
    world.target("a").write(canary, [b"drkit"], 5)
    unfinished = store.create(Key(f"{world.layout.folder('packs')}{made.id}/00000009"))
    unfinished.write(b"half")
    left = [tmp_path / canary, *tmp_path.rglob("*.tmp")]
    assert len(left) == 2
    done(world.expire())
    assert all(path.exists() for path in left), "somebody may be at work"
    a_day_ago_s = (datetime.now(UTC) - timedelta(hours=25)).timestamp()
    for path in left:
        os.utime(path, (a_day_ago_s, a_day_ago_s))
    done(world.expire())
    assert not any(path.exists() for path in left)
    assert set(made.objects) <= world.keys()


def test_a_backup_whose_manifest_was_lost_here_stays_elsewhere_until_it_is_mended() -> None:
    """Were it let go there, nobody could say any more what its data here is for."""
    world = ExpireWorld(names=("a", "b"))
    lost = world.days(6)[0]
    world.backends["a"].delete(world.layout.manifest(lost.run))
    world.expire_twice()
    assert lost.id in world.good("b") and set(lost.objects) <= world.keys("a")
    world.store(lost, "a")
    world.expire_twice()
    assert not {lost.id} & (world.good("a") | world.good("b"))
    assert not set(lost.objects) & (world.keys("a") | world.keys("b"))


def test_where_no_manifest_of_a_backup_is_left_nothing_goes_until_its_verdict_is_deleted_by_hand() -> None:
    world = ExpireWorld()
    made = world.days(6)
    world.backends["a"].delete(world.layout.manifest(made[4].run))
    plan = world.plan().plan
    assert plan is not None and f"delete {world.layout.verdict(made[4].run)}" in plan.waits
    world.expire()
    assert set(made[0].objects) <= world.keys() and world.buried() == set()
    world.backends["a"].delete(world.layout.verdict(made[4].run))
    world.expire_twice()
    assert not (set(made[4].objects) | set(made[0].objects)) & world.keys()
    assert made[5].id in world.good()
