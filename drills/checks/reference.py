"""Records on the source, before the fault, what the restored server is compared with."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from drills.checks.api import Reference
from drills.checks.asking import asking
from drills.checks.catalogue import LARGE_OBJECTS, read_catalogue
from drills.checks.digest import Table, settle, state_of, tables_of
from drkit.core.cancel import CancelToken
from drkit.engines.postgres.session import Session

V = TypeVar("V")
# Read in the statement that takes the snapshot or after it: every commit that the snapshot sees lies before.
_LSN = """
select (case when pg_is_in_recovery() then pg_last_wal_replay_lsn() else pg_current_wal_insert_lsn() end)::text
"""


@dataclass(frozen=True, slots=True)
class Limits:
    """What reading may cost: of a table of more than `whole_bytes`, about `sample_bytes` are read."""

    whole_bytes: int = 1 << 30
    sample_bytes: int = 64 << 20

    def percent(self, table: Table) -> float | None:
        """Of its blocks to read; None: all."""
        if table.size_bytes <= self.whole_bytes:
            return None
        return min(100.0, 100.0 * self.sample_bytes / table.size_bytes)


def record(
    connect: Callable[[str], Session],
    database: str,
    token: CancelToken,
    *,
    others: Sequence[str] = (),
    limits: Limits | None = None,
    may_move: Iterable[str] = (),
) -> Reference:
    """What `database` holds, and each of `others`: one repeatable-read snapshot a database, read only.

    `lsn` lies behind every commit that the snapshot saw, and it is that commit's WAL and no more where nobody wrote
    meanwhile: then recovery to it, exclusive, gives the same. It need not be durable yet. may_move: tables, as
    Reference names them. Raises Unreachable, Refused (a right is missing), Failed (a table cannot be read), Cancelled.
    """
    moving = frozenset(may_move)
    first = _record(connect, database, token, limits or Limits(), moving)
    rest = (_record(connect, other, token, limits or Limits(), moving) for other in others if other != database)
    return replace(first, others=tuple(rest))


def with_moves(reference: Reference, later: Reference) -> Reference:
    """`reference`, knowing that what differs in `later`, a second one of the same databases, goes on changing.

    Tables are noted as moving; roles, extensions, sequences, settings and databases that changed are left out. Taken
    as late as possible before the fault, that leaves for comparison what nobody changes.
    """
    names = {name for name, state in reference.tables.items() if later.tables.get(name) != state}
    if later.large_objects != reference.large_objects:
        names.add(LARGE_OBJECTS)
    by_name = {one.database: one for one in later.others}
    others = tuple(with_moves(one, by_name.get(one.database, one)) for one in reference.others)
    return replace(
        reference,
        may_move=reference.may_move | names,
        roles=tuple(role for role in reference.roles if role in later.roles),
        extensions=tuple(one for one in reference.extensions if one in later.extensions),
        sequences=_unchanged(reference.sequences, later.sequences),
        settings=_unchanged(reference.settings, later.settings),
        databases=tuple(name for name in reference.databases if name in later.databases),
        behind=reference.behind | later.behind,
        others=others,
    )


def _unchanged(before: Mapping[str, V], after: Mapping[str, V]) -> dict[str, V]:
    return {name: value for name, value in before.items() if after.get(name) == value}


def _record(
    connect: Callable[[str], Session], database: str, token: CancelToken, limits: Limits, may_move: frozenset[str]
) -> Reference:
    with asking(connect, database, token) as session:
        settle(session)
        session.rows("begin isolation level repeatable read read only")
        lsn = str(session.rows(_LSN)[0][0])
        tables: dict[str, tuple[int, str]] = {}
        sampled: dict[str, float] = {}
        for name, table in tables_of(session).items():
            token.check()
            percent = limits.percent(table)
            state = state_of(session, table, percent)
            tables[name] = (state.rows, state.digest)
            if percent is not None:
                sampled[name] = percent
        found = read_catalogue(session, token)
        session.rows("commit")
    return Reference(
        database=database,
        lsn=lsn,
        tables=tables,
        may_move=may_move,
        roles=found.roles,
        extensions=found.extensions,
        sequences=found.sequences,
        large_objects=found.large_objects,
        settings=found.settings,
        databases=found.databases,
        sampled=sampled,
        behind=frozenset(found.behind),
    )
