"""The newest passed drill of each target, as the stored reports tell."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta

from drills.report.model import DrillReport, Verdict
from drills.shelf import shelve
from drkit.crypto.container import DataKey
from drkit.daemon.seen_drills import Drills, by_drill, read_drills
from drkit.jobs.policy_facts import gather, nothing_answers
from drkit.jobs.policy_server import Server
from drkit.repository.repository import Repository
from storage_backends.memory import MemoryBackend
from tests.crypto.rings import ring, seeded
from tests.drills.report.samples import SYSTEM, passed
from tests.jobs.test_policy_facts import NOW, order
from tests.repository.samples import target


def drills(*reports: DrillReport) -> Drills:
    """What is seen once these were stored, in this order, on targets local and vault."""
    targets = [target(name, MemoryBackend(name)) for name in ("local", "vault")]
    where = Repository(ring(), targets, {}, DataKey(ring(), seeded(1)))
    for number, one in enumerate(reports, 1):
        shelve(where, replace(one, id=ident(number), before=""), entropy=seeded(number))
    return read_drills(where, SYSTEM, passed().cluster)


def ident(number: int) -> str:
    return f"202607{number:02d}T090000Z-{number:08x}"


def drill(bytes_from: Mapping[str, int], verdict: Verdict = Verdict.PASS) -> DrillReport:
    return replace(passed(), bytes_from=bytes_from, verdict=verdict)


def by_target(found: Drills) -> dict[str, str]:
    return {name: one.id for name, one in found.by_target.items()}


def test_a_drill_that_a_newer_one_did_not_repeat_is_still_seen() -> None:
    """dropped-table read local; region-loss, after it, denied local and read vault."""
    found = drills(drill({"local": 7_000_000}), drill({"local": 0, "vault": 9_000_000}))
    assert by_target(found) == {"local": ident(1), "vault": ident(2)}
    assert found.passed == found.last and found.passed is not None and found.passed.id == ident(2)
    assert found.passed.rto_s == 1062.0


def test_of_two_the_newer_one_counts_and_one_that_failed_does_not() -> None:
    both = {"local": 1, "vault": 1}
    found = drills(drill(both), drill({"local": 1}), drill(both, Verdict.FAIL), drill({"vault": 1}, Verdict.ABORTED))
    assert by_target(found) == {"local": ident(2), "vault": ident(1)}
    assert found.last is not None and (found.last.id, found.last.verdict) == (ident(4), "aborted")
    assert found.passed is not None and found.passed.id == ident(2)


def test_looking_back_has_an_end() -> None:
    found = drills(drill({"local": 1}), *(drill({"vault": 1}) for _ in range(8)))
    assert by_target(found) == {"vault": ident(9)}


def test_without_a_report_nothing_was_seen() -> None:
    assert drills() == Drills()


def test_a_passed_drill_tells_how_long_a_restore_takes_where_no_rate_does() -> None:
    asked = order("a")
    facts = gather(asked, Server(True), nothing_answers(asked, "all away"), NOW)
    assert facts.objectives.rto_forecast is None
    found = drills(drill({"local": 1}))
    assert by_drill(facts, found).objectives.rto_forecast == timedelta(seconds=1062)
    assert by_drill(facts, drills(drill({"local": 1}, Verdict.FAIL))) == facts
    measured = replace(facts, objectives=replace(facts.objectives, rto_forecast=timedelta(minutes=5)))
    assert by_drill(measured, found) == measured
