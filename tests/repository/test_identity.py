"""`init`: one repository on all targets, whoever else tries at the same time and wherever it is killed."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from drkit.core.errors import Conflict, Damage, DrkitError, KeyMissing
from drkit.crypto.keys import Ring
from drkit.crypto.slots import Secret
from drkit.repository.identity import Descriptor, found, read_descriptor, slots_of
from drkit.repository.layout import DESCRIPTOR, KEYS
from drkit.repository.pins import Pins
from drkit.repository.repository import open_repository
from drkit.repository.target import Target
from storage_backends.api import Key, StorageBackend
from storage_backends.errors import NotFound, StorageError, Unavailable
from storage_backends.faulty import Faulty
from storage_backends.memory import MemoryBackend
from storage_backends.posix import PosixBackend
from storage_backends.trace import Event, Traced
from tests.crypto.rings import seeded
from tests.repository.samples import AT, SECRET, target

EFFECTS = ("create", "commit", "delete")


class Death(BaseException):
    """The process ends here: nothing may catch it."""


def init(targets: Sequence[Target], seed: int = 1, secret: Secret = SECRET) -> tuple[Ring, dict[str, Descriptor]]:
    return found(targets, secret, now=AT, entropy=seeded(seed))


def memory(*names: str) -> dict[str, StorageBackend]:
    return {name: MemoryBackend(name) for name in names}


def targets(backends: dict[str, StorageBackend]) -> list[Target]:
    return [target(name, backend) for name, backend in backends.items()]


def content(backends: dict[str, StorageBackend]) -> dict[str, dict[str, bytes]]:
    return {n: {i.key: target(n, b).read(i.key) for i in b.list()} for n, b in backends.items()}


def opened(backends: dict[str, StorageBackend], folder: Path) -> Ring:
    """What a host finds afterwards; every target must be usable."""
    repository = open_repository(targets(backends), {}, SECRET, Pins(folder), entropy=seeded(9))
    assert not repository.absent
    return repository.ring


def test_init_makes_one_repository_with_an_identity_for_each_target(tmp_path: Path) -> None:
    backends = memory("a", "b", "c")
    ring, known = init(targets(backends))

    assert {d.repository for d in known.values()} == {ring.repository}
    assert len({d.target for d in known.values()}) == 3
    assert len({frozenset(dict(slots_of(t))) for t in targets(backends)}) == 1, "the same slots everywhere"
    assert opened(backends, tmp_path) == ring
    for keys in content(backends).values():
        assert len([key for key in keys if key.startswith(KEYS)]) == 1 and DESCRIPTOR in keys and len(keys) == 2


def test_init_again_changes_nothing() -> None:
    backends = memory("a", "b")
    first = init(targets(backends), 1)
    before = content(backends)
    assert init(targets(backends), 2) == first
    assert content(backends) == before


@pytest.mark.parametrize("there", ["a", "b"])
def test_an_empty_target_joins_those_that_are_there(there: str, tmp_path: Path) -> None:
    backends = memory("a", "b")
    ring, known = init([target(there, backends[there])], 1)
    joined, both = init(targets(backends), 2)
    assert joined == ring and both[there] == known[there]
    assert opened(backends, tmp_path) == ring


def test_targets_of_two_repositories_are_a_conflict_and_nothing_is_written() -> None:
    backends = memory("a", "b", "c")
    init([target("a", backends["a"])], 1)
    init([target("b", backends["b"])], 2)
    before = content(backends)
    with pytest.raises(Conflict, match="different repositories"):
        init(targets(backends), 3)
    assert content(backends) == before


def test_another_key_cannot_join() -> None:
    backends = memory("a", "b")
    init([target("a", backends["a"])], 1)
    before = content(backends)
    with pytest.raises(KeyMissing):
        init(targets(backends), 2, Secret("keyfile", b"x" * 32, "f"))
    assert content(backends) == before


def test_a_target_that_cannot_be_asked_is_not_an_empty_one() -> None:
    backends = memory("a", "b")
    init(targets(backends), 1)
    before = content(backends)
    for script in ("open=repository:503", "open=repository:denied", "read=repository:503", "open=repository:gone"):
        with pytest.raises(StorageError):
            init([target("a", Faulty(backends["a"], script)), target("b", backends["b"])], 2)
    assert content(backends) == before


def test_a_damaged_descriptor_is_not_an_empty_target() -> None:
    backends = memory("a")
    init(targets(backends), 1)
    (where,) = targets(backends)
    data = where.read(DESCRIPTOR)
    for bit in range(0, len(data) * 8, 5):
        broken = bytearray(data)
        broken[bit // 8] ^= 1 << bit % 8
        where.backend.delete(DESCRIPTOR)
        where.write(DESCRIPTOR, [bytes(broken)], len(broken))
        with pytest.raises(DrkitError):
            init([where], 2)
    where.backend.delete(DESCRIPTOR)
    where.write(DESCRIPTOR, [b""], 0)
    with pytest.raises(Damage):
        read_descriptor(where)


def dying(inner: StorageBackend, count: Callable[[], bool], phase: str) -> StorageBackend:
    """Dies at the effect for which `count` says so, before or after it."""

    def record(event: Event) -> None:
        if event.verb in EFFECTS and event.phase == phase and count():
            raise Death

    return Traced(inner, record, clock=lambda: 0.0)


@pytest.mark.parametrize("phase", ["begin", "end"])
def test_killed_at_any_effect_the_next_init_makes_it_whole(phase: str, tmp_path: Path) -> None:
    step = 0
    while True:
        step += 1
        backends = memory("a", "b")
        effects = iter(range(1, 10_000))

        def due(effects: object = effects, step: int = step) -> bool:
            return next(effects) == step  # type: ignore[call-overload,no-any-return]

        try:
            init(targets({n: dying(b, due, phase) for n, b in backends.items()}), 1)
        except Death:
            pass
        else:
            break
        for where in targets(backends):
            if DESCRIPTOR in {i.key for i in where.backend.list()}:
                assert list(slots_of(where)), "never a repository without a key"
        ring, _ = init(targets(backends), 2)
        assert opened(backends, tmp_path / str(step)) == ring
        assert init(targets(backends), 3)[0] == ring
    assert step > 8


def beside(inner: StorageBackend, at: int, other: Callable[[], None], counter: list[int]) -> StorageBackend:
    """Runs all of `other` before the effect number `at` of this one."""

    def record(event: Event) -> None:
        if event.phase == "begin" and event.verb in (*EFFECTS, "open", "list"):
            counter[0] += 1
            if counter[0] == at:
                other()

    return Traced(inner, record, clock=lambda: 0.0)


@pytest.mark.parametrize("order", [("a", "b"), ("b", "a")])
def test_a_second_init_in_between_any_two_steps_ends_with_one_identity(order: tuple[str, str], tmp_path: Path) -> None:
    """The other host has its targets in another order, and does all of its work while this one stands still."""
    at = 0
    while True:
        at += 1
        backends = memory("a", "b")
        rings: list[Ring] = []
        counter = [0]

        def other(backends: dict[str, StorageBackend] = backends, rings: list[Ring] = rings) -> None:
            rings.append(init([target(name, backends[name]) for name in order], 2)[0])

        mine, _ = init(targets({n: beside(b, at, other, counter) for n, b in backends.items()}), 1)

        if not rings:
            break  # it has fewer steps than that
        assert rings == [mine]
        assert opened(backends, tmp_path / str(at)) == mine
    assert at > 10


def test_a_killed_init_and_a_second_one_in_between_end_with_one_identity(tmp_path: Path) -> None:
    """The other host is killed after each of its effects while this one stands still; then this one goes on."""
    for at in range(1, 16):
        for death in range(1, 13):
            backends = memory("a", "b")
            counter, effects = [0], [0]

            def due(effects: list[int] = effects, death: int = death) -> bool:
                effects[0] += 1
                return effects[0] == death

            def other(backends: dict[str, StorageBackend] = backends, due: Callable[[], bool] = due) -> None:
                try:
                    init(targets({n: dying(b, due, "end") for n, b in backends.items()}), 2)
                except Death:
                    pass

            mine, _ = init(targets({n: beside(b, at, other, counter) for n, b in backends.items()}), 1)
            assert opened(backends, tmp_path / f"{at}-{death}") == mine
            assert init(targets(backends), 3)[0] == mine


@pytest.mark.parametrize("kind", ["memory", "posix"])
def test_two_inits_in_threads_end_with_one_identity(kind: str, tmp_path: Path) -> None:
    for number in range(12):
        if kind == "memory":
            backends = memory("a", "b")
        else:
            backends = {n: PosixBackend(tmp_path / f"{number}-{n}", create_root=True) for n in ("a", "b")}
        rings: dict[int, Ring] = {}
        failures: list[BaseException] = []
        gate = threading.Barrier(4)

        def run(
            seed: int,
            backends: dict[str, StorageBackend] = backends,
            gate: threading.Barrier = gate,
            rings: dict[int, Ring] = rings,
            failures: list[BaseException] = failures,
        ) -> None:
            gate.wait()
            try:
                rings[seed] = init(targets(backends)[:: 1 if seed % 2 else -1], seed)[0]
            except (StorageError, DrkitError) as error:
                failures.append(error)

        threads = [threading.Thread(target=run, args=(seed,)) for seed in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not failures
        assert len({r.repository for r in rings.values()}) == 1
        assert opened(backends, tmp_path / f"pins-{number}") == rings[0]


def test_a_lost_acknowledgement_of_the_descriptor_is_healed_by_the_next_init(tmp_path: Path) -> None:
    backends = memory("a", "b")
    with pytest.raises(Unavailable):
        init([target("a", Faulty(backends["a"], "commit=repository:lost")), target("b", backends["b"])], 1)
    ring, _ = init(targets(backends), 2)
    assert opened(backends, tmp_path) == ring


def test_the_descriptor_is_not_found_only_when_the_store_says_so() -> None:
    with pytest.raises(NotFound):
        read_descriptor(target("a", MemoryBackend()))
    with pytest.raises(Unavailable):
        read_descriptor(target("a", Faulty(MemoryBackend(), "open:503")))
    assert Key("repository") == DESCRIPTOR
