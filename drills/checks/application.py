"""V6: an application can work: it writes, reads back in another session, and cleans up behind itself."""

from __future__ import annotations

from dataclasses import dataclass

from drills.checks.api import Scene
from drills.checks.asking import asking, fill
from drills.checks.findings import LIMIT_S, Caught, Findings, caught, conduct
from drills.checks.ledger import table_name
from drills.report.model import CheckResult
from drkit.core.errors import DrkitError, Unreachable
from drkit.engines.postgres.session import Session

_EXPECTED = "a table made, a row written and read back in another session; the same in the ledger's table"
_SCHEMA = "drkit_application_check"
_CLEAR = "drop schema if exists drkit_application_check cascade"
_MAKE = (
    "create schema drkit_application_check",
    """create table drkit_application_check.notes (id bigint generated always as identity primary key,
       note text not null, at timestamptz not null default clock_timestamp())""",
    "create index on drkit_application_check.notes (note)",
)
_WRITE = "insert into drkit_application_check.notes (note) values (%s) returning id"
_READ = "select id from drkit_application_check.notes where note = %s"
_GONE = "select to_regnamespace('drkit_application_check') is null"
_NOTE = "written after the restore"
_LEDGER_ROW = ("drkit application check", 1, "x")
_LEDGER_WRITE = "insert into {table} (writer, number, payload) values (%s, %s, %s)"
_LEDGER_READ = "select payload from {table} where writer = %s and number = %s"
_LEDGER_CLEAR = "delete from {table} where writer = %s"


@dataclass(frozen=True, slots=True)
class ApplicationCheck:
    name: str = "V6"
    title: str = "The application reads and writes"
    limit_s: float = LIMIT_S

    def run(self, scene: Scene, *, required: bool) -> CheckResult:
        return conduct(
            self.name, self.title, scene, required=required, limit_s=self.limit_s, look=_look, sabotage=_sabotage
        )


def _look(scene: Scene) -> Findings:
    return _work(scene, read_only=False)


def _sabotage(scene: Scene, seen: Findings) -> Caught:
    after = _work(scene, read_only=True)
    return caught("a session that may only read", seen.problems, after.problems)


def _work(scene: Scene, *, read_only: bool) -> Findings:
    """What an application does; what the server refuses is a problem. Raises Unreachable, Cancelled."""
    database = scene.reference.database
    problems: list[str] = []
    with (
        asking(scene.connect, database, scene.token) as writer,
        asking(scene.connect, database, scene.token) as reader,
    ):
        if writer.rows("select pg_is_in_recovery()")[0][0]:
            problems.append("the server is in recovery: it takes no writes")
        if read_only:
            writer.rows("set default_transaction_read_only = on")
        try:
            problems += _own_table(writer, reader)
            if scene.entries is not None:
                problems += _ledger(writer, reader, scene.ledger_table)
        except Unreachable:
            raise
        except DrkitError as error:
            scene.token.check()
            problems.append(f"{error.what}: {error.why}" if error.why else str(error))
    return Findings(_EXPECTED, "written, read back, cleaned up", tuple(problems))


def _own_table(writer: Session, reader: Session) -> list[str]:
    problems = []
    for sql in (_CLEAR, *_MAKE):
        writer.rows(sql)
    written = writer.rows(_WRITE, _NOTE)
    if reader.rows(_READ, _NOTE) != written:
        problems.append("a row that was written cannot be read back in another session")
    writer.rows(_CLEAR)
    if not reader.rows(_GONE)[0][0]:
        problems.append(f"the schema {_SCHEMA} was dropped, but it is still there")
    return problems


def _ledger(writer: Session, reader: Session, wanted: str) -> list[str]:
    """A row that its own deletion follows: the ledger stays as it was."""
    table = table_name(writer, wanted)
    name, number, payload = _LEDGER_ROW
    writer.rows(fill(_LEDGER_WRITE, table=table), name, number, payload)
    found = reader.rows(fill(_LEDGER_READ, table=table), name, number)
    writer.rows(fill(_LEDGER_CLEAR, table=table), name)
    return [] if found == [(payload,)] else ["a row of the ledger that was written cannot be read back"]
