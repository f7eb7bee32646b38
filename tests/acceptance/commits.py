"""A client that commits one row after the other and notes of each what tells it apart: number, xid, position, time.

One session does it all, one commit at a time, so that every kind of recovery target has one right answer: the rows
up to a number.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType

import psycopg

from tests.real.postgres import Server

_PACE_S = 0.004
_POINT_EVERY = 25


@dataclass(frozen=True, slots=True)
class Commit:
    """One acknowledged row. before, lsn, at: position before it was sent; position and server clock after it was
    acknowledged, and before the next one was sent. point: a restore point made then, or "".
    """

    number: int
    xid: int
    before: str
    lsn: str
    at: str
    point: str


class Ledger:
    """As a context manager it commits in a thread of its own until the block is left."""

    def __init__(self, server: Server) -> None:
        self.commits: list[Commit] = []
        self._server, self._stop = server, threading.Event()
        self._error: BaseException | None = None
        self._more = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="ledger")

    def __enter__(self) -> Ledger:
        self._server.query("create table ledger (n bigint primary key, xid bigint not null, filler text not null)")
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """End, with the last row acknowledged; raises what made it fail."""
        self._stop.set()
        self._thread.join()
        if self._error is not None:
            raise self._error

    def wait_for(self, more: int) -> Commit:
        """Return when so many further rows are acknowledged; the newest."""
        with self._more:
            wanted = len(self.commits) + more
            self._more.wait_for(lambda: len(self.commits) >= wanted or self._error is not None, timeout=60)
            assert len(self.commits) >= wanted, self._error
            return self.commits[-1]

    def _run(self) -> None:
        try:
            with self._server.connect() as session:
                while not self._stop.wait(_PACE_S):
                    self._one(session)
        except BaseException as error:  # noqa: BLE001  the root of a thread: `stop` raises it
            with self._more:
                self._error = error
                self._more.notify_all()

    def _one(self, session: psycopg.Connection[tuple[object, ...]]) -> None:
        number = len(self.commits) + 1
        ask: Callable[[str], str] = lambda sql: str(session.execute(sql).fetchone()[0])  # type: ignore[index]  # noqa: E731
        before = ask("select pg_current_wal_insert_lsn()")
        insert = f"insert into ledger values ({number}, txid_current(), md5('{number}')) returning xid"
        xid = int(ask(insert))
        point = f"point-{number}" if number % _POINT_EVERY == 0 else ""
        if point:
            ask(f"select pg_create_restore_point('{point}')")
        after = session.execute(
            "select pg_current_wal_insert_lsn()::text,"
            " to_char(clock_timestamp() at time zone 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')"
        ).fetchone()
        assert after is not None
        with self._more:
            self.commits.append(Commit(number, xid, before, str(after[0]), str(after[1]), point))
            self._more.notify_all()
