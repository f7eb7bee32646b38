"""The last drills of a cluster, from their reports on the targets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from drills.report.json_form import from_text
from drills.report.model import Verdict
from drkit.core.errors import DrkitError
from drkit.repository.reports import JSON_FILE, ReportHead, newest_first, read
from drkit.repository.repository import Repository
from policies.protection import DrillSeen
from storage_backends.errors import StorageError

_LOOKED_AT = 50


@dataclass(frozen=True, slots=True)
class Drills:
    """last: whatever its verdict · passed: the newest that passed · by_target: the newest passed one that read there,
    as far as the last passed report tells."""

    last: DrillSeen | None = None
    passed: DrillSeen | None = None
    by_target: Mapping[str, DrillSeen] = field(default_factory=dict)


def read_drills(repository: Repository, system_identifier: int, cluster: str) -> Drills:
    """Looks at the newest reports until one passed; reports that cannot be read are no evidence."""
    last: DrillSeen | None = None
    try:
        for number, head in enumerate(newest_first(repository, system_identifier)):
            if number >= _LOOKED_AT:
                break
            if head.cluster != cluster:
                continue
            seen = DrillSeen(head.id, head.at, head.drill, head.verdict)
            last = last or seen
            if head.verdict == Verdict.PASS:
                passed = _measured(repository, head, seen)
                newest = passed if last is seen else last
                return Drills(newest, passed, dict.fromkeys(passed.targets, passed))
    except (StorageError, DrkitError):
        pass  # of a target that fails while it is read the catalogue tells
    return Drills(last)


def _measured(repository: Repository, head: ReportHead, seen: DrillSeen) -> DrillSeen:
    try:
        report = from_text(read(repository, head)[JSON_FILE])
    except (StorageError, DrkitError):
        return seen
    figures = {one.name: one.measured_s for one in report.objectives}
    used = frozenset(name for name, count in report.bytes_from.items() if count)
    return replace(seen, rto_s=figures.get("rto"), rpo_s=figures.get("rpo"), targets=used)
