"""V2: every table that nobody changes has the rows that it had on the source."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from drills.checks.api import Reference, Scene
from drills.checks.asking import asking, fill, is_corruption, tried, undone
from drills.checks.digest import Table, settle, state_of, tables_of
from drills.checks.findings import LIMIT_S, Caught, Findings, all_caught, caught, conduct
from drills.report.model import CheckResult, Control
from drkit.core.cancel import CancelToken
from drkit.core.errors import DrkitError
from drkit.engines.postgres.session import Session

_EXPECTED = "rows and digest of each table as on the source"
# What changes a value, by its type's category (pg_type.typcategory); the first column that takes it is used.
_CHANGES = {
    "S": "md5(coalesce({column}::text, '') || 'x')",
    "N": "coalesce({column}, 0) + 1",
    "B": "not coalesce({column}, false)",
    "D": "coalesce({column} + interval '1 day', now())",
}
_COLUMNS = """
select quote_ident(a.attname), t.typcategory
from pg_attribute a join pg_type t on t.oid = a.atttypid
where a.attrelid = %s::regclass and a.attnum > 0 and not a.attisdropped and a.attgenerated = ''
  and a.attidentity <> 'a' and t.typcategory = any (%s)
order by t.typcategory = 'S' desc, a.attnum
"""
_CHANGE = "update {table} set {column} = {value} where ctid = (select ctid from {table} limit 1) returning 1"
_EMPTY = "truncate {table} cascade"


@dataclass(frozen=True, slots=True)
class TablesCheck:
    name: str = "V2"
    title: str = "Tables hold what they held"
    limit_s: float = LIMIT_S

    def run(self, scene: Scene, *, required: bool) -> CheckResult:
        return conduct(
            self.name, self.title, scene, required=required, limit_s=self.limit_s, look=_look, sabotage=_sabotage
        )


def comparable(reference: Reference, *, at_reference: bool) -> list[str]:
    """The tables of one database that must be as they were."""
    return sorted(name for name in reference.tables if at_reference or name not in reference.may_move)


def differences(session: Session, reference: Reference, names: Collection[str], token: CancelToken) -> list[str]:
    """A line for each of `names` that is not there, cannot be read, or holds something else."""
    found = tables_of(session)
    problems = []
    for name in names:
        token.check()
        table = found.get(name)
        problem = "is not there" if table is None else _difference(session, reference, table)
        if problem:
            problems.append(f"{reference.database}: {name} {problem}")
    return problems


def _difference(session: Session, reference: Reference, table: Table) -> str:
    rows, digest = reference.tables[table.name]
    percent = reference.sampled.get(table.name)
    try:
        state = state_of(session, table, percent)
    except DrkitError as error:
        if not is_corruption(error):
            raise
        return f"cannot be read: {error.why}"
    what = "" if percent is None else f" in a sample of {percent:.2g} % of its blocks"
    if state.rows != rows:
        return f"has {state.rows} rows{what}, it had {rows}"
    if state.digest != digest:
        return f"has {rows} rows{what}, but not with the content that they had"
    return ""


def _look(scene: Scene) -> Findings:
    problems: list[str] = []
    facts: list[str] = []
    compared = rows = 0
    for reference in _references(scene):
        names = comparable(reference, at_reference=scene.at_reference)
        facts += _not_compared(reference, len(names))
        if not names:
            continue
        with asking(scene.connect, reference.database, scene.token) as session:
            settle(session)
            problems += differences(session, reference, names, scene.token)
        compared += len(names)
        rows += sum(reference.tables[name][0] for name in names)
    if not compared:
        return Findings(_EXPECTED, "no table of the reference can be compared", facts=tuple(facts), nothing=True)
    return Findings(_EXPECTED, f"{compared} tables with {rows} rows equal", tuple(problems), tuple(facts))


def _references(scene: Scene) -> Sequence[Reference]:
    return (scene.reference, *scene.reference.others)


def _not_compared(reference: Reference, compared: int) -> list[str]:
    """What the reader must know about the reach of the comparison."""
    facts = []
    moving = len(reference.tables) - compared
    if moving:
        facts.append(f"{reference.database}: {moving} tables are not compared, they went on changing")
    for name, percent in sorted(reference.sampled.items()):
        facts.append(f"{reference.database}: {name} is too large, {percent:.2g} % of its blocks are compared")
    return facts


def _sabotage(scene: Scene, seen: Findings) -> Caught:
    """On the smallest table with rows: emptied, then one value of it changed."""
    chosen = _smallest(scene)
    if chosen is None:
        return Caught(Control.MISSED, "no table that is compared has a row to take away")
    reference, name = chosen
    with asking(scene.connect, reference.database, scene.token) as session:
        settle(session)
        with undone(session):
            session.rows(fill(_EMPTY, table=name))
            emptied = differences(session, reference, [name], scene.token)
        tries = [caught(f"{name} emptied", seen.problems, emptied)]
        with undone(session):
            column = _change_one_value(session, name)
            if column:
                changed = differences(session, reference, [name], scene.token)
                tries.append(caught(f"one value of {name}.{column} changed", seen.problems, changed))
    return all_caught(tries)


def _smallest(scene: Scene) -> tuple[Reference, str] | None:
    """Of the plain tables that were read whole, if there are any: there a change of one value must show."""
    found: list[tuple[bool, int, str, Reference]] = []
    for reference in _references(scene):
        names = comparable(reference, at_reference=scene.at_reference)
        if not any(reference.tables[name][0] for name in names):
            continue
        with asking(scene.connect, reference.database, scene.token) as session:
            plain = {name for name, table in tables_of(session).items() if table.is_plain}
        for name in names:
            rows = reference.tables[name][0]
            if rows and name in plain and not name.startswith("pg_catalog."):
                found.append((name in reference.sampled, rows, name, reference))
    if not found:
        return None
    _, _, name, reference = min(found, key=lambda one: one[:3])
    return reference, name


def _change_one_value(session: Session, table: str) -> str:
    """The column whose value was changed in one row; "" where no column of a type that we know lets itself."""
    for column, category in session.rows(_COLUMNS, table, list(_CHANGES)):
        sql = fill(_CHANGE, value=_CHANGES[category])
        try:
            with tried(session, "one_value"):
                if session.rows(fill(sql, table=table, column=column)):
                    return str(column)
        except DrkitError:
            continue  # a constraint, or a type of this category that does not take it: the next column
    return ""
