"""The ledger's rows in a PostgreSQL database: the table, the client that commits them, and how they are read back."""

from __future__ import annotations

from drills.checks.ledger import read_rows as rows_of
from drills.ledger import Row
from drkit.engines.postgres.session import Session

SCHEMA = "drkit_drill"
LEDGER_TABLE = f"{SCHEMA}.ledger"
LEDGER_COLUMNS = "(writer text not null, number bigint not null, payload text not null, primary key (writer, number))"
SCHEMA_COMMENT = "made by a drill of drkit, and removed by it"
_ROW = f"insert into {LEDGER_TABLE} values (%s, %s, %s) on conflict do nothing"  # noqa: S608  a constant


def make_table(session: Session) -> None:
    """The table for the ledger, where it is missing; the schema is then not a drill's, and no drill removes it."""
    session.rows("set client_min_messages = warning")
    session.rows(f"create schema if not exists {SCHEMA}")
    session.rows(f"create table if not exists {LEDGER_TABLE} {LEDGER_COLUMNS}")


class LedgerClient:
    """A row, a transaction. `drills.writer.Client`: raises Unreachable where the outcome is not known."""

    def __init__(self, conninfo: str) -> None:
        self._session = Session.open(conninfo, "drkit drill")
        # Whatever the role's default is: an acknowledged row is one that the server has on disk.
        self._session.rows("select set_config('synchronous_commit', 'on', false)")

    def commit(self, writer: str, number: int, payload: str) -> None:
        self._session.rows(_ROW, writer, number, payload)

    def close(self) -> None:
        self._session.close()


def read_rows(session: Session, table: str = LEDGER_TABLE) -> list[Row]:
    """The ledger as it is in this database; no row where there is no such table."""
    name = session.rows("select to_regclass(%s)::text", table)[0][0]
    return [] if name is None else rows_of(session, str(name))
