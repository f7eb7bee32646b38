"""Protected means: base, unbroken WAL, a key that opens, a drill that passed; unknown is never green."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from policies.decision import Breach, Decision, State
from policies.objectives import Promises
from policies.protection import ClusterVerdict, Level, Protection, judge_archiving, judge_cluster
from policies.sights import (
    BackupFault,
    BackupSeen,
    ClusterSeen,
    DrillSeen,
    GapSeen,
    Lack,
    ServerSeen,
    TargetSeen,
    Trouble,
    WindowSeen,
)

NOW = datetime(2026, 7, 1, 3, tzinfo=UTC)
MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
SEGMENT = "00000001000000000000000"


def window(*gaps: GapSeen) -> WindowSeen:
    return WindowSeen(1, NOW - DAY, NOW - MINUTE, "0/1000000", "0/9000000", f"{SEGMENT}8", gaps)


def target(name: str) -> TargetSeen:
    backup = BackupSeen("20260630T020000Z-00000001", NOW - HOUR, 1000, 100, 10)
    return TargetSeen(name, backup=backup, windows=(window(),), last_file=f"{SEGMENT}8", last_at=NOW - MINUTE)


def cluster(*targets: TargetSeen, promises: Promises | None = None) -> ClusterSeen:
    server = ServerSeen(True, ready=0)
    return ClusterSeen("orders", server, targets or (target("a"), target("b")), promises or Promises())


def kinds(verdict: ClusterVerdict, *levels: Level) -> list[str]:
    return [one.kind for one in verdict.findings if one.level in (levels or tuple(Level))]


def protected(verdict: ClusterVerdict) -> dict[str, bool | None]:
    return {one.name: one.protected for one in verdict.targets}


def test_all_is_well() -> None:
    verdict = judge_cluster(cluster(), NOW)
    assert verdict.state is Protection.PROTECTED
    assert verdict.findings == ()
    assert protected(verdict) == {"a": True, "b": True}


def gap(bridged: datetime | None) -> GapSeen:
    return GapSeen(f"{SEGMENT}3", f"{SEGMENT}4", 2, "20260630T" if bridged else None, bridged)


BREAK = {
    "wal.gap": {"windows": (window(gap(None)),)},
    "key.slot": {"key_fault": "the target has no key slot"},
    "backup.damaged": {"backup": None, "faults": (BackupFault("2026", "its manifest is missing", True),)},
    "backup.none": {"backup": None, "windows": ()},
    "window.none": {"windows": ()},
    "wal.lacking": {"lack": Lack(f"{SEGMENT}9", 1, NOW - HOUR)},
    "wal.owed": {"owed": 4, "owed_since": NOW - HOUR},
}


@pytest.mark.parametrize("kind", BREAK)
def test_one_of_two_targets_is_broken(kind: str) -> None:
    """The other one still restores to now: at risk, and the finding names the target."""
    verdict = judge_cluster(cluster(target("a"), replace(target("b"), **BREAK[kind])), NOW)  # type: ignore[arg-type]
    assert verdict.state is Protection.AT_RISK
    assert kind in kinds(verdict, Level.BAD)
    assert {one.target for one in verdict.findings} == {"b"}
    assert protected(verdict) == {"a": True, "b": False}


@pytest.mark.parametrize("kind", [kind for kind in BREAK if kind != "backup.damaged"])
def test_the_only_target_is_broken(kind: str) -> None:
    verdict = judge_cluster(cluster(replace(target("a"), **BREAK[kind])), NOW)  # type: ignore[arg-type]
    assert verdict.state is Protection.UNPROTECTED
    assert protected(verdict) == {"a": False}


def test_what_is_missing_is_named() -> None:
    verdict = judge_cluster(cluster(replace(target("a"), windows=(window(gap(None)),))), NOW)
    (found,) = verdict.findings
    assert f"{SEGMENT}3" in found.text and f"{SEGMENT}4" in found.text and "2 files" in found.text
    assert found.about == f"{SEGMENT}3"


def test_the_cure_is_the_command_that_helps() -> None:
    """By who else has it; where nobody has, no command that only copies is named."""
    manifest = "clusters/7/manifests/2026"
    faults = (
        BackupFault("1", "a pack is missing", True, "a"),
        BackupFault("2", "a pack is missing", True),
        BackupFault("3", "it was not completed here", False, "a"),
        BackupFault("2026", "its manifest is missing", True, manifest=manifest),
    )
    gaps = (replace(gap(NOW - HOUR), elsewhere="a"), replace(gap(NOW - HOUR), first=f"{SEGMENT}6"))
    hurt = replace(target("b"), faults=faults, windows=(window(*gaps),))
    cures = {one.about: one.cure for one in judge_cluster(cluster(target("a"), hurt), NOW).findings}
    repair = "`drkit verify --repair --target b` brings it from a"
    assert cures["1"] == cures[f"{SEGMENT}3"] == repair
    assert cures["2"] == "`drkit verify` names what is lost; `drkit backup` makes a whole one"
    assert cures["3"] == "`drkit replicate` completes it from a"
    assert cures["2026"].startswith(f"put {manifest} back") and "delete clusters/7/verdicts/2026 on b" in cures["2026"]
    assert cures[f"{SEGMENT}6"] == "`drkit wal push` brings it back, from pg_wal or from any copy"

    def cure_of(lack: Lack) -> str:
        (found,) = judge_cluster(cluster(target("a"), replace(target("b"), lack=lack)), NOW).findings
        return found.cure

    assert cure_of(Lack(f"{SEGMENT}9", 1, NOW - HOUR)) == "`drkit replicate` brings it from another target"
    damaged = cure_of(Lack(f"{SEGMENT}9", 1, NOW - HOUR, damaged=True))
    assert damaged == "`drkit verify --repair --target b` brings it from another target"
    assert cure_of(Lack(f"{SEGMENT}9", 1, None)).startswith("`drkit wal push`")
    gone = TargetSeen("b", "the target was retired", "remove [target.b]")
    (found,) = judge_cluster(cluster(target("a"), gone), NOW).findings
    assert found.cure == "remove [target.b]"


def test_a_gap_that_a_backup_bridges_leaves_now_restorable() -> None:
    seen = cluster(replace(target("a"), windows=(window(gap(NOW - 2 * HOUR)),)))
    verdict = judge_cluster(seen, NOW)
    assert (verdict.state, kinds(verdict)) == (Protection.AT_RISK, ["wal.gap"])
    assert verdict.targets[0].newest is True


def test_a_gap_that_expiry_left_is_no_finding() -> None:
    """What lies behind it is older than every instant that must stay restorable."""
    seen = replace(cluster(replace(target("a"), windows=(window(gap(NOW - 15 * DAY)),))), kept_for=14 * DAY)
    assert judge_cluster(seen, NOW).state is Protection.PROTECTED
    later = replace(cluster(replace(target("a"), windows=(window(gap(NOW - 13 * DAY)),))), kept_for=14 * DAY)
    assert kinds(judge_cluster(later, NOW)) == ["wal.gap"]


def test_a_gap_shared_by_two_timelines_is_told_once() -> None:
    shared = gap(NOW - HOUR)
    seen = cluster(replace(target("a"), windows=(window(shared), replace(window(shared), timeline=2))))
    assert kinds(judge_cluster(seen, NOW)) == ["wal.gap"]


def test_a_target_that_is_away_is_unknown() -> None:
    away = TargetSeen("b", "timed out")
    verdict = judge_cluster(cluster(target("a"), away), NOW)
    assert (verdict.state, kinds(verdict, Level.UNKNOWN)) == (Protection.AT_RISK, ["target.unreadable"])
    assert protected(verdict) == {"a": True, "b": None}
    alone = judge_cluster(cluster(away), NOW)
    assert alone.state is Protection.UNKNOWN


def test_a_missing_key_is_told_once_and_nothing_is_protected() -> None:
    unread = tuple(TargetSeen(name, "the key file is missing") for name in "ab")
    breaches = (Breach("rpo", MINUTE, None, "there is no evidence"),)
    seen = replace(cluster(*unread), trouble=Trouble("key", "the key file is missing"), breaches=breaches)
    verdict = judge_cluster(seen, NOW)
    assert (verdict.state, kinds(verdict)) == (Protection.UNPROTECTED, ["key.missing"])
    assert protected(verdict) == {"a": False, "b": False}


def test_lag_is_a_warning_until_it_is_longer_than_promised() -> None:
    late = replace(target("b"), owed=1, owed_since=NOW - 2 * MINUTE)
    assert kinds(judge_cluster(cluster(target("a"), late), NOW), Level.WARNING) == ["wal.owed"]
    strict = judge_cluster(cluster(target("a"), late, promises=Promises(rpo=MINUTE)), NOW)
    assert kinds(strict, Level.BAD) == ["wal.owed"]


def test_what_is_under_way_to_a_target_is_no_lack() -> None:
    fresh = replace(target("b"), lack=Lack(f"{SEGMENT}9", 1, NOW - timedelta(seconds=5)))
    assert judge_cluster(cluster(target("a"), fresh), NOW).findings == ()
    nowhere = replace(target("b"), lack=Lack(f"{SEGMENT}9", 1, None))
    assert kinds(judge_cluster(cluster(target("a"), nowhere), NOW), Level.BAD) == ["wal.lacking"]


def test_archiving_that_stands_still() -> None:
    stuck = ServerSeen(True, ready=7, oldest_ready=NOW - HOUR, failing=f"{SEGMENT}9")
    (found,) = judge_archiving(replace(cluster(), server=stuck), NOW)
    assert (found.kind, found.level) == ("archive.waiting", Level.BAD)
    assert "7 WAL files" in found.text and f"{SEGMENT}9" in found.text
    young = replace(stuck, oldest_ready=NOW - MINUTE)
    assert [one.level for one in judge_archiving(replace(cluster(), server=young), NOW)] == [Level.WARNING]


def test_an_old_backup_on_one_target() -> None:
    old = BackupSeen("20260601T020000Z-00000001", NOW - 30 * DAY, 1, 1, 1)
    seen = cluster(target("a"), replace(target("b"), backup=old), promises=Promises(max_backup_age=DAY))
    verdict = judge_cluster(seen, NOW)
    assert kinds(verdict) == ["backup.old"]
    assert protected(verdict) == {"a": True, "b": False}


def test_promises_and_copies_are_part_of_the_verdict() -> None:
    breaches = (
        Breach("rpo", MINUTE, "unbounded", "archive_timeout is 0"),
        Breach("rpo", MINUTE, HOUR, "an hour is more than a minute"),
        Breach("rto", HOUR, None, "there is no evidence"),
    )
    decisions = (Decision("copies", State.KEPT, 2, 2), Decision("offsite", State.BROKEN, 1, 0, ("no other site",)))
    verdict = judge_cluster(replace(cluster(), breaches=breaches, decisions=decisions), NOW)
    assert verdict.state is Protection.AT_RISK
    assert sorted(kinds(verdict, Level.BAD)) == ["copies.offsite", "objective.rpo"]
    assert kinds(verdict, Level.UNKNOWN) == ["objective.rto"]


def test_a_drill_that_was_promised_and_never_passed_protects_nothing() -> None:
    breach = Breach("max_drill_age", DAY, None, "there is no evidence", "drkit drill run")
    verdict = judge_cluster(replace(cluster(), breaches=(breach,)), NOW)
    assert verdict.state is Protection.AT_RISK
    assert protected(verdict) == {"a": False, "b": False}


def test_a_failed_drill_is_bad_and_one_without_result_a_warning() -> None:
    failed = DrillSeen("2026", NOW - HOUR, "region-loss", "fail")
    assert kinds(judge_cluster(replace(cluster(), last_drill=failed), NOW), Level.BAD) == ["drill.verdict"]
    unsure = replace(failed, verdict="inconclusive")
    assert kinds(judge_cluster(replace(cluster(), last_drill=unsure), NOW), Level.WARNING) == ["drill.verdict"]
