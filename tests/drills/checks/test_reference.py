"""What is recorded on a source: the same for the same data, another for any other."""

from __future__ import annotations

from dataclasses import replace

import pytest

from drills.checks.reference import Limits, record, with_moves
from drkit.core.cancel import CancelToken
from drkit.core.errors import Cancelled, Refused
from drkit.engines.postgres.lsn import Lsn
from drkit.engines.postgres.session import Session
from tests.drills.checks.conftest import Fresh
from tests.drills.checks.world import Connect

pytestmark = pytest.mark.real


def test_it_is_of_rows_and_not_of_their_order(fresh: Fresh) -> None:
    fresh.run("create table t as select n, md5(n::text) as text from generate_series(1, 1000) n")
    first = fresh.taken()
    fresh.run("create table u as select * from t order by text; drop table t; alter table u rename to t")
    assert fresh.taken().tables == first.tables
    fresh.run("insert into t select * from t where n = 5")
    doubled = fresh.taken()
    assert doubled.tables["public.t"][0] == 1001
    fresh.run("delete from t where n = 5; insert into t select 6, md5('6')")
    assert fresh.taken().tables["public.t"][0] == 1000
    assert len({one.tables["public.t"] for one in (first, doubled, fresh.taken())}) == 3


def test_settings_of_the_role_do_not_count(fresh: Fresh) -> None:
    fresh.run("""create table t as select now() as at, 1.1::float8 / 3 as f, '\\x00ff'::bytea as b,
        interval '25 hours' as i, 12.5::money as m""")
    first = fresh.taken()
    for setting in (
        "datestyle = 'German'",
        "timezone = 'Asia/Tokyo'",
        "extra_float_digits = 0",
        "bytea_output = 'escape'",
        "intervalstyle = 'iso_8601'",
    ):
        fresh.run(f"alter role postgres in database {fresh.name} set {setting}")
    assert fresh.taken().tables == first.tables


def test_only_what_a_recovery_brings_back_is_in_it(fresh: Fresh) -> None:
    fresh.run("create table kept (id int); create unlogged table gone (id int); create view shown as select 1")
    fresh.run("create materialized view made as select 1; create materialized view unmade as select 1 with no data")
    fresh.run("create table parts (id int) partition by range (id); create table part partition of parts default")
    assert sorted(fresh.taken().tables) == ["public.kept", "public.made", "public.part"]


def test_a_large_table_is_sampled_and_said_to_be(fresh: Fresh) -> None:
    fresh.run("create table large as select n, repeat('x', 100) from generate_series(1, 50000) n")
    fresh.run("create table small as select 1")
    limits = Limits(whole_bytes=1 << 20, sample_bytes=1 << 20)
    first = fresh.taken(limits)
    assert list(first.sampled) == ["public.large"]
    rows, digest = first.tables["public.large"]
    assert 0 < rows < 50_000
    assert fresh.taken(limits).tables["public.large"] == (rows, digest)
    fresh.run("update large set n = n + 1")
    assert fresh.taken(limits).tables["public.large"] != (rows, digest)
    assert fresh.taken(limits).tables["public.small"] == first.tables["public.small"]


def test_its_lsn_lies_behind_what_it_saw(fresh: Fresh) -> None:
    fresh.run("create table t (id int)")
    before = fresh.server.value("select pg_current_wal_insert_lsn()")
    found = fresh.taken()
    assert Lsn.parse(found.lsn) >= Lsn.parse(str(before))


def test_what_differs_later_goes_on_changing(fresh: Fresh) -> None:
    fresh.run("create table still as select 1; create table busy as select 1; create table doomed as select 1")
    first = fresh.taken()
    fresh.run("insert into busy values (2); drop table doomed; create table fresh (id int)")
    fresh.run("select lo_from_bytea(0, 'x')")
    moved = with_moves(first, fresh.taken())
    assert moved.may_move == {"public.busy", "public.doomed", "pg_catalog.pg_largeobject"}
    assert replace(moved, may_move=frozenset()) == first


def test_what_belongs_to_no_table_is_left_out_once_it_changed(fresh: Fresh) -> None:
    fresh.run("create sequence still; create sequence runs; create sequence doomed")
    first = fresh.taken()
    fresh.run("select nextval('runs'), nextval('runs'); drop sequence doomed", "drop extension plpgsql")
    fresh.run("create table t (id int); insert into t values (5); create sequence s owned by t.id")
    moved = with_moves(first, fresh.taken())
    assert (list(moved.sequences), moved.extensions, moved.roles) == (["public.still"], (), first.roles)
    assert moved.behind == {"public.s"}


def test_a_table_that_cannot_be_read_is_an_error(fresh: Fresh) -> None:
    fresh.run("create table t as select 1; alter table t enable row level security")
    fresh.run("grant select on t to app")

    def as_app(database: str) -> Session:
        return Session.open(f"{fresh.server.conninfo(database)} user=app")

    with pytest.raises(Refused) as caught:
        record(as_app, fresh.name, CancelToken())
    assert "row-level security" in caught.value.why


def test_it_can_be_cancelled(fresh: Fresh) -> None:
    fresh.run("create table t as select 1")
    with pytest.raises(Cancelled):
        record(Connect(fresh.server), fresh.name, CancelToken(deadline_s=0.0))
