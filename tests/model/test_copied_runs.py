"""What a replicator's lease must name, and when it must look at it.

`Replicator` names in its lease only what it relies on *there*. What it copies for a run that has no manifest at the
destination is then reached by nothing but the source: once the backup expires at the source, an expirer at the
destination may take that data for rubbish between the replicator's last look and its verdict. `Naming` is what is
built: the lease names every run of the closure, and a replicator whose lease ran out makes no manifest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pytest

from tests.model import histories, laws
from tests.model.copier import Replicator, ReplicatorMind, _refs
from tests.model.explorer import Actor, Move
from tests.model.histories import HISTORIES, History, backup, expirer, world
from tests.model.world import PROPOSED, Rules, Thing, World, names, run_of
from tests.model.writer import Clock


@dataclass(frozen=True, slots=True)
class Naming(Replicator):
    """The lease names every run of the closure; it is looked at before the manifest, unless not `looks`."""

    looks: bool = True

    def _lease(self, mind: ReplicatorMind, world: World) -> Sequence[Move]:
        runs = {run_of(name) for name in _refs(mind)} - {self.backup, "wal"}
        lease = Thing("lease", f"{self.backup}+copy", via=mind.via | runs)
        return [("creates its lease there", world.put(self.to, lease), mind._replace(at="look"))]

    def _manifest(self, mind: ReplicatorMind, world: World) -> Sequence[Move]:
        if mind.at == "manifest" and self.looks:
            return self._alive(mind, world)
        return Replicator._manifest(self, mind, world)

    def _alive(self, mind: ReplicatorMind, world: World) -> Sequence[Move]:
        if f"{self.backup}+copy" not in names(world.targets[self.to], "lease"):
            return [("finds its lease run out: makes no manifest", world, mind._replace(at="end"))]
        return [("looks at its lease", world, mind._replace(at="create"))]

    def _create(self, mind: ReplicatorMind, world: World) -> Sequence[Move]:
        return Replicator._manifest(self, mind, world)


ALONE = world(backup("W", "P/1", "W/1"), [], ghosts="promised W @ 0")
WITH_PARENT = world([*backup("W", "P/1", "W/1"), *backup("P", "P/1")], [], ghosts="promised W @ 0; old P @ 0")
PIECES = world(
    backup("W", "P/1", "W/1"),
    [Thing("data", "P/1"), Thing("data", "W/1"), Thing("lapsed", "P")],
    ghosts="promised W @ 0",
)


def _expiring(copier: type[Replicator], start: World, *removes: str, rounds: int = 1, clock: bool = True) -> History:
    """W expires at the source while it is copied, and expiry runs at the destination."""

    def actors(rules: Rules) -> Sequence[Actor]:
        there = expirer(rules, "F", at=1, rounds=rounds)
        found: list[Actor] = [copier("C", "W", rules), expirer(rules, "E", *removes), there]
        return [*found, Clock()] if clock else found

    return History(start, actors)


def test_a_lease_that_names_only_what_is_relied_on_loses_a_backup_that_was_reported_good() -> None:
    outcome = _expiring(Replicator, ALONE, "W", clock=False).run(PROPOSED)
    assert outcome.broken is not None and "(b) W was promised good on 1" in outcome.broken
    assert outcome.trace[-1] == "F: tombstones P/1"


@pytest.mark.torture
def test_a_lease_that_is_not_looked_at_before_the_manifest_loses_one_too() -> None:
    @dataclass(frozen=True, slots=True)
    class Blind(Naming):
        looks: bool = False

    outcome = _expiring(Blind, ALONE, "W", rounds=2).run(PROPOSED)
    assert outcome.broken is not None and "(b) W was promised good on 1" in outcome.broken


@pytest.mark.parametrize(
    ("start", "removes", "rounds"),
    [
        (ALONE, ("W",), 1),
        pytest.param(ALONE, ("W",), 2, marks=pytest.mark.torture),
        (WITH_PARENT, ("W", "P"), 1),
        (PIECES, ("W",), 1),
    ],
    ids=["into nothing", "two rounds of expiry there", "parent and child", "what a killed backup left"],
)
def test_what_is_built_keeps_every_law(start: World, removes: tuple[str, ...], rounds: int) -> None:
    outcome = _expiring(Naming, start, *removes, rounds=rounds).run(PROPOSED)
    assert outcome.broken is None, f"\n{outcome}"
    assert outcome.complete


@pytest.mark.parametrize(
    "name",
    [
        "a pending target is completed",
        "a target dropped out of a backup",
        "a backup, its copy and expiry there",
        "two targets decided differently",
        "a withdrawal on one target",
        "a copy meets tombstones",
    ],
)
def test_what_is_built_keeps_every_law_of_the_histories_with_copies(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(histories, "Replicator", Naming)
    monkeypatch.setattr(laws, "Replicator", Naming)
    outcome = HISTORIES[name].run(PROPOSED)
    assert outcome.broken is None, f"\n{outcome}"
