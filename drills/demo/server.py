"""The demo's PostgreSQL: made, filled with orders and started."""

from __future__ import annotations

from pathlib import Path

from drills.demo.place import Place
from drills.demo.setup import conninfo, server_settings
from drkit.engines.postgres.instance import Instance, InstanceSpec, Shutdown
from drkit.engines.postgres.recovery import render
from drkit.engines.postgres.session import Session

QUESTION = "select count(*) || ' orders, digest ' || sum(hashtextextended(o::text, 0)) from orders o"
_START_S = 60
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
    "commit",
    "vacuum analyze orders",
)


class Source:
    """The server that is backed up and lost."""

    def __init__(self, place: Place, postgres: Path, env: dict[str, str], rows: int) -> None:
        self.place, self.postgres, self.rows = place, postgres, rows
        self.data = place.root / "data"
        self._env = {**env, "DRKIT_CONFIG": str(place.root / "drkit.toml")}
        self._instance: Instance | None = None

    @property
    def conninfo(self) -> str:
        return conninfo(self.place.root)

    def create(self) -> str:
        """initdb, and the table with its rows; what QUESTION is answered with."""
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
            answer = str(session.rows(QUESTION)[0][0])
        assert self._instance is not None
        self._instance.stop()
        return answer

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

    def stop(self) -> None:
        """At once; nothing where it does not run any more."""
        if self._instance is not None:
            self._instance.stop(Shutdown.IMMEDIATE, timeout_s=10)
