"""What the demo found out, as values: the figures behind the story, and the JSON of `drkit.demo/1`."""

from __future__ import annotations

from dataclasses import dataclass, field

from drills.demo.server import Culprit, TableState
from drills.ledger import Verdict
from policies.copies import Verdict as CopiesVerdict

SCHEMA = "drkit.demo/1"
_SHOWN = 20  # of a list of rows that should be empty


@dataclass(frozen=True, slots=True)
class BackupFigures:
    id: str
    size_bytes: int
    new_bytes: int
    stored_bytes: int
    read_bytes: int
    seconds: float
    targets: dict[str, str]


@dataclass(frozen=True, slots=True)
class RestoreFigures:
    """typed: the command · answer: what it said as JSON · ready_s: from the disaster to the first write, None
    where that was not measured.
    """

    typed: str
    answer: dict[str, object]
    seconds: float
    verdict: Verdict
    orders: TableState | None
    ready_s: float | None = None


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


@dataclass(slots=True)
class Report:
    """Filled in as the story goes on."""

    folder: str
    user: str
    version: str = ""
    database_bytes: int = 0
    rows: int = 0
    checks: list[dict[str, object]] = field(default_factory=list)
    backups: list[BackupFigures] = field(default_factory=list)
    culprit: Culprit | None = None
    since_drop: int = 0
    before: RestoreFigures | None = None
    latest: RestoreFigures | None = None
    stores: list[StoreFigures] = field(default_factory=list)
    copies: CopiesVerdict | None = None
    promised_rpo_s: float = 0.0
    promised_rto_s: float = 0.0
    seconds: float = 0.0
    kept: bool = False

    @property
    def faults(self) -> list[str]:
        """What is wrong, one sentence each; none means that the demo proved what it set out to prove."""
        before, latest, culprit = self.before, self.latest, self.culprit
        if before is None or latest is None or culprit is None:
            return ["the demo did not come to its end"]
        found = [f"before the drop: {fault}" for fault in _unsound(before.verdict)]
        found += [f"newest: {fault}" for fault in _unsound(latest.verdict)]
        if before.verdict.lost:
            found.append(f"{len(before.verdict.lost)} rows acknowledged before the drop are lost")
        if not before.verdict.expected or not latest.verdict.expected:
            found.append("no row was acknowledged: nothing was put to the test")
        if before.orders != culprit.before:
            found.append(f"orders came back as {before.orders}, it was {culprit.before}")
        if latest.orders is not None:
            found.append("the newest state has the table that had been dropped by then")
        if before.ready_s is None or before.ready_s > self.promised_rto_s:
            found.append(f"writes were accepted after {before.ready_s} s, promised were {self.promised_rto_s:g} s")
        if latest.verdict.loss_s is None or latest.verdict.loss_s > self.promised_rpo_s:
            found.append(f"{latest.verdict.loss_s} s of writes are lost, promised were {self.promised_rpo_s:g} s")
        return found

    def as_json(self) -> dict[str, object]:
        return {
            "verdict": "fail" if self.faults else "pass",
            "faults": self.faults,
            "seconds": round(self.seconds, 3),
            "folder": self.folder,
            "kept": self.kept,
            "server": {
                "version": self.version,
                "user": self.user,
                "database_bytes": self.database_bytes,
                "rows": self.rows,
            },
            "check": self.checks,
            "backups": [_plain(backup) for backup in self.backups],
            "disaster": self.culprit and {
                "xid": self.culprit.xid,
                "lsn": self.culprit.lsn,
                "orders": _plain(self.culprit.before),
                "acknowledged_since": self.since_drop,
            },
            "rto_s": self.before and self.before.ready_s,
            "rpo_s": self.latest and self.latest.verdict.loss_s,
            "promised": {"rto_s": self.promised_rto_s, "rpo_s": self.promised_rpo_s},
            "restores": {
                name: {
                    "typed": one.typed,
                    "seconds": round(one.seconds, 3),
                    "ledger": verdict_json(one.verdict),
                    "orders": one.orders and _plain(one.orders),
                    "answer": one.answer,
                }
                for name, one in (("before_the_drop", self.before), ("newest", self.latest))
                if one is not None
            },
            "targets": [_plain(store) for store in self.stores],
            "copies": self.copies and {
                "state": self.copies.state.value,
                "decisions": [
                    {"name": d.name, "state": d.state.value, "needed": d.needed, "found": d.found, "reasons": d.reasons}
                    for d in self.copies.decisions
                ],
            },
        }


def verdict_json(verdict: Verdict) -> dict[str, object]:
    """Counts, and the first rows of each list that should be empty."""
    lists = ("lost", "in_doubt", "invented", "changed", "holes", "out_of_order", "beyond")
    return {
        "sound": verdict.sound,
        "complete": verdict.complete,
        "expected": verdict.expected,
        "recovered": verdict.recovered,
        "kept": verdict.kept,
        "under_way": verdict.under_way,
        **{name: len(getattr(verdict, name)) for name in lists},
        "examples": {name: list(getattr(verdict, name)[:_SHOWN]) for name in lists if getattr(verdict, name)},
        "loss_s": verdict.loss_s,
        "target_error_s": verdict.target_error_s,
    }


def _unsound(verdict: Verdict) -> list[str]:
    kinds = {
        "invented": "rows that nobody wrote",
        "changed": "rows whose payload changed",
        "holes": "rows missing below later ones of the same writer",
        "out_of_order": "rows missing that were acknowledged before others were sent",
        "beyond": "rows from after the moment",
    }
    counts = {name: len(getattr(verdict, name)) for name in kinds}
    return [f"{count} {kinds[name]}" for name, count in counts.items() if count]


def _plain(value: object) -> dict[str, object]:
    return {name: getattr(value, name) for name in type(value).__slots__}  # type: ignore[attr-defined]
