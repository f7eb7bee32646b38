"""Fetching WAL: what is handed over is whole and right, and absence is never guessed."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from drkit.core.errors import Failed, KeyMissing, Unreachable
from drkit.core.log import Field, Level, NoLog
from drkit.engines.postgres.wal import parse_name
from drkit.jobs.recovery_file import RecoveryFile
from drkit.jobs.wal_get import Answer, Claim, Found, Retry, Wanted, claim, get, into
from drkit.repository.layout import Kind
from drkit.repository.repository import Repository
from drkit.repository.wal import pack, seal
from storage_backends.errors import Denied, NotFound, NotThisTarget, StorageError, Unavailable
from storage_backends.faulty import Faulty
from storage_backends.memory import MemoryBackend
from tests.jobs.wal_world import MIB, SYSTEM, World, flip, replace_object, segment_bytes_of

NAME = "000000010000000000000003"
HISTORY = "00000002.history"
LATER = "0000000100000000000000AA"
PLAN = RecoveryFile(
    config=None,
    cluster="orders",
    system_identifier=SYSTEM,
    segment_bytes=MIB,
    path=((1, "0/480000"), (2, "0/700000"), (4, None)),
    horizon="000000040000000000000009",
    histories=("00000002.history", "00000004.history"),
    targets=("a", "b"),
)


class Events(NoLog):
    """Remembers what was told."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str, dict[str, Field]]] = []

    def event(self, level: Level, name: str, /, **fields: Field) -> None:
        self.seen.append((level, name, fields))

    def warn(self, name: str, /, **fields: Field) -> None:
        self.event("warn", name, **fields)

    def error(self, name: str, /, **fields: Field) -> None:
        self.event("error", name, **fields)


@pytest.fixture
def world(tmp_path: Path) -> World:
    world = World(tmp_path)
    world.push(world.segment(NAME))
    world.push(world.wal_file(HISTORY, b"1\t0/480000\tno recovery target specified\n"))
    return world


def fetch(
    world: World, name: str, recovery: RecoveryFile | None = None, events: Events | None = None, **wanted: object
) -> tuple[Found, Path]:
    dest = world.root / "RECOVERYXLOG"
    asked = replace(Wanted(parse_name(name), world.system, world.segment_bytes), **wanted)  # type: ignore[arg-type]
    found = get(asked, into(dest), lambda: world.repository, recovery, world.clock, events or NoLog(), retry=Retry())
    assert dest.exists() == (found.answer is Answer.GOT)
    assert [p.name for p in world.root.iterdir() if p.name.endswith(".tmp")] == []
    return found, dest


# --- got ----------------------------------------------------------------------------------------------------------


def test_a_segment_and_a_history_file_come_back_whole(world: World) -> None:
    for name in (NAME, HISTORY):
        found, dest = fetch(world, name)
        assert found.answer is Answer.GOT and found.source == "a"
        assert dest.read_bytes() == (world.data / "pg_wal" / name).read_bytes()
        dest.unlink()


def test_what_lies_at_the_destination_is_replaced_as_a_whole(world: World) -> None:
    (world.root / "RECOVERYXLOG").write_bytes(b"old" * 10_000_000)
    _, dest = fetch(world, NAME)
    assert dest.read_bytes() == segment_bytes_of(NAME)


def test_a_destination_that_cannot_be_written_is_not_absence(world: World) -> None:
    asked = Wanted(parse_name(NAME), SYSTEM, MIB)
    with pytest.raises(Failed, match="written"):
        get(asked, into(world.root / "no" / "x"), lambda: world.repository, None, world.clock, NoLog(), retry=Retry())


def test_targets_are_asked_in_the_order_of_the_plan(world: World) -> None:
    plan = replace(PLAN, targets=("b", "a"))
    assert fetch(world, NAME, plan)[0].source == "b"
    found = fetch(world, NAME, replace(plan, without=("b",)))[0]
    assert found.source == "a"


# --- row 1: absence is proven, never guessed ----------------------------------------------------------------------


def test_row_01_absent_needs_every_target_to_say_so(world: World) -> None:
    found, _ = fetch(world, LATER)
    assert found.answer is Answer.ABSENT and set(found.problems) == {"a", "b"}


@pytest.mark.parametrize("script", ["open:503*", "open:denied*", "open:gone*", "read:503*"])
def test_row_01_absent_on_one_while_another_cannot_be_reached_is_doubt(world: World, script: str) -> None:
    name = NAME if script.startswith("read") else LATER
    if name == NAME:
        world.backends["a"] = MemoryBackend("a")
    world.wrap("b", lambda inner: Faulty(inner, script))
    found, _ = fetch(world, name)
    assert found.answer is Answer.DOUBT and set(found.problems) == {"a", "b"}
    assert len(world.clock.slept) == Retry().rounds - 1, "it was tried again, and then no more"
    assert 10 < sum(world.clock.slept) < 30


def test_row_01_a_target_that_did_not_open_is_doubt(world: World) -> None:
    world.absent["b"] = NotThisTarget("open", where="b", why="the folder is missing")
    assert fetch(world, LATER)[0].answer is Answer.DOUBT
    assert fetch(world, NAME)[0].answer is Answer.GOT


def test_row_01_a_target_that_the_plan_names_and_nobody_knows_is_doubt(world: World) -> None:
    plan = replace(PLAN, targets=("gone",))
    assert fetch(world, NAME, plan)[0].answer is Answer.DOUBT


def test_row_01_what_the_plan_proves_is_doubt_even_when_every_target_says_no(world: World) -> None:
    found, _ = fetch(world, "000000020000000000000005", PLAN)
    assert found.answer is Answer.DOUBT and "horizon" not in found.why and "proven up to" in found.why
    found, _ = fetch(world, "00000004.history", PLAN)
    assert found.answer is Answer.DOUBT


def test_row_01_a_target_that_answers_again_in_time_is_heard(world: World) -> None:
    world.backends = {"b": Faulty(world.backends["b"], "open:503,503")}
    found, dest = fetch(world, NAME)
    assert found.answer is Answer.GOT and dest.read_bytes() == segment_bytes_of(NAME)


class Opening:
    """Opens the world's repository, after so many failures."""

    def __init__(self, world: World, *failures: Exception) -> None:
        self.world, self.failures, self.count = world, list(failures), 0

    def __call__(self) -> Repository:
        self.count += 1
        if self.failures:
            raise self.failures.pop(0)
        return self.world.repository


def opened_by(opening: Opening, name: str, recovery: RecoveryFile | None = PLAN) -> Found:
    world = opening.world
    wanted = Wanted(parse_name(name), SYSTEM, MIB)
    return get(wanted, into(world.root / "x"), opening, recovery, world.clock, NoLog(), retry=Retry())


def test_row_01_a_store_that_is_down_when_it_is_opened_is_opened_again(world: World) -> None:
    """The file is looked for in every round, also when there was nobody to ask in the first ones."""
    opening = Opening(world, Unavailable("open", where="a", why="refused"), Unreachable("no target can be used"))
    found = opened_by(opening, NAME)
    assert found.answer is Answer.GOT and opening.count == 3


def test_row_01_a_target_that_was_absent_in_one_round_is_there_in_the_next(world: World) -> None:
    world.absent["a"] = NotThisTarget("open", where="a", why="the folder is missing")
    only_a = {"a": world.backends["a"]}

    def mounted() -> Repository:
        repository = world.repository
        world.absent.clear()
        return repository

    world.backends = only_a
    wanted = Wanted(parse_name(NAME), SYSTEM, MIB)
    found = get(wanted, into(world.root / "x"), mounted, PLAN, world.clock, NoLog(), retry=Retry())
    assert found.answer is Answer.GOT and found.source == "a"


@pytest.mark.parametrize("problem", [Unavailable("open", where="a"), NotFound("stat", where="a"), Denied("open")])
def test_row_01_a_repository_that_never_opens_is_doubt_never_absence(world: World, problem: StorageError) -> None:
    rounds = Retry().rounds
    for recovery in (PLAN, None):
        opening = Opening(world, *[problem] * rounds)
        found = opened_by(opening, LATER if recovery is None else NAME, recovery)
        assert found.answer is Answer.DOUBT and opening.count == rounds
        assert problem.what in found.told


def test_the_rounds_end_when_each_of_them_takes_long(world: World) -> None:
    """A dead host costs time-outs: what was to take half a minute must not take five."""

    class Slow(Opening):
        def __call__(self) -> Repository:
            world.clock.at += timedelta(seconds=20)
            return super().__call__()

    opening = Slow(world, *[Unavailable("open", where="a")] * 9)
    assert opened_by(opening, NAME).answer is Answer.DOUBT
    assert opening.count == 2


def test_a_key_that_is_missing_is_told_at_once(world: World) -> None:
    with pytest.raises(KeyMissing):
        opened_by(Opening(world, KeyMissing("the key file is missing")), NAME)
    assert world.clock.slept == []


def test_behind_the_horizon_and_off_the_path_no_target_is_asked(world: World) -> None:
    for name in ("a", "b"):
        world.wrap(name, lambda inner: Faulty(inner, "open:503*"))
    for name in ("00000004000000000000000A", "000000010000000000000006", "000000030000000000000007"):
        assert fetch(world, name, PLAN)[0].answer is Answer.ABSENT
    assert world.clock.slept == []


def test_an_unplanned_history_file_is_looked_for_and_never_stops_recovery(world: World) -> None:
    assert fetch(world, "00000005.history", PLAN)[0].answer is Answer.ABSENT
    world.push(world.wal_file("00000005.history", b"1\t0/480000\tx\n"))
    found, dest = fetch(world, "00000005.history", PLAN)
    assert found.answer is Answer.GOT
    dest.unlink()
    world.wrap("a", lambda inner: Faulty(inner, "open:503*"))
    world.wrap("b", lambda inner: Faulty(inner, "open:503*"))
    events = Events()
    assert fetch(world, "00000005.history", PLAN, events)[0].answer is Answer.ABSENT
    assert "wal not planned" in [name for _, name, _ in events.seen]


CLAIMS = [
    ("000000010000000000000001", Claim.EXPECTED),
    ("000000010000000000000003", Claim.EXPECTED),
    ("000000010000000000000004", Claim.OPEN),  # the switch lies in it: timeline 2 has it whole
    ("000000010000000000000005", Claim.ABSENT),
    ("000000020000000000000003", Claim.ABSENT),
    ("000000020000000000000004", Claim.EXPECTED),
    ("000000020000000000000006", Claim.EXPECTED),
    ("000000020000000000000007", Claim.ABSENT),  # the switch is its first byte
    ("000000030000000000000005", Claim.ABSENT),
    ("000000040000000000000007", Claim.EXPECTED),
    ("000000040000000000000009", Claim.EXPECTED),
    ("00000004000000000000000A", Claim.ABSENT),
    ("00000002.history", Claim.EXPECTED),
    ("00000003.history", Claim.UNPLANNED),
    ("000000040000000000000009.partial", Claim.OPEN),
]


@pytest.mark.parametrize(("name", "expected"), CLAIMS)
def test_the_plan_decides_by_path_and_horizon(name: str, expected: Claim) -> None:
    assert claim(parse_name(name), PLAN)[0] is expected
    assert claim(parse_name(name), None)[0] is Claim.OPEN


def test_a_standby_looks_behind_the_horizon_and_on_newer_timelines() -> None:
    standby = replace(PLAN, standby=True)
    for name in ("00000004000000000000000A", "00000005000000000000000A", "00000005.history"):
        assert claim(parse_name(name), standby)[0] is Claim.OPEN
    assert claim(parse_name("000000030000000000000005"), standby)[0] is Claim.ABSENT


# --- row 18: damage -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", [0, 60, 200, None, -40, -1])
def test_row_18_a_flipped_bit_on_one_target_is_told_and_the_other_serves(world: World, place: int | None) -> None:
    flip(world.backends["a"], world.layout.wal(NAME), place)
    events = Events()
    found, dest = fetch(world, NAME, PLAN, events)
    assert found.answer is Answer.GOT and found.source == "b"
    assert dest.read_bytes() == segment_bytes_of(NAME)
    assert [(level, name, fields["target"]) for level, name, fields in events.seen] == [("error", "wal damaged", "a")]
    event = found.event(NAME)
    assert (event.source, event.size_bytes, list(event.damaged)) == ("b", MIB, ["a"])


def test_row_18_flipped_on_both_is_doubt_and_nothing_is_handed_over(world: World) -> None:
    for target in ("a", "b"):
        flip(world.backends[target], world.layout.wal(NAME))
    for plan in (PLAN, None):
        found, _ = fetch(world, NAME, plan)
        assert found.answer is Answer.DOUBT and set(found.problems) == {"a", "b"}
        event = found.event(NAME)
        assert event.source == "" and set(event.damaged) == {"a", "b"} and not event.failed and not event.missing
    assert len(world.clock.slept) == 2, "once more, as the bits may have been flipped on the way"


def test_row_18_a_bit_flipped_on_the_way_is_asked_for_again(world: World) -> None:
    world.backends = {"a": Faulty(world.backends["a"], "read:ok,ok,ok,flip")}
    found, dest = fetch(world, NAME)
    assert found.answer is Answer.GOT and dest.read_bytes() == segment_bytes_of(NAME)


def test_damage_on_one_and_absence_on_the_other_is_doubt(world: World) -> None:
    flip(world.backends["a"], world.layout.wal(NAME))
    world.backends["b"] = MemoryBackend("b")
    assert fetch(world, NAME)[0].answer is Answer.DOUBT


def plant(world: World, content: bytes, segment_bytes: int = MIB) -> None:
    """Store `content` as NAME, properly sealed, on both targets: what a faulty or hostile pusher could do."""
    import io

    key = world.layout.wal(NAME)
    packed = pack(world.ring, NAME, io.BytesIO(content), segment_bytes, 3)
    data = b"".join(seal(world.ring, packed, key, Kind.WAL).parts)
    for backend in world.backends.values():
        replace_object(backend, key, data)


@pytest.mark.parametrize(
    "content",
    [
        segment_bytes_of("000000010000000000000004"),
        segment_bytes_of(NAME, system=SYSTEM + 1),
        segment_bytes_of(NAME, page_timeline=2),
        segment_bytes_of(NAME, size=2 * MIB),
        segment_bytes_of(NAME)[:-1],
        bytes(MIB),
        b"",
    ],
)
def test_a_sealed_object_whose_content_is_no_such_segment_is_doubt(world: World, content: bytes) -> None:
    plant(world, content)
    assert fetch(world, NAME)[0].answer is Answer.DOUBT


def test_another_segment_size_than_the_clusters_is_refused_and_without_one_the_objects_counts(world: World) -> None:
    plant(world, segment_bytes_of("000000010000000000000003", size=2 * MIB), 2 * MIB)
    assert fetch(world, NAME)[0].answer is Answer.DOUBT
    found, dest = fetch(world, NAME, segment_bytes=None)
    assert found.answer is Answer.GOT and dest.stat().st_size == 2 * MIB
