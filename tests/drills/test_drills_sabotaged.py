"""Each scenario on a set-up that was sabotaged: it fails, and for the right reason."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from drills.checks.api import Scene
from drills.ledger_table import LEDGER_TABLE
from drills.report.model import CheckResult, Control, DrillReport, State, Verdict
from drills.scenarios.api import Ground, Struck
from drills.scenarios.disk_lost import DiskLost
from drills.scenarios.dropped_table import DroppedTable
from drills.scenarios.wal_gap import WalGap
from drills.source import VICTIM, Drop
from drills.stage import Hidden
from drkit.engines.postgres.recovery import RecoveryTarget, TargetKind
from drkit.engines.postgres.wal import WalName
from drkit.jobs.rates import Rates
from drkit.jobs.restore_points import Wish
from tests.drills.drill_world import DrillWorld, Saboteur, drill_world
from tests.real.postgres import give

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def world() -> Iterator[DrillWorld]:
    with drill_world() as one:
        yield one


def state(report: DrillReport, check: str) -> State:
    return next(one.state for one in report.checks if one.check == check)


# --- D01 ----------------------------------------------------------------------------------------------------------


class WrongPoint(DroppedTable):
    """Restores to after the drop."""

    def wish(self, drop: Drop) -> Wish:
        return Wish(RecoveryTarget(TargetKind.XID, drop.xid), text=f"after transaction {drop.xid}")


def test_the_wrong_point_does_not_bring_the_table_back(world: DrillWorld) -> None:
    report = world.run_with("quick-table", scenario=WrongPoint())
    assert report.verdict is Verdict.FAIL
    assert state(report, "V2") is State.FAILED and state(report, "V3") is State.FAILED
    assert any("V2 failed" in reason and VICTIM in reason and "not there" in reason for reason in report.reasons)
    world.clean()


def test_a_row_that_is_missing_in_the_table_fails_the_drill(world: DrillWorld) -> None:
    spoil = Saboteur(f"delete from {VICTIM} where id = 500")
    report = world.run_with("quick-table", first=[spoil], checks=("V2", "V3"))
    assert report.verdict is Verdict.FAIL
    assert any("has 999 rows, it had 1000" in reason for reason in report.reasons)
    assert state(report, "V3") is State.PASSED
    world.clean()


# --- D03 ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SilentArchive(DiskLost):
    """From the load on archive_command says yes and keeps nothing."""

    server: DrillWorld | None = None

    def strike(self, ground: Ground) -> Struck:
        assert self.server is not None
        with silent_archive(self.server):
            return super().strike(ground)


@contextmanager
def silent_archive(world: DrillWorld) -> Iterator[None]:
    query = world.world.server.query
    query("alter system set archive_command = '/bin/true'")
    query("select pg_reload_conf()")
    try:
        yield
    finally:
        query("alter system reset archive_command")
        query("select pg_reload_conf()")


def test_archiving_that_keeps_nothing_breaks_the_rpo(world: DrillWorld) -> None:
    """What is lost is not a matter of one segment: the last safe row is older than was promised."""
    report = world.run_with("quick-disk", scenario=SilentArchive(server=world), rpo="2s", load="5s")
    world.world.backup()  # over the gap that this has left
    assert report.verdict is Verdict.FAIL
    assert report.loss is not None and report.loss.lost > 0 and report.loss.sound
    assert report.loss.loss_s is not None and report.loss.loss_s > 2
    assert report.reasons[0].startswith("the objective rpo is broken")
    assert "(objective 2 s)" in report.sentence
    world.clean()


def test_archiving_that_keeps_nothing_for_less_than_the_rpo_proves_nothing(world: DrillWorld) -> None:
    """All that was written is lost, in less time than may be lost: no reason to pass."""
    rates: list[Rates] = []
    report = world.run_with(
        "quick-disk",
        scenario=SilentArchive(server=world),
        alter=lambda means: replace(means, keep_rates=rates.append),
        load="2s",
        compare=False,
    )
    world.world.backup()  # over the gap that this has left
    assert report.verdict is Verdict.INCONCLUSIVE
    assert report.loss is not None and report.loss.lost > 0 and report.loss.kept > 0 and report.loss.at_least
    assert len(report.reasons) == 1 and "the rpo is 1 m" in report.reasons[0]
    assert len(rates) == 1, "how fast it came back is told, whatever the verdict"
    world.clean()


def test_a_hole_fails_whatever_the_objective(world: DrillWorld) -> None:
    middle = f"select number from {LEDGER_TABLE} where writer = 'writer-1' order by number limit 1"
    spoil = Saboteur(f"delete from {LEDGER_TABLE} where writer = 'writer-1' and number = ({middle})")
    report = world.run_with("quick-disk", first=[spoil], checks=("V1",), load="5s")
    assert report.verdict is Verdict.FAIL
    assert any("V1 failed" in reason and "missing below later rows" in reason for reason in report.reasons)
    world.clean()


def test_archiving_that_is_broken_before_makes_the_drill_inconclusive(world: DrillWorld) -> None:
    with silent_archive(world):
        report = world.run_with("quick-disk", deadlines={"steady": "6s"})
    world.world.backup()
    assert report.verdict is Verdict.INCONCLUSIVE
    assert "archiving works" in report.reasons[0] and "did not get to any target" in report.reasons[0]
    assert report.instants[0].at_s is None and report.fault == ""
    world.clean()


# --- D09 ----------------------------------------------------------------------------------------------------------


def test_a_surviving_target_that_lacks_an_object_fails_the_drill(world: DrillWorld) -> None:
    taken = [path for path in (world.world.place("b") / "clusters").rglob("packs/*/*") if path.is_file()]
    kept = {path: path.read_bytes() for path in taken}
    try:
        for path in taken:
            path.unlink()
        report = world.run_with("quick-region")
    finally:
        for path, content in kept.items():
            path.write_bytes(content)
            own(path)
    assert report.verdict is Verdict.FAIL
    assert "no good backup on b" in report.reasons[0] and "missing" in report.reasons[0]
    assert "Failed: " in report.sentence and report.instant("T11") is None
    world.clean()


def own(path: Path) -> None:
    parent = path.parent.stat()
    os.chown(path, parent.st_uid, parent.st_gid)


def test_the_escrowed_key_is_what_opens_it(world: DrillWorld) -> None:
    escrow = world.world.root / "escrow.key"
    escrow.write_text((world.world.root / "master.key").read_text())
    escrow.chmod(0o600)
    give(escrow)
    passed = world.run_with("quick-region", key_file=escrow, ledger=False, checks=("V3",))
    assert passed.verdict is Verdict.PASS, passed.reasons
    world.world.drkit("key", "new", world.world.root / "wrong.key")
    failed = world.run_with("quick-region", key_file=world.world.root / "wrong.key", ledger=False, checks=("V3",))
    assert failed.verdict is Verdict.FAIL and "key" in failed.reasons[0]
    world.clean()


# --- D10 ----------------------------------------------------------------------------------------------------------


class NothingHidden(WalGap):
    def hide(self, ground: Ground, gap: WalName) -> Hidden:
        return lambda target, key: False


def test_a_gap_that_is_none_proves_nothing(world: DrillWorld) -> None:
    report = world.run_with("quick-gap", scenario=NothingHidden(), checks=("V3",))
    assert report.verdict is Verdict.INCONCLUSIVE
    assert report.reasons[0].startswith("the fault is not proven: the segment is on no target")
    assert "Nothing is proven" in report.sentence
    world.clean()


class Blind(Saboteur):
    """A check that finds nothing, whatever there is."""

    def run(self, scene: Scene, *, required: bool) -> CheckResult:
        return CheckResult("V4", "sees nothing", State.PASSED, required, "", "", Control.MISSED, "a table emptied")


# --- any ----------------------------------------------------------------------------------------------------------


def test_a_control_that_is_not_noticed_makes_the_drill_inconclusive(world: DrillWorld) -> None:
    report = world.run_with(
        "quick-disk", alter=lambda means: replace(means, checks=(Blind("", name="V4"),)), ledger=False, checks=("V4",)
    )
    assert report.verdict is Verdict.INCONCLUSIVE
    assert report.reasons == ("check V4 did not notice its negative control: a table emptied",)


def test_questions_of_the_user(world: DrillWorld) -> None:
    """A probe that is not true keeps the drill from starting; an assertion that is not true fails it."""
    unmet = world.run_with("quick-disk", probe=[{"name": "open for orders", "sql": "select count(*) > 9999 from t"}])
    assert unmet.verdict is Verdict.INCONCLUSIVE and "steady state: open for orders" in unmet.reasons[0]
    asked = [
        {"name": "all rows", "sql": "select count(*) from t", "expected": "2000"},
        {"name": "no rows", "sql": "select count(*) = 0 from t"},
    ]
    failed = world.run_with("quick-disk", ledger=False, checks=("V3",), assertion=asked)
    assert failed.verdict is Verdict.FAIL
    assert state(failed, "all rows") is State.PASSED and state(failed, "no rows") is State.FAILED
    assert failed.reasons == ("check no rows failed: it is false",)
