"""The last drills of a cluster, from their reports on the targets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta

from drills.report.json_form import from_text
from drills.report.model import Verdict
from drkit.core.errors import DrkitError
from drkit.jobs.policy_facts import PolicyFacts
from drkit.repository.reports import JSON_FILE, ReportHead, newest_first, read
from drkit.repository.repository import Repository
from policies.sights import DrillSeen
from storage_backends.errors import StorageError

_LOOKED_AT = 50  # reports
_READ = 8  # of those that passed: each is a read from a target


@dataclass(frozen=True, slots=True)
class Drills:
    """last: whatever its verdict · passed: the newest that passed · by_target: the newest passed one that read there,
    also behind newer ones that did not."""

    last: DrillSeen | None = None
    passed: DrillSeen | None = None
    by_target: Mapping[str, DrillSeen] = field(default_factory=dict)


def read_drills(repository: Repository, system_identifier: int, cluster: str) -> Drills:
    """Looks at the newest reports, up to a limit, until each open target was read in one that passed; reports that
    cannot be read are no evidence."""
    last: DrillSeen | None = None
    passed: list[DrillSeen] = []
    by_target: dict[str, DrillSeen] = {}
    unseen = {target.name for target in repository.targets}
    try:
        for number, head in enumerate(newest_first(repository, system_identifier)):
            if number >= _LOOKED_AT:
                break
            if head.cluster != cluster:
                continue
            seen = DrillSeen(head.id, head.at, head.drill, head.verdict)
            last = last or seen
            if head.verdict == Verdict.PASS:
                one = _measured(repository, head, seen)
                last = one if last is seen else last
                passed.append(one)
                by_target = dict.fromkeys(one.targets, one) | by_target
                if not unseen - by_target.keys() or len(passed) == _READ:
                    break
    except (StorageError, DrkitError):
        pass  # of a target that fails while it is read the catalogue tells
    return Drills(last, passed[0] if passed else None, by_target)


def by_drill(facts: PolicyFacts, drills: Drills) -> PolicyFacts:
    """Where no rates tell how long a restore would take, the newest passed drill does."""
    rto_s = drills.passed.rto_s if drills.passed else None
    if rto_s is None or facts.objectives.rto_forecast is not None:
        return facts
    return replace(facts, objectives=replace(facts.objectives, rto_forecast=timedelta(seconds=rto_s)))


def _measured(repository: Repository, head: ReportHead, seen: DrillSeen) -> DrillSeen:
    try:
        report = from_text(read(repository, head)[JSON_FILE])
    except (StorageError, DrkitError):
        return seen
    figures = {one.name: one.measured_s for one in report.objectives}
    used = frozenset(name for name, count in report.bytes_from.items() if count)
    return replace(seen, rto_s=figures.get("rto"), rpo_s=figures.get("rpo"), targets=used)
