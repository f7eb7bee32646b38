"""What was wrong with the first text of the protocol: the traces that led to verdicts, fences and the rest.

In that text a manifest alone made a backup good, unless a withdrawal followed; a lease that had run out protected
nothing; tombstones and withdrawals were copied from target to target; a run without a manifest was dead wherever it
was looked at. Data is taken to be listed before leases here: the text did not say, and the other order is worse.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from tests.model.explorer import Law
from tests.model.histories import HISTORIES
from tests.model.laws import Laws
from tests.model.world import PROPOSED, World

FIRST_TEXT = replace(
    PROPOSED,
    verdicts=False,
    fences=False,
    spares_via=False,
    wal_floor=False,
    pending_is_not_dead=False,
    copies_every_tombstone=True,
    copies_withdrawals=True,
    copy_looks_again=False,
    repair_replaces=False,
)


def _about(backup: str, law: Law) -> Law:
    """The law, for one backup only."""

    def only(world: World) -> str | None:
        broken = law(world)
        return broken if broken is not None and f" {backup} was" in broken else None

    return only


TRACES: dict[str, tuple[str, Callable[[Laws], Law], str]] = {
    "a stopped backup is reported good, then buried as a dead run": (
        "a first backup",
        lambda laws: laws.kept,
        "E: tombstones backup W",
    ),
    "retention counts on a backup that then withdraws itself, and removes the last good one": (
        "retention rests on a new backup",
        lambda laws: laws.kept,
        "W: creates the verdict 'withdrawn'",
    ),
    "a healthy backup adopts from a run whose lease ran out between two listings of expiry": (
        "a backup adopts from one just made",
        lambda laws: _about("X", laws.adopted),
        "X: lists tombstones: nothing hit; reports good",
    ),
    "a manifest whose writer died before its last look counts as good": (
        "a first backup",
        lambda laws: laws.unreported,
        "W: creates manifest W",
    ),
    "a manifest whose writer died before its last look is never cleaned": (
        "a first backup",
        lambda laws: laws.clean,
        "W: creates manifest W",
    ),
    "a replicator completes what expiry is removing": (
        "a backup, its copy and expiry there",
        lambda laws: laws.kept,
        "C: creates the verdict 'good' there",
    ),
    "a tombstone copied from one target destroys a good backup on another": (
        "two targets decided differently",
        lambda laws: laws.kept,
        "C: copies tombstone",
    ),
    "a withdrawal copied from one target destroys a good backup on another": (
        "a withdrawal on one target",
        lambda laws: laws.kept,
        "C: copies withdrawn",
    ),
    "two repairers delete the copy that one of them healed": (
        "two repairers and expiry",
        lambda laws: laws.kept,
        "deletes P/1",
    ),
}


@pytest.mark.parametrize("name", TRACES)
def test_the_first_text_broke_a_law(name: str) -> None:
    history, law, step = TRACES[name]
    outcome = HISTORIES[history].judged(FIRST_TEXT, law)
    print(f"\n{name}\n{outcome}")
    assert outcome.broken is not None
    assert any(step in done for done in outcome.trace)
    assert HISTORIES[history].judged(PROPOSED, law).broken is None
