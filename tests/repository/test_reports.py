"""Reports on targets: the same bytes everywhere, found by their heads, read from whoever has them whole."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from drkit.core.errors import Damage, KeyMissing, Missing, Unreachable, UsageError
from drkit.crypto.container import DataKey
from drkit.repository.layout import CLUSTERS, RunId, report_folder, report_key
from drkit.repository.reports import JSON_FILE, Kept, Note, digest_of, heads, keep, newest_first, read
from drkit.repository.repository import Problem, Repository
from storage_backends.api import Key
from storage_backends.faulty import Faulty
from storage_backends.memory import MemoryBackend
from storage_backends.trace import Event, Traced
from tests.crypto.rings import ring, seeded
from tests.repository.samples import SYSTEM, posix_target, target

BEGAN = datetime(2026, 7, 1, 9, tzinfo=UTC)
FILES = {
    JSON_FILE: '{"verdict": "pass"}\n',
    "report.html": "<p>\u202e ü</p>",
    "junit.xml": "<x/>",
    "report.txt": "ok\n",
}


class World:
    """Three targets, in memory, whose failures are scripted."""

    def __init__(self) -> None:
        self.stores = {name: Faulty(MemoryBackend(name)) for name in ("a", "b", "c")}
        targets = [target(name, store) for name, store in self.stores.items()]
        self.repository = Repository(ring(), targets, {}, DataKey(ring(), seeded(1)))
        self.told: list[tuple[str, str, Problem]] = []

    def tell(self, name: str, key: str, problem: Problem) -> None:
        self.told.append((name, key, problem))

    def keep(
        self, number: int = 0, verdict: str = "pass", before: str = "", files: dict[str, str] | None = None
    ) -> Kept:
        return keep(self.repository, note(number, verdict, before), files or FILES, entropy=seeded(number))

    def damage(self, name: str, key: str) -> None:
        """Flip one bit in the middle of a stored object."""
        store = self.stores[name]
        with store.open(Key(key)) as reader:
            data = bytearray(reader.read())
        data[len(data) // 2] ^= 1
        self.replace(name, key, bytes(data))

    def replace(self, name: str, key: str, data: bytes) -> None:
        store = self.stores[name]
        store.delete(Key(key))
        with store.create(Key(key)) as upload:
            upload.write(data)
            upload.commit()

    def bytes_of(self, name: str, key: str) -> bytes:
        with self.stores[name].open(Key(key)) as reader:
            return reader.read()


def note(number: int, verdict: str = "pass", before: str = "", system: int = SYSTEM) -> Note:
    began = BEGAN + timedelta(hours=number)
    ident = str(RunId.new(began, number.to_bytes(4, "big")))
    return Note(ident, system, began + timedelta(minutes=20), "region-loss", "D09", "orders", verdict, before)


def key_of(number: int) -> str:
    return report_key(SYSTEM, RunId.parse(note(number).id))


@pytest.fixture
def world() -> World:
    return World()


def test_a_report_lies_outside_of_what_drills_must_not_touch() -> None:
    assert key_of(0) == f"reports/{SYSTEM}/20260701T090000Z-00000000"
    assert not report_folder(SYSTEM).startswith(CLUSTERS)


def test_a_report_is_the_same_on_every_target(world: World) -> None:
    kept = world.keep()
    assert (kept.targets, dict(kept.lacking)) == (("a", "b", "c"), {})
    (head,) = heads(world.repository, SYSTEM).heads
    assert head.targets == ("a", "b", "c")
    assert (head.id, head.cluster, head.drill, head.scenario, head.verdict) == (
        kept.id, "orders", "region-loss", "D09", "pass",
    )  # fmt: skip
    assert head.at == BEGAN + timedelta(minutes=20)
    assert head.digest == kept.digest == digest_of(FILES)
    assert read(world.repository, head) == FILES
    assert len({world.bytes_of(name, key_of(0)) for name in "abc"}) == 1


def test_it_is_durable_in_folders(tmp_path: Path) -> None:
    targets = [posix_target(tmp_path, name) for name in ("a", "b")]
    repository = Repository(ring(), targets, {}, DataKey(ring(), seeded(1)))
    keep(repository, note(0), FILES, entropy=seeded(2))
    again = Repository(ring(), [posix_target(tmp_path, "b")], {}, DataKey(ring(), seeded(3)))
    assert read(again, heads(again).heads[0]) == FILES


def test_a_target_that_fails_is_named_and_the_others_have_it(world: World) -> None:
    world.stores["b"].add("commit:denied")
    kept = world.keep()
    assert kept.targets == ("a", "c")
    assert list(kept.lacking) == ["b"] and "denied" in kept.lacking["b"].lower()
    assert heads(world.repository).heads[0].targets == ("a", "c")


def test_a_target_that_did_not_open_lacks_it_too(world: World) -> None:
    world.repository = replace(world.repository, absent={"far": Unreachable("no route")})
    assert world.keep().lacking == {"far": "no route"}
    assert heads(world.repository).unreadable == {"far": "no route"}


def test_no_target_at_all_is_an_answer_and_not_an_error(world: World) -> None:
    for store in world.stores.values():
        store.add("create:gone")
    assert world.keep().targets == ()


def test_an_acknowledgement_that_was_lost_is_no_conflict(world: World) -> None:
    """The very same bytes under the very same name are what was wanted."""
    world.keep()
    first = world.bytes_of("a", key_of(0))
    world.repository = replace(world.repository, data_key=DataKey(ring(), seeded(1)))
    assert world.keep().targets == ("a", "b", "c")
    assert world.bytes_of("a", key_of(0)) == first


def test_another_report_never_takes_a_name_that_is_given(world: World) -> None:
    world.keep()
    first = world.bytes_of("a", key_of(0))
    again = world.keep(files={**FILES, JSON_FILE: "{}"})
    assert again.targets == ()
    assert set(again.lacking) == {"a", "b", "c"}
    assert world.bytes_of("a", key_of(0)) == first


def test_a_damaged_copy_is_passed_over_and_told(world: World) -> None:
    world.keep()
    world.damage("a", key_of(0))
    head = heads(world.repository, told=world.tell).heads[0]
    assert read(world.repository, head, told=world.tell) == FILES
    assert {name for name, _, _ in world.told} == {"a"}
    assert isinstance(world.told[-1][2], Damage)


@pytest.mark.parametrize("at", [0, 12, 60, 140, -60, -1])
def test_no_flipped_bit_of_a_head_goes_unseen(world: World, at: int) -> None:
    """The header, the open section and the end: a list reads no more, and still believes nothing that was changed."""
    world.keep()
    data = bytearray(world.bytes_of("a", key_of(0)))
    data[at] ^= 0x10
    world.replace("a", key_of(0), bytes(data))
    shelf = heads(world.repository, told=world.tell)
    if at == -1:  # the digest without a key; the head is authenticated by the last frame before it
        assert shelf.heads[0].id == note(0).id
        assert read(world.repository, shelf.heads[0], told=world.tell) == FILES
    assert [name for name, _, _ in world.told] == ["a"]
    assert shelf.heads[0].verdict == "pass"


def test_a_head_that_opens_nowhere_is_named(world: World) -> None:
    world.keep(0)
    world.keep(1)
    for name in "abc":
        world.replace(name, key_of(0), world.bytes_of(name, key_of(0))[:100])
    shelf = heads(world.repository)
    assert [head.id for head in shelf.heads] == [note(1).id]
    assert list(shelf.unopened) == [key_of(0)]
    assert "a: " in shelf.unopened[key_of(0)] and "c: " in shelf.unopened[key_of(0)]


def test_a_report_in_anothers_place_is_damage(world: World) -> None:
    world.keep(0)
    world.keep(1)
    for name in "abc":
        world.replace(name, key_of(1), world.bytes_of(name, key_of(0)))
    assert [head.id for head in heads(world.repository).heads] == [note(0).id]


def test_all_copies_damaged_is_damage_and_none_is_missing(world: World) -> None:
    world.keep()
    (head,) = heads(world.repository).heads
    for name in "abc":
        world.damage(name, key_of(0))
    with pytest.raises(Damage, match="no target has a sound copy"):
        read(world.repository, head)
    for store in world.stores.values():
        store.delete(Key(key_of(0)))
    with pytest.raises(Missing):
        read(world.repository, head)
    world.stores["a"].add("open:503*")
    with pytest.raises(Unreachable):
        read(world.repository, head)


def test_a_target_that_cannot_be_listed_is_not_empty(world: World) -> None:
    world.keep()
    world.stores["a"].add("list:503*")
    shelf = heads(world.repository)
    assert shelf.heads[0].targets == ("b", "c")
    assert list(shelf.unreadable) == ["a"]
    for store in world.stores.values():
        store.add("list:503*")
    with pytest.raises(Unreachable):
        heads(world.repository)
    with pytest.raises(Unreachable):
        next(newest_first(world.repository, SYSTEM))


def test_the_newest_comes_first_and_costs_only_itself() -> None:
    events: list[Event] = []
    store = Traced(MemoryBackend("t"), events.append, clock=lambda: 0.0)
    repository = Repository(ring(), [target("t", store)], {}, DataKey(ring(), seeded(1)))
    for number in (2, 0, 1):
        keep(repository, note(number), FILES, entropy=seeded(number))
    events.clear()
    assert next(newest_first(repository, SYSTEM)).id == note(2).id
    assert {event.key for event in events if event.verb == "open"} == {key_of(2)}
    assert [head.id for head in heads(repository).heads] == [note(number).id for number in (2, 1, 0)]


def test_systems_are_kept_apart(world: World) -> None:
    world.keep(0)
    keep(world.repository, note(1, system=5), FILES, entropy=seeded(9))
    assert [head.system_identifier for head in heads(world.repository).heads] == [5, SYSTEM]
    assert [head.id for head in heads(world.repository, SYSTEM).heads] == [note(0).id]
    assert heads(world.repository, 77).heads == ()


def test_a_report_that_was_taken_away_leaves_a_broken_link(world: World) -> None:
    before = ""
    for number in range(3):
        before = world.keep(number, before=before, files={**FILES, JSON_FILE: str(number)}).digest
    assert heads(world.repository).broken_links == ()
    for store in world.stores.values():
        store.delete(Key(key_of(1)))
    assert [head.id for head in heads(world.repository).broken_links] == [note(2).id]


def test_a_report_is_found_by_any_unique_part(world: World) -> None:
    for number in range(3):
        world.keep(number)
    shelf = heads(world.repository)
    assert shelf.find("latest").id == shelf.find("20260701T11").id == shelf.find("00000002").id == note(2).id
    with pytest.raises(UsageError, match="3 reports match"):
        shelf.find("2026")
    with pytest.raises(Missing):
        shelf.find("x")
    with pytest.raises(Missing):
        replace(shelf, heads=()).find("latest")


def test_an_id_of_another_form_is_refused_before_anything_is_written(world: World) -> None:
    with pytest.raises(UsageError, match="not a report's id"):
        keep(world.repository, replace(note(0), id="drill-7"), FILES, entropy=seeded(1))
    assert not list(world.stores["a"].list())


def test_without_the_key_nothing_is_believed(world: World) -> None:
    world.keep()
    other = replace(world.repository, ring=ring(2))
    with pytest.raises(KeyMissing):
        other.ring.master(1)
    assert heads(other).heads == ()
    assert list(heads(other).unopened) == [key_of(0)]


def test_large_reports_are_whole(world: World) -> None:
    """More than one frame; the bytes do not compress."""
    noise = seeded(5)(3 << 20).hex()
    files = {**FILES, "report.html": noise}
    world.keep(files=files)
    assert read(world.repository, heads(world.repository).heads[0]) == files
