"""A drill's report as data. Every form (text, JSON, JUnit, HTML) is made from this alone, and it is what is stored.

Instants are seconds of one monotonic clock relative to T0, the disaster; wall-clock times are UTC texts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

SCHEMA = "drkit.drill.report/1"

CLOCKS: Mapping[str, str] = {
    "T0": "disaster",
    "T1": "detected",
    "T2": "decided",
    "T3": "host, programs and key ready",
    "T4": "first byte",
    "T5": "base restored",
    "T6": "redo starts",
    "T7": "consistent",
    "T8": "target reached",
    "T9": "promoted",
    "T10": "validated",
    "T11": "first acknowledged write",
    "T12": "protected again",
}


class Verdict(StrEnum):
    """INCONCLUSIVE: steady state unmet, fault unproven, a required check skipped, a negative control not caught."""

    PASS = "pass"  # noqa: S105  no password
    FAIL = "fail"
    INCONCLUSIVE = "inconclusive"
    ABORTED = "aborted"


class State(StrEnum):
    """Of one check. ERROR: it could not be carried out, which is neither passed nor failed."""

    PASSED = "passed"
    FAILED = "failed"
    SKIPPED = "skipped"
    ERROR = "error"


class Control(StrEnum):
    """Whether the same check, run on a sabotaged copy, failed as it must. NONE: it has no control."""

    CAUGHT = "caught"
    MISSED = "missed"
    NONE = "none"


class Fate(StrEnum):
    """Of one row of the ledger. BEYOND: sent after the recovery target, so nobody asked for it; that it came back
    all the same stands in `Loss.wrong`."""

    KEPT = "kept"
    LOST = "lost"
    IN_DOUBT = "in doubt"
    BEYOND = "beyond"


@dataclass(frozen=True, slots=True)
class Instant:
    """One of T0 to T12. at_s: None where it was not measured, why then says so · declared: an allowance instead."""

    clock: str
    at_s: float | None
    why: str = ""
    declared: bool = False


@dataclass(frozen=True, slots=True)
class CheckResult:
    """check: V1, V2, ... or the name of a user's own assertion · facts: lines of evidence, at most some dozens."""

    check: str
    title: str
    state: State
    required: bool
    expected: str
    actual: str
    control: Control = Control.NONE
    control_text: str = ""
    facts: tuple[str, ...] = ()
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Probe:
    """A question asked of the world: of the steady state before, or whether the fault took effect. ok None: unknown."""

    name: str
    ok: bool | None
    text: str


@dataclass(frozen=True, slots=True)
class StripRow:
    """A row of the ledger around the fault. at_s: when it was acknowledged (in doubt: sent)."""

    writer: str
    number: int
    at_s: float
    fate: Fate


@dataclass(frozen=True, slots=True)
class Run:
    """Rows of one writer, from `first` to `last` without a gap."""

    writer: str
    first: int
    last: int

    @property
    def rows(self) -> int:
        return self.last - self.first + 1


@dataclass(frozen=True, slots=True)
class Loss:
    """RPO as measured on the ledger. loss_s None: nothing was expected. target_error_s: apart from the loss (PITR).

    at_least: loss_s is a lower bound: nothing came back of what was written after the first rows, which the drill
    itself had put on a target · wrote_s: how long it wrote after those, to the fault; None: not known
    lost_runs: rows that are lost, by writer; of very many runs the first.
    """

    expected: int
    kept: int
    lost: int
    in_doubt: int
    loss_s: float | None
    target_error_s: float
    sound: bool
    wrong: tuple[str, ...] = ()
    strip: tuple[StripRow, ...] = ()
    at_least: bool = False
    wrote_s: float | None = None
    lost_runs: tuple[Run, ...] = ()


@dataclass(frozen=True, slots=True)
class Objective:
    """name: rpo or rto · promised_s None: nothing was promised, so it can neither be kept nor broken."""

    name: str
    promised_s: float | None
    measured_s: float | None
    text: str

    @property
    def kept(self) -> bool | None:
        if self.promised_s is None or self.measured_s is None:
            return None
        return self.measured_s <= self.promised_s


@dataclass(frozen=True, slots=True)
class Finding:
    """Something to act on. level: error, warning or note."""

    level: str
    text: str
    cure: str = ""


@dataclass(frozen=True, slots=True)
class DrillReport:
    """drill: the definition's identity · scenario: D01 ... · point: as asked; reached: as found in the server.

    sentence: the verdict in one sentence · fault: how the disaster was made, with its probes · bytes_from: bytes read
    by target, a denied one with 0 · environment: facts of machine, server, cache state, sizes · untested: what this
    drill does not show · evidence: name -> SHA-256 of what the verdict rests on · before: SHA-256 of the report before
    this one · definition: as it was run, in JSON · production_bytes: of the cluster, to compare with restored_bytes.
    """

    id: str
    drill: str
    version: int
    owner: str
    scenario: str
    title: str
    cluster: str
    system_identifier: int
    started_at: str
    ended_at: str
    verdict: Verdict
    sentence: str
    reasons: tuple[str, ...]
    point: str
    reached: str
    backup: str
    timeline: int
    fault: str
    steady: tuple[Probe, ...]
    proof: tuple[Probe, ...]
    instants: tuple[Instant, ...]
    objectives: tuple[Objective, ...]
    loss: Loss | None
    checks: tuple[CheckResult, ...]
    bytes_from: Mapping[str, int]
    denied: tuple[str, ...]
    environment: Mapping[str, str]
    untested: tuple[str, ...]
    findings: tuple[Finding, ...]
    evidence: Mapping[str, str]
    before: str = ""
    definition: Mapping[str, object] = field(default_factory=dict)
    restored_bytes: int = 0
    production_bytes: int = 0

    def instant(self, clock: str) -> float | None:
        return next((one.at_s for one in self.instants if one.clock == clock), None)
