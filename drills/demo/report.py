"""What the demo found out, as values: the figures behind the story, and the JSON of `drkit.demo/2`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from drills.report.model import Control, DrillReport, State, Verdict
from drills.report.view import objective

SCHEMA = "drkit.demo/2"


@dataclass(frozen=True, slots=True)
class BackupFigures:
    """The backup that the daemon took. targets: name -> state of it there."""

    id: str
    size_bytes: int
    read_bytes: int
    stored_bytes: int
    seconds: float
    targets: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class DrillFigures:
    """A drill's report, and how long the whole of it took."""

    report: DrillReport
    seconds: float

    @property
    def rto_s(self) -> float | None:
        """From the disaster to the first acknowledged write."""
        return self.report.instant("T11")

    @property
    def rpo_s(self) -> float | None:
        found = objective(self.report, "rpo")
        return found.measured_s if found is not None else None

    def as_json(self) -> dict[str, object]:
        report, loss = self.report, self.report.loss
        controls = [one.control for one in report.checks if one.control is not Control.NONE]
        return {
            "id": report.id,
            "verdict": report.verdict.value,
            "sentence": report.sentence,
            "reasons": list(report.reasons),
            "seconds": round(self.seconds, 3),
            "rto_s": self.rto_s,
            "rpo_s": self.rpo_s,
            "rows": loss and {"expected": loss.expected, "kept": loss.kept, "lost": loss.lost, "sound": loss.sound},
            "checks": {one.check: one.state.value for one in report.checks},
            "passed": sum(one.state is State.PASSED for one in report.checks),
            "controls": len(controls),
            "caught": sum(one is Control.CAUGHT for one in controls),
            "bytes": dict(report.bytes_from),
        }


@dataclass(frozen=True, slots=True)
class StoreFigures:
    """What one target holds."""

    name: str
    site: str
    medium: str
    url: str
    device: str
    bytes: int
    objects: int
    wal_bytes: int
    wal_files: int


@dataclass(frozen=True, slots=True)
class Decision:
    """One part of the rule of copies: `copies`, `media`, `offsite`; state: `kept`, `broken` or `unknown`."""

    name: str
    state: str
    needed: int
    found: int


@dataclass(slots=True)
class Report:
    """Filled in as the story goes on. drills: by name · page: where the HTML report of the disaster is."""

    folder: str
    user: str
    wanted: tuple[str, ...]
    version: str = ""
    database_bytes: int = 0
    rows: int = 0
    checks: list[dict[str, object]] = field(default_factory=list)
    backup: BackupFigures | None = None
    decisions: list[Decision] = field(default_factory=list)
    drills: dict[str, DrillFigures] = field(default_factory=dict)
    stores: list[StoreFigures] = field(default_factory=list)
    promised_rpo_s: float = 0.0
    promised_rto_s: float = 0.0
    seconds: float = 0.0
    kept: bool = False
    page: Path | None = None

    @property
    def faults(self) -> list[str]:
        """What is wrong, one sentence each; none means that the demo proved what it set out to prove."""
        found = []
        for name in self.wanted:
            drill = self.drills.get(name)
            if drill is None:
                found.append(f"{name}: the drill was not run")
            elif drill.report.verdict is not Verdict.PASS:
                reasons = "; ".join(drill.report.reasons) or drill.report.sentence
                found.append(f"{name}: {drill.report.verdict.value}: {reasons}")
            elif drill.report.loss is None or not drill.report.loss.expected:
                found.append(f"{name}: no row was acknowledged: nothing was put to the test")
        return found

    def as_json(self) -> dict[str, object]:
        return {
            "verdict": "fail" if self.faults else "pass",
            "faults": self.faults,
            "seconds": round(self.seconds, 3),
            "folder": self.folder,
            "kept": self.kept,
            "page": self.page and str(self.page),
            "server": {
                "version": self.version,
                "user": self.user,
                "database_bytes": self.database_bytes,
                "rows": self.rows,
            },
            "check": self.checks,
            "backup": self.backup and asdict(self.backup),
            "drills": {name: drill.as_json() for name, drill in self.drills.items()},
            "promised": {"rto_s": self.promised_rto_s, "rpo_s": self.promised_rpo_s},
            "targets": [asdict(store) for store in self.stores],
            "copies": [asdict(decision) for decision in self.decisions],
        }
