"""Two inits at once, killed anywhere (section 4)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from tests.model.explorer import Law, Outcome, explore
from tests.model.init import Init, InitRules, honest, one_identity, opens
from tests.model.world import World

RULES = InitRules()
EMPTY = World((frozenset(), frozenset()))


def race(rules: InitRules, laws: Sequence[Law], second: tuple[int, ...] = (0, 1)) -> Outcome:
    """Two hosts; the second one may take the targets in another order."""
    return explore(EMPTY, [Init("I", rules), Init("J", rules, second)], laws, 10_000)


def test_two_inits_end_in_one_identity() -> None:
    outcome = race(RULES, [one_identity, opens])
    assert outcome.broken is None and outcome.complete, f"\n{outcome}"


@pytest.mark.parametrize(("wrong", "law"), [({"slot_first": False}, opens), ({"conditional": False}, one_identity)])
def test_a_sabotaged_init_is_caught(wrong: dict[str, bool], law: Law) -> None:
    outcome = race(replace(RULES, **wrong), [law])
    print(f"\n{wrong}\n{outcome}")
    assert outcome.broken is not None


def test_hosts_that_order_the_targets_differently_conflict_and_nobody_reports_success() -> None:
    """A different URL for one place on two hosts is enough; the race has no common place then."""
    assert race(RULES, [one_identity], (1, 0)).broken is not None
    assert race(RULES, [honest], (1, 0)).broken is None
