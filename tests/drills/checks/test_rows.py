"""V1, V2, V5 and V6 on databases that lack something, or hold something else."""

from __future__ import annotations

from dataclasses import replace

import pytest

from drills.checks.api import Scene
from drills.checks.registry import CHECKS
from drills.ledger import Moment
from drills.report.model import CheckResult, Control, State
from tests.drills.checks.world import DATABASE, LEDGER, Connect, Copied, World
from tests.real.postgres import Server, free_port

pytestmark = pytest.mark.real


def spoil(world: World, *statements: str) -> None:
    """Commit statements to the spoilt copy of the database."""
    with world.restored.connect("spoilt") as session:
        for sql in statements:
            session.execute(sql)


def result(check: str, scene: Scene) -> CheckResult:
    return CHECKS[check].run(scene, required=True)


def failure(check: str, scene: Scene) -> str:
    found = result(check, scene)
    assert found.state is State.FAILED, found
    return " | ".join([found.actual, *found.facts])


# --- V1 ---


@pytest.mark.parametrize(
    ("sql", "told"),
    [
        (
            f"delete from {LEDGER} where (writer, number) = ('w1', 7)",
            "missing below later rows of the same writer: w1 7",
        ),
        (
            f"update {LEDGER} set payload = 'x' where (writer, number) = ('w2', 3)",
            "changed, or there more than once: w2 3",
        ),
        (f"insert into {LEDGER} values ('w9', 1, 'x')", "invented: nobody sent them: w9 1"),
        (f"delete from {LEDGER} where writer = 'w1'", "after their acknowledgement: w1 1, w1 2, w1 3, ..."),
        (f"alter table {LEDGER} rename to elsewhere", f"the table {LEDGER} is not there"),
    ],
    ids=["hole", "changed", "invented", "order", "no table"],
)
def test_a_false_ledger_fails(world: World, case: Scene, sql: str, told: str) -> None:
    spoil(world, sql)
    assert told in failure("V1", case)


def test_a_row_that_is_there_twice_fails(world: World, case: Scene) -> None:
    spoil(
        world,
        f"alter table {LEDGER} drop constraint ledger_pkey",
        f"insert into {LEDGER} select * from {LEDGER} where (writer, number) = ('w2', 20)",
    )
    assert "changed, or there more than once: w2 20" in failure("V1", case)


def test_rows_from_beyond_the_target_fail(case: Scene) -> None:
    assert "from beyond the point that was asked for" in failure("V1", replace(case, until=Moment(10.6, 10.7)))


def test_lost_rows_at_the_end_are_loss_and_no_fault(world: World, case: Scene) -> None:
    spoil(world, f"delete from {LEDGER} where number > 15")
    found = result("V1", case)
    assert (found.state, found.control) == (State.PASSED, Control.CAUGHT)
    assert "40 rows were acknowledged, 30 of them are back, 10 are lost" in found.facts


def test_the_control_works_on_an_empty_ledger(world: World, case: Scene) -> None:
    spoil(world, f"truncate {LEDGER}")
    found = result("V1", case)
    assert (found.state, found.control) == (State.PASSED, Control.CAUGHT)
    assert "a row invented" in found.control_text


def test_a_control_that_cannot_be_made_is_missed(world: World, case: Scene) -> None:
    """A view that hides every change: the check would say 'sound' whatever happens."""
    spoil(
        world,
        f"alter table {LEDGER} rename to hidden",
        f"create view {LEDGER} as select distinct writer, number, payload from drkit_drill.hidden",
    )
    found = result("V1", case)
    assert (found.state, found.control) == (State.PASSED, Control.MISSED)
    assert "the control could not be carried out" in found.control_text


def test_without_a_ledger_it_is_skipped(case: Scene) -> None:
    found = result("V1", replace(case, entries=None, until=None))
    assert (found.state, found.actual, found.control) == (State.SKIPPED, "this drill has no ledger", Control.NONE)


# --- V2 ---


@pytest.mark.parametrize(
    ("sql", "told"),
    [
        (
            "update orders set cents = cents + 1 where id = 1000",
            "public.orders has 2000 rows, but not with the content",
        ),
        ("delete from orders where id = 2000", "public.orders has 1999 rows, it had 2000"),
        ("update orders set weight = weight + 1e-17 * 2 where id = 5", "public.orders has 2000 rows, but not with"),
        ("drop table small", "public.small is not there"),
        ("refresh materialized view totals with no data", "public.totals is not there"),
        (
            """update "mixed Case"."tab.le ü" set line = 'ü', t = 'a' where t is null""",
            '"mixed Case"."tab.le ü" has 3 rows',
        ),
        ("select lo_put(oid, 2, 'b') from pg_largeobject_metadata", "pg_catalog.pg_largeobject has 1 rows, but not"),
        ("insert into busy values (now())", "public.busy has 1 rows, it had 0"),
    ],
    ids=["value", "row", "last digit", "table", "view", "names", "large object", "busy"],
)
def test_a_table_that_differs_fails(world: World, case: Scene, sql: str, told: str) -> None:
    spoil(world, sql)
    assert told in failure("V2", case)


def test_tables_that_may_move_count_only_at_the_reference(world: World, case: Scene) -> None:
    spoil(world, "insert into busy values (now())")
    found = result("V2", replace(case, at_reference=False))
    assert (found.state, found.control) == (State.PASSED, Control.CAUGHT)
    assert "spoilt: 1 tables are not compared, they went on changing" in found.facts


def test_other_databases_of_the_cluster_are_compared(copied: Copied) -> None:
    server, scene = copied
    with server.connect("'other Db'") as session:
        session.execute("delete from elsewhere where n = 3")
    assert "other Db: public.elsewhere has 9 rows, it had 10" in failure("V2", scene)


def test_without_a_table_to_compare_it_is_skipped(case: Scene) -> None:
    everything = frozenset(case.reference.tables)
    scene = replace(case, at_reference=False, reference=replace(case.reference, may_move=everything))
    assert result("V2", scene).state is State.SKIPPED


def test_empty_tables_show_nothing(world: World, case: Scene) -> None:
    """No control can be made on them, so equality says nothing."""
    reference = replace(case.reference, tables={"public.empty": case.reference.tables["public.empty"]})
    found = result("V2", replace(case, reference=reference))
    assert (found.state, found.control) == (State.PASSED, Control.MISSED)


# --- V5 ---


@pytest.mark.parametrize(
    ("sql", "told"),
    [
        (
            "select setval('orders_id_seq', 1999)",
            "public.orders_id_seq is at 1999, but public.orders.id goes up to 2000",
        ),
        ("alter sequence lines_id_seq restart", "public.lines_id_seq is at 1, but public.lines.id goes up to 20"),
        ("delete from lines where id > 10; select setval('lines_id_seq', 15)", "lines_id_seq is at 15, it was at 20"),
        ("drop sequence free", "the sequence public.free is not there"),
        ("drop extension plpgsql", "the extension plpgsql 1.0 is not there"),
        ("select lo_unlink(oid) from pg_largeobject_metadata", "0 large objects, there were 1"),
    ],
    ids=["behind", "restarted", "set back", "sequence", "extension", "large object"],
)
def test_a_lesser_database_fails(world: World, case: Scene, sql: str, told: str) -> None:
    spoil(world, sql)
    assert told in failure("V5", case)


def test_a_lesser_cluster_fails(copied: Copied) -> None:
    server, scene = copied
    lost = {
        "revoke readers from app": "the role is not there as it was: app in readers",
        "alter role readers rename to writers": "the role is not there as it was: readers",
        "alter role app nologin": "the role is not there as it was: app login",
        "alter role app reset statement_timeout": "alter role app set statement_timeout was 1min, it is not there",
        f"alter database {DATABASE} set work_mem = '1MB'": "alter database app set work_mem was 8MB, it is 1MB",
        'drop database "other Db"': "the database other Db is not there",
    }
    for sql in lost:
        server.query(sql)
    told = failure("V5", replace(scene, reference=replace(scene.reference, others=())))
    assert [words for words in lost.values() if words not in told] == []


def test_controls_are_made_where_the_database_has_nothing_to_take_away(world: World) -> None:
    server = world.restored
    server.query("create database spoilt template template0")
    try:
        bare = replace(world.scene.reference, database="spoilt", roles=(), sequences={}, large_objects=0, others=())
        bare = replace(bare, settings={}, behind=frozenset())
        found = result("V5", replace(world.scene, reference=bare))
        assert (found.state, found.control) == (State.PASSED, Control.CAUGHT), found
        assert "drkit_negative_control.t_id_seq set back" in found.control_text
        assert "the role drkit_negative_control taken away" in found.control_text
        assert server.value("select count(*) from pg_roles where rolname ~ 'drkit'") == 0
    finally:
        server.query("drop database spoilt")


# --- V6 ---


def test_a_server_that_takes_no_writes_fails(world: World, case: Scene) -> None:
    world.restored.query("alter database spoilt set default_transaction_read_only = on")
    assert "read-only transaction" in failure("V6", case)


def test_a_ledger_that_takes_no_rows_fails(world: World, case: Scene) -> None:
    spoil(world, f"alter table {LEDGER} add constraint shut check (number < 0) not valid")
    assert "violates check constraint" in failure("V6", case)


def test_the_application_leaves_nothing_behind(world: World, case: Scene) -> None:
    assert result("V6", case).state is State.PASSED
    with world.restored.connect("spoilt") as session:
        rows = session.execute(f"select count(*), count(distinct writer) from {LEDGER}").fetchall()
        schemas = session.execute("select nspname from pg_namespace where nspname ~ 'drkit'").fetchall()
    assert (rows, schemas) == ([(40, 2)], [("drkit_drill",)])


# --- all of them ---


def test_a_server_that_is_gone_is_an_error_and_no_finding(world: World, case: Scene) -> None:
    server = world.restored
    elsewhere = Server(server.major, server.bin, server.root, free_port())
    nowhere = replace(case, connect=Connect(elsewhere), conninfo=elsewhere.conninfo())
    for name in ("V1", "V2", "V4", "V5", "V6"):
        found = result(name, nowhere)
        assert (found.check, found.state, found.control) == (name, State.ERROR, Control.NONE)
        assert "cannot connect to PostgreSQL" in found.actual
