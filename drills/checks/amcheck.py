"""Heaps against their indexes, by the extension amcheck: with pg_amcheck (14 and later), else with its functions.

pg_amcheck ends with 2 where it found damage and with 1 where it could not look (src/bin/pg_amcheck/pg_amcheck.c).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from drills.checks.api import Scene
from drills.checks.asking import asking, is_corruption
from drills.checks.programs import run_program
from drkit.core.errors import DrkitError, Failed

PROGRAM = "pg_amcheck"
_OPTIONS = ["--heapallindexed", "--parent-check", "--no-password"]
_FOUND_DAMAGE = 2
_AVAILABLE = "select exists (select from pg_available_extensions where name = 'amcheck')"
_THERE = "select exists (select from pg_extension where extname = 'amcheck')"
_CREATE = "create extension amcheck schema pg_catalog"
_DROP = "drop extension amcheck"
# Valid B-trees of tables that are not another session's; a deferred or unfinished index is no damage.
_INDEXES = """
select i.indexrelid::regclass::text, i.indexrelid::int8
from pg_index i join pg_class c on c.oid = i.indexrelid join pg_am m on m.oid = c.relam
where m.amname = 'btree' and c.relkind = 'i' and c.relpersistence = 'p' and i.indisready and i.indisvalid
  and (%s = '' or i.indrelid = to_regclass(%s))
order by 1
"""
_CHECK = "select bt_index_parent_check(%s::oid::regclass, true)"


@dataclass(frozen=True, slots=True)
class Examined:
    """damage: what was found, a line each · why_not: the reason where it cannot be looked at on this machine."""

    damage: tuple[str, ...] = ()
    why_not: str = ""


def examine(scene: Scene, database: str, table: str = "") -> Examined:
    """All relations of a database, or one table ("schema.table") with its indexes.

    The extension is created for it and dropped again where it was not there. Raises DrkitError where the server cannot
    be asked, OSError, Cancelled.
    """
    with asking(scene.connect, database, scene.token) as session:
        if not session.rows(_AVAILABLE)[0][0]:
            why = "the server's extension amcheck is not installed on this machine (it comes with contrib)"
            return Examined(why_not=why)
    with _extension(scene, database):
        if (scene.programs / PROGRAM).exists():
            return Examined(_by_program(scene, database, table))
        return Examined(_by_functions(scene, database, table))


def conninfo_of(scene: Scene, database: str) -> str:
    """The connection string for programs, to one database."""
    from psycopg.conninfo import make_conninfo

    return make_conninfo(scene.conninfo, dbname=database)


@contextmanager
def _extension(scene: Scene, database: str) -> Iterator[None]:
    with asking(scene.connect, database, scene.token) as session:
        there = bool(session.rows(_THERE)[0][0])
        if not there:
            session.rows(_CREATE)
    yield
    if not there:
        with asking(scene.connect, database, scene.token) as session:
            session.rows(_DROP)


def _by_program(scene: Scene, database: str, table: str) -> tuple[str, ...]:
    args = [*_OPTIONS, *([f"--table={table}"] if table else []), conninfo_of(scene, database)]
    ran = run_program(scene.programs / PROGRAM, args, scene.data_dir, scene.token)
    if ran.exit == 0:
        return ()
    if ran.exit == _FOUND_DAMAGE:
        return ran.findings
    raise Failed(f"{PROGRAM} could not look", where=database, why=ran.findings[0])


def _by_functions(scene: Scene, database: str, table: str) -> tuple[str, ...]:
    damage = []
    with asking(scene.connect, database, scene.token) as session:
        for name, oid in session.rows(_INDEXES, table, table):
            scene.token.check()
            try:
                session.rows(_CHECK, oid)
            except DrkitError as error:
                if not is_corruption(error):
                    raise
                damage.append(f"index {name}: {error.why}")
    return tuple(damage)
