"""Each scenario on a healthy set-up, by the command line: it passes, says why, and leaves nothing behind."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import pytest

from tests.drills.drill_world import DrillWorld, drill_world, states

pytestmark = pytest.mark.real

Ran = Callable[[str], dict[str, Any]]
ORDER = ["T0", "T3", "T4", "T5", "T6", "T7", "T8", "T9", "T10", "T11"]


@pytest.fixture(scope="module")
def world() -> Iterator[DrillWorld]:
    with drill_world() as one:
        yield one


@pytest.fixture(scope="module")
def ran(world: DrillWorld) -> Ran:
    """The report of a drill with the ledger, run once."""
    return cache(world.run)


@pytest.mark.parametrize("name", ["quick-table", "quick-disk", "quick-region", "quick-gap"])
def test_a_healthy_cluster_passes(world: DrillWorld, ran: Ran, name: str) -> None:
    report = ran(name)
    assert report["verdict"] == "pass" and report["reasons"] == []
    assert report["sentence"].count("Writes were accepted again after") == 1
    found = states(report)
    assert {found[check] for check in ("V1", "V2", "V3", "V4", "V5", "V6")} == {"passed"}
    assert all(one["control"] == "caught" for one in report["checks"] if one["check"].startswith("V"))
    at = {one["clock"]: one["at_s"] for one in report["instants"]}
    stamped = [at[clock] for clock in ORDER]
    assert stamped == sorted(stamped) and at["T0"] == 0 and at["T12"] is None
    assert any("put under protection" in line for line in report["untested"])
    assert report["loss"]["sound"] and report["loss"]["expected"] > report["loss"]["lost"]
    assert report["loss"]["kept"] + report["loss"]["lost"] == report["loss"]["expected"]
    assert all(probe["ok"] for probe in (*report["steady"], *report["proof"])) and report["proof"]
    world.clean()


def test_a_dropped_table_is_back_as_it_was_before(ran: Ran) -> None:
    report = ran("quick-table")
    assert "before commit of transaction" in report["reached"]
    assert report["loss"]["lost"] == 0 and report["loss"]["target_error_s"] == 0
    assert any(row["fate"] == "beyond" for row in report["loss"]["strip"])


def test_a_lost_site_gives_nothing_to_the_recovery(ran: Ran) -> None:
    report = ran("quick-region")
    assert report["denied"] == ["a"] and report["bytes_from"]["a"] == 0 and report["bytes_from"]["b"] > 0
    assert report["sentence"].startswith("Lost site site-a.")
    assert [probe["name"] for probe in report["proof"]][1:] == [
        "no target of the lost site is opened",
        "nothing was read from what is denied",
    ]


def test_a_gap_is_refused_with_its_name_and_times(ran: Ran) -> None:
    report = ran("quick-gap")
    refusals = [one for one in report["checks"] if one["check"] == "D10"]
    name = report["sentence"].split()[2]
    assert len(refusals) == 3 and all(one["state"] == "passed" for one in refusals)
    assert all(name in one["actual"] and "the last commit before the gap is of 20" in one["actual"] for one in refusals)


def test_the_report_is_stored_on_both_sites_and_chained(world: DrillWorld) -> None:
    first = world.run("quick-region", "--no-ledger", "--point", "oldest")
    second = world.run("quick-region", "--no-ledger", "--point", "random-instant:14d", "--seed", "7")
    assert first["before"] != second["before"] and second["before"]
    assert "seed 7" in second["point"] and "of transaction" in second["reached"]
    assert second["loss"] is None and any("wrote no ledger" in line for line in second["untested"])
    drills = world.world.answer("drill", "history")["drills"]
    assert [one["id"] for one in drills[:2]] == [second["id"], first["id"]]
    assert all(one["targets"] == ["a", "b"] for one in drills)
    assert world.world.answer("drill", "show", first["id"])["verdict"] == "pass"


def test_the_backup_that_was_not_drilled_for_longest_is_chosen(world: DrillWorld) -> None:
    newer = world.world.backup()["id"]
    drilled = [world.run("quick-disk", "--no-ledger", "--point", "least-recently-drilled")["backup"] for _ in range(2)]
    assert drilled[0] == newer != drilled[1]
