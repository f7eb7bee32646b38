"""V4: the files. Indexes and heaps agree (amcheck), every database dumps, every page has its checksum.

The server is stopped for the checksums and once more damaged for the controls: in a table made for it, never in one of
the restored. So this check runs last. Its controls are the same programs, asked about that table alone:

    amcheck       an index of it lacks a row: it was switched off while the row came
    pg_checksums  one byte of its first page is changed while the server is down
    pg_dump       reads that page
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from drills.checks import amcheck
from drills.checks.amcheck import Examined, conninfo_of
from drills.checks.api import Scene
from drills.checks.asking import asking
from drills.checks.findings import LIMIT_S, Caught, Findings, all_caught, caught, conduct
from drills.checks.programs import run_program
from drills.report.model import CheckResult
from drkit.core.errors import DrkitError, Failed, Missing

_EXPECTED = "no damage found by amcheck, pg_dump and pg_checksums"
_CLEAR = "drop schema if exists drkit_negative_control cascade"
_TABLE = "drkit_negative_control.page"
_INDEX_READY = "update pg_index set indisready = %s where indexrelid = 'drkit_negative_control.page_id'::regclass"
_MAKE: tuple[tuple[str, tuple[object, ...]], ...] = (
    (_CLEAR, ()),
    ("create schema drkit_negative_control", ()),
    ("create table drkit_negative_control.page (id int) with (autovacuum_enabled = off)", ()),
    ("create index page_id on drkit_negative_control.page (id)", ()),
    ("insert into drkit_negative_control.page select generate_series(1, 100)", ()),
    (_INDEX_READY, (False,)),
    ("insert into drkit_negative_control.page values (101)", ()),
    (_INDEX_READY, (True,)),
)
_FILE = "select pg_relation_filepath(oid), relfilenode::int8 from pg_class where oid = to_regclass(%s)"
_CHECKSUMS = "select current_setting('data_checksums') = 'on'"
# pd_flags of the page header (bufpage.h), high byte: a page with unknown flags is invalid, with checksums and without
_FLAGS_OFFSET = 11
_MOST_LINES = 10
_PG_CHECKSUMS = "pg_checksums"
# src/bin/pg_checksums/pg_checksums.c: 'checksum verification failed in file', 'could not read block', 'could not open'
_CHECKSUM_DAMAGE = re.compile(r"verification failed|could not read block|could not open file|could not stat file")
_DUMP_ERRORS = re.compile(r"server version mismatch|permission denied|No space left")


@dataclass(frozen=True, slots=True)
class PhysicalCheck:
    name: str = "V4"
    title: str = "Pages, indexes and dumps are free of damage"
    limit_s: float = LIMIT_S

    def run(self, scene: Scene, *, required: bool) -> CheckResult:
        return conduct(
            self.name, self.title, scene, required=required, limit_s=self.limit_s, look=_look, sabotage=_sabotage
        )


def _look(scene: Scene) -> Findings:
    problems: list[str] = []
    errors: list[str] = []
    not_done: list[str] = []
    clean: list[str] = []
    for name, part in (("amcheck", _amcheck), ("pg_dump", _dump_all), ("pg_checksums", _checksums_at_rest)):
        scene.token.check()
        try:
            examined = part(scene)
        except Missing as error:  # one of the programs
            examined = Examined(why_not=str(error))
        except (DrkitError, OSError) as error:
            scene.token.check()
            errors.append(f"{name}: {error}")
            continue
        problems += [f"{name}: {line}" for line in examined.damage]
        if examined.why_not:
            not_done.append(f"{name}: {examined.why_not}")
        elif not examined.damage:
            clean.append(name)
    told = [("clean by", clean), ("not done:", [part.split(":")[0] for part in not_done])]
    actual = "; ".join(f"{what} {', '.join(names)}" for what, names in told if names)
    nothing = not (problems or errors or clean)
    return Findings(_EXPECTED, actual, tuple(problems), (), tuple(errors), tuple(not_done), nothing)


def _sabotage(scene: Scene, seen: Findings) -> Caught:
    """Each program that had its look is shown damage; the table is dropped again, which reads none of its pages."""
    done = [name for name in ("amcheck", "pg_dump", "pg_checksums") if not _is_among(name, seen.not_done)]
    tries = []
    with asking(scene.connect, scene.reference.database, scene.token) as session:
        for sql, parameters in _MAKE:
            session.rows(sql, *parameters)
        ((path, filenode),) = session.rows(_FILE, _TABLE)
    if "amcheck" in done:
        found = amcheck.examine(scene, scene.reference.database, _TABLE)
        tries.append(caught("an index that lacks a row (amcheck)", (), found.damage))
    scene.stop()
    try:
        _flip(scene.data_dir / str(path))
        if "pg_checksums" in done:
            checked = _checksums(scene, int(filenode))
            tries.append(caught("a byte changed in a page (pg_checksums)", (), checked.damage))
    finally:
        scene.start()
    if "pg_dump" in done:
        dumped = _dump(scene, scene.reference.database, _TABLE)
        tries.append(caught("a byte changed in a page (pg_dump)", (), dumped))
    with asking(scene.connect, scene.reference.database, scene.token) as session:
        session.rows(_CLEAR)
    return all_caught(tries)


def _is_among(name: str, lines: tuple[str, ...]) -> bool:
    return any(line.startswith(f"{name}:") for line in lines)


def _flip(file: Path) -> None:
    with file.open("r+b") as page:
        page.seek(_FLAGS_OFFSET)
        (byte,) = page.read(1)
        page.seek(_FLAGS_OFFSET)
        page.write(bytes([byte ^ 0xFF]))


def _databases(scene: Scene) -> Sequence[str]:
    return scene.databases or (scene.reference.database,)


def _amcheck(scene: Scene) -> Examined:
    damage: list[str] = []
    for database in _databases(scene):
        examined = amcheck.examine(scene, database)
        if examined.why_not:
            return examined
        damage += (f"{database}: {line}" for line in examined.damage)
    return Examined(tuple(damage))


def _dump_all(scene: Scene) -> Examined:
    """Every database, and what they share, written to nowhere."""
    args = ["--globals-only", "--no-password", f"--dbname={scene.conninfo}"]
    damage = [*_dumped(scene, "pg_dumpall", args, scene.reference.database)]
    for database in _databases(scene):
        damage += _dump(scene, database)
    return Examined(tuple(damage))


def _dump(scene: Scene, database: str, table: str = "") -> tuple[str, ...]:
    args = ["--no-password", f"--dbname={conninfo_of(scene, database)}", *([f"--table={table}"] if table else [])]
    return tuple(f"{database}: {line}" for line in _dumped(scene, "pg_dump", args, database))


def _dumped(scene: Scene, program: str, args: list[str], database: str) -> tuple[str, ...]:
    ran = run_program(scene.programs / program, args, scene.data_dir, scene.token, keep_output=False)
    if ran.exit == 0:
        return ()
    with asking(scene.connect, database, scene.token):  # a server that is gone is no damage: this raises Unreachable
        pass
    if any(_DUMP_ERRORS.search(line) for line in ran.said):
        raise Failed(f"{program} could not look", where=database, why=ran.findings[0])
    return ran.findings[:_MOST_LINES]


def _checksums_at_rest(scene: Scene) -> Examined:
    with asking(scene.connect, scene.reference.database, scene.token) as session:
        if not session.rows(_CHECKSUMS)[0][0]:
            return Examined(why_not="data checksums are off in this cluster")
    if not (scene.programs / _PG_CHECKSUMS).exists():
        raise Missing(f"{_PG_CHECKSUMS} is not among the server's programs", where=str(scene.programs))
    scene.stop()
    try:
        return _checksums(scene)
    finally:
        scene.start()


def _checksums(scene: Scene, filenode: int | None = None) -> Examined:
    """All files, or those of one relation. The server must be down."""
    args = ["--check", *([f"--filenode={filenode}"] if filenode is not None else []), "-D", str(scene.data_dir)]
    ran = run_program(scene.programs / _PG_CHECKSUMS, args, scene.data_dir, scene.token)
    if ran.exit == 0:
        return Examined()
    damage = tuple(line for line in ran.said if _CHECKSUM_DAMAGE.search(line))
    if not damage:
        raise Failed(f"{_PG_CHECKSUMS} could not look", where=str(scene.data_dir), why=ran.findings[0])
    return Examined(damage[:_MOST_LINES])
