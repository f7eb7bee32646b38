"""Opening a repository: what is pinned is compared, nothing is ever created, one target that is down is named."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest

from drkit.core.errors import ConfigError, Conflict, Damage, KeyMissing, Unreachable
from drkit.crypto.container import parse_open_section
from drkit.crypto.keys import Ring
from drkit.crypto.slots import Secret, open_slot
from drkit.repository.identity import found, slots_of
from drkit.repository.layout import DESCRIPTOR
from drkit.repository.pins import Pins
from drkit.repository.repository import Problem, Repository, open_repository
from drkit.repository.target import Target
from storage_backends.api import Key
from storage_backends.errors import Denied, NotThisTarget, Unavailable
from storage_backends.faulty import Faulty
from storage_backends.memory import MemoryBackend
from tests.crypto.rings import seeded
from tests.repository.samples import AT, SECRET, add_slot, posix_target, sample, target


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    return tmp_path / "spool"


def pair(seed: int = 1) -> tuple[Ring, Target, Target]:
    a, b = target("a", MemoryBackend("a")), target("b", MemoryBackend("b"))
    ring, _ = found([a, b], SECRET, now=AT, entropy=seeded(seed))
    return ring, a, b


def opened(
    spool: Path, *targets: Target, failed: dict[str, Problem] | None = None, secret: Secret = SECRET
) -> Repository:
    return open_repository(targets, failed or {}, secret, Pins(spool), entropy=seeded(9))


def faulty(where: Target, script: str) -> Target:
    return target(where.name, Faulty(where.backend, script))


def rotated(ring: Ring) -> Ring:
    return dataclasses.replace(ring, masters={**ring.masters, ring.epoch + 1: bytes([ring.epoch]) * 32})


def test_it_opens_on_all_targets_and_pins_them(spool: Path) -> None:
    ring, a, b = pair()
    repository = opened(spool, a, b)
    assert repository.ring == ring and [t.name for t in repository.targets] == ["a", "b"]
    pins = Pins(spool)
    assert set(pins.targets) == {"a", "b"} and pins.epoch == 1
    assert repository.target("a") is a


def test_opening_creates_nothing(spool: Path) -> None:
    empty = target("a", MemoryBackend())
    with pytest.raises(NotThisTarget, match="no repository") as error:
        opened(spool, empty)
    assert "drkit init" in error.value.cure
    assert list(empty.backend.list()) == [] and not spool.exists()


def test_a_pinned_target_without_its_descriptor_is_not_this_target(spool: Path) -> None:
    _, a, b = pair()
    opened(spool, a, b)
    b.backend.delete(DESCRIPTOR)
    repository = opened(spool, a, b)
    assert [t.name for t in repository.targets] == ["a"]
    problem = repository.absent["b"]
    assert isinstance(problem, NotThisTarget) and "mounted" in problem.cure and "init" not in problem.cure
    with pytest.raises(NotThisTarget):
        repository.target("b")
    with pytest.raises(NotThisTarget):
        opened(spool, b)


def test_an_empty_folder_where_a_disk_was_mounted_is_not_this_target(tmp_path: Path, spool: Path) -> None:
    a, b = posix_target(tmp_path, "a"), posix_target(tmp_path, "b")
    found([a, b], SECRET, now=AT, entropy=seeded(1))
    opened(spool, a, b)
    (tmp_path / "b").rename(tmp_path / "elsewhere")
    assert isinstance(opened(spool, a, b).absent["b"], NotThisTarget)
    empty = posix_target(tmp_path, "b")
    assert isinstance(opened(spool, a, empty).absent["b"], NotThisTarget)
    assert list(empty.backend.list()) == []


def test_another_target_of_the_same_repository_is_not_this_target(tmp_path: Path, spool: Path) -> None:
    _, a, b = pair()
    opened(spool, a, b)
    exchanged = opened(spool, target("a", a.backend), target("b", a.backend))
    assert isinstance(exchanged.absent["b"], NotThisTarget) and "another disk" in exchanged.absent["b"].cure


def test_targets_of_two_repositories_are_a_conflict(spool: Path) -> None:
    _, a, _ = pair(1)
    _, _, other = pair(2)
    with pytest.raises(Conflict, match="different repositories"):
        opened(spool, a, other)
    assert not spool.exists()


def test_a_new_target_of_another_repository_is_not_used_while_the_known_ones_are_away(spool: Path) -> None:
    """The same key file opens both: only the pins can tell."""
    _, a, _ = pair(1)
    _, _, other = pair(2)
    opened(spool, a)
    new = target("c", other.backend)
    for away in ({"a": Unavailable("open")}, {}):
        with pytest.raises((Unreachable, NotThisTarget)):
            opened(spool, *([] if away else [faulty(a, "open:503*")]), new, failed=dict(away))
    assert set(Pins(spool).targets) == {"a"}


@pytest.mark.parametrize(
    "script", ["open=repository:503*", "open=repository:gone*", "list=keys/:503*", "open=keys:denied*"]
)
def test_one_target_that_is_down_is_named_and_the_other_serves(script: str, spool: Path) -> None:
    ring, a, b = pair()
    opened(spool, a, b)
    repository = opened(spool, faulty(a, script), b)
    assert repository.ring == ring and [t.name for t in repository.targets][-1] == "b"
    if "repository" in script:
        assert list(repository.absent) == ["a"]


def test_a_backend_that_could_not_be_made_is_named(spool: Path) -> None:
    _, a, b = pair()
    failure = Denied("open", why="the key is wrong")
    repository = opened(spool, a, failed={"b": failure})
    assert repository.absent == {"b": failure}
    with pytest.raises(Denied):
        repository.target("b")
    with pytest.raises(Conflict, match="no target 'c'"):
        repository.target("c")
    with pytest.raises(Denied):
        opened(spool, failed={"b": failure})
    with pytest.raises(Unreachable, match=r"a: .*; b: "):
        opened(spool, failed={"a": failure, "b": failure})
    assert b


def test_a_key_that_opens_nothing_is_said_at_once(spool: Path) -> None:
    _, a, b = pair()
    with pytest.raises(KeyMissing):
        opened(spool, a, b, secret=Secret("keyfile", b"x" * 32, "f"))
    assert not spool.exists()


def test_a_target_whose_slots_are_gone_is_authenticated_by_the_keys_of_another(spool: Path) -> None:
    ring, a, b = pair()
    for name, _ in list(slots_of(a)):
        a.backend.delete(Key(name))
    repository = opened(spool, a, b)
    assert repository.ring == ring and [t.name for t in repository.targets] == ["a", "b"]


def test_a_descriptor_that_only_claims_to_belong_is_not_used(spool: Path) -> None:
    """Without the key anyone can write the open section; the last frame is what proves it."""
    ring, a, b = pair()
    data = a.read(DESCRIPTOR)
    ident = str(parse_open_section(data, "a")[1]["target"])
    forged = data.replace(ident.encode(), b"0" * 32)
    a.backend.delete(DESCRIPTOR)
    a.write(DESCRIPTOR, [forged], len(forged))
    for name, _ in list(slots_of(a)):
        a.backend.delete(Key(name))
    repository = opened(spool, a, b)
    assert isinstance(repository.absent["a"], Damage) and [t.name for t in repository.targets] == ["b"]
    assert set(Pins(spool).targets) == {"b"} and repository.ring == ring


def flipped(where: Target, name: str, at: float) -> None:
    """Exchange an object for a copy with one bit flipped, at this part of its length."""
    data = bytearray(where.read(Key(name)))
    data[int(len(data) * at)] ^= 4
    where.backend.delete(Key(name))
    where.write(Key(name), [bytes(data)], len(data))


@pytest.mark.parametrize("at", [0.1, 0.4, 0.5, 0.6, 0.9])
def test_a_damaged_descriptor_is_damage_wherever_the_bit_is_and_never_a_wrong_key(at: float, spool: Path) -> None:
    _, a, b = pair()
    opened(spool, a, b)
    flipped(a, DESCRIPTOR, at)
    repository = opened(spool, a, b)
    assert isinstance(repository.absent["a"], Damage) and [t.name for t in repository.targets] == ["b"]
    assert "descriptor is damaged" in str(repository.absent["a"])
    flipped(b, DESCRIPTOR, at)
    with pytest.raises(Damage, match="descriptor is damaged") as error:
        opened(spool, a, b)
    assert "a: " in error.value.why and "b: " in error.value.why and "its own" in error.value.cure


@pytest.mark.parametrize("at", [0.1, 0.5, 0.7, 0.95])
def test_a_damaged_key_slot_is_damage_and_its_target_serves_with_the_keys_of_another(at: float, spool: Path) -> None:
    ring, a, b = pair()
    (slot,) = dict(slots_of(a))
    flipped(a, slot, at)
    repository = opened(spool, a, b)
    assert repository.ring == ring and [t.name for t in repository.targets] == ["a", "b"]
    flipped(b, slot, at)
    with pytest.raises(Damage, match="key slots") as error:
        opened(spool, a, b)
    assert slot in error.value.why and "any copy" in error.value.cure


def test_a_sound_slot_that_does_not_open_is_a_wrong_key_even_beside_a_damaged_one(spool: Path) -> None:
    _, a, b = pair()
    (slot,) = dict(slots_of(a))
    flipped(a, slot, 0.5)
    with pytest.raises(KeyMissing, match="opens no slot"):
        opened(spool, a, b, secret=Secret("keyfile", b"x" * 32, "f"))


def test_slots_that_are_gone_everywhere_are_not_promised_elsewhere(spool: Path) -> None:
    _, a, b = pair()
    for where in (a, b):
        for name, _ in list(slots_of(where)):
            where.backend.delete(Key(name))
    with pytest.raises(KeyMissing, match="no target has a key slot") as error:
        opened(spool, a, b)
    assert "any copy" in error.value.cure and "bring" not in error.value.cure
    with pytest.raises(KeyMissing) as error:
        opened(spool, a, b, failed={"c": Unavailable("open")})
    assert "bring c back" in error.value.cure


def test_a_lower_epoch_than_this_host_has_seen_is_refused(spool: Path) -> None:
    ring, a, b = pair()
    second = rotated(ring)
    slots = [add_slot(where, second) for where in (a, b)]
    assert opened(spool, a, b).ring.epoch == 2
    for where, slot in zip((a, b), slots, strict=True):
        where.backend.delete(Key(slot))
    with pytest.raises(Conflict, match="epoch 1, this host has seen 2"):
        opened(spool, a, b)
    assert Pins(spool).epoch == 2


@pytest.mark.parametrize("behind", ["a", "b"])
def test_one_target_that_was_rolled_back_does_not_hide_the_newer_key(behind: str, spool: Path) -> None:
    ring, a, b = pair()
    second = rotated(ring)
    slots = {where.name: add_slot(where, second) for where in (a, b)}
    opened(spool, a, b)
    (a if behind == "a" else b).backend.delete(Key(slots[behind]))
    assert opened(spool, a, b).ring == second


def test_a_rotated_repository_opens_with_all_earlier_keys(spool: Path) -> None:
    ring, a, b = pair()
    third = rotated(rotated(ring))
    name = add_slot(a, third)
    assert open_slot(SECRET, a.read(Key(name)), name) == third
    assert opened(spool, a, b).ring == third


def test_pins_survive_and_are_replaced_whole(spool: Path) -> None:
    _, a, b = pair()
    opened(spool, a)
    before = (spool / "pins.json").read_text()
    opened(spool, a)
    assert (spool / "pins.json").read_text() == before
    opened(spool, a, b)
    assert set(json.loads((spool / "pins.json").read_text())["targets"]) == {"a", "b"}
    assert [p.name for p in spool.iterdir()] == ["pins.json"]


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"targets":{"a":{}},"epoch":1}', '{"targets":{},"epoch":"x"}'])
def test_a_damaged_file_of_pins_is_never_taken_for_none(text: str, spool: Path) -> None:
    spool.mkdir()
    (spool / "pins.json").write_text(text)
    with pytest.raises(ConfigError) as error:
        Pins(spool)
    assert str(spool) in error.value.where and error.value.cure


def test_losing_the_pins_costs_only_the_memory(spool: Path) -> None:
    ring, a, b = pair()
    opened(spool, a, b)
    shutil.rmtree(spool)
    assert opened(spool, a, b).ring == ring


# --- a spool that cannot be used ----------------------------------------------------------------------------------


def test_a_spool_that_cannot_be_made_is_a_mistake_in_the_configuration(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    _, a, b = pair()
    for spool in (tmp_path / "file", tmp_path / "file" / "spool"):
        with pytest.raises(ConfigError) as error:
            opened(spool, a, b)
        assert str(spool) in error.value.where and "[daemon] spool" in error.value.where and error.value.cure


def test_who_only_reads_goes_without_pins_and_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    ring, a, b = pair()
    told: list[Problem] = []
    pins = Pins(tmp_path / "file" / "spool")
    repository = open_repository([a, b], {}, SECRET, pins, entropy=seeded(9), unsaved=told.append)
    assert repository.ring == ring and [t.name for t in repository.targets] == ["a", "b"]
    assert len(told) == 1 and "spool" in str(told[0])


def test_pins_that_contradict_are_no_matter_of_the_spool(spool: Path) -> None:
    """Going without saving is not going without comparing."""
    ring, a, b = pair()
    slots = [add_slot(where, rotated(ring)) for where in (a, b)]
    opened(spool, a, b)
    for where, slot in zip((a, b), slots, strict=True):
        where.backend.delete(Key(slot))
    with pytest.raises(Conflict, match="epoch"):
        open_repository([a, b], {}, SECRET, Pins(spool), entropy=seeded(9), unsaved=lambda _: None)


# --- a descriptor that is damaged where no other target is left ---


def spoil_descriptor(where: Target) -> None:
    data = bytearray(where.read(DESCRIPTOR))
    data[100] ^= 1
    where.backend.delete(DESCRIPTOR)
    where.write(DESCRIPTOR, [bytes(data)], len(data))


@pytest.mark.parametrize("is_pinned", [True, False], ids=["pinned", "new-machine"])
def test_where_all_descriptors_are_damaged_key_slots_serve_whoever_only_reads(spool: Path, is_pinned: bool) -> None:
    ring, a, b = pair()
    if is_pinned:
        opened(spool, a, b)
    for one in (a, b):
        spoil_descriptor(one)
    with pytest.raises(Damage, match="descriptor"):
        opened(spool, a, b)
    repository = open_repository([a, b], {}, SECRET, Pins(spool), entropy=seeded(9), reading=True)
    assert repository.ring == ring and set(repository.rescued) == {"a", "b"} and not repository.absent
    assert is_pinned or not spool.exists()


def test_one_whole_descriptor_is_preferred_to_a_damaged_one(spool: Path) -> None:
    _, a, b = pair()
    spoil_descriptor(a)
    repository = open_repository([a, b], {}, SECRET, Pins(spool), entropy=seeded(9), reading=True)
    assert [t.name for t in repository.targets] == ["b"] and set(repository.absent) == {"a"} and not repository.rescued


def test_a_missing_descriptor_is_never_rescued(spool: Path) -> None:
    _, a, _ = pair()
    a.backend.delete(DESCRIPTOR)
    with pytest.raises(NotThisTarget):
        open_repository([a], {}, SECRET, Pins(spool), entropy=seeded(9), reading=True)


def test_slots_of_another_repository_do_not_rescue_a_pinned_target(spool: Path) -> None:
    _, a, b = pair()
    opened(spool, a, b)
    _, other, _ = pair(seed=2)
    spoil_descriptor(other)
    with pytest.raises(Damage, match="descriptor"):
        open_repository([other], {}, SECRET, Pins(spool), entropy=seeded(9), reading=True)


def test_a_lost_race_of_two_inits_does_not_mislead_a_rescue(spool: Path) -> None:
    """Its slot opens with the same key file, but no object of a cluster belongs to its repository."""
    ring, a, _ = pair()
    lost, other, _ = pair(seed=2)
    for name, data in slots_of(other):
        a.write(Key(name), [data], len(data))
    sample(ring).store(a, good=False)
    spoil_descriptor(a)
    repository = open_repository([a], {}, SECRET, Pins(spool), entropy=seeded(9), reading=True)
    assert repository.ring == ring != lost
