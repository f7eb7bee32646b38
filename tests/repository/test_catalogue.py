"""What a backup is on each target: judged from what lies there, and never good by mistake."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from drkit.core.errors import Missing
from drkit.crypto.container import DataKey
from drkit.crypto.keys import Ring
from drkit.repository.catalogue import Backup, Catalogue, State, load_manifest, read_catalogue, systems
from drkit.repository.layout import ClusterLayout
from drkit.repository.leases import Verdict
from drkit.repository.repository import Problem, Repository
from drkit.repository.target import Target
from storage_backends.api import Key
from storage_backends.errors import Unavailable
from storage_backends.faulty import Faulty
from tests.crypto.rings import ring, seeded
from tests.repository.samples import (
    LAYOUT,
    SEGMENT,
    SYSTEM,
    Sample,
    add_slot,
    bury,
    judged,
    posix_target,
    sample,
    target,
)

RING = ring()


@dataclass
class World:
    """Two targets on disk; `a` and `b` have a key slot and nothing else."""

    root: Path
    a: Target
    b: Target

    def read(self, *targets: Target, absent: dict[str, Problem] | None = None, keys: Ring = RING) -> Catalogue:
        chosen: Sequence[Target] = targets or (self.a, self.b)
        return read_catalogue(Repository(keys, chosen, absent or {}, DataKey(keys, seeded(1))), SYSTEM)

    def states(self, run: Sample, *targets: Target) -> dict[str, State]:
        found = self.read(*targets)
        standings = found.unopened.get(str(run.run)) or found.backup(str(run.run)).standings
        return {name: standing.state for name, standing in standings.items()}

    def path(self, where: Target, key: str) -> Path:
        return self.root / where.name / key


@pytest.fixture
def world(tmp_path: Path) -> World:
    made = World(tmp_path, posix_target(tmp_path, "a"), posix_target(tmp_path, "b"))
    for where in (made.a, made.b):
        add_slot(where, RING)
    return made


GOOD, PENDING, WITHDRAWN, EXPIRED, BROKEN, UNKNOWN = State


def test_a_backup_whose_closure_is_whole_is_good(world: World) -> None:
    made = sample(RING)
    for where in (world.a, world.b):
        made.store(where)
    (found,) = world.read().backups
    assert found.good_on == ["a", "b"] and found.status == "good"
    assert found.summary.run == made.run and found.head.label == "a note"
    assert set(found.references) == set(made.references)
    assert load_manifest(RING, world.a, LAYOUT, made.run).summary == found.summary


def test_an_empty_target_has_no_backups(world: World) -> None:
    found = world.read()
    assert not found.backups and not found.unreadable
    with pytest.raises(Missing):
        found.backup("20260301T120000Z-00000000")


@pytest.mark.parametrize("lost", ["packs/", "maps/", f"wal/00000001/00000000/{SEGMENT}"])
def test_a_missing_object_breaks_a_backup_on_that_target_alone(world: World, lost: str) -> None:
    made = sample(RING)
    for where in (world.a, world.b):
        made.store(where)
    key = next(key for key in made.objects if lost in key)
    world.path(world.b, key).unlink()
    assert world.states(made) == {"a": GOOD, "b": BROKEN}
    assert key in world.read().backup(str(made.run)).standings["b"].why


@pytest.mark.parametrize("lost", ["packs/", "maps/"])
def test_an_object_cut_short_breaks_it_too(world: World, lost: str) -> None:
    made = sample(RING)
    made.store(world.a)
    path = world.path(world.a, next(key for key in made.objects if lost in key))
    size = path.stat().st_size
    path.write_bytes(path.read_bytes()[:-1])
    assert world.states(made, world.a) == {"a": BROKEN}
    why = world.read(world.a).backup(str(made.run)).standings["a"].why
    assert f"is truncated, {size - 1} of {size} bytes" in why and "missing" not in why


def test_fingerprints_are_in_no_closure(world: World) -> None:
    made = sample(RING)
    made.store(world.a, without="fingerprints/")
    assert world.states(made, world.a) == {"a": GOOD}


def test_without_a_key_slot_nothing_is_good(world: World) -> None:
    made = sample(RING)
    made.store(world.a)
    for info in list(world.a.backend.list("keys/")):
        world.a.backend.delete(info.key)
    assert world.states(made, world.a) == {"a": BROKEN}


def test_the_slot_of_a_later_epoch_serves(world: World) -> None:
    made = sample(RING)
    made.store(world.a)
    for info in list(world.a.backend.list("keys/")):
        world.a.backend.delete(info.key)
    second = Ring(RING.repository, {**RING.masters, 2: b"2" * 32}, RING.lifetime)
    add_slot(world.a, second)
    later = sample(second, 2)
    later.store(world.a)
    found = world.read(world.a, keys=second)
    assert [b.good_on for b in found.backups] == [["a"], ["a"]]


def test_a_slot_of_an_earlier_epoch_does_not_serve(world: World) -> None:
    second = Ring(RING.repository, {**RING.masters, 2: b"2" * 32}, RING.lifetime)
    later = sample(second, 2)
    later.store(world.a)
    (found,) = world.read(world.a, keys=second).backups
    assert found.standings["a"].state is BROKEN and "keys/00000002/" in found.standings["a"].why


def test_rubbish_among_the_keys_is_no_slot(world: World) -> None:
    made = sample(RING)
    made.store(world.a)
    for name in ("README", "00000009/README", "zz/0000000000000000", "00000009/epoch"):
        world.path(world.a, f"keys/{name}").parent.mkdir(exist_ok=True)
        world.path(world.a, f"keys/{name}").write_bytes(b"?")
    assert world.states(made, world.a) == {"a": GOOD}


@pytest.mark.parametrize("cut", [0, 1, 60, 128, 1500, -1, -70, -100])
def test_a_manifest_cut_short_is_broken_there_and_read_elsewhere(world: World, cut: int) -> None:
    made = sample(RING)
    for where in (world.a, world.b):
        made.store(where)
    path = world.path(world.a, made.key)
    path.write_bytes(path.read_bytes()[:cut])
    assert world.states(made) == {"a": BROKEN, "b": GOOD}


def test_a_manifest_that_opens_nowhere_is_still_told(world: World) -> None:
    made = sample(RING)
    made.store(world.a)
    path = world.path(world.a, made.key)
    data = bytearray(path.read_bytes())
    data[300] ^= 1
    path.write_bytes(data)
    found = world.read()
    assert not found.backups
    assert found.unopened[str(made.run)]["a"].state is BROKEN


def test_a_manifest_that_was_lost_on_every_target_is_still_told(world: World) -> None:
    """Its verdicts say that it was good; nobody let it go."""
    made, kept = sample(RING, 1), sample(RING, 2)
    for where in (world.a, world.b):
        made.store(where)
        kept.store(where)
        world.path(where, made.key).unlink()
    found = world.read()
    assert [str(one.summary.run) for one in found.backups] == [str(kept.run)]
    assert list(found.unopened) == [str(made.run)]
    assert world.states(made) == {"a": BROKEN, "b": BROKEN}
    assert "its manifest is missing" in found.unopened[str(made.run)]["b"].why
    assert world.read(world.a, absent={"b": Unavailable("open")}).unopened[str(made.run)]["b"].state is UNKNOWN


def test_what_expired_or_was_withdrawn_is_not_lost(world: World) -> None:
    expired, withdrawn, half = sample(RING, 1), sample(RING, 2), sample(RING, 3)
    for where in (world.a, world.b):
        expired.store(where)
        bury(where, expired.key)
        world.path(where, expired.key).unlink()
        withdrawn.store(where, manifest=False, good=False)
        judged(where, withdrawn.run, Verdict.WITHDRAWN)
        half.store(where)
        world.path(where, half.key).unlink()
    bury(world.a, half.key, seed=5)
    found = world.read()
    assert not found.backups and list(found.unopened) == [str(half.run)]
    assert world.states(half) == {"a": EXPIRED, "b": BROKEN}  # it expired on one, and was lost on the other


def test_a_manifest_put_by_hand_without_its_closure_is_not_good(world: World) -> None:
    made = sample(RING)
    made.store(world.a, without="clusters/", good=False)
    assert world.states(made) == {"a": PENDING, "b": PENDING}
    judged(world.a, made.run, Verdict.GOOD)
    assert world.states(made) == {"a": BROKEN, "b": PENDING}


def test_without_a_verdict_a_backup_is_pending(world: World) -> None:
    """A kill between manifest and verdict: nobody knows yet whether expiry met it."""
    made = sample(RING)
    made.store(world.a, good=False)
    assert world.states(made) == {"a": PENDING, "b": PENDING}


def test_without_a_manifest_a_backup_is_pending_where_another_target_knows_it(world: World) -> None:
    made = sample(RING)
    made.store(world.a)
    made.store(world.b, manifest=False, good=False)
    assert world.states(made) == {"a": GOOD, "b": PENDING}
    judged(world.b, made.run, Verdict.GOOD)
    assert world.states(made) == {"a": GOOD, "b": BROKEN}, "it was complete there, and its manifest was lost"


def test_a_withdrawn_backup_stays_withdrawn(world: World) -> None:
    made = sample(RING)
    made.store(world.a, good=False)
    assert judged(world.a, made.run, Verdict.WITHDRAWN) is Verdict.WITHDRAWN
    assert world.states(made) == {"a": WITHDRAWN, "b": PENDING}


def test_a_damaged_verdict_is_not_a_good_one(world: World) -> None:
    made = sample(RING)
    made.store(world.a)
    path = world.path(world.a, LAYOUT.verdict(made.run))
    path.write_bytes(path.read_bytes()[:-1])
    assert world.states(made, world.a) == {"a": BROKEN}


@pytest.mark.parametrize("part", ["manifests/", "packs/", "maps/", "wal/"])
def test_a_tombstone_on_it_or_on_its_closure_expires_a_backup_there(world: World, part: str) -> None:
    made = sample(RING)
    for where in (world.a, world.b):
        made.store(where)
    bury(world.a, next(key for key in (*made.objects, made.key) if part in key))
    assert world.states(made) == {"a": EXPIRED, "b": GOOD}


def test_a_tombstone_on_fingerprints_or_on_another_backup_does_not(world: World) -> None:
    made, other = sample(RING, 1), sample(RING, 2)
    made.store(world.a)
    bury(world.a, other.key, next(key for key in made.objects if "fingerprints/" in key))
    assert world.states(made, world.a) == {"a": GOOD}


def test_a_round_of_tombstones_that_does_not_open_makes_the_target_unreadable(world: World) -> None:
    made = sample(RING)
    for where in (world.a, world.b):
        made.store(where)
    path = world.path(world.a, bury(world.a, "x"))
    path.write_bytes(path.read_bytes()[:-1])
    found = world.read()
    assert list(found.unreadable) == ["a"]
    assert found.backup(str(made.run)).good_on == ["b"]
    assert world.states(made) == {"a": UNKNOWN, "b": GOOD}


@pytest.mark.parametrize("folder", ["manifests", "tombstones", "verdicts", "packs", "maps"])
def test_a_target_that_cannot_be_listed_is_unknown_and_nothing_is_missing(world: World, folder: str) -> None:
    made = sample(RING)
    for where in (world.a, world.b):
        made.store(where)
    silent = target("b", Faulty(world.b.backend, f"list={LAYOUT.folder(folder)}:503*"))
    found = world.read(world.a, silent)
    assert "b" in found.unreadable
    assert world.states(made, world.a, silent) == {"a": GOOD, "b": UNKNOWN}


@pytest.mark.parametrize("verb", ["list=keys/", "list={}wal", "open={}verdicts", "open={}manifests"])
def test_a_target_that_answers_half_is_unknown(world: World, verb: str) -> None:
    script = verb.format(LAYOUT.root) + ":503*"
    made = sample(RING)
    for where in (world.a, world.b):
        made.store(where)
    half = target("b", Faulty(world.b.backend, script))
    assert world.states(made, world.a, half) == {"a": GOOD, "b": UNKNOWN}


def test_an_absent_target_is_unknown(world: World) -> None:
    made = sample(RING)
    made.store(world.a)
    found = world.read(world.a, absent={"b": Unavailable("open b")})
    assert found.backup(str(made.run)).standings["b"].state is UNKNOWN


def test_a_manifest_under_another_name_is_broken(world: World) -> None:
    one, other = sample(RING, 1), sample(RING, 2)
    one.store(world.a)
    other.store(world.a)
    world.path(world.a, other.key).write_bytes(one.manifest.joined())
    assert world.states(other) == {"a": BROKEN}
    assert world.states(one, world.a) == {"a": GOOD}


def test_a_file_that_is_no_manifest_is_told_as_such(world: World) -> None:
    world.path(world.a, LAYOUT.folder("manifests")).mkdir(parents=True)
    (world.path(world.a, LAYOUT.folder("manifests")) / "notes.txt").write_text("hello")
    found = world.read()
    assert not found.backups and found.unopened["notes.txt"]["a"].state is BROKEN


def test_backups_are_found_by_id_beginning_or_end(world: World) -> None:
    one, other = sample(RING, 1), sample(RING, 2)
    one.store(world.a)
    other.store(world.a)
    found = world.read()
    assert [b.summary.run for b in found.backups] == [one.run, other.run]
    for text in (str(one.run), "00000001", str(one.run)[:16]):
        assert found.backup(text).summary.run == one.run
    for text in ("", "2026", "nothing", str(one.run) + "x"):
        with pytest.raises(Missing):
            found.backup(text)


def test_systems_are_found_by_skipping(world: World) -> None:
    assert systems(Repository(RING, (world.a, world.b), {}, DataKey(RING, seeded(1)))) == frozenset()
    for system in (SYSTEM, 7, 77, 8):
        name = ClusterLayout(system).history("00000002.history")
        world.a.write(name, [b"x"], 1)
    world.b.write(Key("clusters/9/history/00000002.history"), [b"x"], 1)
    found = Repository(RING, (world.a, world.b), {}, DataKey(RING, seeded(1)))
    assert systems(found) == {SYSTEM, 7, 77, 8, 9}
    down = [target(t.name, Faulty(t.backend, "list:503*")) for t in (world.a, world.b)]
    assert systems(Repository(RING, (down[0], world.b), {}, DataKey(RING, seeded(1)))) == {9}
    with pytest.raises(Unavailable):
        systems(Repository(RING, tuple(down), {}, DataKey(RING, seeded(1))))


def test_the_best_state_is_the_backups_own(world: World) -> None:
    made = sample(RING)
    made.store(world.a)
    bury(world.a, made.key)
    backup: Backup = world.read(world.a).backups[0]
    assert backup.status == "expired" and backup.good_on == []
