"""Reports of drills that never ran: one that passed, one that failed, one that came to nothing, one full of malice."""

from __future__ import annotations

import hashlib
import random
from dataclasses import replace

from drills.report.model import (
    CheckResult,
    Control,
    DrillReport,
    Fate,
    Finding,
    Instant,
    Loss,
    Objective,
    Probe,
    Run,
    State,
    StripRow,
    Verdict,
)

SYSTEM = 7_300_000_000_000_000_001
HOSTILE = "</title></style><script>alert(1)</script>\"'&<img src=//x onerror=alert(1)>\x1b[2J\u202eevil\ud800"
_SPANS = {
    "T0": 0.0,
    "T1": 60.0,
    "T2": 300.0,
    "T3": 338.0,
    "T4": 341.2,
    "T5": 702.0,
    "T6": 706.5,
    "T7": 741.0,
    "T8": 985.0,
    "T9": 989.0,
    "T10": 1049.0,
    "T11": 1062.0,
}


def sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def instants() -> tuple[Instant, ...]:
    known = tuple(Instant(clock, at, declared=clock in ("T1", "T2")) for clock, at in _SPANS.items())
    return (*known, Instant("T12", None, "a sandbox is not put under protection"))


def strip(rows: int = 2400, lost: int = 3) -> tuple[StripRow, ...]:
    """`rows` acknowledged over the minute before the fault by four writers; the newest `lost` are lost."""
    draw = random.Random(7)
    times = sorted(-60 * draw.random() ** 1.3 for _ in range(rows))
    found = [
        StripRow(f"w{at % 4}", 40_000 + at // 4, at_s, Fate.LOST if at >= rows - lost else Fate.KEPT)
        for at, at_s in enumerate(times)
    ]
    return (*found, StripRow("w1", 40_000 + rows // 4 + 1, -0.2, Fate.IN_DOUBT))


def lost_runs() -> tuple[Run, ...]:
    return tuple(Run(writer, 40_599, 40_599) for writer in ("w1", "w2", "w3"))


def beyond() -> tuple[StripRow, ...]:
    """Rows that were sent after the target of a point-in-time recovery."""
    return tuple(StripRow(f"w{at % 4}", 40_020 + at, at * 0.7 + 0.5, Fate.BEYOND) for at in range(8))


def checks() -> tuple[CheckResult, ...]:
    rows = (
        ("V1", "the ledger: no hole, nothing invented, order kept", "every writer's rows without a hole",
         "4 writers, 120,431 rows, no hole", "a middle row was deleted: 1 hole was seen"),
        ("V2", "tables as recorded before the fault", "14 of 14 tables equal", "14 of 14 tables equal",
         "public.orders was emptied: its count and digest differed"),
        ("V3", "the server's log, timeline and stop", "timeline 2, no error", "timeline 2, no error",
         "a PANIC line was added to a copy: it was seen"),
        ("V4", "pg_amcheck, pg_checksums and pg_dump", "no complaint", "no complaint",
         "a byte of a heap page was flipped: pg_checksums saw it"),
        ("V5", "roles, extensions, sequences, settings", "6 roles, 2 extensions, 9 sequences",
         "6 roles, 2 extensions, 9 sequences", "a sequence was set back: it was seen"),
        ("V6", "the application reads and writes", "1 row written and read in another session",
         "1 row written and read in another session", "a read-only session was refused"),
    )  # fmt: skip
    made = [
        CheckResult(
            name, title, State.PASSED, True, expected, actual, Control.CAUGHT, control, (f"{name} was here",), 3.25
        )
        for name, title, expected, actual, control in rows
    ]
    untimely = CheckResult(
        "open_orders", "no order is older than a day", State.SKIPPED, False, "0", "not asked: the table is empty"
    )
    return (*made, untimely)


def passed() -> DrillReport:
    """A lost site, restored within its objectives."""
    return DrillReport(
        id="20260701T090000Z-0a1b2c3d",
        drill="region-loss",
        version=3,
        owner="database team",
        scenario="D09",
        title="Region lost",
        cluster="orders",
        system_identifier=SYSTEM,
        started_at="2026-07-01T09:00:00.120000Z",
        ended_at="2026-07-01T09:19:12.480000Z",
        verdict=Verdict.PASS,
        sentence="Lost site fra. Writes were accepted again after 17 m 42 s (objective 30 m). "
        "3 acknowledged rows lost, the newest 4.1 s old (objective 60 s).",
        reasons=(),
        point="latest",
        reached="0/8F0031C8, the last commit at 2026-07-01 08:59:55.9 UTC",
        backup="20260701T010002Z-77aa01ff",
        timeline=2,
        fault="every target and the primary of site fra are denied; from T0 on nothing of them is read",
        steady=(
            Probe("WAL is archived", True, "the last segment 12 s ago, nothing waits"),
            Probe("a good backup exists", True, "20260701T010002Z-77aa01ff on vault"),
        ),
        proof=(Probe("fra cannot be read", True, "2 of 2 targets of fra refuse every request"),),
        instants=instants(),
        objectives=(
            Objective("rto", 1800.0, 1062.0, "from the disaster to the first acknowledged write"),
            Objective("rpo", 60.0, 4.1, "age of the newest lost row"),
        ),
        loss=Loss(120_434, 120_431, 3, 1, 4.1, 0.0, True, (), strip(), False, 180.0, lost_runs()),
        checks=checks(),
        bytes_from={"local": 0, "mirror": 0, "vault": 8_912_345_678},
        denied=("local", "mirror"),
        environment={
            "machine": "drill-1, 4 cores, 16 GiB of memory",
            "system": "Linux 6.1, Debian 12",
            "server": "PostgreSQL 18.1",
            "caches": "cold: first read of this target today",
            "network": "1 Gbit/s, 21 ms to vault",
        },
        untested=(
            "Protection of the new server (T12): a sandbox is not put under protection.",
            "Names and addresses: no client was moved to the new server.",
        ),
        findings=(
            Finding("warning", "Six of the 17 minutes went into fetching the base backup from one target.",
                    "allow a second target outside of fra"),
        ),
        evidence={name: sha(name) for name in ("ledger.jsonl", "reference.json", "server.log", "plan.json")},
        before=sha("the one before"),
        definition={"drill": "region-loss", "deny_sites": ["fra"], "point": "latest", "seed": 7},
        restored_bytes=42_812_345_678,
        production_bytes=43_112_345_678,
    )  # fmt: skip


def failed() -> DrillReport:
    """A dropped table: too slow, rows lost, one check failed and one control was not caught."""
    found = list(checks())
    found[0] = replace(
        found[0],
        state=State.FAILED,
        actual="2 holes",
        facts=("writer w1: 40311 is missing", "writer w3: 40318 is missing"),
    )
    found[3] = replace(found[3], state=State.ERROR, actual="pg_amcheck is not installed", control=Control.NONE)
    found[4] = replace(found[4], control=Control.MISSED, control_text="a sequence was set back, and nothing was seen")
    return replace(
        passed(),
        drill="dropped-table",
        scenario="D01",
        title="Table dropped",
        verdict=Verdict.FAIL,
        sentence="Table drkit_drill.victim was dropped. Writes were accepted again after 35 m 12 s (objective 30 m). "
        "41 acknowledged rows lost, the newest 2 m 11 s old (objective 60 s).",
        reasons=(
            "rto: 35 m 12 s is more than 30 m",
            "rpo: 2 m 11 s is more than 60 s",
            "V1 failed: 2 holes",
            "V5: its negative control was not caught",
        ),
        instants=tuple(
            replace(one, at_s=None if one.at_s is None else one.at_s * 2112 / 1062) for one in instants()
        ),
        objectives=(
            Objective("rto", 1800.0, 2112.0, "from the disaster to the first acknowledged write"),
            Objective("rpo", 60.0, 131.0, "age of the newest lost row"),
        ),
        loss=Loss(
            120_434, 120_393, 41, 1, 131.0, 0.8, False, ("writer w1 has a hole at 40311",),
            (*strip(60, 21), *beyond()),
        ),
        checks=tuple(found),
        bytes_from={"local": 912_345, "vault": 8_912_345_678},
        denied=("local",),
        findings=(
            Finding("error", "Acknowledged rows were lost from the middle.", "is archive_command the one of drkit?"),
            Finding("note", "The objective of 30 m was set a year ago."),
        ),
    )  # fmt: skip


def aborted() -> DrillReport:
    """Nothing came of it: no clock but T0, no ledger, no check."""
    return replace(
        passed(),
        verdict=Verdict.ABORTED,
        sentence="The drill was ended by a signal before anything was restored.",
        reasons=("a signal ended it",),
        reached="",
        backup="",
        steady=(Probe("WAL is archived", None, "the server did not answer"),),
        proof=(),
        instants=(Instant("T0", 0.0),),
        objectives=(Objective("rto", None, None, ""),),
        loss=None,
        checks=(),
        bytes_from={},
        denied=(),
        environment={},
        untested=(),
        findings=(),
        evidence={},
        before="",
        definition={},
        restored_bytes=0,
        production_bytes=0,
    )


def hostile() -> DrillReport:
    """Every text that may come from a database or a configuration tries to break out."""
    one = failed()
    bad = HOSTILE
    return replace(
        one,
        drill=bad, owner=bad, scenario=bad, title=bad, cluster=bad, sentence=bad, reasons=(bad,), point=bad,
        reached=bad, backup=bad, fault=bad, steady=(Probe(bad, True, bad),), proof=(Probe(bad, None, bad),),
        instants=(*one.instants[:-1], Instant("T12", None, bad)),
        objectives=(*(replace(objective, text=bad) for objective in one.objectives), Objective(bad, 1.0, 2.0, bad)),
        loss=None if one.loss is None else replace(
            one.loss, wrong=(bad,), strip=tuple(replace(row, writer=bad) for row in one.loss.strip)
        ),
        checks=tuple(
            replace(c, check=bad, title=bad, expected=bad, actual=bad, control_text=bad, facts=(bad,))
            for c in one.checks
        ),
        bytes_from={bad: 5}, denied=(bad,), environment={bad: bad}, untested=(bad,),
        findings=(Finding(bad, bad, bad),), evidence={bad: bad}, before=bad, definition={bad: bad},
    )  # fmt: skip
