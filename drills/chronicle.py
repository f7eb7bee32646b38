"""What happened in a drill, as it is gathered, and the report that is made of it."""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path

from drills.account import objectives_of
from drills.checks.api import Reference
from drills.checks.findings import NOT_DONE
from drills.clocks import Clocks
from drills.judge import Facts, judge_drill
from drills.order import DrillOrder, Sides
from drills.report.model import CheckResult, DrillReport, Finding, Loss, Probe
from drills.scenarios.api import Struck
from drills.steady import Steady
from drkit.core.units import format_size, format_time
from drkit.jobs.restore import RestoreResult
from drkit.jobs.restore_plan import Plan
from drkit.jobs.restore_start import Started

_T12 = "a sandbox is not put under protection"
_ALWAYS = (
    "the names, networks and connections of applications, which a failover would have to move",
    "the load of production on the restored server",
)


@dataclass(slots=True)
class Chronicle:
    """Filled in by the runner, step by step; what was not reached stays empty.

    unready: what kept the disaster from being made · broken: what went wrong after it · rows: acknowledged before it
    """

    order: DrillOrder
    sides: Sides
    clocks: Clocks
    started_at: datetime
    unready: str = ""
    broken: str = ""
    aborted: str = ""
    steady: Steady | None = None
    probes: tuple[Probe, ...] = ()
    struck: Struck | None = None
    proof: tuple[Probe, ...] = ()
    point: str = ""
    plan: Plan | None = None
    restored: RestoreResult | None = None
    started: Started | None = None
    restored_bytes: int = 0
    bytes_from: Mapping[str, int] = field(default_factory=dict)
    rows: int | None = None
    loss: Loss | None = None
    checks: tuple[CheckResult, ...] = ()
    findings: list[Finding] = field(default_factory=list)
    evidence: dict[str, str] = field(default_factory=dict)
    untested: list[str] = field(default_factory=list)

    def keep(self, name: str, content: bytes) -> None:
        """The digest of a piece of evidence."""
        self.evidence[name] = hashlib.sha256(content).hexdigest()

    def keep_file(self, name: str, path: Path) -> None:
        try:
            with path.open("rb") as file:
                self.evidence[name] = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError:
            return  # it was never written

    def keep_reference(self, reference: Reference) -> None:
        text = json.dumps(asdict(reference), sort_keys=True, default=sorted)
        self.keep("reference.json", text.encode())

    def report(self, ended_at: datetime, version: str) -> DrillReport:
        """The whole report; `before` is left to who stores it."""
        order, steady, struck, plan = self.order, self.steady, self.struck, self.plan
        drill, promised = order.drill, order.config.objectives
        rto_s = self.clocks.since_t0("T11")
        allowance_s = self.clocks.allowance_s
        self.clocks.omit("T12", _T12)
        objectives = objectives_of(drill, (promised.rpo, promised.rto), self.loss, rto_s, allowance_s)
        judged = judge_drill(
            Facts(
                opening=struck.opening if struck else "",
                aborted=self.aborted,
                broken=self.broken,
                unready=self.unready,
                steady=self.probes,
                proof=self.proof,
                checks=self.checks,
                objectives=objectives,
                loss=self.loss,
                rto_s=rto_s,
                allowance_s=allowance_s,
                rows=self.rows,
                min_rows=drill.min_rows,
                restored_bytes=self.restored_bytes,
                min_bytes=drill.min_size,
            )
        )
        self.evidence["definition"] = order.definition.digest
        return DrillReport(
            id=str(order.id),
            drill=order.definition.name,
            version=drill.version,
            owner=drill.owner,
            scenario=order.definition.scenario_id,
            title=order.definition.title,
            cluster=order.cluster,
            system_identifier=steady.server.system_identifier if steady else 0,
            started_at=format_time(self.started_at),
            ended_at=format_time(ended_at),
            verdict=judged.verdict,
            sentence=judged.sentence,
            reasons=judged.reasons,
            point=self.point or drill.point,
            reached=self._reached(),
            backup=plan.manifest.summary.backup if plan else "",
            timeline=plan.course.path.id if plan else 0,
            fault=struck.text if struck else "",
            steady=self.probes,
            proof=self.proof,
            instants=self.clocks.instants(),
            objectives=objectives,
            loss=self.loss,
            checks=self.checks,
            bytes_from={**dict.fromkeys(self.sides.denied, 0), **self.bytes_from},
            denied=self.sides.denied,
            environment=self._environment(version),
            untested=tuple(self._untested()),
            findings=(*self._notes(), *self.findings),
            evidence=dict(self.evidence),
            definition=order.definition.as_json(),
            restored_bytes=self.restored_bytes,
            production_bytes=steady.production_bytes if steady else 0,
        )

    def _reached(self) -> str:
        if self.started is None:
            return ""
        return self.started.reached or "the end of WAL"

    def _environment(self, version: str) -> dict[str, str]:
        found = {
            "drkit": version,
            "machine": f"{platform.system()} {platform.release()}, {platform.machine()}, {os.cpu_count()} cores",
            "memory": format_size(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")),
            "staging": str(self.order.staging),
            "caches": "as they were: nothing was dropped, so what was read lately came from memory",
            "seed": str(self.order.seed),
        }
        if self.steady is not None:
            found["server"] = f"PostgreSQL {self.steady.server.version}"
            found["production"] = format_size(self.steady.production_bytes)
        if self.restored is not None:
            found["restored"] = format_size(self.restored_bytes)
        return found

    def _untested(self) -> list[str]:
        found = [*self.untested, *(self.struck.untested if self.struck else ())]
        if self.loss is None:
            found.append("the loss: the drill wrote no ledger")
        if not self.clocks.allowance_s:
            found.append("how long it takes to notice a disaster and to decide")
        if self.sides.denied == () and self.order.drill.scenario == "disk-lost":
            found.append("the loss of a target")
        for check in self.checks:
            parts = (fact for fact in check.facts if fact.startswith(NOT_DONE))
            found += [f"{check.check}: {part.removeprefix(NOT_DONE)}" for part in parts]
        return [*dict.fromkeys(found), f"T12: {_T12}", *_ALWAYS]

    def _notes(self) -> list[Finding]:
        """What the restore met on its way, worth acting on whatever the verdict."""
        found = []
        if self.plan is not None:
            found += [Finding("note", text) for text in self.plan.notes]
            found += [_failure(one) for one in self.plan.failures]
        if self.restored is not None:
            found += [_failure(one) for one in self.restored.failures]
        if self.started is not None:
            cure = "`drkit verify --repair` mends it, and shows what else is damaged"
            for one in self.started.wal_damages:
                text = f"WAL file {one.file} is damaged on {one.target}: {one.why}"
                found.append(Finding("error", text, cure))
        drill, promised = self.order.drill, self.order.config.objectives
        for name, value in (("rpo", drill.rpo or promised.rpo), ("rto", drill.rto or promised.rto)):
            if value is None and name in drill.objectives:
                cure = f"set {name} in [cluster.{self.order.cluster}.objectives]"
                found.append(Finding("note", f"no {name} is promised, so none can be kept or broken", cure))
        return list(dict.fromkeys(found))


def _failure(one: tuple[str, str, str]) -> Finding:
    target, name, why = one
    return Finding("warning", f"{target} could not serve {name}, another target did: {why}", "`drkit verify --repair`")
