"""Evidence of verifications: what it adds up to over targets, parts and times."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from drkit.crypto.container import DataKey
from drkit.repository.catalogue import State, read_catalogue
from drkit.repository.evidence import Evidence, Looked, folder, keep, read_known
from drkit.repository.layout import ClusterLayout
from drkit.repository.leases import Verdict
from drkit.repository.repository import Repository
from storage_backends.api import Key
from storage_backends.errors import Unavailable
from storage_backends.faulty import Faulty
from storage_backends.memory import MemoryBackend
from tests.crypto.rings import ring, seeded
from tests.repository.samples import SYSTEM, add_slot, judged, posix_target, sample, target

RING = ring()
NOON = datetime(2026, 5, 1, 12, tzinfo=UTC)
WHOLE = Looked(True, 0)


@pytest.fixture
def repository() -> Repository:
    targets = [target(name, MemoryBackend(name)) for name in "ab"]
    return Repository(RING, targets, {}, DataKey(RING, seeded(1)))


def looked(day: int, part: tuple[float, float] | None, targets: Mapping[str, Looked] | None = None) -> Evidence:
    at = NOON + timedelta(days=day)
    return Evidence(at, SYSTEM, "orders", False, part, targets or {"a": WHOLE, "b": WHOLE})


def kept(repository: Repository, *evidence: Evidence) -> None:
    for number, one in enumerate(evidence):
        _, lacking = keep(repository, one, entropy=seeded(number + 2))
        assert not lacking


def day(number: int) -> datetime:
    return NOON + timedelta(days=number)


def test_nothing_is_known_at_first(repository: Repository) -> None:
    known = read_known(repository, SYSTEM, NOON)
    assert not known.verified_at and not known.unsound and known.next_from == 0.0


def test_the_newest_whole_look_counts(repository: Repository) -> None:
    kept(repository, looked(0, None), looked(2, None, {"a": WHOLE}), looked(1, None))
    known = read_known(repository, SYSTEM, day(3))
    assert known.verified_at == {"a": day(2), "b": day(1)}


@pytest.mark.parametrize(
    ("parts", "since"),
    [
        ([(0.0, 0.5), (0.5, 1.0)], 0),
        ([(0.0, 0.5), (0.5, 1.0), (0.0, 0.5)], 1),
        ([(0.7, 1.2), (0.2, 0.7)], 0),
        ([(0.0, 0.5), (0.6, 1.1)], None),
        ([(0.0, 0.5), (0.5, 0.9)], None),
        ([None, (0.0, 0.5)], 0),
        ([(0.0, 0.4), (0.4, 0.8), (0.8, 1.2), (0.2, 0.6)], 1),
    ],
)
def test_parts_add_up(repository: Repository, parts: Sequence[tuple[float, float] | None], since: int | None) -> None:
    """Everything was read since the oldest of the parts that the newest ones need to cover it all."""
    kept(repository, *(looked(number, part) for number, part in enumerate(parts)))
    known = read_known(repository, SYSTEM, day(9))
    assert known.verified_at == ({} if since is None else {"a": day(since), "b": day(since)})
    last = parts[-1]
    assert known.next_from == pytest.approx(last[1] % 1.0 if last else 0.0)


def test_a_target_that_was_away_was_not_verified(repository: Repository) -> None:
    kept(repository, looked(0, None), looked(1, None, {"a": WHOLE, "b": Looked(False, 0)}))
    assert read_known(repository, SYSTEM, day(2)).verified_at == {"a": day(1), "b": day(0)}


def test_evidence_from_the_future_proves_nothing(repository: Repository) -> None:
    kept(repository, looked(0, None), looked(50, None))
    assert read_known(repository, SYSTEM, day(1)).verified_at == {"a": day(0), "b": day(0)}


def test_damaged_evidence_is_passed_over_and_another_target_has_it(repository: Repository) -> None:
    kept(repository, looked(0, None))
    (info,) = repository.targets[0].backend.list(folder(SYSTEM))
    data = bytearray(repository.targets[0].read(info.key))
    data[-40] ^= 1
    with repository.targets[0].backend.create(info.key, replacing=info) as upload:
        upload.write(data)
        upload.commit()
    assert read_known(repository, SYSTEM, day(1)).verified_at == {"a": day(0), "b": day(0)}
    repository.targets[1].backend.delete(Key(info.key))
    assert not read_known(repository, SYSTEM, day(1)).verified_at


def test_a_target_that_cannot_be_listed_says_nothing(repository: Repository) -> None:
    kept(repository, looked(0, None))
    broken = target("a", Faulty(repository.targets[0].backend, "list:503*"))
    again = Repository(RING, [broken, repository.targets[1]], {}, repository.data_key)
    assert read_known(again, SYSTEM, day(1)).verified_at == {"a": day(0), "b": day(0)}
    with pytest.raises(Unavailable):
        list(broken.backend.list())


def test_what_was_found_damaged_is_not_counted_until_it_is_another_object(tmp_path: Path) -> None:
    """A pack that only its digest tells to be damaged: the listing alone would call the backup good."""
    where = [posix_target(tmp_path, name) for name in "ab"]
    made = sample(RING)
    for one in where:
        add_slot(one, RING)
        made.store(one, good=False)
        judged(one, made.run, Verdict.GOOD)
    found = Repository(RING, where, {}, DataKey(RING, seeded(1)))
    key = Key(next(key for key in made.objects if "/packs/" in key))
    info = where[0].backend.stat(key)
    kept(found, looked(0, None, {"a": Looked(True, 1, {key: info.version}), "b": WHOLE}))
    (backup,) = read_catalogue(found, SYSTEM).backups
    assert backup.good_on == ["b"] and backup.standings["a"].state is State.BROKEN
    assert "drkit verify" in backup.standings["a"].why and key in backup.standings["a"].why
    with where[0].backend.create(key, replacing=info) as upload:
        upload.write(made.objects[key])
        upload.commit()
    (backup,) = read_catalogue(found, SYSTEM).backups
    assert backup.good_on == ["a", "b"], "another object is there by now"
    assert ClusterLayout(SYSTEM).root not in folder(SYSTEM)
