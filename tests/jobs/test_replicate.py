"""Replication between targets: what one has, all get; what was decided on one stays there."""

from __future__ import annotations

import random
import threading
from dataclasses import replace
from pathlib import Path

import blake3
import pytest

from drkit.core.flow import Group
from drkit.crypto.container import DIGEST_BYTES, END_BYTES, check_digest
from drkit.jobs.replicate import replicate
from drkit.jobs.replicate_plan import plan_backups
from drkit.repository import copying
from drkit.repository.catalogue import State, judge
from drkit.repository.inventory import Inventory
from drkit.repository.layout import KEYS
from drkit.repository.leases import Verdict
from drkit.repository.manifest import REFERENCE_BYTES
from storage_backends.api import Key
from storage_backends.errors import OutOfSpace, Unavailable
from storage_backends.faulty import Faulty
from storage_backends.memory import MemoryBackend
from tests.crypto.rings import ring
from tests.jobs.replicate_world import Copies
from tests.jobs.wal_world import flip, replace_object
from tests.repository.samples import LAYOUT, SEGMENT, add_slot, bury, judged

NEXT = "000000010000000000000002"
AFTER = "000000010000000100000007"
HISTORY = "00000002.history"


@pytest.fixture
def copies(tmp_path: Path) -> Copies:
    return Copies(tmp_path, {"a": MemoryBackend("a"), "b": MemoryBackend("b")})


def three(tmp_path: Path) -> Copies:
    return Copies(tmp_path, {name: MemoryBackend(name) for name in "abc"})


def is_clean(copies: Copies, *names: str) -> bool:
    return not any(copies.leases(name) for name in names)


def test_a_target_that_missed_everything_gets_it(copies: Copies) -> None:
    ones = [copies.sample(seed) for seed in (1, 2, 3)]
    for one in ones:
        copies.store(one, "a")
    for file in (NEXT, AFTER, HISTORY, f"{AFTER}.partial"):
        copies.wal("a", file)
    plan = copies.plan()
    assert [len(plan.systems[0].todo[name]) for name in "ab"] == [0, 3]
    assert copies.keys("b") < copies.keys("a"), "a plan changes nothing"

    done = copies.replicate()

    assert copies.content("a") == copies.content("b")
    assert {state for _, _, state in copies.states()} == {State.GOOD}
    outcome = done.outcomes["b"]
    assert sorted(outcome.completed) == sorted(str(one.run) for one in ones) and not outcome.left
    assert outcome.account.size_bytes <= plan.size_bytes("b") + 3 * (10_000 + REFERENCE_BYTES)
    assert not done.outcomes["a"].completed and is_clean(copies, "a", "b")
    again = copies.replicate()
    assert [one.account.objects for one in again.outcomes.values()] == [{}, {}]


def test_a_new_target_is_filled_from_two_that_each_lack_something(tmp_path: Path) -> None:
    copies = three(tmp_path)
    first, second = copies.sample(1), copies.sample(2)
    copies.store(first, "a")
    copies.store(second, "b")
    copies.wal("a", NEXT)
    copies.wal("b", AFTER)
    copies.replicate()
    assert copies.content("a").keys() == copies.content("b").keys() == copies.content("c").keys()
    assert {state for _, _, state in copies.states()} == {State.GOOD}


def test_only_named_targets_are_read_and_written(tmp_path: Path) -> None:
    copies = three(tmp_path)
    copies.store(copies.sample(1), "a")
    copies.store(copies.sample(2), "b")
    before = copies.content("b")
    done = copies.replicate(sources=["a"], to=["c"])
    assert set(done.outcomes) == {"c"}
    assert copies.content("b") == before and copies.content("c") == copies.content("a")


def test_what_is_there_is_not_copied_again(copies: Copies) -> None:
    one = copies.sample(1)
    copies.store(one, "a")
    copies.store(one, "b", manifest=False, good=False)
    done = copies.replicate()
    assert done.outcomes["b"].account.objects == {"manifests": 1}
    assert copies.state(one, "b") is State.GOOD


def test_a_manifest_without_a_verdict_is_completed(copies: Copies) -> None:
    one = copies.sample(1)
    copies.store(one, "a")
    copies.store(one, "b", good=False)
    assert copies.state(one, "b") is State.PENDING
    done = copies.replicate()
    assert copies.state(one, "b") is State.GOOD and done.outcomes["b"].account.objects == {}


def test_what_is_good_nowhere_is_left_alone(copies: Copies) -> None:
    one = copies.sample(1)
    copies.store(one, "a", good=False)
    before = copies.content("b")
    copies.replicate()
    assert copies.content("b").keys() - before.keys() == {str(LAYOUT.wal(SEGMENT))}, "its WAL is WAL like any other"
    assert copies.state(one, "a") is State.PENDING


@pytest.mark.parametrize("kind", ["withdrawn", "expired"])
def test_what_was_decided_at_the_source_is_not_copied(copies: Copies, kind: str) -> None:
    one = copies.sample(1)
    copies.store(one, "a", good=kind == "expired")
    if kind == "expired":
        bury(copies.target("a"), one.key, *one.objects, ring_=copies.ring)
    else:
        judged(copies.target("a"), one.run, Verdict.WITHDRAWN, copies.ring)
    copies.replicate()
    assert str(one.key) not in copies.keys("b")
    assert not [key for key in copies.keys("b") if "/packs/" in key or "/maps/" in key]
    if kind == "expired":
        assert str(LAYOUT.wal(SEGMENT)) not in copies.keys("b")


def test_what_was_decided_at_the_destination_stands(copies: Copies) -> None:
    expired, withdrawn = copies.sample(1), copies.sample(2)
    for one in (expired, withdrawn):
        copies.store(one, "a")
    bury(copies.target("b"), expired.key, *(key for key in expired.objects if "/wal/" not in key), ring_=copies.ring)
    judged(copies.target("b"), withdrawn.run, Verdict.WITHDRAWN, copies.ring)
    done = copies.replicate()
    assert not done.outcomes["b"].completed and all(left.final for left in done.outcomes["b"].left)
    assert {left.state for left in done.outcomes["b"].left} == {"expired", "withdrawn"}
    assert not [key for key in copies.keys("b") if "/packs/" in key or "/manifests/" in key]


def test_nothing_that_has_a_tombstone_at_the_destination_is_created(copies: Copies) -> None:
    """Also not for a backup that nobody decided about there: it stays pending."""
    one = copies.sample(1)
    copies.store(one, "a")
    copies.wal("a", NEXT)
    pack = next(key for key in one.objects if "/packs/" in key)
    bury(copies.target("b"), pack, LAYOUT.wal(NEXT), ring_=copies.ring)
    copies.replicate()
    assert pack not in copies.keys("b") and str(LAYOUT.wal(NEXT)) not in copies.keys("b")
    assert copies.state(one, "b") is State.EXPIRED


def test_what_lay_there_is_relied_on_only_while_its_run_has_no_tombstone(copies: Copies) -> None:
    """Objects of a run that is to go may be deleted at any time by who listed before our lease."""
    child, parent = copies.sample(1), copies.sample(2)
    copies.store(child, "a")
    copies.store(child, "b", manifest=False, good=False)
    pack = next(key for key in child.objects if "/packs/" in key)
    assert str(child.run) in pack
    bury(copies.target("b"), parent.key, ring_=copies.ring)
    copies.replicate()
    assert copies.state(child, "b") is State.GOOD, "another run's tombstone does not matter"


def test_a_damaged_copy_is_passed_over_for_the_other(tmp_path: Path) -> None:
    copies = three(tmp_path)
    one = copies.sample(1)
    for name in "ab":
        copies.store(one, name)
        copies.wal(name, NEXT)
    bad = [next(key for key in one.objects if f"/{folder}/" in key) for folder in ("packs", "maps", "fingerprints")]
    bad += [str(LAYOUT.wal(NEXT)), str(LAYOUT.wal(SEGMENT)), str(one.key)]
    for key in bad:
        flip(copies.backends["a"], Key(key))
    done = copies.replicate(to=["c"])
    assert copies.content("c") == copies.content("b")
    assert copies.state(one, "c") is State.GOOD
    assert {key for name, key in done.damaged if name == "a"} == set(bad) - {str(one.key)} | {str(one.key)}


def test_what_is_damaged_everywhere_is_named_and_never_copied(copies: Copies) -> None:
    one, other = copies.sample(1), copies.sample(2)
    for each in (one, other):
        copies.store(each, "a")
    copies.wal("a", NEXT)
    pack = next(key for key in one.objects if "/packs/" in key)
    flip(copies.backends["a"], Key(pack))
    flip(copies.backends["a"], LAYOUT.wal(NEXT))
    done = copies.replicate()
    assert set(done.outcomes["b"].account.lost) == {pack, str(LAYOUT.wal(NEXT))}
    assert not {pack, str(LAYOUT.wal(NEXT)), str(one.key)} & copies.keys("b")
    assert copies.state(one, "b") is State.PENDING and copies.state(other, "b") is State.GOOD
    assert is_clean(copies, "b")


@pytest.mark.parametrize("how", ["flipped", "short"])
def test_what_is_damaged_at_the_destination_stays_and_is_named(copies: Copies, how: str) -> None:
    """To replace it is the work of repair."""
    one = copies.sample(1)
    copies.store(one, "a")
    copies.store(one, "b", manifest=False, good=False)
    pack = Key(next(key for key in one.objects if "/packs/" in key))
    data = copies.target("b").read(pack)
    other = data[:-1] + bytes([data[-1] ^ 1]) if how == "flipped" else data[:-5]
    replace_object(copies.backends["b"], pack, other)
    done = copies.replicate()
    assert copies.target("b").read(pack) == other
    assert set(done.outcomes["b"].account.refused) == {str(pack)}
    assert copies.state(one, "b") is State.PENDING


def test_a_broken_backup_gets_back_what_is_missing(copies: Copies) -> None:
    one = copies.sample(1)
    for name in "ab":
        copies.store(one, name)
    for key in (key for key in one.objects if "/packs/" in key or "/wal/" in key):
        copies.backends["b"].delete(Key(key))
    assert copies.state(one, "b") is State.BROKEN
    copies.replicate()
    assert copies.state(one, "b") is State.GOOD and copies.content("a") == copies.content("b")


def test_twins_are_listed_and_are_as_good(copies: Copies) -> None:
    content = bytes(range(256)) * 4000
    copies.wal("a", NEXT, content, level=1)
    copies.wal("b", NEXT, content, level=19)
    copies.store(copies.sample(1), "a")
    done = copies.replicate()
    assert done.plan.differences.twins == {str(LAYOUT.wal(NEXT)): ("a", "b")}
    assert not done.plan.differences.conflicts and not done.outcomes["b"].account.refused


def test_a_backup_takes_a_twin_of_its_wal(copies: Copies) -> None:
    one = copies.sample(1)
    copies.store(one, "a")
    copies.wal("b", SEGMENT, b"wal" * 1000, level=19)
    copies.replicate()
    assert copies.state(one, "b") is State.GOOD


def test_other_content_under_one_name_is_reported_and_nothing_is_overwritten(tmp_path: Path) -> None:
    copies = three(tmp_path)
    copies.store(copies.sample(1), "c")
    copies.wal("a", NEXT, b"one" * 1000)
    copies.wal("b", NEXT, b"another" * 2000)
    copies.wal("a", HISTORY, b"1\t0/3000000\tno\n")
    copies.wal("b", HISTORY, b"1\t0/4000000\tno\n")
    before = copies.content("a") | {"b": copies.target("b").read(LAYOUT.wal(NEXT))}
    done = copies.replicate()
    assert set(done.plan.differences.conflicts) == {str(LAYOUT.wal(NEXT)), str(LAYOUT.history(HISTORY))}
    assert copies.target("a").read(LAYOUT.wal(NEXT)) == before[LAYOUT.wal(NEXT)]
    assert copies.target("b").read(LAYOUT.wal(NEXT)) == before["b"]
    assert str(LAYOUT.wal(NEXT)) not in copies.keys("c"), "nobody knows which of the two is right"


def test_a_backup_whose_wal_has_other_content_at_the_destination_is_not_completed(copies: Copies) -> None:
    one = copies.sample(1)
    copies.store(one, "a")
    copies.wal("b", SEGMENT, b"something else" * 100)
    done = copies.replicate()
    assert copies.state(one, "b") is State.PENDING
    assert done.outcomes["b"].account.conflicts == {str(LAYOUT.wal(SEGMENT))}


def test_a_full_destination_is_given_up_and_the_others_are_served(tmp_path: Path) -> None:
    copies = three(tmp_path)
    one = copies.sample(1)
    copies.store(one, "a")
    inner = copies.backends["b"]
    copies.backends["b"] = Faulty(inner, f"commit={LAYOUT.root}packs:full*")
    done = copies.replicate()
    assert isinstance(done.outcomes["b"].failed, OutOfSpace) and done.outcomes["c"].failed is None
    assert copies.state(one, "c") is State.GOOD and copies.state(one, "b") is State.PENDING
    copies.backends["b"] = inner
    copies.replicate()
    assert copies.state(one, "b") is State.GOOD and copies.content("b") == copies.content("a")


def test_a_source_that_goes_away_is_left_for_the_next_one(tmp_path: Path) -> None:
    copies = three(tmp_path)
    one = copies.sample(1)
    for name in "ab":
        copies.store(one, name)
    inner = copies.backends["a"]
    copies.backends["a"] = Faulty(inner, f"open={LAYOUT.root}packs:503*; open={LAYOUT.root}maps:503*")
    copies.replicate(to=["c"])
    assert copies.state(one, "c") is State.GOOD


def test_without_any_source_left_it_is_unread_and_the_next_run_completes(copies: Copies) -> None:
    one = copies.sample(1)
    copies.store(one, "a")
    inner = copies.backends["a"]
    copies.backends["a"] = Faulty(inner, f"open={LAYOUT.root}packs:503*")
    done = copies.replicate()
    assert done.outcomes["b"].account.unread and copies.state(one, "b") is State.PENDING
    copies.backends["a"] = inner
    copies.replicate()
    assert copies.state(one, "b") is State.GOOD


def test_a_target_that_cannot_be_listed_gets_nothing_and_nothing_is_taken_for_missing(tmp_path: Path) -> None:
    copies = three(tmp_path)
    copies.store(copies.sample(1), "a")
    for file in (NEXT, AFTER):
        for name in "ab":
            copies.wal(name, file)
    inner = copies.backends["b"]
    copies.backends["b"] = Faulty(inner, f"list={LAYOUT.folder('wal')}:lost*")
    done = copies.replicate()
    assert done.outcomes["b"].failed is not None and done.outcomes["c"].failed is None
    assert copies.keys("c") == copies.keys("a")


def test_a_target_that_is_absent_is_no_obstacle(tmp_path: Path) -> None:
    copies = three(tmp_path)
    one = copies.sample(1)
    copies.store(one, "a")
    copies.absent["b"] = Unavailable("open", where="b")
    done = copies.replicate()
    assert set(done.outcomes) == {"a", "c"} and copies.state(one, "c") is State.GOOD


def test_slots_of_a_new_epoch_and_records_of_retirement_go_everywhere(copies: Copies) -> None:
    slot = add_slot(copies.target("a"), copies.ring, seed=7)
    copies.replicate()
    assert slot in copies.keys("b")


def test_a_slot_that_a_lost_race_left_stays_where_it_is(copies: Copies) -> None:
    slot = add_slot(copies.target("a"), ring(repository=copies.ring.repository, seed=99), seed=8)
    done = copies.replicate()
    assert slot not in copies.keys("b") and not done.outcomes["b"].account.lost
    assert len([key for key in copies.keys("b") if key.startswith(KEYS)]) == 1


def test_an_object_of_another_repository_is_not_copied(tmp_path: Path) -> None:
    copies = Copies(tmp_path, {"a": MemoryBackend("a"), "b": MemoryBackend("b")})
    copies.store(copies.sample(1), "a")
    foreign = Key(f"{LAYOUT.wal_folder(1, 0)}{NEXT}")
    copies.target("a").write(foreign, [b"junk" * 100], 400)
    done = copies.replicate()
    assert str(foreign) not in copies.keys("b") and set(done.outcomes["b"].account.lost) == {str(foreign)}


def once(copies: Copies, begin: threading.Barrier) -> None:
    """One replicator, which begins with others."""
    order, means = copies.order(), copies.means()
    begin.wait(20)
    done = replicate(order, means)
    assert [outcome.account.troubles for outcome in done.outcomes.values()] == [0, 0, 0]
    assert not any(outcome.failed for outcome in done.outcomes.values())


def test_two_replicators_at_once_are_as_good_as_one(tmp_path: Path) -> None:
    for round_ in range(5):
        copies = Copies(tmp_path / str(round_), {name: MemoryBackend(name) for name in "abc"})
        ones = [copies.sample(seed) for seed in range(1, 6)]
        for one in ones:
            copies.store(one, "a")
        for number in range(20):
            copies.wal("a", f"0000000100000000000001{number:02X}")

        begin = threading.Barrier(2)
        with Group(copies.token) as group:
            for number in range(2):
                group.start(str(number), once, copies, begin)
        assert copies.content("a") == copies.content("b") == copies.content("c")
        assert {state for _, _, state in copies.states()} == {State.GOOD} and is_clean(copies, "a", "b", "c")


def test_a_backup_made_of_objects_larger_than_a_piece_is_copied(
    copies: Copies, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They pass through in pieces, and are checked before they are visible."""
    monkeypatch.setattr(copying, "PIECE_BYTES", 200)
    one = copies.sample(1)
    copies.store(one, "a")
    copies.wal("a", NEXT, bytes(range(256)) * 100)
    copies.replicate()
    assert copies.content("a") == copies.content("b") and copies.state(one, "b") is State.GOOD
    copies.wal("a", AFTER, random.Random(1).randbytes(5000))
    flip(copies.backends["a"], LAYOUT.wal(AFTER))
    done = copies.replicate()
    assert set(done.outcomes["b"].account.lost) == {str(LAYOUT.wal(AFTER))} == copies.keys("a") - copies.keys("b")


@pytest.mark.parametrize("folder", ["wal", "manifests"])
def test_what_a_store_forged_is_not_spread(tmp_path: Path, folder: str) -> None:
    """A digest that holds proves nothing against malice: what has no reference is opened as it passes."""
    copies = three(tmp_path)
    one = copies.sample(1)
    for name in "ab":
        copies.store(one, name)
        copies.wal(name, NEXT)
    key = one.key if folder == "manifests" else LAYOUT.wal(NEXT)
    data = bytearray(copies.target("a").read(key))
    data[-END_BYTES - 3] ^= 1  # in the tag of the last frame with content
    forged = bytes(data[:-DIGEST_BYTES])
    replace_object(copies.backends["a"], key, forged + blake3.blake3(forged).digest())
    check_digest(copies.target("a").read(key), "the digest holds")
    done = copies.replicate(to=["c"])
    assert copies.content("c") == copies.content("b")
    assert ("a", key) in done.damaged


def test_what_was_found_damaged_there_is_left_to_repair(copies: Copies) -> None:
    """Nothing is missing, so there is nothing to copy, and nothing to be reported as completed."""
    one = copies.sample(1)
    for name in "ab":
        copies.store(one, name)
    pack = next(key for key in one.objects if "/packs/" in key)
    catalogue = copies.catalogue()
    target = copies.target("b")
    suspects = {pack: target.backend.stat(Key(pack)).version}
    inventory = Inventory(target, LAYOUT, copies.ring, suspects)
    backup = catalogue.backups[0]
    standing = judge(copies.ring, inventory, backup.summary, backup.references)
    found = replace(
        catalogue,
        backups=[replace(backup, standings={**backup.standings, "b": standing})],
        inventories={**catalogue.inventories, "b": inventory},
    )
    todo, left = plan_backups(found, "b", ["a", "b"])
    assert not todo and [one.state for one in left] == ["broken"] and "--repair" in left[0].why


def test_damaged_fingerprints_keep_no_backup_from_a_new_target(copies: Copies) -> None:
    """They are in no closure: without them the next backup is slower, and that is all."""
    one = copies.sample(1)
    copies.store(one, "a")
    key = next(key for key in one.objects if "/fingerprints/" in key)
    flip(copies.backends["a"], Key(key))
    done = copies.replicate()
    assert copies.state(one, "b") is State.GOOD
    assert key not in copies.keys("b") and key in done.outcomes["b"].account.lost
