"""What a table holds, as numbers: its rows counted and digested in the server, whatever their order.

    half(seed) = sum over all rows of hashtextextended(row as text, seed)  modulo 2^64
    digest     = half(0) half(1), 16 hex digits each

A sum and not an XOR, so that a row that is there twice counts twice. hashtextextended is PostgreSQL's own 64-bit hash
(src/common/hashfn.c, the same in 13 to 18); a row as text depends on settings, which `settle` fixes. It guards against
damage and lost or changed rows, not against somebody who computes collisions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from drills.checks.asking import fill
from drkit.engines.postgres.session import Session

# search_path: names in values (regclass) come out qualified · row_security: an error, never rows left out silently
_SETTINGS = {
    "datestyle": "ISO, YMD",
    "intervalstyle": "postgres",
    "timezone": "UTC",
    "extra_float_digits": "1",
    "bytea_output": "hex",
    "lc_monetary": "C",
    "xmlbinary": "base64",
    "search_path": "pg_catalog",
    "row_security": "off",
}
# Unlogged tables are empty after a recovery, temporary ones are gone, foreign ones live elsewhere. Large objects are
# rows of a system table that only a superuser may read.
_TABLES = """
select format('%I.%I', n.nspname, c.relname), c.relkind = 'r', pg_table_size(c.oid)
from pg_class c join pg_namespace n on n.oid = c.relnamespace
where c.relpersistence = 'p' and (c.relkind = 'r' or c.relkind = 'm' and c.relispopulated)
  and (n.nspname !~ '^pg_' and n.nspname <> 'information_schema'
       or c.oid = 'pg_largeobject'::regclass and has_table_privilege(c.oid, 'select')
          and exists (select from pg_largeobject_metadata))
order by 1
"""
# `offset 0` keeps the planner from making the text of each row twice. The alias is no column's name.
_STATE = """
select count(*), coalesce(sum(hashtextextended(line, 0)), 0)::text, coalesce(sum(hashtextextended(line, 1)), 0)::text
from (select ("whole row".*)::text collate "C" as line from {table} "whole row"{sample} offset 0) lines
"""
_SAMPLE = " tablesample system ({percent}) repeatable (20260701)"
_HALF = 1 << 64


@dataclass(frozen=True, slots=True)
class Table:
    """name: quoted, with its schema · is_plain: a table, and not a materialized view · size_bytes: with its TOAST."""

    name: str
    is_plain: bool
    size_bytes: int


@dataclass(frozen=True, slots=True)
class TableState:
    """Rows and digest, of the whole table or of the sample that was asked for."""

    rows: int
    digest: str


def settle(session: Session) -> None:
    """Fix the settings that the text of a row depends on, for the rest of the session."""
    for name, value in _SETTINGS.items():
        session.rows("select set_config(%s, %s, false)", name, value)


def tables_of(session: Session) -> Mapping[str, Table]:
    """The tables whose rows survive a recovery, by name."""
    return {str(name): Table(str(name), bool(plain), int(size)) for name, plain, size in session.rows(_TABLES)}


def state_of(session: Session, table: Table, percent: float | None = None) -> TableState:
    """Read a table, or about `percent` of its blocks: the same ones each time, as long as it does not change.

    Raises Failed, for one where it cannot be read.
    """
    sample = fill(_SAMPLE, percent=f"{percent:.6f}") if percent is not None else ""
    ((rows, first, second),) = session.rows(fill(_STATE, sample=sample, table=table.name))
    return TableState(int(rows), f"{int(first) % _HALF:016x}{int(second) % _HALF:016x}")
