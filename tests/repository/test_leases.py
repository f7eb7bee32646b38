"""Leases, verdicts and rounds of tombstones on one target."""

from __future__ import annotations

from itertools import pairwise

import blake3
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from drkit.core.errors import Conflict, Damage
from drkit.crypto.container import DataKey, open_object, parse_open_section
from drkit.crypto.keys import Entropy
from drkit.repository.graves import pack_names, read_without_key
from drkit.repository.layout import Kind, RunId
from drkit.repository.leases import Lease, LeaseTerms, Verdict, held, read_verdict, tombstones
from drkit.repository.target import Target
from storage_backends.api import Key
from storage_backends.errors import NotFound, Unavailable
from storage_backends.faulty import Faulty
from storage_backends.memory import MemoryBackend
from storage_backends.trace import Event, Traced
from tests.core.clocks import HandClock
from tests.crypto.rings import ring, seeded
from tests.repository.samples import LAYOUT, bury, judged, target

RUN = RunId(1_772_368_259, b"\x00\x01\xab\xff")
VIA = RunId(1_772_000_000, b"\xff" * 4)
TERMS = LeaseTerms("backup", RUN, [VIA], "db1", 900)
FOLDER = LAYOUT.folder("leases")


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


def lease(where: Target, clock: HandClock, entropy: Entropy | None = None) -> Lease:
    return Lease(where, LAYOUT, TERMS, DataKey(ring(), seeded(1)), clock, entropy or seeded(2))


def names(where: Target) -> list[str]:
    return [info.key.removeprefix(FOLDER) for info in where.backend.list(FOLDER)]


def test_a_lease_says_who_holds_it_and_through_what_it_adopts(clock: HandClock) -> None:
    where = target("t", MemoryBackend())
    lease(where, clock)
    (name,) = names(where)
    value = open_object(ring(), where.read(Key(FOLDER + name)), kind=Kind.LEASE, name=FOLDER + name).json
    assert (value["run"], value["via"], value["job"], value["host"]) == (str(RUN), [str(VIA)], "backup", "db1")
    assert (value["lasts_s"], value["epoch"], f"{value['lease']}-00000001") == (900, 1, name)


def test_a_renewal_counts_up_and_leaves_the_one_before(clock: HandClock) -> None:
    where = target("t", MemoryBackend())
    held = lease(where, clock)
    ident = names(where)[0][:16]
    for epoch in range(2, 6):
        clock.advance(400)
        held.renew_if_due()
        assert names(where) == [f"{ident}-{epoch - 1:08x}", f"{ident}-{epoch:08x}"]
        held.renew_if_due()
        assert names(where)[-1] == f"{ident}-{epoch:08x}", "not due again yet"
    held.release()
    held.release()
    assert names(where) == []


def test_who_holds_leases_is_told_by_the_newest_epoch(clock: HandClock) -> None:
    where = target("t", MemoryBackend())
    assert held(where, LAYOUT, ring()) == []
    mine = lease(where, clock)
    clock.advance(400)
    mine.renew()
    (found,) = held(where, LAYOUT, ring())
    assert (found.job, found.host, found.run, found.lasts_s) == ("backup", "db1", str(RUN), 900)
    assert found.started_at == clock.now()
    mine.release()
    assert held(where, LAYOUT, ring()) == []


def test_no_listing_that_goes_on_during_renewals_misses_a_lease(clock: HandClock) -> None:
    """A listing is not a snapshot: between two steps of a renewal some epoch stays where it was."""
    backend = MemoryBackend()
    seen: list[set[str]] = []

    def look(event: Event) -> None:
        seen.append({info.key for info in backend.list(FOLDER)})

    held = lease(target("t", Traced(backend, look, clock=clock.monotonic)), clock)
    seen.clear()
    seen.append({info.key for info in backend.list(FOLDER)})
    for _ in range(3):
        held.renew()
    assert all(before & after for before, after in pairwise(seen)), "some epoch is there before and after each step"


def test_a_lease_ends_on_the_hosts_clock_and_never_comes_back(clock: HandClock) -> None:
    held = lease(target("t", MemoryBackend()), clock)
    seen = [held.live]
    for seconds in (899, 1):
        clock.advance(seconds)
        seen.append(held.live)
    held.renew()  # too late: an expirer may have looked while it was dead
    assert [*seen, held.live] == [True, True, False, False]


def test_renewed_in_time_it_goes_on(clock: HandClock) -> None:
    held = lease(target("t", MemoryBackend()), clock)
    for _ in range(5):
        clock.advance(600)
        held.renew_if_due()
        assert held.live


def test_a_term_counts_from_before_the_write(clock: HandClock) -> None:
    """The store's stamp is later: the host must give up first."""
    backend = Faulty(MemoryBackend(), "commit:slow=100", sleep=clock.advance)
    held = lease(target("t", backend), clock)
    clock.advance(801)
    assert not held.live


def test_who_meets_the_same_epoch_stops(clock: HandClock) -> None:
    where = target("t", MemoryBackend())
    one, twin = lease(where, clock), lease_of_a_copied_machine(where, clock)
    one.renew()
    with pytest.raises(Conflict):
        twin.renew()


def test_who_meets_a_higher_epoch_stops(clock: HandClock) -> None:
    where = target("t", MemoryBackend())
    one, twin = lease(where, clock), lease_of_a_copied_machine(where, clock)
    for _ in range(4):
        one.renew()
    with pytest.raises(Conflict, match="renewed"):
        twin.renew()


def lease_of_a_copied_machine(where: Target, clock: HandClock) -> Lease:
    """The same lease in a second process: a machine that was copied while it ran."""
    held = lease(target("t", MemoryBackend()), clock)
    held._target = where
    return held


@pytest.mark.parametrize("script", ["commit:503", "create:denied", "commit:lost", "list:503"])
def test_a_renewal_that_fails_is_an_error_and_the_lease_runs_out(clock: HandClock, script: str) -> None:
    backend = Faulty(MemoryBackend())
    held = lease(target("t", backend), clock)
    backend.add(script)
    with pytest.raises(Exception, match="on purpose"):
        held.renew()


@given(st.lists(st.text(st.sampled_from("abc/-09"), min_size=1, max_size=20), max_size=30), st.integers(1, 3))
@settings(deadline=None)
def test_rounds_of_tombstones_are_read_together(keys: list[str], rounds: int) -> None:
    where = target("t", MemoryBackend())
    for number in range(rounds):
        bury(where, *keys[number::rounds], seed=number)
    assert tombstones(where, LAYOUT, ring()) == set(keys)


def test_a_round_of_many_is_small_and_read_whole_with_and_without_the_key() -> None:
    where = target("t", MemoryBackend())
    keys = {f"{LAYOUT.root}packs/20260301T120000Z-00000000/{n:08x}" for n in range(100_000)}
    name = bury(where, *keys)
    assert tombstones(where, LAYOUT, ring()) == keys == read_without_key(where, LAYOUT, ring().repository)
    assert where.backend.stat(name).size_bytes < 1 << 20


def forged(packed: bytes) -> Target:
    """A round that anyone can make: its digest is right, its frames are another one's."""
    where = target("t", MemoryBackend())
    name = bury(where, "a")
    data = where.read(name)
    header, _, _ = parse_open_section(data, name)
    end = header.open_bytes - header.reference_bytes
    whole = data[:56] + len(packed).to_bytes(8, "little") + data[64:end] + packed + data[header.open_bytes : -32]
    where.backend.delete(name)
    where.write(name, [whole, blake3.blake3(whole).digest()], 0)
    return where


def test_a_forged_round_is_no_round_for_who_has_the_key() -> None:
    where = forged(pack_names(["b"]))
    assert read_without_key(where, LAYOUT, ring().repository) == {"b"}, "nobody can know without the key"
    with pytest.raises(Damage):
        tombstones(where, LAYOUT, ring())


@pytest.mark.parametrize(
    "packed",
    [b"", b"no frame", b"\x28\xb5\x2f\xfd\xe0" + (1 << 50).to_bytes(8, "little"), zstandard.compress(b"\xff\n")],
    ids=["nothing", "no frame", "a petabyte", "no ASCII"],
)
def test_without_the_key_an_impossible_round_is_damage_and_takes_no_memory(packed: bytes) -> None:
    with pytest.raises(Damage):
        read_without_key(forged(packed), LAYOUT, ring().repository)


def test_a_round_that_does_not_open_is_never_taken_for_none() -> None:
    where = target("t", MemoryBackend())
    name = bury(where, "a")
    data = where.read(name)
    where.backend.delete(name)
    where.write(name, [data[:-1]], 0)
    with pytest.raises(Damage):
        tombstones(where, LAYOUT, ring())


def test_a_store_that_cannot_be_asked_has_not_no_tombstones() -> None:
    for script in ("list:503", "open:503", "read:503"):
        backend = Faulty(MemoryBackend())
        bury(target("t", backend), "a")
        backend.add(script)
        with pytest.raises(Unavailable):
            tombstones(target("t", backend), LAYOUT, ring())


@pytest.mark.parametrize("first", list(Verdict))
@pytest.mark.parametrize("second", list(Verdict))
def test_the_first_verdict_stands_and_the_second_obeys(first: Verdict, second: Verdict) -> None:
    where = target("t", MemoryBackend())
    with pytest.raises(NotFound):
        read_verdict(where, LAYOUT, RUN, ring())
    assert judged(where, RUN, first) is first
    assert judged(where, RUN, second) is first
    assert read_verdict(where, LAYOUT, RUN, ring()) is first


def test_a_writer_and_an_expirer_who_meet_agree() -> None:
    """At each verb of the one, the other decides: both hold the same verdict in the end."""
    for step in range(1, 12):
        backend = MemoryBackend()
        other: list[Verdict] = []
        at = 0

        def record(event: Event, backend: MemoryBackend = backend, step: int = step) -> None:
            nonlocal at
            at += 1
            if at == step:
                other.append(judged(target("t", backend), RUN, Verdict.WITHDRAWN))  # noqa: B023

        mine = judged(target("t", Traced(backend, record, clock=lambda: 0.0)), RUN, Verdict.GOOD)
        theirs = other[0] if other else judged(target("t", backend), RUN, Verdict.WITHDRAWN)
        assert mine is theirs is read_verdict(target("t", backend), LAYOUT, RUN, ring())


def test_a_verdict_under_another_runs_name_is_damage() -> None:
    where = target("t", MemoryBackend())
    judged(where, RUN, Verdict.GOOD)
    where.write(LAYOUT.verdict(VIA), [where.read(LAYOUT.verdict(RUN))], 0)
    with pytest.raises(Damage):
        read_verdict(where, LAYOUT, VIA, ring())
