"""Reports on the shelf: chained, kept on every target, and read back as they were."""

from __future__ import annotations

from dataclasses import replace

from drills.report.model import DrillReport
from drills.shelf import load, shelve
from drkit.crypto.container import DataKey
from drkit.repository.layout import CLUSTERS
from drkit.repository.reports import digest_of, heads
from drkit.repository.repository import Problem, Repository
from storage_backends.faulty import Faulty
from storage_backends.memory import MemoryBackend
from tests.crypto.rings import ring, seeded
from tests.drills.report.samples import SYSTEM, failed, passed
from tests.repository.samples import target


def report(number: int, one: DrillReport | None = None) -> DrillReport:
    return replace(one or passed(), id=f"202607{number:02d}T090000Z-{number:08x}", before="")


def repository(*stores: Faulty) -> Repository:
    targets = [target(f"t{at}", store) for at, store in enumerate(stores)]
    return Repository(ring(), targets, {}, DataKey(ring(), seeded(1)))


def silent(target: str, key: str, problem: Problem) -> None:
    raise AssertionError(f"{target}: {problem}")


def test_each_report_names_the_one_before() -> None:
    where = repository(Faulty(MemoryBackend("a")), Faulty(MemoryBackend("b")))
    first = shelve(where, report(1), entropy=seeded(2))
    second = shelve(where, report(2, failed()), entropy=seeded(3))
    assert first.report.before == ""
    assert second.report.before == first.kept.digest == digest_of(first.files)
    shelf = heads(where, SYSTEM)
    assert [head.before for head in shelf.heads] == [first.kept.digest, ""]
    assert shelf.broken_links == ()
    assert first.kept.digest in second.files["report.html"] and first.kept.digest in second.files["report.txt"]


def test_it_is_read_back_as_it_was() -> None:
    where = repository(Faulty(MemoryBackend("a")))
    shelved = shelve(where, report(1), entropy=seeded(2))
    found, files = load(where, heads(where).heads[0], silent)
    assert (found, files) == (shelved.report, shelved.files)


def test_nothing_below_the_clusters_is_touched() -> None:
    store = Faulty(MemoryBackend("a"))
    shelve(repository(store), report(1), entropy=seeded(2))
    assert list(store.list(CLUSTERS)) == []
    assert len(list(store.list())) == 1


def test_a_report_is_not_lost_with_the_targets() -> None:
    """A drill that ran for hours still has its report, and says where it is not."""
    store = Faulty(MemoryBackend("a"), "list:503*;create:503*;open:503*")
    shelved = shelve(repository(store), report(1), entropy=seeded(2))
    assert shelved.kept.targets == () and set(shelved.kept.lacking) == {"t0"}
    assert shelved.files["report.txt"].startswith("PASSED")


def test_the_chain_goes_on_past_a_report_that_does_not_open() -> None:
    inner = MemoryBackend("a")
    where = repository(Faulty(inner))
    first = shelve(where, report(1), entropy=seeded(2))
    shelve(where, report(2), entropy=seeded(3))
    key = max(info.key for info in inner.list())
    inner.delete(key)
    with inner.create(key) as upload:
        upload.write(b"rubbish")
        upload.commit()
    third = shelve(where, report(3), entropy=seeded(4))
    assert third.report.before == first.kept.digest
    assert list(heads(where).unopened) == [key]
