"""V4 on files that are damaged, on machines that lack its programs, and on clusters without checksums."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from drills.checks import amcheck
from drills.checks.api import Scene
from drills.checks.physical import PhysicalCheck
from drills.checks.registry import CHECKS
from drills.report.model import CheckResult, Control, State
from drkit.core.errors import Failed
from tests.drills.checks.world import DATABASE, Copied, World, build, programs_without
from tests.real.postgres import MAJORS, Server, require

pytestmark = pytest.mark.real
PROGRAMS = ("pg_amcheck", "pg_checksums", "pg_dump", "pg_dumpall")


def checked(scene: Scene) -> CheckResult:
    return PhysicalCheck().run(scene, required=True)


def has_amcheck(server: Server) -> bool:
    return bool(server.value("select count(*) from pg_available_extensions where name = 'amcheck'"))


def file_of(server: Server, relation: str) -> Path:
    with server.connect(DATABASE) as session:
        row = session.execute("select pg_relation_filepath(%s)", (relation,)).fetchone()
    assert row is not None
    return server.data / str(row[0])


def flip(file: Path, offset: int) -> None:
    data = bytearray(file.read_bytes())
    data[offset] ^= 0x01
    file.write_bytes(data)


def lose_index_entry(server: Server) -> None:
    """Commit a row of orders that one of its indexes does not know."""
    ready = "update pg_index set indisready = %s where indexrelid = 'orders_customer'::regclass"
    with server.connect(DATABASE) as session:
        session.execute(ready, (False,))
        session.execute("insert into orders (customer) values ('not in the index')")
        session.execute(ready, (True,))


def test_a_bit_that_turned_in_a_page_is_found(copied: Copied) -> None:
    """By the checksums in any case; it sits in a value, so nothing else may notice before it is read."""
    server, scene = copied
    file = file_of(server, "orders")
    server.stop()
    flip(file, 8192 * 3 - 20)
    server.start()
    found = checked(scene)
    assert (found.state, found.control) == (State.FAILED, Control.CAUGHT)
    told = [found.actual, *found.facts]
    assert any("pg_checksums" in line and f'"{file}", block 2' in line for line in told)
    assert any("pg_dump" in line and "invalid page in block 2" in line for line in told)
    v2 = CHECKS["V2"].run(scene, required=True)
    assert v2.state is State.FAILED
    assert "public.orders cannot be read" in v2.actual


def test_an_index_that_lacks_a_row_is_found(copied: Copied) -> None:
    server, scene = copied
    if not has_amcheck(server):
        pytest.skip(f"PostgreSQL {server.major} came without amcheck")
    lose_index_entry(server)
    found = checked(scene)
    assert (found.state, found.control) == (State.FAILED, Control.CAUGHT)
    assert "lacks matching index tuple" in found.actual


def test_without_pg_amcheck_the_functions_find_the_same(copied: Copied) -> None:
    server, scene = copied
    if not has_amcheck(server):
        pytest.skip(f"PostgreSQL {server.major} came without amcheck")
    scene = replace(scene, programs=programs_without(server, "pg_amcheck"))
    assert amcheck.examine(scene, DATABASE) == amcheck.Examined()
    lose_index_entry(server)
    (line,) = amcheck.examine(scene, DATABASE).damage
    assert "orders_customer" in line and "lacks matching index tuple" in line
    found = checked(scene)
    assert (found.state, found.control) == (State.FAILED, Control.CAUGHT)


def test_an_extension_that_was_there_stays(copied: Copied) -> None:
    server, scene = copied
    if not has_amcheck(server):
        pytest.skip(f"PostgreSQL {server.major} came without amcheck")
    with server.connect(DATABASE) as session:
        session.execute("create extension amcheck")
        assert checked(replace(scene, stop=server.restart, start=lambda: None)).state is State.ERROR  # it never stopped
    assert checked(scene).state is State.PASSED
    with server.connect(DATABASE) as session:
        assert session.execute("select count(*) from pg_extension where extname = 'amcheck'").fetchone() == (1,)


def test_without_the_extension_that_part_is_said_to_be_missing(copied: Copied) -> None:
    server, scene = copied
    if has_amcheck(server):
        pytest.skip(f"PostgreSQL {server.major} came with amcheck")
    found = checked(scene)
    assert (found.state, found.control) == (State.PASSED, Control.CAUGHT)
    assert found.actual == "clean by pg_dump, pg_checksums; not done: amcheck"
    assert found.facts[0].startswith("not done: amcheck: the server's extension amcheck is not installed")


def test_without_programs_the_functions_are_left_or_nothing(copied: Copied) -> None:
    server, scene = copied
    found = checked(replace(scene, programs=programs_without(server, *PROGRAMS)))
    if has_amcheck(server):
        assert (found.state, found.control) == (State.PASSED, Control.CAUGHT)
        assert found.actual == "clean by amcheck; not done: pg_dump, pg_checksums"
    else:
        assert (found.state, found.control) == (State.SKIPPED, Control.NONE)
        assert found.actual == "not done: amcheck, pg_dump, pg_checksums"
    assert [line for line in found.facts if line.startswith("not done: pg_dump: pg_dumpall is not among")]
    assert server.is_running()


def test_a_server_that_does_not_stop_is_an_error(copied: Copied) -> None:
    def stuck() -> None:
        raise Failed("the server does not stop")

    found = checked(replace(copied[1], stop=stuck))
    assert (found.state, found.control) == (State.ERROR, Control.NONE)
    assert "pg_checksums: the server does not stop" in found.actual


def test_it_ends_in_its_time(copied: Copied) -> None:
    found = PhysicalCheck(limit_s=0.0).run(copied[1], required=True)
    assert (found.state, found.actual) == (State.ERROR, "cancelled: the deadline has passed")
    assert copied[0].is_running()


@pytest.fixture(params=MAJORS[-1:], ids=lambda major: f"pg{major}")
def bare(request: pytest.FixtureRequest) -> Iterator[World]:
    major: int = request.param
    require(major)
    made = build(major, checksums=False)
    yield made
    made.close()


def test_without_checksums_that_part_is_said_to_be_missing(bare: World) -> None:
    found = checked(bare.scene)
    assert (found.state, found.control) == (State.PASSED, Control.CAUGHT)
    assert "not done: pg_checksums: data checksums are off in this cluster" in found.facts
    assert "a byte changed in a page (pg_dump)" in found.control_text
