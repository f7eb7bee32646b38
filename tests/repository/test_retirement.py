"""A retired target is refused wherever it returns, by who has read the record once."""

from __future__ import annotations

from pathlib import Path

import pytest

from drkit.core.errors import Conflict
from drkit.crypto.container import DataKey
from drkit.crypto.keys import Ring
from drkit.repository.identity import found, read_descriptor
from drkit.repository.pins import Pins
from drkit.repository.repository import Repository, open_repository
from drkit.repository.retirement import Retired, Retirement, retire, retirement_key, retirements
from drkit.repository.target import Target
from storage_backends.errors import Unavailable
from storage_backends.faulty import Faulty
from storage_backends.memory import MemoryBackend
from tests.crypto.rings import ring, seeded
from tests.repository.samples import AT, SECRET, target


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    return tmp_path / "spool"


def three() -> tuple[Ring, list[Target]]:
    targets = [target(name, MemoryBackend(name)) for name in "abc"]
    keys, _ = found(targets, SECRET, now=AT, entropy=seeded(1))
    return keys, targets


def ident(one: Target) -> str:
    return read_descriptor(one).target.hex()


def record(keys: Ring, gone: Target, *on: Target, reason: str = "its disk was sold") -> Retirement:
    made = Retirement(ident(gone), gone.name, reason, AT)
    return retire(made, on, data_key=DataKey(keys, seeded(5)), ring=keys, entropy=seeded(6))


def opened(spool: Path, *targets: Target) -> Repository:
    return open_repository(targets, {}, SECRET, Pins(spool), entropy=seeded(9))


def test_a_retired_target_that_returns_is_refused_with_a_cure(spool: Path) -> None:
    keys, (a, b, c) = three()
    record(keys, c, a, b)
    repository = opened(spool, a, b, c)
    assert [t.name for t in repository.targets] == ["a", "b"]
    problem = repository.absent["c"]
    assert isinstance(problem, Retired) and isinstance(problem, Conflict)
    assert "its disk was sold" in problem.why and "[target.c]" in problem.cure
    with pytest.raises(Retired):
        repository.target("c")


def test_one_record_is_enough_and_the_host_remembers_it(spool: Path) -> None:
    keys, (a, b, c) = three()
    record(keys, c, b)
    assert set(opened(spool, a, b, c).absent) == {"c"}
    assert set(opened(spool, a, c).absent) == {"c"}, "b is away, and has told before"
    with pytest.raises(Retired, match="was retired"):
        opened(spool, c)


def test_who_never_saw_the_record_can_read_the_last_target_left(spool: Path) -> None:
    """In an emergency: the others are gone, and what was retired is still in a cupboard."""
    keys, (a, b, c) = three()
    record(keys, c, a, b)
    assert [t.name for t in opened(spool, c).targets] == ["c"]


def test_only_who_has_the_key_retires_a_target(spool: Path) -> None:
    """A hostile store may hold what it likes: it takes no other target out of service."""
    keys, (a, b, c) = three()
    forger = ring(repository=keys.repository, seed=77)
    made = Retirement(ident(c), "c", "", AT)
    retire(made, [a], data_key=DataKey(forger, seeded(1)), ring=forger, entropy=seeded(2))
    b.write(retirement_key(ident(c)), [b"nonsense"], 8)
    assert not opened(spool, a, b, c).absent
    records, _ = retirements(keys, [a, b])
    assert not records


def test_a_target_that_cannot_be_asked_for_records_is_not_used(spool: Path) -> None:
    _, (a, b, c) = three()
    failing = target("b", Faulty(b.backend, "list=retired/:503*"))
    repository = opened(spool, a, failing, c)
    assert isinstance(repository.absent["b"], Unavailable)


def test_init_does_not_take_a_retired_target_back(spool: Path) -> None:
    keys, (a, b, c) = three()
    record(keys, c, a, b)
    with pytest.raises(Retired):
        found([a, b, c], SECRET, now=AT, entropy=seeded(3))
    anew = target("c", MemoryBackend("c"))
    _, known = found([a, b, anew], SECRET, now=AT, entropy=seeded(4))
    assert known["c"].target != read_descriptor(c).target, "emptied, it is another target"
    assert not opened(spool, a, b, anew).absent


def test_the_first_record_stands(spool: Path) -> None:
    keys, (a, b, c) = three()
    record(keys, c, b, reason="first")
    assert record(keys, c, a, b, reason="second").reason == "first"
    assert a.read(retirement_key(ident(c))) == b.read(retirement_key(ident(c))), "the same bytes on every target"
    records, holders = retirements(keys, [a, b])
    assert records[ident(c)].reason == "first" and holders[ident(c)] == ["a", "b"]
