"""A session with a PostgreSQL server: facts, backup start and stop, WAL switch, restore points.

Facts from `src/backend/access/transam/xlogfuncs.c` and the documentation's chapter 'Making a Non-Exclusive Low-Level
Backup': the session that starts a backup must stop it; when it ends, the server aborts the backup by itself.
psycopg is imported when the first session opens: it costs some 110 ms.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from drkit.core.errors import ConfigError, Conflict, DrkitError, Failed, Refused, Unreachable
from drkit.engines.postgres.lsn import Lsn
from drkit.engines.postgres.version import MajorFacts, facts_of_server

if TYPE_CHECKING:
    import psycopg

_TIMEOUTS = ("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout")
_TIMEOUTS_SINCE = ((140000, "idle_session_timeout"), (170000, "transaction_timeout"))
_CONNECT_TIMEOUT_S = 10

STANDBY_WAITS = (
    "a standby cannot end a WAL segment: its primary does, when it is full, after archive_timeout, "
    "or by `select pg_switch_wal()` there"
)

_FACTS_SQL = """
select current_setting('server_version_num')::int,
       current_setting('server_version'),
       (select system_identifier from pg_control_system()),
       (select setting from pg_settings where name = 'data_directory'),
       pg_is_in_recovery(),
       (select bytes_per_wal_segment from pg_control_init()),
       current_setting('data_checksums') = 'on',
       case when pg_is_in_recovery() then (select timeline_id from pg_control_checkpoint())
            else ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::int end,
       current_setting('archive_mode'),
       (select setting from pg_settings where name = 'archive_command'),
       coalesce((select setting from pg_settings where name = 'archive_library'), ''),
       current_setting('wal_level'),
       current_user,
       has_function_privilege(%s, 'execute') and has_function_privilege(%s, 'execute'),
       has_function_privilege('pg_switch_wal()', 'execute'),
       has_function_privilege('pg_create_restore_point(text)', 'execute')
"""


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """What the server says about itself. `data_directory` is None when the role may not see it.

    On a standby `timeline` is that of the last restartpoint, on a primary the current one.
    """

    version_num: int
    version: str
    system_identifier: int
    data_directory: Path | None
    in_recovery: bool
    wal_segment_size: int
    data_checksums: bool
    timeline: int
    archive_mode: str
    archive_command: str
    archive_library: str
    wal_level: str
    user: str
    may_backup: bool
    may_switch_wal: bool
    may_create_restore_point: bool

    @property
    def facts(self) -> MajorFacts:
        return facts_of_server(self.version_num)

    @property
    def major(self) -> int:
        return self.version_num // 10000


@dataclass(frozen=True, slots=True)
class BackupStart:
    """`lsn` is where replay begins: the redo location of the start checkpoint, on `timeline`."""

    lsn: Lsn
    timeline: int


@dataclass(frozen=True, slots=True)
class BackupStop:
    """`lsn` is the end of the WAL that the backup needs.

    `label` and `tablespace_map` are the exact bytes of backup_label and tablespace_map; an empty map means 'write
    no such file'.
    """

    lsn: Lsn
    label: bytes
    tablespace_map: bytes


class Session:
    """One connection in autocommit mode, timeouts off. Not thread-safe. A context manager that closes it."""

    def __init__(self, connection: psycopg.Connection[Any], conninfo_shown: str) -> None:
        self._connection = connection
        self._where = conninfo_shown
        self._version_num = connection.info.server_version
        self._backup_pid: int | None = None

    @classmethod
    def open(cls, conninfo: str, application_name: str = "drkit") -> Session:
        """Connect by a libpq string. Raises ConfigError (it is none), Unreachable (no connection), UnknownVersion
        (unsupported major)."""
        import psycopg
        from psycopg.conninfo import conninfo_to_dict

        try:
            given = conninfo_to_dict(conninfo)
        except psycopg.ProgrammingError as error:
            raise ConfigError(
                "the connection string is wrong",
                where="connection, in [cluster.NAME]",
                why=_text(error),
                cure="write it as libpq does: host=/run/postgresql port=5432 dbname=postgres user=postgres",
            ) from error
        defaults: dict[str, Any] = {"connect_timeout": _CONNECT_TIMEOUT_S, "application_name": application_name}
        extra = {name: value for name, value in defaults.items() if name not in given}
        where = " ".join(f"{k}={v}" for k, v in given.items() if k not in ("password", "sslpassword"))
        try:
            connection = psycopg.connect(conninfo, autocommit=True, client_encoding="utf8", **extra)
        except psycopg.OperationalError as error:
            cure = f'does psql "{where}" connect, as this user?'
            raise Unreachable("cannot connect to PostgreSQL", where=where, why=_text(error), cure=cure) from error
        session = cls(connection, where)
        try:
            facts_of_server(connection.info.server_version)
            session._no_timeouts()
        except BaseException:
            connection.close()
            raise
        return session

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends the session; a backup that it started and did not stop is aborted by the server."""
        self._connection.close()

    # --- asking ---

    def rows(self, sql: str, *params: object) -> list[tuple[Any, ...]]:
        """Run one statement (psycopg's %s parameters) and return its rows.

        Raises Refused (a right is missing), Unreachable (the connection is gone), Failed (anything else).
        """
        with self._translated("a query failed"):
            cursor = self._connection.execute(sql, params or None)
            return cursor.fetchall() if cursor.description else []

    def facts(self) -> ServerFacts:
        major = facts_of_server(self._version_num)
        (row,) = self.rows(_FACTS_SQL, major.start_function, major.stop_function)
        return ServerFacts(
            version_num=row[0],
            version=row[1],
            system_identifier=row[2] % (1 << 64),  # pg_control_system() gives a signed bigint
            data_directory=Path(row[3]) if row[3] else None,
            in_recovery=row[4],
            wal_segment_size=row[5],
            data_checksums=row[6],
            timeline=row[7],
            archive_mode=row[8],
            archive_command=row[9] or "",
            archive_library=row[10],
            wal_level=row[11],
            user=row[12],
            may_backup=row[13],
            may_switch_wal=row[14],
            may_create_restore_point=row[15],
        )

    def position(self) -> Lsn:
        """The end of WAL: written on a primary, replayed on a standby."""
        sql = """select coalesce(case when pg_is_in_recovery() then pg_last_wal_replay_lsn()
                                      else pg_current_wal_lsn() end, '0/0')::text"""
        return Lsn.parse(self.rows(sql)[0][0])

    def archiver(self) -> str:
        """What pg_stat_archiver says, as a sentence for messages."""
        sql = """select coalesce(last_archived_wal, 'nothing'), failed_count, last_failed_wal, pg_is_in_recovery()
                   from pg_stat_archiver"""
        ((archived, failures, failed, standby),) = self.rows(sql)
        text = f"the server archived {archived} last and failed {failures} times"
        return text + (f", last with {failed}" if failed else "") + (f"; {STANDBY_WAITS}" if standby else "")

    # --- doing ---

    def switch_wal(self) -> Lsn:
        """End the current segment so that it gets archived; does nothing when it is empty. Primary only.

        Returns the end of the segment's last record, plus 1 (pg_switch_wal).
        """
        return Lsn.parse(self.rows("select pg_switch_wal()::text")[0][0])

    def create_restore_point(self, name: str) -> Lsn:
        """Write a named point to WAL; returns its end: recover to the name, or to this LSN. At most 63 bytes.

        The server does not flush it: it is durable with the next commit or WAL switch (CreateRestorePoint, xlog.c).
        """
        if not 1 <= len(name.encode()) <= 63:
            raise Refused("a restore point's name must have 1 to 63 bytes", where=name)
        return Lsn.parse(self.rows("select pg_create_restore_point(%s)::text", name)[0][0])

    def start_backup(self, label: str, *, fast: bool) -> BackupStart:
        """Start a non-exclusive backup; `fast` asks for an immediate checkpoint. Blocks until that is done.

        The session must stay open until `stop_backup`. Raises Refused when a right or a setting is missing.
        """
        major = facts_of_server(self._version_num)
        with self._translated("the backup cannot start", f"grant execute on function {major.start_function}"):
            cursor = self._connection.execute(major.start_sql, (label, fast))
            ((lsn,),) = cursor.fetchall()
        self._backup_pid = self._connection.info.backend_pid
        # do_pg_backup_start takes the label's timeline from the same place, on primary and standby
        ((timeline, pid),) = self.rows("select timeline_id, pg_backend_pid() from pg_control_checkpoint()")
        if pid != self._backup_pid:
            raise Refused(
                "the connection goes through a pooler",
                where=self._where,
                why="a backup must be started and stopped in one server session",
                cure="give a connection string that leads to PostgreSQL itself",
            )
        return BackupStart(Lsn.parse(lsn), timeline)

    def stop_backup(self, *, wait_for_archive: bool = False) -> BackupStop:
        """Stop the backup; on a primary this also ends the current WAL segment.

        With `wait_for_archive` the server waits until it has archived all WAL of the backup (on a standby only
        with archive_mode=always). Raises Failed when the server aborted the backup (promotion, lost session).
        """
        if self._backup_pid is None:
            raise Failed("no backup was started in this session", where=self._where)
        major = facts_of_server(self._version_num)
        with self._translated("the backup cannot be stopped", f"grant execute on function {major.stop_function}"):
            cursor = self._connection.execute(major.stop_sql, (wait_for_archive,), binary=True)
            ((lsn, label, tablespace_map),) = cursor.fetchall()
        self._backup_pid = None
        return BackupStop(Lsn.parse(lsn), bytes(label), bytes(tablespace_map or b""))

    def _no_timeouts(self) -> None:
        later = (name for since, name in _TIMEOUTS_SINCE if self._version_num >= since)
        for name in (*_TIMEOUTS, *later):
            self.rows("select set_config(%s, '0', false)", name)

    @contextmanager
    def _translated(self, what: str, grant: str = "") -> Iterator[None]:
        import psycopg

        try:
            yield
        except psycopg.errors.InsufficientPrivilege as error:
            cure = f"{grant} to {self._connection.info.user}" if grant else ""
            raise Refused(what, where=self._where, why=_text(error), cure=cure) from error
        except psycopg.errors.ObjectNotInPrerequisiteState as error:
            raise self._wrong_state(what, error) from error
        except psycopg.OperationalError as error:
            if self._connection.closed or self._connection.broken:
                raise Unreachable(what, where=self._where, why=_text(error), cure="is the server up?") from error
            raise Failed(what, where=self._where, why=_text(error)) from error
        except psycopg.Error as error:
            raise Failed(what, where=self._where, why=_text(error)) from error

    def _wrong_state(self, what: str, error: psycopg.Error) -> DrkitError:
        text = _text(error)
        if "already in progress" in text:
            return Conflict(what, where=self._where, why=text)
        cure = error.diag.message_hint or "is wal_level replica, and is this the primary?"
        return Refused(what, where=self._where, why=text, cure=cure)


class BackupSession:
    """`with BackupSession.open(conninfo) as backup: backup.start(...) ... backup.stop()`.

    Leaving it without `stop` closes the session, which aborts the backup on the server; nothing stays behind.
    """

    def __init__(self, session: Session) -> None:
        self.session = session

    @classmethod
    def open(cls, conninfo: str, application_name: str = "drkit backup") -> BackupSession:
        return cls(Session.open(conninfo, application_name))

    def __enter__(self) -> BackupSession:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.session.close()

    def facts(self) -> ServerFacts:
        return self.session.facts()

    def start(self, label: str, *, fast: bool = True) -> BackupStart:
        return self.session.start_backup(label, fast=fast)

    def check(self) -> None:
        """Raise Unreachable when the session was lost: the backup is void, and it is better to know early."""
        self.session.rows("select 1")

    def stop(self, *, wait_for_archive: bool = False) -> BackupStop:
        return self.session.stop_backup(wait_for_archive=wait_for_archive)


def _text(error: BaseException) -> str:
    return " ".join(str(error).split())
