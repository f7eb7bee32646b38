"""The smallest losses that would make recovery impossible: a target, a site, a credential, a key."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from itertools import combinations

from policies.copies import Situation, holds
from policies.facts import TargetFacts

AT_MOST = 3  # a set of four simultaneous losses tells nobody anything, and their number explodes


@dataclass(frozen=True, slots=True, order=True)
class Loss:
    """kind: 'target', 'site', 'credential' (in wrong hands: all that is not locked is deleted) or 'key'."""

    kind: str
    name: str


def smallest_losses(situation: Situation, instant: datetime) -> tuple[frozenset[Loss], ...]:
    """The minimal sets of at most `AT_MOST` losses after which no target can restore `instant`.

    Only what is known counts: a target that could not be asked saves nobody. The empty set, alone, says
    that nothing can restore it now.
    """
    holders = [target for target in situation.targets if holds(target, instant, situation.terms, situation.now)[0]]
    if not holders:
        return (frozenset(),)
    entities = sorted({loss for target in holders for loss in _entities(target)})
    minimal: list[frozenset[Loss]] = []
    for size in range(1, AT_MOST + 1):
        for chosen in map(frozenset, combinations(entities, size)):
            if any(smaller <= chosen for smaller in minimal):
                continue
            if not any(_survives(target, chosen, instant, situation) for target in holders):
                minimal.append(chosen)
    return tuple(minimal)


def _entities(target: TargetFacts) -> list[Loss]:
    found = [Loss("target", target.name), Loss("site", target.site)]
    if target.credential:
        found.append(Loss("credential", target.credential))
    return found + [Loss("key", key) for key in target.keys]


def _survives(target: TargetFacts, losses: frozenset[Loss], instant: datetime, situation: Situation) -> bool:
    if Loss("target", target.name) in losses or Loss("site", target.site) in losses:
        return False
    if target.keys and all(Loss("key", key) in losses for key in target.keys):
        return False
    if target.credential and Loss("credential", target.credential) in losses:
        needed_until = instant + situation.terms.needed_for
        probe = target.lock_probe
        locked = target.locked_until is not None and target.locked_until >= needed_until
        return locked and probe is not None and probe.refused
    return True
