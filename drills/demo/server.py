"""The demo's PostgreSQL: made, filled, started, killed; and what is asked of it and of its restored copies."""

from __future__ import annotations

import ctypes
import os
import signal
from dataclasses import dataclass
from pathlib import Path

from drills.demo.place import Place
from drills.demo.setup import server_settings
from drills.journal import digest_of
from drills.ledger import Moment, Row
from drkit.core.clock import Clock
from drkit.core.errors import Failed
from drkit.engines.postgres.instance import Instance, InstanceSpec, Shutdown
from drkit.engines.postgres.recovery import render
from drkit.engines.postgres.session import Session

_START_S = 60
_RECENT = 20_000  # orders that still change: the rest is history, as in most shops
_FILL_SETTINGS = {
    "archive_mode": "off",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "archive_command": "",
    "fsync": "off",
    "autovacuum": "off",
}
# Made and filled in one transaction with wal_level = minimal, rows are written to their files and not to WAL.
_FILL = (
    "begin",
    """create table orders (id bigint not null, customer text not null, placed timestamptz not null,
       state text not null, cents bigint not null, note text not null)""",
    """insert into orders
       select n, 'customer ' || (n * 7919) %% 50000, timestamptz '2025-01-01' + n * interval '13 seconds',
              (array['paid', 'packed', 'sent', 'returned'])[1 + n %% 4], (n * 104729) %% 100000,
              md5(n::text) || ' to be left with the neighbour ' || md5((n * 3)::text)
       from generate_series(1::bigint, %s::bigint) n""",
    "alter table orders add primary key (id)",
    """create table ledger (writer text not null, number bigint not null, payload text not null,
       primary key (writer, number))""",
    "commit",
    "analyze orders",
)
_DIGEST = "select count(*), coalesce(sum(hashtextextended(o::text, 0)), 0)::text from orders o"
_ORDER_AND_ROW = """
with o as (update orders set state = 'paid', cents = cents + 1 where id = %s)
insert into ledger values (%s, %s, %s) on conflict do nothing"""
_ROW = "insert into ledger values (%s, %s, %s) on conflict do nothing"


@dataclass(frozen=True, slots=True)
class TableState:
    """A table's row count and its order-independent digest: the sum of the hashes of its rows."""

    rows: int
    digest: str


@dataclass(frozen=True, slots=True)
class Culprit:
    """The transaction that dropped the table, when, and the table as it was just before."""

    xid: str
    moment: Moment
    lsn: str
    segment: str
    before: TableState


class Source:
    """The server that is backed up and lost."""

    def __init__(self, place: Place, postgres: Path, env: dict[str, str], rows: int) -> None:
        self.place, self.postgres, self.rows = place, postgres, rows
        self.data = place.root / "data"
        self._env = {**env, "DRKIT_CONFIG": str(place.root / "drkit.toml")}
        self._instance: Instance | None = None

    @property
    def conninfo(self) -> str:
        return conninfo_of(self.place.sockets)

    def create(self) -> None:
        """initdb, and the table with its rows."""
        args = [str(self.postgres / "initdb"), "-D", str(self.data), "-U", "postgres", "-E", "UTF8", "--locale=C"]
        args += ["--auth-local=trust", "--auth-host=reject", "--no-sync", "--data-checksums"]
        ran, log = self.place.run(args, self._env)
        if ran.exit != 0:
            raise ran.fail("the server could not be made", log)
        with (self.data / "postgresql.conf").open("a") as conf:
            conf.write(render(server_settings()))
        self._start({**_FILL_SETTINGS, "listen_addresses": ""})
        with Session.open(self.conninfo) as session:
            for statement in _FILL:
                session.rows(statement, *([self.rows] if "%s" in statement else []))
                self.place.token.check()
        assert self._instance is not None
        self._instance.stop()

    def start(self) -> str:
        """Start it as it will run; its version."""
        self._start({})
        with Session.open(self.conninfo) as session:
            return session.facts().version

    def _start(self, settings: dict[str, str]) -> None:
        place = self.place
        log = place.logs / "server.log"
        spec = InstanceSpec(self.data, self.postgres, 5432, place.sockets, log, settings, self._env)
        self._instance = Instance(spec, place.clock.monotonic, place.clock.sleep)
        self._instance.start()
        self._instance.wait(_START_S, cancelled=lambda: place.token.cancelled)

    def size_bytes(self) -> int:
        with Session.open(self.conninfo) as session:
            return int(session.rows("select sum(pg_database_size(oid)) from pg_database")[0][0])

    def drop_orders(self, clock: Clock) -> Culprit:
        """DROP TABLE, with the table's state taken under the same lock: no commit comes between the two."""
        with Session.open(self.conninfo, "somebody in a hurry") as session:
            session.rows("begin")
            session.rows("lock table orders in access exclusive mode")
            before = _state(session)
            session.rows("drop table orders")
            xid = str(session.rows("select pg_current_xact_id()::text")[0][0])
            begun_s = clock.monotonic()
            session.rows("commit")
            moment = Moment(begun_s, clock.monotonic())
            lsn = str(session.rows("select pg_current_wal_flush_lsn()::text")[0][0])
            segment = str(session.rows("select pg_walfile_name(%s)", lsn)[0][0])
        return Culprit(xid, moment, lsn, segment, before)

    def wait_archived(self, segment: str, timeout_s: float) -> None:
        """Return when `segment` is archived; both names are of timeline 1, so they compare as text. Raises Failed."""
        place = self.place
        deadline = place.clock.monotonic() + timeout_s
        with Session.open(self.conninfo) as session:
            while True:
                last, failed = session.rows("select last_archived_wal, failed_count from pg_stat_archiver")[0]
                if last is not None and last >= segment:
                    return
                if place.clock.monotonic() > deadline:
                    why = f"the last archived is {last}, {failed} tries failed"
                    log = place.logs / "server.log"
                    raise Failed(f"{segment} is not archived", where=str(log), why=why, cure=f"less {log}")
                place.token.wait(0.05)
                place.token.check()

    def kill(self) -> Moment:
        """SIGKILL: a crash without a farewell. Returns when all its processes are gone; the moment it took."""
        clock = self.place.clock
        instance = self._instance
        assert instance is not None and instance.pid is not None
        memory = _shared_memory(self.data)
        begun_s = clock.monotonic()
        os.kill(instance.pid, signal.SIGKILL)
        while instance.is_running or any(_serves(pid) for pid in self.place.processes()):
            if clock.monotonic() > begun_s + _START_S:
                raise Failed("the killed server does not end", where=str(self.data))
            clock.sleep(0.005)
        done_s = clock.monotonic()
        _remove_shared_memory(memory)
        return Moment(begun_s, done_s)

    def stop(self) -> None:
        """At once; nothing where it does not run."""
        if self._instance is not None:
            self._instance.stop(Shutdown.IMMEDIATE, timeout_s=10)


class LedgerClient:
    """Commits an order's change and the ledger's row in one transaction; once `orders` is gone, the row alone."""

    def __init__(self, conninfo: str) -> None:
        self._session = Session.open(conninfo, "ledger")
        self._orders = True
        self._turn = 0

    def commit(self, writer: str, number: int, payload: str) -> None:
        if self._orders:
            self._turn = (self._turn * 31 + number * 17 + len(writer)) % _RECENT
            try:
                self._session.rows(_ORDER_AND_ROW, self._turn + 1, writer, number, payload)
                return
            except Failed:
                self._orders = False  # 'relation "orders" does not exist': nothing of it was committed
        self._session.rows(_ROW, writer, number, payload)

    def close(self) -> None:
        self._session.close()


def conninfo_of(sockets: Path, port: int = 5432) -> str:
    return f"host={sockets} port={port} user=postgres dbname=postgres"


def read_rows(session: Session) -> list[Row]:
    """The ledger as it is in this database."""
    found = session.rows("select writer, number, payload from ledger")
    return [Row(str(writer), int(number), digest_of(str(payload))) for writer, number, payload in found]


def orders_state(session: Session) -> TableState | None:
    """The table as it is, None where it does not exist."""
    if session.rows("select to_regclass('orders') is null")[0][0]:
        return None
    return _state(session)


def first_write(session: Session) -> None:
    """An application's first write after the restore, acknowledged."""
    session.rows("create table reopened (at timestamptz)")
    session.rows("insert into reopened values (clock_timestamp())")


def _state(session: Session) -> TableState:
    rows, digest = session.rows(_DIGEST)[0]
    return TableState(int(rows), str(digest))


def _serves(pid: int) -> bool:
    """Whether a process is PostgreSQL's own, and not a command that it started."""
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip() == "postgres"
    except OSError:
        return False


def _shared_memory(data: Path) -> int:
    """The id of the System V segment of a running server: the second word of line 7 of its postmaster.pid."""
    return int((data / "postmaster.pid").read_text().splitlines()[6].split()[1])


def _remove_shared_memory(number: int) -> None:
    """A killed server leaves its segment behind; the next start in the same data folder would remove it."""
    ctypes.CDLL(None).shmctl(number, 0, None)  # 0 is IPC_RMID (linux/ipc.h)
