"""V1: the ledger. What came back is a prefix of what was committed: no holes, no wrong order, nothing false.

How much of its end is missing is no matter of this check: that is the loss, measured against the objective.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

from drills.checks.api import Scene
from drills.checks.asking import asking, fill, is_corruption, undone
from drills.checks.findings import LIMIT_S, Caught, Findings, all_caught, caught, conduct
from drills.journal import digest_of
from drills.ledger import Key, Row, Verdict, judge
from drills.report.model import CheckResult
from drkit.core.errors import DrkitError, Missing
from drkit.engines.postgres.session import Session

_ROWS = "select writer, number, payload from {table}"
_DELETE = "delete from {table} where writer = %s and number = %s"
_CHANGE = "update {table} set payload = payload || 'x' where writer = %s and number = %s"
_INVENT = "insert into {table} (writer, number, payload) values ('drkit invented', 1, 'x')"
_EXPECTED = "a prefix of what was committed: no hole, no wrong order, nothing invented or changed"
_MOST_NAMES = 3


@dataclass(frozen=True, slots=True)
class LedgerCheck:
    name: str = "V1"
    title: str = "The ledger is a sound prefix"
    limit_s: float = LIMIT_S

    def run(self, scene: Scene, *, required: bool) -> CheckResult:
        return conduct(
            self.name, self.title, scene, required=required, limit_s=self.limit_s, look=_look, sabotage=_sabotage
        )


def table_name(session: Session, wanted: str) -> str:
    """The table's name, quoted as SQL wants it. Raises Missing where there is no such table here."""
    name = session.rows("select to_regclass(%s)::text", wanted)[0][0]
    if name is None:
        raise Missing(f"the table {wanted} is not there")
    return str(name)


def read_rows(session: Session, table: str) -> list[Row]:
    """The ledger as it is in this database; digests are computed from the payloads found."""
    found = session.rows(fill(_ROWS, table=table))
    return [Row(str(writer), int(number), digest_of(str(payload))) for writer, number, payload in found]


def problems_of(verdict: Verdict) -> list[str]:
    """What is wrong with it whatever the objective, a line for each kind."""
    pairs = tuple(first for first, _ in verdict.out_of_order)
    kinds: list[tuple[str, tuple[Key, ...]]] = [
        ("changed, or there more than once", verdict.changed),
        ("invented: nobody sent them", verdict.invented),
        ("missing below later rows of the same writer", verdict.holes),
        ("missing, though rows are there that were sent after their acknowledgement", pairs),
        ("from beyond the point that was asked for", verdict.beyond),
    ]
    return [f"{len(keys)} rows {what}: {_names(keys)}" for what, keys in kinds if keys]


def _look(scene: Scene) -> Findings:
    if scene.entries is None or scene.until is None:
        return Findings(_EXPECTED, "this drill has no ledger", nothing=True)
    with asking(scene.connect, scene.reference.database, scene.token) as session:
        try:
            return _judged(session, scene)
        except DrkitError as error:
            if not (is_corruption(error) or isinstance(error, Missing)):
                raise
            return Findings(_EXPECTED, "", problems=(f"the ledger cannot be read: {error}",))


def _judged(session: Session, scene: Scene) -> Findings:
    assert scene.entries is not None and scene.until is not None
    verdict = judge(scene.entries, read_rows(session, table_name(session, scene.ledger_table)), scene.until)
    facts = [
        f"{verdict.expected} rows were acknowledged, {verdict.kept} of them are back, {len(verdict.lost)} are lost"
    ]
    if verdict.lost:
        facts.append(f"lost: {_names(verdict.lost)}; whether that is too much is the objective's affair")
    if verdict.in_doubt:
        facts.append(f"{len(verdict.in_doubt)} rows are there that were sent and never acknowledged, which is legal")
    actual = f"{verdict.recovered} rows, sound"
    return Findings(_EXPECTED, actual, problems=tuple(problems_of(verdict)), facts=tuple(facts))


def _sabotage(scene: Scene, seen: Findings) -> Caught:
    with asking(scene.connect, scene.reference.database, scene.token) as session:
        table = table_name(session, scene.ledger_table)
        tries = []
        for what, sql, key in _sabotages(read_rows(session, table)):
            with undone(session):
                session.rows(fill(sql, table=table), *key)
                tries.append(caught(what, seen.problems, _judged(session, scene).problems))
    return all_caught(tries)


def _sabotages(rows: list[Row]) -> list[tuple[str, str, tuple[object, ...]]]:
    """(what, SQL, its parameters): on a row with later ones of the same writer; without one, a row nobody sent."""
    numbers: dict[str, list[int]] = defaultdict(list)
    for row in rows:
        numbers[row.writer].append(row.number)
    writer = max(numbers, key=lambda name: len(numbers[name]), default="")
    if not writer or len(numbers[writer]) < 2:
        return [("a row invented", _INVENT, ())]
    key = (writer, sorted(numbers[writer])[(len(numbers[writer]) - 1) // 2])
    return [("a middle row deleted", _DELETE, key), ("a payload changed", _CHANGE, key)]


def _names(keys: tuple[Key, ...]) -> str:
    shown = ", ".join(f"{writer} {number}" for writer, number in keys[:_MOST_NAMES])
    return shown + (", ..." if len(keys) > _MOST_NAMES else "")
