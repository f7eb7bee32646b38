"""The protocol proposed keeps every law in every reachable state of these histories."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest

from tests.model.histories import HISTORIES, LONG
from tests.model.world import PROPOSED

BOUND = int(os.environ.get("DRKIT_MODEL_STATES", "6000000"))


@pytest.mark.parametrize("name", HISTORIES)
def test_every_law_holds_in_every_state(name: str) -> None:
    outcome = HISTORIES[name].run(PROPOSED)
    print(f"\n{name}: {outcome}")
    assert outcome.broken is None, f"\n{outcome}"
    assert outcome.complete, f"more states than the bound: {outcome.states}"


@pytest.mark.torture
@pytest.mark.parametrize("name", LONG)
def test_every_law_holds_in_long_histories(name: str) -> None:
    """`DRKIT_MODEL_STATES` bounds the states; within the bound, breadth first, nothing is skipped."""
    outcome = LONG[name].run(PROPOSED, BOUND)
    print(f"\n{name}: {outcome}")
    assert outcome.broken is None, f"\n{outcome}"


@pytest.mark.parametrize(
    "without",
    [
        {"second_look": False},
        {"lease_before_listing": False},
        {"second_look": False, "lease_before_listing": False},
        {"copy_looks_again": False},
    ],
    ids=["second look", "lease before listing", "both", "second look of a copy"],
)
def test_verdict_and_fence_carry_what_the_second_look_carried(without: dict[str, bool]) -> None:
    """These rules are a second belt now: with verdicts and fences each may fail alone."""
    name = "a backup, its copy and expiry there" if "copy_looks_again" in without else "a first backup"
    for history in (HISTORIES[name], HISTORIES["a backup adopts from one that expires"]):
        outcome = history.run(replace(PROPOSED, **without))
        assert outcome.broken is None, f"\n{outcome}"


def test_no_store_can_keep_a_late_create_from_bringing_a_deleted_object_back() -> None:
    """A create whose acknowledgement was lost is repeated after its object was tombstoned and deleted.

    The strict law fails for any order of steps; what holds is that the object has its tombstone and no one uses it.
    """
    history = HISTORIES["a first backup"]
    outcome = history.judged(PROPOSED, lambda laws: laws.never_again)
    assert outcome.broken is not None
    assert any("acknowledgement lost" in step for step in outcome.trace)
    assert history.judged(PROPOSED, lambda laws: laws.buried).broken is None
