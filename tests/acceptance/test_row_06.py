"""Row 6 of the failures that users reported: a test restore wrote into the production archive."""

from __future__ import annotations

import pytest

from tests.acceptance.shelves import FolderShelf, flipped
from tests.drills.drill_world import ROWS, DrillWorld, drill_world

pytestmark = pytest.mark.real


def own_wal(world: DrillWorld) -> set[str]:
    """What the source itself has archived, by its own word."""
    names = world.world.server.query("select name from pg_ls_archive_statusdir() where name like '%.done'")
    return {str(name).removesuffix(".done") for (name,) in names}


def test_row_06_a_drill_that_promotes_leaves_the_repository_as_it_was() -> None:
    with drill_world() as world:
        one = world.world
        one.switch()
        before = world.objects()
        with one.restored("by-hand", "--to", "latest") as (_, session):
            assert session.execute("select pg_is_in_recovery()").fetchone() == (False,)
            session.execute("create table written_in_the_copy (n int)")
            session.execute("select pg_switch_wal()")
        for name in ("quick-region", "quick-disk"):
            report = world.run(name, "--no-ledger")
            assert report["verdict"] == "pass" and report["instants"][9]["at_s"] is not None, "it promoted"
        after = world.objects()
        assert {path: after.get(path) for path in before} == before
        fresh = {path.rsplit("/", 1)[1] for path in after.keys() - before.keys()}
        assert fresh <= own_wal(world), "nothing is new but what the source archived"
        assert all(name.startswith("00000001") for name in fresh), "no timeline of a copy"
        one.server.query("insert into t values (-1, 'written after the drills')")
        one.switch()
        with one.restored("afterwards", "--to", "latest") as (answer, session):
            assert answer["plan"]["target"]["timeline"] == 1
            assert session.execute("select count(*) from t").fetchone() == (ROWS + 1,)
        assert [window["timeline"] for window in one.answer("windows")["windows"]] == [1, 1]
        world.clean()


def test_row_06_a_drill_that_meets_damage_reports_it_and_repairs_nothing() -> None:
    """Another pack on each target: whichever is read first, something is met."""
    with drill_world() as world:
        one = world.world
        one.switch()
        for number, target in enumerate("ab"):
            shelf = FolderShelf(one.place(target))
            packs = [key for key in shelf.listed() if "/packs/" in key]
            flipped(shelf, packs[number])
        before = world.objects()
        report = world.run("quick-disk", "--no-ledger")
        assert report["verdict"] == "pass"
        told = [finding for finding in report["findings"] if "could not serve" in finding["text"]]
        assert told and all("drkit verify --repair" in finding["cure"] for finding in told), report["findings"]
        after = world.objects()
        assert {path: after.get(path) for path in before} == before
        world.clean()
