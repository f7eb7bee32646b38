"""Assertions of the user's own: what they mean, and how they end when they are wrong."""

from __future__ import annotations

from dataclasses import replace

import pytest

from drills.checks.assertion import Assertion
from drills.report.model import Control, State
from drkit.core.cancel import CancelToken
from tests.drills.checks.world import World

pytestmark = pytest.mark.real


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("select true", None),
        ("select count(*) = 2000 from orders;", None),
        ("select count(*) from orders -- all of them", "2000"),
        ("with o as (select max(id) from orders) select * from o", "2000"),
        ("values ('it''s 100 % {sql} \\')", "it's 100 % {sql} \\"),
        ("select 'a' like '%a' and exists (select from lines)", "true"),
    ],
)
def test_what_holds_passes_and_its_negation_fails(world: World, sql: str, expected: str | None) -> None:
    found = Assertion("own", sql, expected).run(world.scene, required=True)
    assert (found.check, found.state, found.control) == ("own", State.PASSED, Control.CAUGHT), found


@pytest.mark.parametrize(
    ("sql", "expected", "told"),
    [
        ("select count(*) = 1 from orders", None, "it is false"),
        ("select count(*) from orders", "1", "it is 2000"),
        ("select count(*) from orders", None, "it is 2000"),
        ("select id from orders", "1", "more than one row returned"),
        ("select 1/0", "1", "division by zero"),
        ("select count(*) > 0 from customers", None, 'relation "customers" does not exist'),
    ],
)
def test_what_does_not_hold_fails(world: World, sql: str, expected: str | None, told: str) -> None:
    found = Assertion("own", sql, expected).run(world.scene, required=True)
    assert found.state is State.FAILED
    assert told in found.actual


@pytest.mark.parametrize("expected", [None, "1"])
def test_null_holds_neither_way_and_so_tells_nothing(world: World, expected: str | None) -> None:
    found = Assertion("own", "select max(id) from empty", expected).run(world.scene, required=True)
    assert (found.state, found.actual, found.control) == (State.FAILED, "it is null", Control.MISSED)


@pytest.mark.parametrize(
    "sql",
    [
        "selec 1",
        "select 1) as found; drop table orders; select (1",
        "select nextval('free') > 0",
        "with gone as (delete from orders returning 1) select count(*) > 0 from gone",
        "select true; drop table orders",
    ],
)
def test_what_is_no_question_is_an_error_and_changes_nothing(world: World, sql: str) -> None:
    found = Assertion("own", sql).run(world.scene, required=True)
    assert (found.state, found.control) == (State.ERROR, Control.NONE)
    assert Assertion("own", "select count(*) from orders", "2000").run(world.scene, required=True).state is State.PASSED


def test_it_may_ask_another_database(world: World) -> None:
    own = Assertion("own", "select count(*) from elsewhere", "10", database="other Db")
    assert own.run(world.scene, required=True).state is State.PASSED


def test_a_query_out_of_time_is_cancelled_in_the_server(world: World) -> None:
    own = Assertion("own", "select pg_sleep(3600) is null", limit_s=0.2)
    found = own.run(world.scene, required=True)
    assert (found.state, found.actual) == (State.ERROR, "cancelled: the deadline has passed")
    waiting = "select count(*) from pg_stat_activity where query ~ 'pg_sleep' and pid <> pg_backend_pid()"
    assert world.restored.value(waiting) == 0


def test_a_check_of_a_cancelled_drill_asks_nothing(world: World) -> None:
    token = CancelToken()
    token.cancel("enough")
    found = Assertion("own", "select true").run(replace(world.scene, token=token), required=True)
    assert (found.state, found.actual) == (State.ERROR, "cancelled: enough")
