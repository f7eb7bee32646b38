"""Pushing WAL: nothing wrong is stored, nothing stored is changed, nothing is acknowledged that is not safe."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from drkit.core.errors import Conflict, Damage, DrkitError, Failed, Missing, Unreachable, UsageError
from drkit.core.log import NoLog
from drkit.crypto.container import DataKey
from drkit.engines.postgres.wal import WalNameError, WrongAddress, WrongSize, WrongSystem, WrongTimeline
from drkit.jobs.fanout import Patience
from drkit.jobs.wal_debts import pay_debts
from drkit.jobs.wal_push import push
from drkit.jobs.wal_source import data_folder
from drkit.repository.layout import Kind
from drkit.repository.leases import entomb
from drkit.repository.spool import Spool
from drkit.repository.wal import open_wal
from storage_backends.api import Key, ObjectInfo, StorageBackend, Upload
from storage_backends.errors import NotThisTarget, OutOfSpace
from storage_backends.faulty import Faulty
from storage_backends.memory import MemoryBackend
from storage_backends.passthrough import Passthrough
from tests.jobs.wal_world import (
    MIB,
    RING,
    SYSTEM,
    World,
    control_bytes,
    entropy,
    flip,
    posix_backends,
    segment_bytes_of,
)

NAME = "000000010000000000000003"
NEXT = "000000010000000000000004"
OTHER_SYSTEM = SYSTEM + 5


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def plain(world: World, target: str, file: str = NAME) -> bytes:
    kind = Kind.HISTORY if file.endswith(".history") else Kind.WAL
    with open_wal(world.ring, world.target(target), world.layout.archived(file), kind) as found:
        return b"".join(found.pieces())


# --- the good case ------------------------------------------------------------------------------------------------


def test_every_kind_of_file_is_archived_on_every_target(world: World) -> None:
    contents = {
        NAME: segment_bytes_of(NAME),
        f"{NAME}.partial": segment_bytes_of(NAME, seed=1),
        f"{NAME}.00000028.backup": b"START WAL LOCATION: 0/3000028\n",
        "00000002.history": b"1\t0/3000000\tno recovery target specified\n",
    }
    for file, content in contents.items():
        done = world.push(world.wal_file(file, content))
        assert done.acknowledged == ("a", "b") and not done.owed
    for target in ("a", "b"):
        assert {file: plain(world, target, file) for file in contents} == contents
    assert world.objects("a") == world.objects("b")


def test_pushing_again_succeeds_and_changes_nothing(world: World) -> None:
    path = world.segment(NAME)
    world.push(path)
    before = world.objects("a"), world.objects("b")
    assert world.push(path).acknowledged == ("a", "b")
    assert (world.objects("a"), world.objects("b")) == before


# --- refused before anything is stored ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "content", "error"),
    [
        ("000000010000000000000003x", segment_bytes_of(NAME), WalNameError),
        ("0000000100000000000FFFFF", segment_bytes_of(NAME), WalNameError),
        (NAME, segment_bytes_of(NAME)[:-1], WrongSize),
        (NAME, segment_bytes_of(NAME) + b"x", WrongSize),
        (NAME, segment_bytes_of(NEXT), WrongAddress),
        (NAME, segment_bytes_of(NAME, page_timeline=2), WrongTimeline),
        (NAME, segment_bytes_of(NAME, system=OTHER_SYSTEM), WrongSystem),
        (NAME, bytes(MIB), Damage),
        ("00000002.history", b"", Damage),
        ("00000002.history", b"rubbish\n", Damage),
    ],
)
def test_a_file_that_is_not_what_its_name_says_is_refused(
    world: World, file: str, content: bytes, error: type[DrkitError]
) -> None:
    with pytest.raises(error):
        world.push(world.wal_file(file, content))
    assert world.objects("a") == world.objects("b") == {}
    assert not (world.spool.folder / "systems").exists()


def test_a_missing_file_and_a_missing_control_file_are_told(world: World) -> None:
    with pytest.raises(Missing):
        world.push(world.data / "pg_wal" / NAME)
    path = world.segment(NAME)
    (world.data / "global" / "pg_control").unlink()
    with pytest.raises(Missing, match="data folder"):
        world.push(path)


def test_whose_wal_it_is(tmp_path: Path, world: World) -> None:
    assert data_folder(Path("pg_wal") / NAME, world.data, Path("/elsewhere")) == world.data
    assert data_folder(world.data / "pg_wal" / NAME, tmp_path, Path("/configured")) == Path("/configured")
    assert data_folder(world.data / "pg_wal" / NAME, tmp_path, None) == world.data
    with pytest.raises(UsageError):
        data_folder(Path("/nowhere") / NAME, tmp_path, None)


# --- row 2: never overwritten -------------------------------------------------------------------------------------


def test_row_02_one_changed_byte_is_an_error_and_what_is_stored_stays(world: World) -> None:
    path = world.segment(NAME)
    world.push(path)
    before = {target: world.stored(target, NAME) for target in ("a", "b")}
    content = bytearray(path.read_bytes())
    content[-100] ^= 1
    path.write_bytes(content)
    for _ in range(2):
        with pytest.raises(Conflict, match="archived already") as refused:
            world.push(path)
        assert "quarantine" in refused.value.why and "drkit wal get" in refused.value.cure
    assert {target: world.stored(target, NAME) for target in ("a", "b")} == before
    kept = [key for key in world.objects("a") if "/quarantine/" in key]
    assert len(kept) == 1
    with open_wal(world.ring, world.target("a"), Key(kept[0]), Kind.QUARANTINE) as found:
        assert b"".join(found.pieces()) == bytes(content)


def test_row_02_a_conflict_on_one_target_stores_nothing_on_the_others(world: World) -> None:
    world.push(world.segment(NAME))
    world.backends["b"] = MemoryBackend("b")
    with pytest.raises(Conflict):
        world.push(world.segment(NAME, seed=1))
    assert world.objects("b") == {}


def test_row_02_two_clusters_with_one_name_never_meet(tmp_path: Path) -> None:
    stores: dict[str, StorageBackend] = {"a": MemoryBackend("a"), "b": MemoryBackend("b")}
    first = World(tmp_path / "one", backends=stores)
    second = World(tmp_path / "two", backends=stores, system=OTHER_SYSTEM)
    first.push(first.segment(NAME))
    second.push(second.segment(NAME))
    assert plain(first, "a") == segment_bytes_of(NAME)
    assert plain(second, "a") == segment_bytes_of(NAME, system=OTHER_SYSTEM)


def test_row_02_a_new_initdb_under_a_known_name_is_refused_on_this_host(tmp_path: Path, world: World) -> None:
    world.push(world.segment(NAME))
    before = world.objects("a")
    foreign = World(tmp_path, backends=world.backends, system=OTHER_SYSTEM)
    with pytest.raises(Conflict, match="orders"):
        foreign.push(foreign.segment(NAME))
    assert world.objects("a") == before


_PUSHER = """
import sys
from pathlib import Path
from tests.jobs.wal_world import World, posix_backends
root, seed, level = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
world = World(root / f"host-{seed}-{level}", backends=posix_backends(root), level=level, needed=2)
path = world.segment("000000010000000000000003", seed)
sys.stdin.readline()
try:
    world.push(path)
except Exception as error:
    print(type(error).__name__)
else:
    print("acknowledged")
"""


def _race(root: Path, pushers: list[tuple[int, int]]) -> list[str]:
    """Run pushers (seed of the content, level) as processes that start at one signal; what each one printed."""
    running = [
        subprocess.Popen(
            [sys.executable, "-c", _PUSHER, str(root), str(seed), str(level)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2],
        )
        for seed, level in pushers
    ]  # fmt: skip
    for one in running:
        assert one.stdin is not None
        one.stdin.write("\n")
        one.stdin.flush()
    return [one.communicate(timeout=60)[0].strip() for one in running]


def test_row_02_two_pushers_at_once_of_equal_content_both_succeed(tmp_path: Path) -> None:
    posix_backends(tmp_path)
    assert _race(tmp_path, [(0, 3), (0, 19)]) == ["acknowledged"] * 2
    world = World(tmp_path, backends=posix_backends(tmp_path))
    assert plain(world, "a") == plain(world, "b") == segment_bytes_of(NAME)


def test_row_02_two_pushers_at_once_of_other_content_at_most_one_succeeds(tmp_path: Path) -> None:
    posix_backends(tmp_path)
    answers = _race(tmp_path, [(0, 3), (1, 3)])
    assert set(answers) <= {"acknowledged", "Conflict"} and answers.count("acknowledged") <= 1
    world = World(tmp_path, backends=posix_backends(tmp_path))
    contents = {plain(world, "a"), plain(world, "b")}
    if "acknowledged" in answers:
        assert contents == {segment_bytes_of(NAME, seed=answers.index("acknowledged"))}
    assert contents <= {segment_bytes_of(NAME, seed=seed) for seed in (0, 1)}


# --- twins --------------------------------------------------------------------------------------------------------


def test_the_twin_that_is_there_is_copied_to_the_target_that_lacks_it(world: World) -> None:
    world.level = 1
    path = world.segment(NAME)
    world.push(path)
    first = world.stored("a", NAME)
    world.backends["b"] = MemoryBackend("b")
    world.level = 19
    assert world.push(path).acknowledged == ("a", "b")
    assert world.stored("a", NAME) == world.stored("b", NAME) == first


def test_two_twins_on_two_targets_are_both_right(world: World) -> None:
    both = dict(world.backends)
    path = world.segment(NAME)
    for name, level in (("a", 1), ("b", 19)):
        world.backends, world.level = {name: both[name]}, level
        world.push(path)
    world.backends = both
    assert world.stored("a", NAME) != world.stored("b", NAME)
    assert world.push(path).acknowledged == ("a", "b")


# --- debts --------------------------------------------------------------------------------------------------------


def owed(world: World) -> dict[str, list[str]]:
    return {name: [debt.file for debt in world.spool.debts(name)] for name in world.spool.targets()}


@pytest.mark.parametrize("fault", ["create:503*", "commit:503*", "commit:full*", "create:denied*", "open:gone*"])
def test_what_a_target_lacks_is_owed_durably_and_paid_by_a_later_push(world: World, fault: str) -> None:
    healthy = world.backends["b"]
    world.wrap("b", lambda inner: Faulty(inner, fault))
    done = world.push(world.segment(NAME))
    assert done.acknowledged == ("a",) and set(done.owed) == {"b"}
    assert owed(world) == {"b": [NAME]}
    world.backends["b"] = healthy
    world.clock.sleep(600)
    assert world.push(world.segment(NEXT)).paid == 1
    assert owed(world) == {}
    assert world.stored("a", NAME) == world.stored("b", NAME)
    assert not list((world.spool.folder / "wal" / "sealed").iterdir())


def test_a_target_that_did_not_open_is_owed_too(world: World) -> None:
    world.absent["b"] = NotThisTarget("open", where="b", why="the folder is missing")
    assert set(world.push(world.segment(NAME)).owed) == {"b"}
    world.absent.clear()
    done = pay_debts(world.repository, world.targets, Spool(world.spool.folder), world.clock, NoLog())
    assert (done.paid, done.left) == (1, {})
    assert plain(world, "b") == segment_bytes_of(NAME)


def test_a_lost_answer_is_owed_and_found_paid(world: World) -> None:
    faulty = Faulty(world.backends["b"], "commit:lost")
    world.backends["b"] = faulty
    assert world.push(world.segment(NAME)).acknowledged == ("a",)
    assert pay_debts(world.repository, world.targets, world.spool, world.clock, NoLog()).paid == 1
    assert owed(world) == {} and world.stored("a", NAME) == world.stored("b", NAME)


def test_a_target_that_failed_just_now_is_not_asked_for_the_next_segment(world: World) -> None:
    faulty = Faulty(world.backends["b"], "open:503*")
    world.backends["b"] = faulty
    world.push(world.segment(NAME))
    calls: list[str] = []
    world.backends["b"] = _Counting(world.backends["b"], calls)
    assert set(world.push(world.segment(NEXT)).owed) == {"b"}
    assert calls == []
    world.clock.sleep(600)
    faulty.heal()
    done = world.push(world.segment("000000010000000000000005"))
    assert done.acknowledged == ("a", "b") and done.paid == 2 and owed(world) == {}


def test_a_resting_target_is_asked_where_the_rule_needs_it(world: World) -> None:
    world.needed = 2
    faulty = Faulty(world.backends["b"], "open:503")
    world.backends["b"] = faulty
    path = world.segment(NAME)
    with pytest.raises(Unreachable):
        world.push(path)
    assert world.push(path).acknowledged == ("a", "b")


class _Counting(Passthrough):
    def __init__(self, inner: StorageBackend, calls: list[str]) -> None:
        super().__init__(inner)
        self._calls = calls

    def create(self, key: Key, size_bytes: int | None = None, *, replacing: ObjectInfo | None = None) -> Upload:
        self._calls.append(key)
        return super().create(key, size_bytes, replacing=replacing)


class _BlackHole(Passthrough):
    """Takes every create and never answers, until it is released."""

    def __init__(self, inner: StorageBackend) -> None:
        super().__init__(inner)
        self.release = threading.Event()

    def create(self, key: Key, size_bytes: int | None = None, *, replacing: ObjectInfo | None = None) -> Upload:
        self.release.wait()
        raise NotThisTarget("create", where=self.url)


def test_a_target_that_never_answers_delays_nobody_for_ever(world: World) -> None:
    hole = _BlackHole(world.backends["b"])
    world.backends["b"] = hole
    settings = replace(world.settings, patience=Patience(deadline_s=60, grace_s=0))
    try:
        done = push(world.segment(NAME), world.repository, world.spool, settings, world.clock, NoLog())
        assert done.acknowledged == ("a",) and "in time" in done.owed["b"]
        assert owed(world) == {"b": [NAME]}
    finally:
        hole.release.set()


# --- too few ------------------------------------------------------------------------------------------------------


def test_nothing_is_acknowledged_by_too_few_targets(world: World) -> None:
    world.needed = 2
    world.wrap("b", lambda inner: Faulty(inner, "create:503*"))
    with pytest.raises(Unreachable, match=NAME) as refused:
        world.push(world.segment(NAME))
    assert "b:" in refused.value.why
    assert owed(world) == {}, "what is not acknowledged is PostgreSQL's to hand over again"


def test_damage_on_one_target_does_not_stop_archiving_and_is_no_conflict(world: World) -> None:
    path = world.segment(NAME)
    world.push(path)
    flip(world.backends["b"], world.layout.wal(NAME))
    damaged = world.stored("b", NAME)
    done = world.push(path)
    assert done.acknowledged == ("a",) and set(done.owed) == {"b"}
    assert [debt.blocked for debt in world.spool.debts("b")] == [True]
    assert world.push(world.segment(NEXT)).paid == 0
    assert world.stored("b", NAME) == damaged, "only repair removes it"
    world.backends["b"].delete(world.layout.wal(NAME))
    assert pay_debts(world.repository, world.targets, world.spool, world.clock, NoLog()).paid == 1
    assert world.stored("b", NAME) == world.stored("a", NAME)


def test_damage_everywhere_fails_and_names_it(world: World) -> None:
    path = world.segment(NAME)
    world.push(path)
    for target in ("a", "b"):
        flip(world.backends[target], world.layout.wal(NAME))
    with pytest.raises(Failed, match=NAME) as refused:
        world.push(path)
    assert "damaged" in refused.value.why


def test_a_debt_that_meets_other_content_is_kept_and_told(world: World) -> None:
    healthy = world.backends["b"]
    world.wrap("b", lambda inner: Faulty(inner, "open:503*"))
    world.push(world.segment(NAME))
    world.backends = {"b": healthy}
    elsewhere = World(world.root / "elsewhere", backends=world.backends)
    elsewhere.push(elsewhere.segment(NAME, seed=1))
    done = pay_debts(world.repository, world.targets, world.spool, world.clock, NoLog())
    assert done.paid == 0 and "conflict" in done.left[NAME, "b"]
    assert owed(world) == {"b": [NAME]}
    assert plain(elsewhere, "b") == segment_bytes_of(NAME, seed=1)


# --- a full spool -------------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real filesystem of 256 KiB."""
    if os.geteuid() != 0:
        pytest.skip("only root may mount a tmpfs")
    folder = tmp_path / "small"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", folder], check=True)
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_full_spool_fails_the_push_and_drops_nothing(world: World, small_disk: Path) -> None:
    world.spool = Spool(small_disk / "spool")
    world.push(world.segment(NAME))
    (small_disk / "other").write_bytes(bytes(248 << 10))
    world.wrap("b", lambda inner: Faulty(inner, "create:503*"))
    name = "000000010000000000000009"
    content = segment_bytes_of(name)[:8192] + os.urandom(MIB - 8192)
    path = world.wal_file(name, content)
    with pytest.raises(OutOfSpace, match=name) as refused:
        world.push(path)
    assert "bytes free" in refused.value.why
    (small_disk / "other").unlink()
    with pytest.raises(OutOfSpace):
        world.push(path)  # a MiB does not fit either
    world.backends["b"] = MemoryBackend("b")
    world.clock.sleep(600)
    assert world.push(path).acknowledged == ("a", "b")
    assert plain(world, "b", name) == content


@pytest.mark.parametrize("made", [True, False], ids=["an empty folder", "no folder"])
def test_a_new_spool_on_a_full_disk_holds_up_no_wal_that_all_targets_take(
    world: World, small_disk: Path, made: bool
) -> None:
    """What is durable where the rule wants it is acknowledged; what would have to wait in the spool is not."""
    world.spool = Spool(small_disk / "spool")
    if made:
        world.spool.folder.mkdir()
    with (small_disk / "other").open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(4096))
    with suppress(OSError):
        for number in range(10_000):
            (small_disk / f"other-{number}").touch()
    assert world.push(world.segment(NAME)).acknowledged == ("a", "b")
    assert plain(world, "b") == segment_bytes_of(NAME)
    kept = world.backends["b"]
    world.wrap("b", lambda inner: Faulty(inner, "create:503*"))
    lacking = world.segment("000000010000000000000009")
    with pytest.raises(OutOfSpace):
        world.push(lacking)
    for left in small_disk.glob("other*"):
        left.unlink()
    world.backends["b"] = kept
    world.clock.sleep(600)
    assert world.push(lacking).acknowledged == ("a", "b")
    with pytest.raises(Conflict, match="orders"):
        world.spool.pin_system("orders", SYSTEM + 1)  # remembered since there is room


def test_wal_under_an_expired_name_goes_to_quarantine_and_tells_that_the_server_was_set_back(world: World) -> None:
    key = world.layout.wal(NAME)
    name = world.layout.tombstones(world.layout.rounds(world.clock.now(), bytes(3)), 0)
    entomb(world.target("b"), name, [key], "t", data_key=DataKey(RING, entropy), clock=world.clock, entropy=entropy)
    with pytest.raises(Conflict, match="expired") as refused:
        world.push(world.segment(NAME))
    assert "set back" in refused.value.cure
    assert key not in world.objects("a") | world.objects("b")
    assert any("/quarantine/" in name for name in world.objects("b"))


def test_the_pin_follows_the_control_file(world: World) -> None:
    world.push(world.segment(NAME))
    (world.data / "global" / "pg_control").write_bytes(control_bytes(OTHER_SYSTEM))
    with pytest.raises(DrkitError):
        world.push(world.segment(NEXT))
