"""A user's own check: a query with one value, which must be true or what was expected. Its control is its negation."""

from __future__ import annotations

from dataclasses import dataclass, replace

from drills.checks.api import Scene
from drills.checks.asking import asking, fill, sqlstate
from drills.checks.findings import LIMIT_S, Caught, Findings, conduct
from drills.report.model import CheckResult, Control, State
from drkit.core.errors import DrkitError

# A line break ends a comment that the user's query may end with. A scalar subquery of two rows is an error, one of
# none is null. Values are compared as the server writes them. No parameters: a % of the user's would be one.
_ASK = "select found::text, coalesce(found::text = {expected}, false) from (select (\n{sql}\n) as found) answer"
_MOST_CHARACTERS = 200
_UNDEFINED_TABLE = "42P01"
# Classes of SQLSTATE that say that the question could not be put: syntax, not supported, cancelled, no memory,
# conflicts, read only.
_NO_ANSWER = ("42", "0A", "57", "53", "40", "55", "25")


@dataclass(frozen=True, slots=True)
class Assertion:
    """name: the check's name in the report · sql: one query with one value, which may not write · expected: that value
    as text, None where it must be true · database: "" for the reference's.
    """

    name: str
    sql: str
    expected: str | None = None
    database: str = ""
    title: str = ""
    limit_s: float = LIMIT_S

    def run(self, scene: Scene, *, required: bool) -> CheckResult:
        title = self.title or " ".join(self.sql.split())[:_MOST_CHARACTERS]
        return conduct(
            self.name, title, scene, required=required, limit_s=self.limit_s, look=self._look, sabotage=self._sabotage
        )

    @property
    def negated(self) -> Assertion:
        """Holds where this one does not. Null is neither: then both fail."""
        if self.expected is None:
            return replace(self, sql=f"not (\n{_bare(self.sql)}\n)")
        return replace(self, sql=f"(\n{_bare(self.sql)}\n)::text <> {_literal(self.expected)}", expected=None)

    def _look(self, scene: Scene) -> Findings:
        expected = "true" if self.expected is None else self.expected
        sql = fill(_ASK, expected=_literal(expected), sql=_bare(self.sql))
        with asking(scene.connect, self.database or scene.reference.database, scene.token) as session:
            session.rows("begin read only")
            try:
                ((found, holds),) = session.rows(sql)
            except DrkitError as error:
                scene.token.check()
                if not _is_answer(sqlstate(error)):
                    raise
                return Findings(expected, "", problems=(error.why,))
        actual = "null" if found is None else str(found)[:_MOST_CHARACTERS]
        return Findings(expected, actual, problems=() if holds else (f"it is {actual}",))

    def _sabotage(self, scene: Scene, seen: Findings) -> Caught:
        """Exactly one of an assertion and its negation holds; where both fail or both hold, it tells nothing."""
        other = self.negated._look(scene)
        if (other.state is State.PASSED) != (seen.state is State.PASSED):
            return Caught(Control.CAUGHT, "its negation says the opposite")
        both = "hold" if seen.state is State.PASSED else "fail"
        return Caught(Control.MISSED, f"it and its negation both {both}")


def _is_answer(state: str) -> bool:
    """Whether an error with this SQLSTATE answers the question with no: a table is missing, a page is damaged."""
    return state == _UNDEFINED_TABLE or (state != "" and not state.startswith(_NO_ANSWER))


def _bare(sql: str) -> str:
    return sql.strip().rstrip(";")


def _literal(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace("'", "''")
    return f"E'{escaped}'"
