"""What the restored server is compared with, and which checks a drill can ask for."""

from __future__ import annotations

from dataclasses import replace

from drills.checks.api import Reference
from drills.checks.reference import record, with_moves
from drills.checks.tables import comparable
from drills.source import VICTIM, Source
from drkit.config.drill import Drill
from drkit.core.cancel import CancelToken
from drkit.core.errors import DrkitError


def settled(before: Reference, source: Source, token: CancelToken) -> tuple[Reference, str]:
    """The reference, less what the source has changed since it was taken; and what that leaves untested, or "".

    Where the source does not answer any more, any table may have changed but the drill's own. Raises Cancelled.
    """
    try:
        after = record(source.session, before.database, token, others=[one.database for one in before.others])
    except DrkitError as error:
        token.check()
        others = tuple(replace(one, may_move=frozenset(one.tables)) for one in before.others)
        untested = f"the content of tables but the drill's own: the source does not answer any more: {error.what}"
        return replace(before, may_move=frozenset(before.tables) - {VICTIM}, others=others), untested
    moved = with_moves(before, after)
    return replace(moved, may_move=moved.may_move - {VICTIM}), ""


def required(drill: Drill, reference: Reference | None, *, ledger: bool) -> frozenset[str]:
    """By the definition, else all that this drill can carry out; the user's own questions always."""
    own = {question.name for question in drill.assertion}
    if drill.checks is not None:
        return frozenset({*drill.checks, *own})
    found = {"V3", "V4", "V6", *own}
    if ledger:
        found.add("V1")
    if reference is not None:
        found.add("V5")
        if any(comparable(one, at_reference=False) for one in (reference, *reference.others)):
            found.add("V2")
    return frozenset(found)
