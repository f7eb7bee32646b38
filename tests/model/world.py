"""What the model's targets hold, and what the protocol calls good.

A target is a set of `Thing`s. Names are short: backup `P` wrote the data `P/1`, `P/2`; `wal/1` belongs to no run.
A key is (kind, name); the two verdicts share one key, so that the store decides which of them is created.

Ghosts are facts that no process can see; only the laws read them:
`promised W @ t` somebody was told that W is good on t, or expiry counted on it; `decided W @ t` retention chose W to
go; `gone x @ t` x was deleted behind a tombstone; `reading S` the restore S is under way; `torn` a restore met a hole;
`held W` somebody was told that W is on hold; `released W` that hold was released before the history began.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple


class Thing(NamedTuple):
    """One object: `refs` are the data that a manifest references, `via` the backups or runs it was adopted through."""

    kind: str
    name: str
    refs: frozenset[str] = frozenset()
    via: frozenset[str] = frozenset()


Target = frozenset[Thing]


@dataclass(frozen=True, slots=True)
class Rules:
    """The protocol, rule by rule. The defaults are the protocol proposed; a test switches one off to see it matter."""

    # writer
    lease_before_listing: bool = True
    lease_names_via: bool = True
    looks_before_stop: bool = True
    manifest_last: bool = True
    second_look: bool = True
    verdicts: bool = True
    # expirer
    backups_first: bool = True
    leases_before_manifests: bool = True
    data_before_leases: bool = True
    tombstones_final: bool = True
    grace: bool = True
    via_keeps_manifest: bool = True
    fences: bool = True
    spares_via: bool = True
    wal_floor: bool = True
    pending_is_not_dead: bool = True
    expired_here_is_over: bool = True
    looks_abroad: bool = True
    # holds
    expirer_has_lease: bool = True
    hold_waits: bool = True
    hold_stops_the_late: bool = True
    copies_holds_first: bool = True
    copies_releases_first: bool = True
    # replicator and repairer
    copies_every_tombstone: bool = False
    copies_withdrawals: bool = False
    copy_names_runs: bool = True
    copy_looks_at_lease: bool = True
    copy_data_first: bool = True
    copy_looks_again: bool = True
    copy_heeds_tombstones: bool = True
    repair_replaces: bool = True


PROPOSED = Rules()


class World(NamedTuple):
    """All targets and the ghosts: a value."""

    targets: tuple[Target, ...]
    ghosts: frozenset[str] = frozenset()

    def put(self, at: int, *things: Thing) -> World:
        """The world after an atomic create on target `at`; what is there already stays as it is."""
        held = self.targets[at]
        return self._with(at, held.union(thing for thing in things if not taken(held, thing)))

    def drop(self, at: int, *things: Thing) -> World:
        """The world after an atomic delete on target `at`."""
        return self._with(at, self.targets[at].difference(things))

    def note(self, *ghosts: str) -> World:
        """The world with further ghosts."""
        return World(self.targets, self.ghosts.union(ghosts))

    def unnote(self, ghost: str) -> World:
        """The world without a ghost."""
        return World(self.targets, self.ghosts - {ghost})

    def _with(self, at: int, held: Target) -> World:
        return World((*self.targets[:at], held, *self.targets[at + 1 :]), self.ghosts)


def taken(held: Target, thing: Thing) -> bool:
    """Whether a conditional create of `thing` would be refused."""
    verdicts = ("confirmed", "withdrawn")
    if thing.kind in verdicts:
        return any(Thing(kind, thing.name) in held for kind in verdicts)
    if thing.kind == "data" and Thing("damaged", thing.name) in held:
        return True
    return any(other.kind == thing.kind and other.name == thing.name for other in held)


def names(held: Target, kind: str) -> frozenset[str]:
    """The names of one kind: one listing of one prefix."""
    return frozenset(thing.name for thing in held if thing.kind == kind)


def things(held: Target, kind: str) -> frozenset[Thing]:
    """The objects of one kind, read: one listing of one prefix, the objects being immutable."""
    return frozenset(thing for thing in held if thing.kind == kind)


def run_of(name: str) -> str:
    """The run that wrote a piece of data; 'wal' for WAL, which no run owns."""
    return name.partition("/")[0]


def manifest_of(held: Target, backup: str) -> Thing | None:
    """The backup's manifest, if it is there."""
    return next((thing for thing in held if thing.kind == "manifest" and thing.name == backup), None)


def seems_good(held: Target, backup: str, rules: Rules) -> bool:
    """Section 6 of the format without the look at the data: manifest, verdict and tombstones only."""
    manifest = manifest_of(held, backup)
    if manifest is None or Thing("withdrawn", backup) in held:
        return False
    if rules.verdicts and Thing("confirmed", backup) not in held:
        return False
    return not names(held, "tombstone") & (manifest.refs | {backup})


def good(held: Target, backup: str, rules: Rules) -> bool:
    """Whether the backup is good on a target by section 6 of the format."""
    manifest = manifest_of(held, backup)
    return manifest is not None and seems_good(held, backup, rules) and manifest.refs <= names(held, "data")


LOST = Thing("lost", "")
"""Lies on a target that is gone for good: nobody reads it any more."""


def holds_in_force(targets: Iterable[Target]) -> frozenset[str]:
    """Backups on hold: some of the targets has the hold, and none its release."""
    asked = [held for held in targets if LOST not in held]
    released = frozenset[str]().union(*(names(held, "release") for held in asked))
    holds = frozenset[Thing]().union(*(things(held, "hold") for held in asked))
    return frozenset[str]().union(*(hold.refs for hold in holds if hold.name not in released))


def lease_run(lease: Thing) -> str:
    """The run that a lease is for: `W` by its writer, `W+copy` by a replicator."""
    return lease.name.partition("+")[0]


def listed(items: Iterable[str]) -> str:
    """Names for a trace."""
    return ", ".join(sorted(items)) or "nothing"


def wal_number(name: str) -> int:
    """The position of a segment: `wal/7` is 7."""
    return int(name.partition("/")[2])
