"""The cluster that a drill is about, while it runs: what is asked of it, and the schema in which a drill writes."""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from drills.ledger import Moment
from drills.ledger_table import LEDGER_COLUMNS, LEDGER_TABLE, SCHEMA, SCHEMA_COMMENT
from drills.report.model import Probe
from drkit.config.drill import Question
from drkit.core.clock import Clock
from drkit.core.errors import Conflict, DrkitError, Failed, Refused
from drkit.engines.postgres.lsn import Lsn
from drkit.engines.postgres.session import ServerFacts, Session

VICTIM = f"{SCHEMA}.victim"  # the drill's own table: to be dropped, and to be compared
_FILL = f"insert into {VICTIM} select n, 0, md5(n::text) from generate_series(1, %s::int) n"  # noqa: S608
_CHANGE = f"update {VICTIM} set changed = id where id % 7 = 0"  # noqa: S608
_LOCK = 0x64726B6974  # 'drkit': an advisory lock on the cluster's database
_ROWS = 1000
_GONE_S = 60.0


@dataclass(frozen=True, slots=True)
class Drop:
    """The transaction that dropped the victim. segment: the WAL file that its commit lies in."""

    xid: int
    moment: Moment
    segment: str


class Source:
    """Sessions with the cluster. Writes only into SCHEMA, and only when told to by `claim`. Not thread-safe."""

    def __init__(self, conninfo: str, clock: Clock) -> None:
        self.conninfo, self._clock = conninfo, clock
        self.left_behind = ""  # why the schema could not be removed

    def session(self, database: str = "") -> Session:
        """Raises Unreachable, ConfigError."""
        if not database:
            return Session.open(self.conninfo, "drkit drill")
        from psycopg.conninfo import make_conninfo

        return Session.open(make_conninfo(self.conninfo, dbname=database), "drkit drill")

    def facts(self) -> ServerFacts:
        with self.session() as session:
            return session.facts()

    def databases(self) -> list[str]:
        """Those that take connections, templates left out."""
        with self.session() as session:
            found = session.rows("select datname from pg_database where datallowconn and not datistemplate order by 1")
            return [str(name) for (name,) in found]

    def size_bytes(self) -> int:
        """Of all databases."""
        with self.session() as session:
            return int(session.rows("select coalesce(sum(pg_database_size(oid)), 0)::bigint from pg_database")[0][0])

    def superuser(self) -> str:
        """The one that initdb made; no other is there for certain."""
        with self.session() as session:
            return str(session.rows("select rolname from pg_roles where oid = 10")[0][0])

    def database(self) -> str:
        with self.session() as session:
            return str(session.rows("select current_database()")[0][0])

    def setting(self, name: str) -> str:
        with self.session() as session:
            return str(session.rows("select current_setting(%s)", name)[0][0])

    def ask(self, question: Question) -> Probe:
        """Whether it is true; unknown where it could not be asked or answers something else."""
        try:
            with self.session(question.database) as session:
                rows = session.rows(question.sql)
        except DrkitError as error:
            return Probe(question.name, None, str(error))
        return Probe(question.name, *judged(rows, question.expected))

    def archiver(self) -> tuple[bool | None, str, str]:
        """(whether archiving goes on, the last archived file, a sentence)."""
        with self.session() as session:
            if session.facts().archive_mode == "off":
                return False, "", "archive_mode is off"
            ((last, fresh),) = session.rows(
                "select coalesce(last_archived_wal, ''), coalesce(last_failed_time <= last_archived_time, true)"
                " from pg_stat_archiver"
            )
            return (bool(fresh) if last else None), str(last), session.archiver()

    def end_segment(self) -> tuple[str, Lsn, Moment]:
        """End the WAL segment at hand: its name, the position behind it, and when. Primary only."""
        with self.session() as session:
            # A transaction of our own: an empty segment would not be ended.
            session.rows("select pg_current_xact_id()")
            begun_s = self._clock.monotonic()
            lsn = session.switch_wal()
            moment = Moment(begun_s, self._clock.monotonic())
            name = str(session.rows("select pg_walfile_name(%s)", str(lsn))[0][0])
        return name, lsn, moment

    # --- the drill's own schema ---

    @contextmanager
    def claim(self) -> Iterator[None]:
        """The schema with the ledger's table, and one that stands still, for the length of the block; then removed.

        Raises Conflict where another drill has it, Refused where the schema is not a drill's or may not be made.
        """
        with self.session() as session:
            self._lock(session)
            remove_schema(session)
            session.rows(f"create schema {SCHEMA}")
            session.rows(f"comment on schema {SCHEMA} is '{SCHEMA_COMMENT}'")
            session.rows(f"create table {LEDGER_TABLE} {LEDGER_COLUMNS}")
            session.rows(f"create table {VICTIM} (id int primary key, changed int not null, note text not null)")
            session.rows(_FILL, _ROWS)
            session.rows(_CHANGE)
            try:
                yield
            finally:
                self._release(session)

    def _release(self, session: Session) -> None:
        try:
            remove_schema(session)
        except DrkitError as error:
            self.left_behind = str(error)

    def release(self) -> None:
        """Remove the schema that a killed drill left. Raises Conflict where a living one has it."""
        with self.session() as session:
            self._lock(session)
            remove_schema(session)

    def _lock(self, session: Session) -> None:
        if not session.rows("select pg_try_advisory_lock(%s)", _LOCK)[0][0]:
            what, cure = "another drill writes to this cluster", "wait for it to end"
            raise Conflict(what, where=f"schema {SCHEMA}", cure=cure)

    def drop_victim(self) -> Drop:
        """DROP TABLE, as somebody in a hurry would."""
        with self.session() as session:
            session.rows("begin")
            session.rows(f"drop table {VICTIM}")
            xid = int(session.rows("select pg_current_xact_id()::text::bigint")[0][0])
            begun_s = self._clock.monotonic()
            session.rows("commit")
            moment = Moment(begun_s, self._clock.monotonic())
            segment = str(session.rows("select pg_walfile_name(pg_current_wal_lsn())")[0][0])
        return Drop(xid, moment, segment)

    def has_victim(self) -> bool:
        with self.session() as session:
            return bool(session.rows("select to_regclass(%s) is not null", VICTIM)[0][0])


def judged(rows: list[tuple[object, ...]], expected: str | None) -> tuple[bool | None, str]:
    """What the answer to a question means: right or wrong by one value; anything else is unknown."""
    if len(rows) != 1 or len(rows[0]) != 1:
        return None, f"it answered {len(rows)} rows, one with one value was expected"
    found = rows[0][0]
    if expected is not None:
        return str(found) == expected, f"{found}, expected {expected}"
    if not isinstance(found, bool):
        return None, f"it answered {found!r}: true or false was expected"
    return found, str(found).lower()


def remove_schema(session: Session) -> None:
    """Drop SCHEMA where a drill made it; raises Refused where it is somebody else's."""
    found = session.rows("select obj_description(oid, 'pg_namespace') from pg_namespace where nspname = %s", SCHEMA)
    if not found:
        return
    if found[0][0] != SCHEMA_COMMENT:
        raise Refused(
            f"the schema {SCHEMA} is not a drill's",
            why="it lacks the comment that a drill gives it",
            cure=f"rename it: drills write into a schema of that name; or leave `ledger` off; look: \\dn+ {SCHEMA}",
        )
    session.rows("set client_min_messages = warning")
    session.rows(f"drop schema {SCHEMA} cascade")


# --- the end of a sacrificial server ------------------------------------------------------------------------------


def kill_server(data_dir: Path, clock: Clock) -> Moment:
    """SIGKILL the server on `data_dir`: a crash without a farewell. Returns when its processes are gone; when it was.

    Raises Refused where none runs there, Failed where it does not end.
    """
    try:
        lines = (data_dir / "postmaster.pid").read_text().splitlines()
        pid, memory = int(lines[0]), int(lines[6].split()[1])
    except (OSError, ValueError, IndexError) as error:
        raise Refused("no server runs on the data folder", where=str(data_dir), why=str(error)) from error
    begun_s = clock.monotonic()
    os.kill(pid, signal.SIGKILL)
    while any(_serves(entry, data_dir) for entry in Path("/proc").iterdir()):
        if clock.monotonic() > begun_s + _GONE_S:
            raise Failed("the killed server does not end", where=str(data_dir))
        clock.sleep(0.005)
    moment = Moment(begun_s, clock.monotonic())
    ctypes.CDLL(None).shmctl(memory, 0, None)  # IPC_RMID (linux/ipc.h): nobody will start there again to do it
    return moment


def destroy(data_dir: Path) -> None:
    """Delete a data folder and all in it. Raises Failed where something is left."""
    shutil.rmtree(data_dir, ignore_errors=True)
    if data_dir.exists():
        raise Failed("the data folder could not be deleted", where=str(data_dir), why="something is left in it")


def _serves(entry: Path, data_dir: Path) -> bool:
    """Whether a process is PostgreSQL's and works in the folder; a zombie of the killed postmaster does not."""
    try:
        if not entry.name.isdigit() or (entry / "comm").read_text().strip() != "postgres":
            return False
        return (entry / "cwd").readlink() == Path(os.path.realpath(data_dir))
    except OSError:
        return False
