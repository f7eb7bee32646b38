"""Every kind of object: damaged or lost on one target it is found without the key, repaired, and whole again."""

from __future__ import annotations

from pathlib import Path

import blake3
import pytest

from drkit.core.errors import KeyMissing
from drkit.engines.postgres.timeline import Timeline
from drkit.jobs.archive import list_archived
from drkit.jobs.verify_facts import Outcome
from drkit.jobs.verify_sight import in_turn
from drkit.repository.catalogue import read_catalogue
from drkit.repository.holds import release_hold
from drkit.repository.names import place_of
from drkit.repository.scrub import Fault
from storage_backends.api import StorageBackend
from storage_backends.trace import Traced
from tests.crypto.rings import seeded
from tests.jobs.verify_world import FOLLOWING, HISTORY, NAMES, VerifyWorld, only, told
from tests.repository.samples import LAYOUT, SYSTEM, bury, sample

SHARED = {
    "a pack": "/packs/",
    "a map": "/maps/",
    "fingerprints": "/fingerprints/",
    "a manifest": "/manifests/",
    "the WAL of a backup": "/wal/00000001/00000000/000000010000000000000001",
    "WAL after the backups": f"/wal/00000001/00000000/{FOLLOWING[2]}",
    "a history file": f"/history/{HISTORY}",
    "a report": "reports/",
    "a hold": ".hold",
    "the release of a hold": ".release",
    "a key slot": "keys/",
    "a retirement": "retired/",
}
OWN = {"a verdict": "/verdicts/", "a lease": "/leases/", "a round of tombstones": "/tombstones/"}
ALSO = {"WAL in quarantine": "/quarantine/"}


@pytest.fixture
def world(tmp_path: Path) -> VerifyWorld:
    return VerifyWorld(tmp_path)


@pytest.mark.parametrize("keyed", [False, True])
def test_what_is_whole_is_whole(world: VerifyWorld, keyed: bool) -> None:
    result = world.verify(keyed=keyed)
    assert not result.findings and not result.holes and not result.damaged and not result.unread
    tally = result.tallies["a"]
    assert tally.read_objects == tally.objects == len([k for k in world.stored() if not k.startswith("evidence/")])
    assert tally.read_bytes == tally.stored_bytes and not tally.extra and not tally.strange
    assert bool(result.evidence) is keyed


@pytest.mark.parametrize("kind", [*SHARED, *ALSO])
def test_a_flipped_byte_is_found_without_the_key_and_repaired(world: VerifyWorld, kind: str) -> None:
    key = world.one((SHARED | ALSO)[kind])
    before = world.everything("b")
    world.flip("b", key)
    found = only(world.verify(keyed=False))
    assert (found.target, found.key, found.fault) == ("b", key, Fault.FLIPPED)
    assert set(found.sources) == {"a", "c"} and found.outcome is Outcome.LEFT
    mended = world.verify(repair=True)
    assert only(mended).outcome is Outcome.REPAIRED and not mended.damaged
    assert world.everything("b") == before
    assert Path(only(mended).kept).read_bytes() != before[key], "the damaged bytes are kept aside"
    assert not world.verify(keyed=False).findings


@pytest.mark.parametrize("kind", SHARED)
def test_a_deletion_is_found_without_the_key_and_repaired(world: VerifyWorld, kind: str) -> None:
    key = world.one(SHARED[kind])
    before = world.everything("b")
    world.lose("b", key)
    assert told(world.verify(keyed=False)) == {("b", key, "missing")}
    mended = world.verify(repair=True)
    assert only(mended).outcome is Outcome.REPAIRED and not mended.damaged and not only(mended).kept
    assert world.everything("b") == before
    assert not world.verify().findings


@pytest.mark.parametrize("keyed", [False, True])
@pytest.mark.parametrize("kind", ["a pack", "a manifest", "WAL after the backups"])
def test_what_was_expired_is_not_missed_and_no_key_is_needed_to_know(
    world: VerifyWorld, kind: str, keyed: bool
) -> None:
    key = world.one(SHARED[kind])
    bury(world.targets[1], key, ring_=world.ring)
    world.lose("b", key)
    result = world.verify(keyed=keyed)
    assert not result.findings and not result.holes


def test_where_a_round_of_tombstones_is_damaged_what_is_gone_is_in_doubt(world: VerifyWorld) -> None:
    segment = LAYOUT.wal(FOLLOWING[2])
    for key in (world.one("/tombstones/"), segment):
        world.flip("b", key) if key != segment else world.lose("b", key)
    for keyed in (False, True):
        result = world.verify(keyed=keyed)
        assert {f.key for f in result.findings} == {world.one("/tombstones/")}
        assert [hole.doubt for hole in result.holes] == [True]


def test_a_released_hold_that_is_lost_with_its_release_never_comes_back_in_force(world: VerifyWorld) -> None:
    """The release is brought back first, so that a repair that dies between the two leaves none that counts."""
    made: list[str] = []
    keys = [world.one(".hold"), world.one(".release")]
    for key in keys:
        world.lose("b", key)

    def watched(name: str, backend: StorageBackend) -> StorageBackend:
        if name != "b":
            return backend
        return Traced(backend, lambda e: made.append(str(e.key)) if e.verb == "commit" else None, clock=lambda: 0.0)

    world.wrap = watched
    assert not world.verify(repair=True).damaged
    assert [key for key in dict.fromkeys(made) if key in keys] == [keys[1], keys[0]]


def test_two_releases_of_one_hold_are_as_good_as_one(world: VerifyWorld) -> None:
    """Two hosts released it, each while the other one's target was away."""
    key = world.one(".release")
    world.lose("b", key)
    ident = key.rpartition("/")[2].removesuffix(".release")
    release_hold(world.repository([world.targets[1]]), LAYOUT, ident, now=world.clock.now(), entropy=seeded(99))
    assert world.path("a", key).read_bytes() != world.path("b", key).read_bytes()
    for keyed in (False, True):
        assert not world.verify(keyed=keyed).findings
    world.flip("c", key)
    assert only(world.verify(repair=True)).outcome is Outcome.REPAIRED


@pytest.mark.parametrize("kind", OWN)
def test_what_is_true_for_one_target_alone_is_found_and_not_copied(world: VerifyWorld, kind: str) -> None:
    key = world.one(OWN[kind])
    world.flip("b", key)
    damaged = world.path("b", key).read_bytes()
    assert told(world.verify(keyed=False)) == {("b", key, "flipped")}
    found = next(f for f in world.verify(repair=True).findings if f.key == key)
    assert found.outcome is Outcome.LEFT and "its target alone" in found.note
    assert world.path("b", key).read_bytes() == damaged


def test_a_lost_verdict_is_told_with_its_cure(world: VerifyWorld) -> None:
    world.lose("b", world.one("/leases/", "b"))
    key = world.one("/verdicts/")
    world.lose("b", key)
    assert told(world.verify(keyed=False)) == {("b", key, "missing")}
    assert "drkit replicate" in only(world.verify(repair=True)).note


def test_a_damaged_descriptor_keeps_the_target_from_being_written_to(world: VerifyWorld) -> None:
    pack = world.one("/packs/")
    world.flip("b", "repository", 0.9)
    world.flip("b", pack)
    assert told(world.verify(keyed=False)) == {("b", "repository", "flipped"), ("b", pack, "flipped")}
    result = world.verify(repair=True)
    assert told(result) == {("b", "repository", "flipped"), ("b", pack, "flipped")}
    notes = {f.key: f.note for f in result.findings}
    assert "copy of this very target" in notes["repository"] and "nothing is written there" in notes[pack]


def test_without_its_descriptor_a_target_is_not_looked_at(world: VerifyWorld) -> None:
    world.lose("b", "repository")
    result = world.verify(keyed=False)
    assert "there is no repository" in result.unread["b"] and not result.damaged


@pytest.mark.parametrize("kind", SHARED)
def test_on_all_targets_exactly_what_is_lost_is_named(world: VerifyWorld, kind: str) -> None:
    key = world.one(SHARED[kind])
    for name in NAMES:
        world.flip(name, key)
    result = world.verify(keyed=False)
    assert told(result) == {(name, key, "flipped") for name in NAMES}
    assert {f.outcome for f in result.findings} == {Outcome.LOST}
    assert {f.outcome for f in world.verify(repair=True).findings} == {Outcome.LOST}


@pytest.mark.parametrize("kind", ["a pack", "a map", "the WAL of a backup"])
def test_deleted_on_all_targets_it_is_named_with_the_backups_that_need_it(world: VerifyWorld, kind: str) -> None:
    key = world.one(SHARED[kind])
    for name in NAMES:
        world.lose(name, key)
    result = world.verify(keyed=False)
    assert told(result) == {(name, key, "missing") for name in NAMES}
    runs = {str(one.run) for one in world.made if key in one.objects}
    assert runs and {frozenset(f.needed_by) for f in result.findings} == {frozenset(runs)}


def test_a_manifest_gone_everywhere_is_known_by_its_verdict(world: VerifyWorld) -> None:
    for name in NAMES:
        world.lose(name, str(world.made[1].key))
    result = world.verify()
    assert told(result) == {(name, str(world.made[1].key), "missing") for name in NAMES}
    assert only(world.verify(only=["b"])).outcome is Outcome.LOST


def test_a_segment_gone_everywhere_is_a_hole(world: VerifyWorld) -> None:
    for name in NAMES:
        for segment in FOLLOWING[1:3]:
            world.lose(name, LAYOUT.wal(segment))
    result = world.verify()
    assert result.damaged and not result.findings
    holes = {(h.target, h.first, h.last, h.missing, h.doubt) for h in result.holes}
    assert holes == {(name, FOLLOWING[1], FOLLOWING[2], 2, False) for name in NAMES}
    assert {(h.target, h.first, h.last, h.missing, h.doubt) for h in world.verify(keyed=False).holes} == holes


def test_a_segment_with_a_tombstone_is_no_hole(world: VerifyWorld) -> None:
    for name, where in zip(NAMES, world.targets, strict=True):
        bury(where, LAYOUT.wal(FOLLOWING[1]), ring_=world.ring)
        world.lose(name, LAYOUT.wal(FOLLOWING[1]))
    result = world.verify()
    assert not result.holes and not result.findings


def test_the_newest_segments_may_be_on_their_way(world: VerifyWorld) -> None:
    for segment in FOLLOWING[-2:]:
        world.lose("b", LAYOUT.wal(segment))
    result = world.verify()
    assert not result.damaged and result.tallies["b"].behind == 2


@pytest.mark.parametrize("kind", ["a pack", "a map", "a manifest", "the WAL of a backup", "a report"])
def test_cut_short_it_is_called_truncated(world: VerifyWorld, kind: str) -> None:
    key = world.one(SHARED[kind])
    before = world.everything("b")
    path = world.path("b", key)
    path.write_bytes(path.read_bytes()[:-50])
    assert told(world.verify(keyed=False)) == {("b", key, "truncated")}
    assert not world.verify(repair=True).damaged
    assert world.everything("b") == before
    path.write_bytes(b"")
    assert told(world.verify(keyed=False)) == {("b", key, "truncated")}


@pytest.mark.parametrize("part", ["/packs/", "/maps/", "/manifests/", "/wal/"])
def test_two_objects_swapped_are_both_foreign(world: VerifyWorld, part: str) -> None:
    first, second = [key for key in world.stored() if part in key][:2]
    before = world.everything("b")
    one, two = world.path("b", first).read_bytes(), world.path("b", second).read_bytes()
    world.path("b", first).write_bytes(two)
    world.path("b", second).write_bytes(one)
    assert told(world.verify(keyed=False)) == {("b", first, "foreign"), ("b", second, "foreign")}
    assert not world.verify(repair=True).damaged
    assert world.everything("b") == before


def test_a_manifest_under_another_name_is_foreign(world: VerifyWorld) -> None:
    key = f"{LAYOUT.folder('manifests')}20260301T130000Z-0000ffff"
    world.path("b", key).write_bytes(world.path("b", str(world.made[0].key)).read_bytes())
    assert ("b", key, "foreign") in told(world.verify(keyed=False))


def test_rubbish_is_told_and_is_no_error(world: VerifyWorld) -> None:
    stray = sample(world.ring, 9)
    stray.store(world.targets[1], manifest=False, good=False)
    world.path("b", "notes.txt").write_text("mine")
    result = world.verify(keyed=False)
    assert not result.damaged and not result.findings
    assert result.tallies["b"].strange == ["notes.txt"]
    assert [count for count, _ in result.tallies["b"].extra.values()] == [3]
    assert not result.tallies["a"].extra


def test_what_has_a_tombstone_is_not_brought_back(world: VerifyWorld) -> None:
    key = world.one("/packs/")
    world.flip("b", key)
    bury(world.targets[1], key, ring_=world.ring)
    result = world.verify(repair=True)
    assert only(result).outcome is Outcome.FADED and "expired" in only(result).note
    world.lose("b", key)
    assert not world.verify(repair=True).findings
    assert not world.path("b", key).exists()


def test_repair_needs_the_key(world: VerifyWorld) -> None:
    with pytest.raises(KeyMissing):
        world.verify(keyed=False, repair=True)


def test_a_repair_leaves_no_lease(world: VerifyWorld) -> None:
    world.flip("b", world.one("/packs/"))
    before = [key for key in world.stored("b") if "/leases/" in key]
    world.verify(repair=True)
    assert [key for key in world.stored("b") if "/leases/" in key] == before


def test_a_forged_manifest_is_found_with_the_key(world: VerifyWorld) -> None:
    """Its digest is right; only the frames tell."""
    key = str(world.made[0].key)
    for name in NAMES:
        data = world.path(name, key).read_bytes().replace(b'"files":1', b'"files":2')
        world.path(name, key).write_bytes(data[:-32] + blake3.blake3(data[:-32]).digest())
    assert not world.verify(keyed=False).damaged
    result = world.verify()
    assert {(f.target, f.key) for f in result.left} == {(name, key) for name in NAMES}
    assert "does not open" in result.findings[0].why


# --- parts and evidence -------------------------------------------------------------------------------------------


def test_parts_cover_everything_once_in_turn(world: VerifyWorld) -> None:
    bulk = [key for key in world.stored() if (place := place_of(key)) is not None and place.bulk]
    small = len(world.everything("a")) - len(bulk)
    runs = [world.verify(part=0.25) for _ in range(4)]
    assert {sum(in_turn(key, run.turn) for run in runs) for key in bulk} == {1}
    read = [run.tallies["a"].read_objects - small - earlier for earlier, run in enumerate(runs)]
    assert read == [sum(in_turn(key, run.turn) for key in bulk) for run in runs], "earlier evidence is read as well"


def test_a_flip_is_found_within_one_round_of_parts(world: VerifyWorld) -> None:
    key = world.one("/packs/")
    world.flip("b", key)
    runs = [world.verify(part=0.2) for _ in range(5)]
    found = [told(run) for run in runs]
    assert {("b", key, "flipped")} in found
    first = found.index({("b", key, "flipped")})
    assert all(one == {("b", key, "flipped")} for one in found[first:]), "what is known is looked at every time"


def test_a_target_that_two_hosts_retired_at_once_is_no_conflict(world: VerifyWorld) -> None:
    """Each wrote what the other could not see yet: two records that say the same."""
    key = world.one("retired/")
    world.lose("b", key)
    world.retire(world.targets[1], seed=90)
    assert world.path("b", key).read_bytes() != world.path("a", key).read_bytes()
    assert not world.verify(keyed=False).findings and not world.verify().findings
    world.flip("b", key)
    assert not world.verify(repair=True).damaged
    assert world.path("b", key).read_bytes() == world.path("a", key).read_bytes()


def test_known_damage_is_not_counted_until_it_is_repaired(world: VerifyWorld) -> None:
    def good() -> list[list[str]]:
        return [one.good_on for one in read_catalogue(world.repository(), SYSTEM).backups]

    key = next(key for key in world.made[0].objects if "/packs/" in key)
    world.flip("b", key)
    assert good() == [["a", "b", "c"]] * 2, "a listing does not show it"
    world.verify()
    assert good() == [["a", "c"], ["a", "b", "c"]]
    world.verify(repair=True)
    assert good() == [["a", "b", "c"]] * 2


def test_a_segment_known_to_be_damaged_is_a_gap(world: VerifyWorld) -> None:
    world.flip("b", LAYOUT.wal(FOLLOWING[2]))
    world.verify()
    catalogue = read_catalogue(world.repository(), SYSTEM)
    held = list_archived(catalogue.inventories, Timeline(1), 16, 1 << 20).held
    assert held["b"].segments.spans == ((16, 17), (19, 21)) and held["a"].segments.spans == ((16, 21),)
